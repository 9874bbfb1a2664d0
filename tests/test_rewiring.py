"""What was connected is taken back, and routines are removed and replaced, between two jobs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from routilux_core import (
    ConfigurationError,
    Connection,
    DuplicateNameError,
    Flow,
    FlowStateError,
    Routine,
    UnknownNameError,
    event,
    slot,
)

MakeFlow = Callable[..., Flow]


class Count(Routine):
    out = event("n")

    def __call__(self, n: int) -> None:
        for number in range(n):
            self.emit("out", n=number)


class Times(Routine, stateless=True):
    factor: int = 2
    out = event("n")

    @slot
    def take(self, n: int) -> None:
        self.emit("out", n=n * self.factor)


class Sum(Routine):
    total: int = 0
    out = event("n")

    @slot
    def take(self, n: int) -> None:
        self.total += n


class Gathers(Routine):
    out = event("n")

    @slot(merge_strategy="gather")
    def take(self, n: list[int]) -> None:
        self.emit("out", n=sum(n))


@pytest.fixture
def flow(make_flow: MakeFlow, strategy: dict[str, Any]) -> Flow:
    made = make_flow(**strategy)
    for name, routine in {"count": Count(), "times": Times(), "sum": Sum()}.items():
        made.add_routine(routine, name)
    made.connect("count", "out", "times", "take")
    made.connect("times", "out", "sum", "take")
    made.add_output("times", "out", "products")
    return made


def total(flow: Flow) -> int:
    job = flow.run("count", {"n": 4}, raise_for_errors=True)
    assert job.ledger.balanced
    return flow.routines["sum"].total  # type: ignore[attr-defined,no-any-return]


def test_what_is_disconnected_gets_nothing_more(flow: Flow) -> None:
    assert total(flow) == 12
    assert flow.disconnect("times", "out", "sum", "take") == [Connection("times", "out", "sum", "take")]
    assert total(flow) == 12
    assert flow.connections == (Connection("count", "out", "times", "take"),)
    flow.connect("times", "out", "sum", "take")
    assert total(flow) == 24
    assert flow.job_state is not None
    assert len(flow.job_state.results("products")) == 4


def test_one_of_several_ways_is_disconnected(flow: Flow) -> None:
    renamed = flow.connect("count", "out", "sum", "take")
    assert total(flow) == 18
    assert flow.disconnect("count", "out", "sum", "take", {}) == [renamed]
    assert total(flow) == 30


def test_what_is_not_connected_is_told(flow: Flow) -> None:
    with pytest.raises(ConfigurationError, match=r"count.out is not connected to sum.take$"):
        flow.disconnect("count", "out", "sum", "take")
    with pytest.raises(ConfigurationError, match=r"count.out is not connected to times.take in this way"):
        flow.disconnect("count", "out", "times", "take", {"n": "m"})
    with pytest.raises(UnknownNameError, match="did you mean 'count'"):
        flow.disconnect("coun", "out", "times", "take")


def test_a_routine_is_removed_with_what_was_connected(flow: Flow, make_flow: MakeFlow) -> None:
    gone = flow.remove_routine("times")
    assert list(flow.routines) == ["count", "sum"]
    assert flow.connections == ()
    with pytest.warns(UserWarning, match=r"is flow\.connect\('count', 'out', 'sum', 'take'\) missing"):
        job = flow.run("count", {"n": 3})
    assert (job.status, job.results(), job.ledger.unconnected) == ("completed", {}, 3)
    other = make_flow()
    assert other.add_routine(gone) == "times"
    assert flow.add_routine(Times(factor=3), "times") == "times"
    flow.connect("count", "out", "times", "take")
    flow.connect("times", "out", "sum", "take")
    assert total(flow) == 18
    with pytest.raises(UnknownNameError):
        flow.remove_routine("nothing")


def test_a_routine_is_replaced_where_it_is(flow: Flow) -> None:
    before = flow.routines["times"]
    assert flow.replace_routine("times", Times(factor=10)) is before
    assert list(flow.routines) == ["count", "times", "sum"]
    assert total(flow) == 60
    assert flow.job_state is not None
    assert [each["n"] for each in flow.job_state.results("products")] == [0, 10, 20, 30]
    assert flow.execution_tracker.get_routine_performance("times")["total_executions"] == 4
    with pytest.raises(DuplicateNameError):
        flow.replace_routine("times", flow.routines["sum"])
    flow.replace_routine("sum", Sum(total=100))
    assert total(flow) == 160
    loaded = Flow()
    loaded.deserialize(flow.serialize(), types=[Count, Times, Sum])
    with loaded:
        assert total(loaded) == 220


def test_what_does_not_fit_replaces_nothing(flow: Flow) -> None:
    with pytest.raises(UnknownNameError, match="unknown event 'out'"):
        flow.replace_routine("count", Routine())
    with pytest.raises(UnknownNameError, match="unknown slot 'take'"):
        flow.replace_routine("sum", Count())
    with pytest.raises(ConfigurationError, match="gathers at slot 'take', and the other does not"):
        flow.replace_routine("times", Gathers())
    with pytest.raises(ConfigurationError, match="replace_routine takes a Routine instance, not 3"):
        flow.replace_routine("times", 3)  # type: ignore[arg-type]
    assert total(flow) == 12


def test_a_gather_slot_goes_and_comes(flow: Flow) -> None:
    flow.add_routine(Gathers(), "gathers")
    flow.connect("times", "out", "gathers", "take")
    flow.add_output("gathers", "out", "sum")
    assert flow.run("count", {"n": 4}).results("sum") == [{"n": 12}]
    flow.replace_routine("gathers", Gathers())
    assert flow.run("count", {"n": 4}).results("sum") == [{"n": 12}]
    flow.remove_routine("gathers")
    assert total(flow) == 36


def test_nothing_is_rewired_while_a_job_runs(make_flow: MakeFlow) -> None:
    gate = threading.Event()

    class Waits(Routine):
        out = event()

        def __call__(self) -> None:
            gate.wait(30)

    flow = make_flow(execution_strategy="concurrent", max_workers=1)
    flow.add_routine(Waits(), "waits")
    flow.add_routine(Sum(), "sum")
    flow.connect("waits", "out", "sum", "take")
    job = flow.execute("waits")
    try:
        for change in (
            lambda: flow.disconnect("waits", "out", "sum", "take"),
            lambda: flow.remove_routine("sum"),
            lambda: flow.replace_routine("sum", Sum()),
        ):
            with pytest.raises(FlowStateError, match=r"wait_for_completion\(\) or cancel\(\) first"):
                change()
    finally:
        gate.set()
    assert job.wait(30)
    flow.remove_routine("sum")
