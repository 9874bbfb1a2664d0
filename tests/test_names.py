"""Names and ids that hold anything: taken as they are, and shown so that no terminal or log obeys them."""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from routilux_core import ConfigurationError, Flow, JobState, Routine, SerializationError, UnknownNameError, event, slot

MakeFlow = Callable[..., Flow]
SECONDS = 20.0
EVIL = "x\x1b[2J\x07\x9b1m\r\nERROR forged\u202e"
SHOWN = "x\\x1b[2J\\x07\\x9b1m\\r\\nERROR forged\\u202e"


class Evil(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.define_slot(EVIL, handler=self.take)
        self.define_slot("gathers", handler=self.take, merge_strategy="gather")
        self.define_event(EVIL, ["a"])

    def take(self, a: Any) -> None:
        raise ValueError(EVIL)


class Source(Routine):
    out = event("b")

    @slot
    def start(self) -> None:
        self.emit("out", b=1)


def check_shown(text: str) -> None:
    assert SHOWN in text
    assert [each for each in text if not (each.isprintable() or each == "\n")] == []
    assert not any(line.startswith("ERROR forged") for line in text.splitlines())


def evil_flow(make_flow: MakeFlow, **settings: Any) -> Flow:
    flow = make_flow(EVIL, **settings)
    flow.add_routine(Evil(), EVIL)
    flow.add_routine(Source(), "source")
    return flow


def test_what_fails_is_logged_in_one_line(
    make_flow: MakeFlow, strategy: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    flow = evil_flow(make_flow, **strategy)
    job = flow.execute(EVIL, {"a": 1}, slot=EVIL)
    assert job.wait(SECONDS)
    for record in caplog.records:
        if record.name == "routilux_core":
            check_shown(record.getMessage())
            assert "\n" not in record.getMessage()
    check_shown(job.explain())
    check_shown(repr(job))
    with pytest.raises(ExceptionGroup) as raised:
        job.raise_for_errors()
    check_shown(str(raised.value))
    assert job.job_id.startswith(EVIL)
    again = JobState.deserialize(json.loads(json.dumps(job.serialize())))
    assert (again.job_id, again.flow_id) == (job.job_id, EVIL)
    check_shown(str(again.errors[0].exception))
    check_shown(again.explain())
    assert again.serialize() == job.serialize()


def test_what_the_engine_logs_is_spelled_out_where_it_is_shown_and_left_as_it_is_in_the_record(
    caplog: pytest.LogCaptureFixture,
) -> None:
    from routilux_core._text.log import log

    with caplog.at_level(logging.WARNING, "routilux_core"):
        log.warning("plain %s, quoted %r, number %d", EVIL, EVIL, 3)
    [record] = caplog.records
    assert record.getMessage() == f"plain {SHOWN}, quoted {EVIL!r}, number 3"
    assert record.args == (EVIL, EVIL, 3)


def test_errors_and_warnings_of_the_graph_spell_names_out(make_flow: MakeFlow) -> None:
    flow = evil_flow(make_flow)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        flow.connect("source", "out", EVIL, EVIL)
    check_shown(str(caught[0].message))
    for wrong in (
        lambda: flow.connect("source", "out", EVIL, EVIL),
        lambda: flow.connect(EVIL, EVIL, EVIL, "gathers"),
        lambda: flow.connect(EVIL, EVIL, "source", EVIL),
        lambda: flow.add_routine(Source(), EVIL),
        lambda: flow.execute(EVIL, slot="no"),
        lambda: Flow(execution_strategy=EVIL),
        lambda: Flow(execution_strategy="process", strategy_options={EVIL: 1}),
    ):
        with pytest.raises((ConfigurationError, UnknownNameError)) as refused:
            wrong()
        check_shown(str(refused.value))
    picture = flow.to_mermaid()
    assert [each for each in picture if not (each.isprintable() or each == "\n")] == []


def test_the_problems_of_a_file_are_told_one_in_a_line(make_flow: MakeFlow) -> None:
    document = evil_flow(make_flow).serialize()
    routine = document["routines"]["source"]
    routine["attributes"] = {EVIL: {f"${EVIL}": 1}}
    routine["slots"]["start"] = {"handler": EVIL, "merge": f"method:{EVIL}"}
    document["error_handler"]["retryable_exceptions"] = [EVIL]
    with pytest.raises(SerializationError) as refused:
        make_flow().deserialize(document)
    assert len(str(refused.value).splitlines()) == 1 + len(refused.value.problems) == 3
    check_shown(str(refused.value))


# -- did you mean ...?


def worst(number: int, letters: str) -> str:
    """Return one of many names that take `difflib` longest to tell from each other."""
    return (letters * 66)[:190] + format(number, "04d")


def test_a_file_full_of_names_that_are_hard_to_compare_is_refused_within_moments(make_flow: MakeFlow) -> None:
    flow = make_flow()
    flow.add_routine(Source(), "source")
    document = flow.serialize()
    source = document["routines"].pop("source")
    document["routines"] = {worst(number, "acb"): source for number in range(100)}
    document["connections"] = [
        {"source": worst(number, "abc"), "event": "out", "target": worst(number, "acb"), "slot": "strat", "mapping": {}}
        for number in range(40)
    ]
    began = time.process_time()
    with pytest.raises(SerializationError) as refused:
        make_flow().deserialize(document)
    assert len(refused.value.problems) == 80
    assert time.process_time() - began < 10  # 200 s without a bound


def test_a_name_that_is_hard_to_compare_is_refused_within_moments(make_flow: MakeFlow) -> None:
    flow = make_flow()
    for number in range(100):
        flow.add_routine(Source(), worst(number, "acb"))
    began = time.process_time()
    with pytest.raises(UnknownNameError):
        flow.connect(worst(0, "abc"), "out", worst(0, "acb"), "start")
    assert time.process_time() - began < 5


def test_a_mistyped_name_is_hinted_at_among_many(make_flow: MakeFlow) -> None:
    flow = make_flow()
    for number in range(200):
        flow.add_routine(Source(), f"fetch-number-{number}")
    with pytest.raises(UnknownNameError, match="did you mean 'fetch-number-57'"):
        flow.connect("fetch-numbr-57", "out", "fetch-number-1", "start")
    document = flow.serialize()
    for number in range(20):
        wire = {"source": f"fetch-numbr-{number}", "event": "out", "target": "fetch-number-1", "slot": "start"}
        document["connections"].append(wire | {"mapping": {}})
    with pytest.raises(SerializationError) as refused:
        make_flow().deserialize(document)
    hints = [each.message.partition("; ")[2] for each in refused.value.problems]
    assert hints == [f"did you mean 'fetch-number-{number}'?" for number in range(20)]
