"""What an event costs: the engine's own calls, counted. They are the same each time, on every machine."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextvars import Context
from pathlib import Path
from time import sleep
from types import FrameType
from typing import Any

import pytest

import routilux_core
import routilux_core_plugins
from routilux_core import Flow, Routine, event, slot

pytestmark = pytest.mark.skipif("ROUTILUX_CHECK_LOCKS" in os.environ, reason="the checks of the lock make calls")

HOMES = tuple(str(Path(package.__file__).parent) for package in (routilux_core, routilux_core_plugins))
EVENTS = 200
MANY = 3000
MOST_FOR_AN_EVENT = 4.1  # through two connections: `emit` twice, and for each its frame's own
MOST_FOR_NOBODY = 3.1  # `emit` twice, and the job's count, under the lock
MOST_FOR_A_RESULT = 5.1  # the look at it, and what sends it
MOST_FOR_A_JOB = 186  # of one event


class Source(Routine):
    out = event("n")

    def __call__(self, n: int) -> None:
        for i in range(n):
            self.emit("out", n=i)


class Pass(Routine, stateless=True):
    done = event("n")

    @slot
    def n(self, n: int) -> None:
        self.emit("done", n=n)


class Sum(Routine):
    total: int = 0

    @slot
    def n(self, n: int) -> None:
        self.total += n


def calls_in(work: Callable[[], object]) -> list[str]:
    """Return the functions of the core that are called in this thread while `work` is done, one for each call."""
    called: list[str] = []

    def count(frame: FrameType, what: str, _: Any) -> None:
        if what == "call" and frame.f_code.co_filename.startswith(HOMES):
            called.append(frame.f_code.co_qualname)

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return called


def calls_for(events: int) -> list[str]:
    with Flow("counted") as flow:
        flow.add_routine(Source(), "source")
        flow.add_routine(Pass(), "pass")
        flow.add_routine(Sum(), "sum")
        flow.connect("source", "out", "pass", "n")
        flow.connect("pass", "done", "sum", "n")
        flow.run("source", {"n": 2})  # what comes once is there
        # In an empty context: pytest and its plugins may have set variables, which each call of a handler would get.
        called = calls_in(lambda: Context().run(lambda: flow.execute("source", {"n": events}).wait()))
        assert flow.job_state is not None
        assert flow.job_state.status == "completed"
        assert flow.routines["sum"].total == sum(range(2)) + sum(range(events))
    return called


def test_a_further_event_costs_two_engine_calls_for_each_connection() -> None:
    for_one, for_many = calls_for(1), calls_for(1 + EVENTS)
    each = (len(for_many) - len(for_one)) / EVENTS
    assert each <= MOST_FOR_AN_EVENT, (
        f"each further event through two connections makes {each:.2f} calls of the engine's own, and not some 4: keep "
        f"them off the path of an event that nobody needs them for. They are: {_most_of(for_many)}"
    )


def test_a_job_of_one_event_makes_few_calls() -> None:
    called = calls_for(1)
    assert len(called) <= MOST_FOR_A_JOB, (
        f"a job of one event makes {len(called)} calls of the engine's own: {_most_of(called)}"
    )


def calls_for_unconnected(events: int, *, collected: bool) -> list[str]:
    with Flow("unconnected") as flow:
        flow.add_routine(Source(), "source")
        if collected:
            flow.add_output("source", "out")
        flow.run("source", {"n": 2})
        called = calls_in(lambda: Context().run(lambda: flow.execute("source", {"n": events}).wait()))
        assert flow.job_state is not None
        ledger = flow.job_state.ledger
        assert (ledger.emitted, ledger.unconnected) == (events, 0 if collected else events)
        assert len(flow.job_state.results().get("source.out", ())) == (events if collected else 0)
    return called


@pytest.mark.parametrize("collected", [False, True])
def test_an_event_that_reaches_no_slot_costs_few_calls(collected: bool) -> None:
    for_one = calls_for_unconnected(1, collected=collected)
    for_many = calls_for_unconnected(1 + EVENTS, collected=collected)
    each = (len(for_many) - len(for_one)) / EVENTS
    most = MOST_FOR_A_RESULT if collected else MOST_FOR_NOBODY
    assert each <= most, (
        f"each further event that reaches no slot makes {each:.2f} calls of the engine's own, not {most - 0.1:.0f}. "
        f"They are: {_most_of(for_many)}"
    )


def test_the_count_sees_what_an_emission_costs() -> None:
    called = calls_for(1 + EVENTS)
    assert called.count("Routine.emit") == 2 * (1 + EVENTS)


def test_what_stateless_calls_emit_to_a_routine_with_state_is_called_together() -> None:
    steps: list[str] = []

    def count(frame: FrameType, what: str, _: Any) -> None:
        if what == "call" and frame.f_code.co_qualname == "Worker._step":
            steps.append(what)

    threading.setprofile(count)  # in threads that start from now on
    try:
        with Flow("together", "concurrent", max_workers=2) as flow:
            flow.add_routine(Source(), "source")
            flow.add_routine(Pass(), "pass")
            flow.add_routine(Sum(), "sum")
            flow.connect("source", "out", "pass", "n")
            flow.connect("pass", "done", "sum", "n")
            assert Context().run(flow.run, "source", {"n": MANY}).status == "completed"
    finally:
        threading.setprofile(None)  # type: ignore[arg-type]
    assert steps, "no thread was seen"
    # A step takes the lock. In turns, one call of each, there would be some two steps for each event.
    assert len(steps) < MANY / 4, f"{len(steps)} steps under the lock for {MANY} events"


def _most_of(called: list[str]) -> str:
    counts = sorted(((called.count(name), name) for name in set(called)), reverse=True)
    return ", ".join(f"{name} {count}" for count, name in counts[:12])


def test_a_pool_that_opens_again_gives_no_routine_its_place_anew() -> None:
    with Flow("again") as flow:
        for number in range(20):
            flow.add_routine(Sum(), f"sum-{number}")
        flow.run("sum-0", {"n": 1})
        flow.shutdown()
        called = calls_in(lambda: flow.run("sum-0", {"n": 1}))
    assert [name for name in called if name.endswith("Ready.bind")] == []


@pytest.mark.parametrize("workers", [2, 8])
def test_an_emitter_that_works_off_what_waits_does_not_nap(monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    """What is worked off emits as much as it takes away, so no less waits for a while. Nobody is waited for then."""
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        sleep(seconds)

    monkeypatch.setattr("routilux_core._local.backpressure.sleep", nap)
    with Flow(execution_strategy="concurrent", max_workers=workers, max_pending=100) as flow:
        flow.add_routine(Source(), "source")
        flow.add_routine(Pass(), "first")
        flow.add_routine(Pass(), "second")
        flow.connect("source", "out", "first", "n")
        flow.connect("first", "done", "second", "n")
        assert flow.run("source", {"n": MANY}).status == "completed"
    assert not naps, f"{len(naps)} naps, of {sum(naps):.3f} s"
