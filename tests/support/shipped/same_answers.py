"""Tests of any strategy that shares no memory with its handlers: its flows answer as in one thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from routilux_core import ErrorHandler, Flow, JobState, Routine, event, slot
from shipped.answers import SEQUENTIAL, answer, finished
from shipped.routines import (
    Appender,
    Fails,
    FailsWithout,
    Gatherer,
    GathererOfJob,
    Newest,
    Selfish,
    Source,
    Square,
    Sum,
    SumOfJob,
    TwoArguments,
)

MakeFlow = Callable[..., Flow]
SECONDS = 20.0


def chain(flow: Flow) -> list[JobState]:
    """Source, two stateless ones, a sum."""
    flow.add_routine(Source(), "source")
    flow.add_routine(Square(), "square")
    flow.add_routine(Square(), "again")
    flow.add_routine(Sum(), "sum")
    flow.connect("source", "item", "square", "n")
    flow.connect("square", "done", "again", "n")
    flow.connect("again", "done", "sum", "n")
    return [finished(flow.execute("source", {"count": 60}))]


def fan(flow: Flow) -> list[JobState]:
    """One source, many targets of all kinds, and one that hears them all."""
    flow.add_routine(Source(), "source")
    flow.add_routine(Sum(), "all")
    for number in range(6):
        flow.add_routine(Square() if number % 2 else Sum(), f"target{number}")
        flow.connect("source", "item", f"target{number}", "n")
        if number % 2:
            flow.connect(f"target{number}", "done", "all", "n")
    return [finished(flow.execute("source", {"count": 20}))]


def merges(flow: Flow) -> list[JobState]:
    """Append, gather, a function, in this order on one source: what a stateless one makes of it comes in any order."""
    flow.add_routine(Source(), "source")
    for name, routine in {"append": Appender(), "newest": Newest(), "gather": Gatherer(), "sum": Sum()}.items():
        flow.add_routine(routine, name)
        if name != "sum":
            flow.connect("source", "item", name, "n")
    flow.connect("gather", "gathered", "sum", "n")
    return [finished(flow.execute("source", {"count": 12})) for _ in range(2)]


def jobs_at_once(flow: Flow) -> list[JobState]:
    flow.add_routine(Source(), "source")
    flow.add_routine(Sum(), "common")
    flow.add_routine(SumOfJob(), "own")
    flow.add_routine(GathererOfJob(), "gather")
    for name in ("common", "own", "gather"):
        flow.connect("source", "item", name, "n")
    flow.add_output("gather", "gathered")
    jobs = [flow.execute("source", {"count": count}) for count in (5, 30, 17)]
    return [finished(job) for job in jobs]


ALL_ERRORS = ["plain", "two arguments", "lock", "exit"]
DECISIONS = ["continue", "skip", "retry", "retry, exhausted", "not retryable"]
# Every interpreter has each decision and each error; all of them together, which are many, one of them has.
EACH_DECISION = [
    pytest.param(decision, kind, marks=() if decision == "retry" or kind == "plain" else pytest.mark.once)
    for decision in DECISIONS
    for kind in ALL_ERRORS
]


class SameAnswers:
    """To be subclassed where a fixture `shipped` gives the keywords of a flow under such a strategy."""

    @pytest.mark.parametrize("build", [chain, fan, merges, jobs_at_once])
    def test_a_flow_gives_the_same_answers(self, make_flow: MakeFlow, shipped: dict[str, Any], build: Any) -> None:
        here, there = make_flow("f", **SEQUENTIAL), make_flow("f", **shipped)
        expected, found = answer(here, build(here)), answer(there, build(there))
        assert found == expected

    @pytest.mark.parametrize(("decision", "kind"), EACH_DECISION)
    @pytest.mark.parametrize("routine", [Fails, FailsWithout])
    def test_errors_have_the_same_decisions(
        self, make_flow: MakeFlow, shipped: dict[str, Any], kind: str, decision: str, routine: type[Routine]
    ) -> None:
        handler = {
            "continue": ErrorHandler("continue"),
            "skip": ErrorHandler("skip"),
            "retry": ErrorHandler("retry", 3, 0.001, retryable_exceptions=BaseException),
            "retry, exhausted": ErrorHandler(
                "retry", 1, 0.001, retryable_exceptions=BaseException, after_retries="continue"
            ),
            "not retryable": ErrorHandler(
                "retry", 3, 0.001, after_retries="skip", non_retryable_exceptions=TwoArguments
            ),
        }[decision]

        def build(flow: Flow) -> list[JobState]:
            bad = {"times": {2: 2, 5: 1}} if routine is Fails else {"bad": frozenset((2, 5))}
            flow.add_routine(Source(), "source")
            flow.add_routine(routine(kind=kind, **bad), "fails")
            flow.add_routine(Sum(), "sum")
            flow.routines["fails"].set_error_handler(
                handler if decision != "retry" or routine is Fails else ErrorHandler("skip")
            )
            flow.connect("source", "item", "fails", "n")
            flow.connect("fails", "passed", "sum", "n")
            return [finished(flow.execute("source", {"count": 8}))]

        # In the main thread an exit ends the program.
        in_a_thread = {"execution_strategy": "concurrent", "max_workers": 1}
        here, there = make_flow("f", **(in_a_thread if kind == "exit" else SEQUENTIAL)), make_flow("f", **shipped)
        expected, found = answer(here, build(here)), answer(there, build(there))
        assert found == expected

    def test_stop_is_the_same_but_for_what_runs_meanwhile(self, make_flow: MakeFlow, shipped: dict[str, Any]) -> None:
        flow = make_flow("f", **shipped)
        flow.add_routine(Source(), "source")
        fails = Fails(times={3: 1})
        flow.add_routine(fails, "fails")
        flow.connect("source", "item", "fails", "n")
        job = finished(flow.execute("source", {"count": 50}))
        assert (job.status, len(job.errors), job.ledger.failed) == ("failed", 1, 1)
        assert (fails.calls, fails.last) == ([0, 1, 2, 3], 3)
        assert job.ledger.discarded == 46
        assert "raise ERRORS[self.kind]()" in job.errors[0].traceback

    def test_a_routine_keeps_its_identity_and_so_do_its_handlers(
        self, make_flow: MakeFlow, shipped: dict[str, Any]
    ) -> None:
        flow, selfish = make_flow("f", **shipped), Selfish()
        flow.add_routine(Source(), "source")
        flow.add_routine(selfish, "selfish")
        flow.connect("source", "item", "selfish", "n")
        for _ in range(2):
            finished(flow.execute("source", {"count": 4}))
        finished(flow.execute("selfish", slot="check"))
        assert selfish.me is selfish
        assert selfish.looked
        assert selfish.helper.taken == [0, 1, 2, 3] * 2
        assert selfish.get_slot("n").handler.__self__ is selfish.helper

    def test_routines_of_one_flow_run_here_and_there(self, make_flow: MakeFlow, shipped: dict[str, Any]) -> None:
        flow, seen = make_flow("f", **shipped), set()

        class Here(Routine):
            item = event("n")

            @slot
            def n(self, n: int) -> None:
                seen.add(threading.get_ident())
                self.emit("item", n=n)

        flow.add_routine(Source(), "source")
        flow.add_routine(Square(), "square")
        flow.add_routine(Here(), "here", execution_strategy="concurrent")
        flow.add_routine(Sum(), "sum")
        flow.connect("source", "item", "square", "n")
        flow.connect("square", "done", "here", "n")
        flow.connect("here", "item", "sum", "n")
        finished(flow.execute("source", {"count": 30}))
        assert flow.routines["sum"].total == sum(n * n for n in range(30))
        assert seen
