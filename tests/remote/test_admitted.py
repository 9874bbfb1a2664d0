"""Plugins are asked about a call before it is sent, and told of a failure that has come home, as in one thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from routilux_core import Activation, Decision, ErrorHandler, Failure, Flow, JobState, Routine, hookimpl
from shipped.routines import Fails, Gatherer, Source, Square, Sum

MakeFlow = Callable[..., Flow]
SECONDS = 30.0


def run(flow: Flow, routine: Routine, count: int) -> JobState:
    flow.add_routine(Source(), "source")
    flow.add_routine(routine, "called")
    flow.connect("source", "item", "called", "n")
    job = flow.execute("source", {"count": count})
    assert job.wait(SECONDS), job.explain()
    assert (job.ledger.balanced, job.ledger.pending) == (True, 0)
    return job


class Asked:
    """Declines what it is told to, and notes what it is asked and told."""

    def __init__(self, decide: Callable[[Activation], Decision | None]) -> None:
        self.decide = decide
        self.workers: set[int] = set()
        self.failures: list[tuple[Any, ...]] = []

    @hookimpl
    def routilux_admit(self, activation: Activation) -> Decision | None:
        self.workers.add(activation.worker)
        return self.decide(activation)

    @hookimpl
    def routilux_failure_decided(self, failure: Failure, payload: Mapping[str, Any]) -> None:
        kind = type(failure.exception).__name__
        self.failures.append((kind, failure.attempt, str(failure.decision), failure.cause, dict(payload)))


@pytest.mark.parametrize("routine", [Square, Sum])
def test_a_call_that_is_declined_is_not_sent(
    make_flow: MakeFlow, shipped: dict[str, Any], routine: type[Routine]
) -> None:
    asked = Asked(lambda activation: Decision("skip") if activation.data.get("n", 0) % 3 == 1 else None)
    flow, called = make_flow(**shipped, plugins=[asked]), routine()
    job = run(flow, called, 30)
    assert (job.status, job.ledger.skipped, job.ledger.completed) == ("completed", 10, 21)
    assert called.stats()["calls"] == 20
    assert asked.workers == {0}  # it is asked where the flow is
    assert sorted(told[4]["n"] for told in asked.failures) == [n for n in range(30) if n % 3 == 1]
    assert {told[:4] for told in asked.failures} == {("NotAdmitted", 1, "skip", 1)}


def test_a_call_may_be_put_off_and_the_order_of_a_routine_with_state_stays(
    make_flow: MakeFlow, shipped: dict[str, Any]
) -> None:
    asked = Asked(lambda activation: Decision("retry", 0.001) if activation.attempt < 3 else None)
    flow, called = make_flow(**shipped, plugins=[asked]), Sum()
    job = run(flow, called, 5)
    assert called.seen == [0, 1, 2, 3, 4]
    assert (job.status, job.ledger.retried, job.ledger.completed) == ("completed", 12, 6)


def test_what_is_declined_stops_the_job_and_nothing_else_is_sent(make_flow: MakeFlow, shipped: dict[str, Any]) -> None:
    asked = Asked(lambda activation: Decision("stop") if activation.routine_id == "called" else None)
    flow, called = make_flow(**shipped, plugins=[asked]), Sum()
    job = run(flow, called, 5)
    assert (job.status, job.ledger.failed, called.seen) == ("failed", 1, [])
    assert [str(failure.exception) for failure in job.errors] == [
        "routine 'called', slot 'n': the call was not made, because a plugin (routilux_admit) has decided 'stop'"
    ]


def test_a_call_behind_one_that_failed_is_asked_about_when_that_is_known(
    make_flow: MakeFlow, shipped: dict[str, Any]
) -> None:
    """A breaker that opens at the first failure spares all calls of a routine with state that come behind it."""
    opened = threading.Event()

    class Breaker:
        @hookimpl
        def routilux_admit(self, activation: Activation) -> Decision | None:
            return Decision("skip") if opened.is_set() and activation.routine_id == "called" else None

        @hookimpl
        def routilux_handle_error(self, failure: Failure) -> Decision:
            opened.set()
            return Decision("continue")

    flow = make_flow(**shipped, plugins=[Breaker()])
    job = run(flow, Fails(times={2: 99}), 40)
    assert (job.status, job.ledger.failed, job.ledger.skipped, job.ledger.completed) == ("completed", 1, 37, 3)


def test_each_failure_that_comes_home_is_told_with_what_was_sent(make_flow: MakeFlow, shipped: dict[str, Any]) -> None:
    class Told:
        def __init__(self) -> None:
            self.failures: list[tuple[Any, ...]] = []
            self.at_end = 0

        @hookimpl
        def routilux_failure_decided(self, failure: Failure, payload: Mapping[str, Any]) -> None:
            self.failures.append((failure.attempt, str(failure.decision), failure.cause, dict(payload)))

        @hookimpl
        def routilux_job_finished(self) -> None:
            self.at_end = len(self.failures)

    told = Told()
    flow = make_flow(**shipped, plugins=[told])
    flow.set_error_handler(ErrorHandler("retry", max_retries=1, retry_delay=0.0, after_retries="continue"))
    run(flow, Fails(times={3: 99, 5: 1}), 10)
    assert sorted(told.failures, key=lambda each: (each[3]["n"], each[0])) == [
        (1, "retry", 1, {"n": 3}),
        (2, "continue", 1, {"n": 3}),
        (1, "retry", 1, {"n": 5}),
    ]
    assert told.at_end == 3


def test_a_gather_slot_is_asked_about_with_all_that_has_arrived(make_flow: MakeFlow, shipped: dict[str, Any]) -> None:
    asked = Asked(lambda activation: Decision("continue") if activation.routine_id == "called" else None)
    flow = make_flow(**shipped, plugins=[asked])
    job = run(flow, Gatherer(), 4)
    assert (job.status, job.ledger.failed) == ("completed", 1)
    ((_, _, _, cause, payload),) = asked.failures
    assert (cause, {name: sorted(values) for name, values in payload.items()}) == (None, {"n": [0, 1, 2, 3]})
