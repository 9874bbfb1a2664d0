"""What each call was given is in its record, where the flow keeps it: short, and without what is secret."""

from __future__ import annotations

import json
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any

import attrs
import pytest

from routilux_core import ConfigurationError, Flow, JobState, Routine, slot
from routilux_core._report.facts import facts_of
from routilux_core._text.values import LONGEST, MOST, described
from seen_routines import Squares, wire

pytestmark = pytest.mark.in_processes_too
MakeFlow = Callable[..., Flow]


@dataclass
class Card:
    number: int
    code: str = dataclass_field(default="", metadata={"secret": True})


@attrs.define
class Order:
    card: Card
    notes: list[str] = attrs.field(factory=list)


@attrs.define
class Written:
    card: Card = attrs.field(metadata={"secret": True})

    def __repr__(self) -> str:
        return f"Written with {self.card}"


class Shop(Routine):
    @slot
    def buy(self, **order: Any) -> None:
        raise ValueError("sold out")


def test_a_failure_leads_back_to_what_the_entry_was_given(
    make_flow: MakeFlow, strategy: dict[str, Any], tmp_path: Path
) -> None:
    flow = wire(make_flow(**strategy, error_handler="skip", capture="payload"))
    job = flow.run("numbers", {"count": 6})
    failure = next(each for each in job.errors if each.routine_id == "squares")
    assert [each.payload for each in job.lineage(failure)] == [{"count": 6}, {"n": 4}]
    (gathered,) = job.get_execution_history("total")
    assert gathered.payload is not None
    assert sorted(json.loads(gathered.payload["n"])) == [0, 1, 4, 9, 25]
    job.save(tmp_path / "job.json")
    saved = JobState.load(tmp_path / "job.json")
    assert [each.payload for each in saved.lineage(failure)] == [{"count": 6}, {"n": 4}]
    assert [each["keys"] for each in facts_of([job], "")[0]["jobs"][0]["errors"] if each["routine"] == "squares"] == [
        ["n=4"]
    ]


@pytest.mark.in_this_process
def test_a_call_that_is_made_again_has_what_it_was_given(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow = wire(make_flow(**strategy, capture="payload"))
    job = flow.run("flaky", {"n": 2})
    assert [(each.outcome, each.payload) for each in job.get_execution_history("flaky")] == [
        ("retried", {"n": 2}),
        ("completed", {"n": 2}),
    ]


@pytest.mark.in_this_process
def test_without_being_asked_a_flow_keeps_no_payload(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow = make_flow(**strategy)
    flow.add_routine(Squares(), "squares")
    assert [each.payload for each in flow.run("squares", {"n": 1}).get_execution_history()] == [None]


def test_as_many_are_kept_as_records(make_flow: MakeFlow) -> None:
    flow = make_flow(capture="payload", history_size=3)
    flow.add(lambda n: None, "count")
    flow.add(lambda count: ({"n": n} for n in range(count)), "source")
    flow.chain("source", "count")
    job = flow.run("source", {"count": 2000})
    assert [each.payload for each in job.get_execution_history()] == [{"n": 1997}, {"n": 1998}, {"n": 1999}]
    kept = flow._runtime.last._controls.run.ledger.payloads  # type: ignore[union-attr]
    assert len(kept._ended) < 1100
    assert not kept._begun


def test_payloads_are_kept_with_records_only() -> None:
    with pytest.raises(
        ConfigurationError, match=r"capture='payload' keeps payloads with the records, and history_size=0"
    ):
        Flow(capture="payload", history_size=0)


def test_a_secret_is_nowhere_to_be_seen(make_flow: MakeFlow, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    flow = make_flow(capture="payload")
    flow.add_routine(Shop(), "shop")
    card = Card(7, "hunter2")
    order = {"card": card, "order": Order(card), "written": Written(card), "cards": [{"a": (card,)}], "text": "x" * 999}
    job = flow.run("shop", order)
    job.trace(tmp_path / "trace.json")
    job.save(tmp_path / "job.json")
    (record,) = job.get_execution_history()
    assert record.payload is not None
    assert record.payload["order"] == "Order(card=Card(number=7, code=***), notes=[])"
    assert record.payload["cards"] == "[{'a': (Card(number=7, code=***),)}]"
    assert record.payload["text"] == f"{'x' * LONGEST}... (999 letters)"
    shown = [repr(job.errors), repr(record), repr(record.payload), caplog.text, job.explain(), job._repr_html_()]
    shown += [str(facts_of([job], ""))]
    shown += [file.read_text(encoding="utf-8") for file in tmp_path.iterdir()]
    assert not any("hunter2" in text for text in shown)
    job.serialize()  # whatever it was, it can be saved


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7, "7"),
        ("a", "'a'"),
        ([], "[]"),
        ((1,), "(1,)"),
        ({1: {2}}, "{1: {2}}"),
        (frozenset([1]), "frozenset({1})"),
        (namedtuple("Point", "x y")(1, Card(2, "no")), "Point(x=1, y=Card(number=2, code=***))"),
        (Card, repr(Card)),
        (Broken(), "<Broken: its repr raises RuntimeError>"),
        ([Card(1, "no")] * 100, f"[{'Card(number=1, code=***), ' * 10}"[:LONGEST] + "..."),
    ],
)
def test_a_value_looks_as_its_repr_without_secrets(value: object, text: str) -> None:
    assert described(value) == text


def test_what_is_kept_of_a_payload_is_bounded(make_flow: MakeFlow) -> None:
    flow = make_flow(capture="payload")
    flow.add_routine(Shop(), "shop")
    circle: list[Any] = []
    circle.append(circle)
    job = flow.run("shop", {f"p{number}": circle for number in range(1000)} | {"half": "\ud800"})
    (record,) = job.get_execution_history()
    assert record.payload is not None
    assert len(record.payload) == MOST + 1
    assert record.payload["..."] == "951 more"
    assert len(json.dumps(job.serialize())) < 40_000
