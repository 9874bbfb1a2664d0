"""Calls that are ended with their worker: by a time-out, by `cancel(kill=True)`, by a shutdown with a deadline."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import pytest

from processes.endless import Blocks, BlocksWithState, Loops
from quickest import keywords
from routilux_core import ActivationTimeout, ErrorHandler, ErrorStrategy, Flow, JobState, Routine

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="ends processes in a C loop")

SECONDS = 30.0
LATE = 5.0  # seconds: what is ended would go on for a minute, or for ever

MakeFlow = Callable[..., Flow]


def of_one(make_flow: MakeFlow, routine: Routine, **settings: object) -> Flow:
    flow = make_flow(**keywords("process", 1), **settings)
    flow.add_routine(routine, "only")
    return flow


def in_a_loop(make_flow: MakeFlow, gate: str) -> tuple[Flow, JobState]:
    """Return a job whose only handler is in a C loop."""
    flow = of_one(make_flow, Loops(gate=gate))
    job = flow.execute("only")
    with open(gate, "rb") as opened:
        assert opened.read() == b""
    return flow, job


@pytest.mark.parametrize("kind", [Blocks, BlocksWithState])
def test_a_call_beyond_its_time_out_ends_in_time_and_the_pool_is_whole_again(
    make_flow: MakeFlow, kind: type[Routine]
) -> None:
    flow = of_one(make_flow, kind(), error_handler=ErrorStrategy.CONTINUE)
    assert flow.run("only", {"n": 0, "seconds": 0.0}).status == "completed"
    begun = time.monotonic()
    job = flow.run("only", {"n": 1, "seconds": 60.0})
    assert time.monotonic() - begun < LATE
    assert isinstance(job.errors[0].exception, ActivationTimeout)
    assert str(job.errors[0].exception).startswith(
        "routine 'only', slot 'input': the call ran longer than its time-out"
    )
    assert flow.run("only", {"n": 2, "seconds": 0.0}).ledger.completed == 1


def test_what_a_worker_that_was_ended_had_changed_is_not_seen(make_flow: MakeFlow) -> None:
    routine = BlocksWithState()
    flow = of_one(make_flow, routine, error_handler=ErrorStrategy.CONTINUE)
    for seconds in (0.0, 60.0, 0.0):
        flow.run("only", {"n": 0, "seconds": seconds})
    assert routine.calls == 2


def test_a_time_out_is_tried_again_by_a_retry_policy(make_flow: MakeFlow) -> None:
    retry = ErrorHandler("retry", max_retries=1, retry_delay=0.0, after_retries="continue")
    job = of_one(make_flow, Blocks(), error_handler=retry).run("only", {"n": 1, "seconds": 60.0})
    assert [failure.attempt for failure in job.errors] == [1, 2]
    assert job.ledger.retried == 1


def test_cancel_with_kill_ends_what_runs_at_once(make_flow: MakeFlow, gate: str) -> None:
    _flow, job = in_a_loop(make_flow, gate)
    begun = time.monotonic()
    job.cancel(kill=True)
    assert job.wait(SECONDS)
    assert time.monotonic() - begun < LATE
    assert job.status == "cancelled"


def test_shutdown_with_a_deadline_ends_what_runs(make_flow: MakeFlow, gate: str) -> None:
    flow, job = in_a_loop(make_flow, gate)
    begun = time.monotonic()
    flow.shutdown(timeout=0.2)
    assert time.monotonic() - begun < LATE
    assert job.wait(SECONDS)
    assert job.status == "cancelled"
