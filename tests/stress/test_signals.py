"""Wherever a signal handler raises, or calls the flow: nothing hangs, the books balance, and the next job runs."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from places import SUPPORT
from quickest import OPTIONS
from routilux_core import Flow, FlowStateError, JobState
from routilux_core._remote.pickling import dumps_plain
from stress import signalled
from stress.at_each_line import Interruption

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends real signals")

STRATEGIES = ("sequential", "concurrent", "process")
PATIENCE = 10.0  # seconds
EACH = 11  # lines from one interruption to the next in a short run; a prime, so that loops are hit in all places
EVENTS = 3


class TimeLimit(Exception):
    """What the time limits of task queues and test runners raise."""


# -- at each line of the engine that the calling thread executes


def run_interrupted(flow: Flow, interruption: Any) -> JobState | None:
    """Run a job and interrupt it; return it, if it has begun."""
    before = flow.job_state
    try:
        interruption(lambda: flow.run("source", {"count": EVENTS}))
    except Exception as error:
        if not isinstance(error, TimeLimit | FlowStateError) and not isinstance(error.__cause__, TimeLimit):
            raise
    except KeyboardInterrupt:
        pass
    return None if flow.job_state is before else flow.job_state


def check_ended(job: JobState, where: str) -> None:
    assert job.wait(PATIENCE), f"after {where}: {job.explain()}"
    ledger = job.ledger
    assert (ledger.balanced, ledger.pending) == (True, 0), f"after {where}: {ledger}"
    assert min(ledger.completed, ledger.discarded) >= 0, f"after {where}: {ledger}"


def check_works(flow: Flow, where: str) -> None:
    assert flow.wait_for_completion(PATIENCE), f"after {where}"
    job = flow.execute("source", {"count": EVENTS})
    assert job.wait(PATIENCE), f"after {where}: {job.explain()}"
    assert (job.status, job.ledger.completed) == ("completed", 1 + 3 * EVENTS), f"after {where}: {job.ledger}"


def interrupt_at_lines(flow: Flow, interruption: type, what: Callable[[], Any], first: int, each: int) -> int:
    """Interrupt one job after the other, each some lines further on, until one ends first; return how many."""
    count = 0
    while True:
        interrupted = interruption(first + count * each, what)
        job = run_interrupted(flow, interrupted)
        if job is not None:
            check_ended(job, interrupted.where)
        check_works(flow, interrupted.where)
        if interrupted.where == "nowhere":
            return count
        count += 1


def raising(error: type[BaseException]) -> Callable[[], Any]:
    def raises() -> None:
        raise error

    return raises


@pytest.mark.stress
@pytest.mark.parametrize(
    "each", [EACH, pytest.param(1, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])], ids=["some", "all"]
)
@pytest.mark.parametrize("error", [KeyboardInterrupt, TimeLimit])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_exception_at_any_line_of_the_engine_leaves_the_flow_working(
    caplog: pytest.LogCaptureFixture,
    strategy: str,
    error: type[BaseException],
    each: int,
) -> None:
    caplog.set_level(logging.CRITICAL, logger="routilux_core")
    flow = make_flow(strategy)
    try:
        count = interrupt_at_lines(flow, Interruption, raising(error), 1 + each // 2, each)
    finally:
        flow.shutdown(timeout=PATIENCE)
    assert count > 200 // each


@pytest.mark.stress
def test_an_exception_at_any_line_that_pickles_calls_loses_none_of_them(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="routilux_core")
    flow, at, where = make_flow("process"), 0, ""
    try:
        while where != "nowhere":
            at += 1
            interrupted = Interruption(at, raising(TimeLimit), dumps_plain)
            job = run_interrupted(flow, interrupted)
            where = interrupted.where
            if job is not None:
                check_ended(job, where)
            check_works(flow, where)
    finally:
        flow.shutdown(timeout=PATIENCE)
    assert at > 3


CALLS: dict[str, Callable[[Flow], Any]] = {
    "cancel": lambda flow: flow.cancel(),
    "pause and resume": lambda flow: (flow.pause(), flow.resume()),
    "execute": lambda flow: flow.execute("source", {"count": 1}),
    "ledger": lambda flow: job_of(flow).ledger,
    "explain": lambda flow: job_of(flow).explain(),
    "record": lambda flow: job_of(flow).serialize(),
    "tracker": lambda flow: flow.execution_tracker.get_flow_performance(),
    "wait": lambda flow: job_of(flow).wait(0.001),
    "shutdown without waiting": lambda flow: flow.shutdown(wait=False),
}


def make_flow(strategy: str) -> Flow:
    return signalled.make_flow(strategy, **(OPTIONS if strategy == "process" else {}))


def job_of(flow: Flow) -> JobState:
    assert flow.job_state is not None
    return flow.job_state


QUICK = {"cancel", "execute", "ledger", "wait"}  # where each look starts processes, a short run does with fewer


@pytest.mark.stress
@pytest.mark.parametrize(
    "each", [10 * EACH, pytest.param(1, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])], ids=["some", "all"]
)
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_call_in_the_middle_of_any_line_of_the_engine_does_not_hang(strategy: str, name: str, each: int) -> None:
    if strategy == "process" and each > 1 and name not in QUICK:
        pytest.skip("in the long run only")
    if (strategy, name) == ("process", "shutdown without waiting"):
        each = 50  # each of them starts new workers
    flow = make_flow(strategy)
    try:
        count = interrupt_at_lines(flow, Interruption, lambda: CALLS[name](flow), each, each)
    finally:
        flow.shutdown(timeout=PATIENCE)
    assert count > 200 // each


# -- real signals at random moments, in a program of its own


def run_signalled(strategy: str, kind: str, count: int, seed: int, timeout: float) -> dict[str, Any]:
    program = SUPPORT / "stress" / "signalled.py"
    arguments = [sys.executable, str(program), strategy, kind, str(count), str(seed)]
    ended = subprocess.run(arguments, capture_output=True, text=True, timeout=timeout)
    assert ended.stdout, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    assert found["wrong"] == [], ended.stderr
    return found


@pytest.mark.stress
@pytest.mark.parametrize("kind", ["KeyboardInterrupt", "TimeLimit", "calls"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_signals_at_random_moments_leave_the_flow_working(strategy: str, kind: str) -> None:
    assert run_signalled(strategy, kind, 25, 1, 110.0)["hits"] == 25


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("kind", "count"), [("KeyboardInterrupt", 5_000), ("TimeLimit", 5_000), ("calls", 2_000)])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_10000_exceptions_and_2000_calls_at_random_moments_leave_the_flow_working(
    strategy: str, kind: str, count: int
) -> None:
    for seed in range(10):
        assert run_signalled(strategy, kind, count // 10, seed, 600.0)["hits"] == count // 10
