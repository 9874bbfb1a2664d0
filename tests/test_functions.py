"""A function is enough: as a routine class, added to a flow, in a chain, and mapped over items."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import routilux_core
from quickest import keywords
from routilux_core import (
    ConfigurationError,
    DefinitionError,
    ErrorHandler,
    Flow,
    FlowStateError,
    JobTimeout,
    PayloadError,
    Routine,
    SerializationError,
    UnknownNameError,
    as_routine,
    event,
    slot,
)
from routilux_core._tracking import failures

MakeFlow = Callable[..., Flow]


def letters(name: str, times: int = 1) -> int:
    return len(name) * times


def upto(n: int) -> Iterator[int]:
    yield from range(n)


def split(text: str) -> dict[str, str]:
    head, _, tail = text.partition(" ")
    return {"head": head, "tail": tail}


def joined(head: str, tail: str) -> str:
    return f"{tail}, {head}"


# -- slots whose value is emitted


class Doubles(Routine, stateless=True):
    done = event("n")
    both = event("a", "b")

    @slot(emits="done")
    def one(self, n: int) -> int | None:
        return n * 2 if n else None

    @slot(emits="done")
    def many(self, n: int) -> Iterator[int]:
        yield from range(n)

    @slot(emits="both")
    def mapping(self, n: int) -> dict[str, int]:
        return {"a": n, "b": n + 1}

    @slot(emits="both")
    def wrong(self, n: int) -> int:
        return n

    @slot(emits="both")
    def unnamed(self, n: int) -> dict[int, int]:
        return {n: n}


def results(make_flow: MakeFlow, strategy: dict[str, Any], entry: str, n: int) -> dict[str, list[dict[str, Any]]]:
    flow = make_flow(**strategy)
    flow.add_routine(Doubles(), "doubles")
    flow.add_output("doubles", "done", "done")
    flow.add_output("doubles", "both", "both")
    return flow.run("doubles", {"n": n}, slot=entry, raise_for_errors=True).results()


def test_what_a_handler_returns_is_emitted_where_its_slot_says_so(
    make_flow: MakeFlow, strategy: dict[str, Any]
) -> None:
    assert results(make_flow, strategy, "one", 4) == {"done": [{"n": 8}], "both": []}
    assert results(make_flow, strategy, "one", 0) == {"done": [], "both": []}
    assert results(make_flow, strategy, "many", 3) == {"done": [{"n": 0}, {"n": 1}, {"n": 2}], "both": []}
    assert results(make_flow, strategy, "mapping", 1) == {"done": [], "both": [{"a": 1, "b": 2}]}


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (
            "wrong",
            "its event 'both' declares 'a', 'b', and the handler returned 3: return a mapping of names",
        ),
        ("unnamed", "what is emitted as 'both' has names that are no strings: 3"),
    ],
)
def test_a_value_that_is_no_payload_is_an_error(make_flow: MakeFlow, entry: str, text: str) -> None:
    with pytest.raises(ExceptionGroup) as raised:
        results(make_flow, {}, entry, 3)
    (error,) = raised.value.exceptions
    assert isinstance(error, PayloadError)
    assert text in str(error)


def test_such_a_handler_can_be_called_without_a_flow() -> None:
    assert Doubles().one(4) == 8
    assert list(Doubles().many(2)) == [0, 1]


def test_a_slot_emits_an_event_that_its_class_declares() -> None:
    with pytest.raises(UnknownNameError, match=r"event 'dome'; did you mean 'done'\?.*P, slot 'take': declare it"):

        class P(Routine):
            done = event("value")

            @slot(emits="dome")
            def take(self) -> None:
                pass


class Returns(Routine, stateless=True):
    @slot
    def take(self, n: int) -> int:
        return n


def test_a_returned_value_that_nothing_uses_is_told_once(
    make_flow: MakeFlow, strategy: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    flow = make_flow(**strategy)
    flow.add(upto)
    flow.add_routine(Returns(), "returns")
    flow.connect("upto", "out", "returns", "take", {"value": "n"})
    with caplog.at_level(logging.WARNING, "routilux_core"):
        for _ in range(2):
            assert flow.run("upto", {"n": 50}).status == "completed"
    text = (
        "routine 'returns', slot 'take': the handler returned a value of type 'int', which nothing uses: emit it with "
        "self.emit(...), or declare the slot with @slot(emits='...')"
    )
    assert [record.getMessage() for record in caplog.records] == [text]


# -- functions as routines


def test_a_function_becomes_a_routine_class(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    made = as_routine(letters)
    assert issubclass(made, Routine)
    assert (made.__name__, made.__module__) == ("letters", __name__)
    flow = make_flow(**strategy)
    flow.add_routine(made(), "letters")
    flow.add_output("letters", "out")
    assert flow.run("letters", {"name": "Oslo", "times": 2}).results("letters.out") == [{"value": 8}]
    assert made().input("Lima") == 4


def test_a_function_becomes_a_routine_class_with_class_keywords() -> None:
    @as_routine(stateless=False, timeout=5.0)
    def keeps(name: str) -> str:
        return name

    assert (keeps.__routilux_settings__.stateless, keeps.__routilux_settings__.timeout) == (False, 5.0)


@pytest.mark.parametrize("given", [3, None, Returns])
def test_what_is_no_function_is_refused(given: Any) -> None:
    with pytest.raises(DefinitionError, match=r"give a function|give an instance of it"):
        as_routine()(given)
    with pytest.raises(DefinitionError, match=r"give a function|give an instance of it"):
        Flow().add(given)


def test_functions_are_added_by_their_names(make_flow: MakeFlow) -> None:
    flow = make_flow()
    assert [flow.add(letters), flow.add(letters), flow.add(upto, "counts"), flow.add(lambda n: n)] == [
        *("letters", "letters_2", "counts", "function"),
    ]
    assert flow.add(Returns(), "own") == "own"
    with pytest.raises(SerializationError, match=r"the function 'letters' is code, .* and add letters\(\) instead of"):
        flow.serialize()


@pytest.mark.parametrize("more", [{}, keywords("process", 1)])
def test_functions_are_chained(make_flow: MakeFlow, strategy: dict[str, Any], more: dict[str, Any]) -> None:
    if more and strategy["execution_strategy"] != "concurrent":
        pytest.skip("once is enough")
    flow = make_flow(**{**strategy, **more})
    assert flow.chain(math.floor, math.sqrt, round) == ["floor", "sqrt", "round"] if not more else True
    if more:
        flow.chain(math.floor, math.sqrt)
        last = "sqrt"
    else:
        last = "round"
    flow.add_output(last, "out")
    job = flow.run("floor", {"x": 9.5}, raise_for_errors=True)
    assert job.results(f"{last}.out") == [{"value": 3.0 if more else 3}]


def test_a_mapping_gives_the_next_several_parameters(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow = make_flow(**strategy)
    flow.chain(split, joined, letters)
    flow.add_output("joined", "out")
    flow.add_output("letters", "out")
    job = flow.run("split", {"text": "Ada Lovelace"}, raise_for_errors=True)
    assert job.results("joined.out") == [{"value": "Lovelace, Ada"}]
    assert job.results("letters.out") == [{"value": 13}]


def test_a_chain_goes_through_routines_and_ids(make_flow: MakeFlow) -> None:
    flow = make_flow()
    flow.add(upto)
    assert flow.chain("upto", Returns()) == ["upto", "returns"]
    with pytest.raises(ConfigurationError, match="routine 'returns' has to have one event and has none: say which"):
        flow.chain("returns", letters)
    with pytest.raises(ConfigurationError, match="chain: routine 'doubles' has to have one slot and has 'one', 'many'"):
        flow.chain("letters", Doubles())


# -- map


@pytest.mark.parametrize("strategy_name", ["sequential", "concurrent", "process"])
def test_map_gives_results_in_the_order_of_the_items(strategy_name: str) -> None:
    items = (float(n * n) for n in range(200))
    workers = None if strategy_name == "sequential" else 2
    found = routilux_core.map(math.sqrt, items, strategy=strategy_name, max_workers=workers)
    assert found == [float(n) for n in range(200)]


@pytest.mark.parametrize("strategy_name", ["sequential", "concurrent", "process"])
def test_map_names_the_item_that_failed(strategy_name: str) -> None:
    items = [4.0, 9.0, -1.0, 16.0]
    with pytest.raises(ValueError, match=r"math domain error|nonnegative") as raised:
        routilux_core.map(math.sqrt, items, strategy=strategy_name)
    assert raised.value.__notes__[-1] == "routilux_core.map: item 2, -1.0"
    found: list[Any] = routilux_core.map(math.sqrt, items, strategy=strategy_name, on_error="collect")
    assert isinstance(found[2], ValueError)
    assert [found[0], found[1], found[3]] == [2.0, 3.0, 4.0]


def test_map_tries_again() -> None:
    lock, seen = threading.Lock(), dict[int, int]()

    def fails_twice(n: int) -> int:
        with lock:
            seen[n] = seen.get(n, 0) + 1
        if seen[n] < 3:
            raise OSError("busy")
        return n

    assert routilux_core.map(fails_twice, range(5), retries=2, max_workers=3) == [0, 1, 2, 3, 4]
    seen.clear()
    policy = ErrorHandler("retry", max_retries=1, retry_delay=0.0)
    found = routilux_core.map(fails_twice, range(2), retries=policy, on_error="collect")
    assert [str(each) for each in found] == ["busy", "busy"]


def test_map_keeps_none_and_mappings_as_they_are() -> None:
    assert routilux_core.map(lambda n: None, range(2)) == [None, None]
    assert routilux_core.map(lambda n: {"n": n}, range(2)) == [{"n": 0}, {"n": 1}]
    assert routilux_core.map(len, []) == []


def test_map_raises_what_its_items_raise() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise LookupError("no more pages")

    with pytest.raises(LookupError, match="no more pages"):
        routilux_core.map(str, items())
    with pytest.raises(LookupError, match="no more pages"):
        routilux_core.map(str, items(), on_error="collect")


def test_map_takes_no_failure_that_was_not_kept_for_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "MOST", 10)

    def fails(n: int) -> int:
        raise OSError(n)

    found: list[Any] = routilux_core.map(fails, range(12), strategy="sequential", on_error="collect")
    assert [type(each) for each in found[8:]] == [OSError, OSError, FlowStateError, FlowStateError]
    assert str(found[-1]).startswith("routilux_core.map: item 11 failed")


def test_map_gives_up_after_its_timeout() -> None:
    gate = threading.Event()
    try:
        with pytest.raises(JobTimeout):
            routilux_core.map(lambda n: gate.wait(0.5), range(4), max_workers=1, timeout=0.05)
    finally:
        gate.set()


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        ({"on_error": "skip"}, "on_error is 'raise' or 'collect', not 'skip'"),
        ({"retries": -1}, "retries is a whole number from 0, or an ErrorHandler, not -1"),
        ({"strategy": "threads"}, "unknown execution strategy 'threads'"),
    ],
)
def test_map_refuses_what_it_cannot_do(keywords: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        routilux_core.map(str, range(2), **keywords)


def test_a_star_import_leaves_the_builtin_alone() -> None:
    assert "map" not in routilux_core.__all__
    assert "as_routine" in routilux_core.__all__
