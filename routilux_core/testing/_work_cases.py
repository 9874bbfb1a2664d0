"""The cases about what a flow does under the strategy: delivery, order, state, errors, amounts."""

from __future__ import annotations

import os
import threading
from time import monotonic
from typing import Any, ClassVar

import pytest

from routilux_core.error_handling import ErrorHandler
from routilux_core.errors import ActivationTimeout, CapabilityError
from routilux_core.flow import Flow
from routilux_core.job import JobState
from routilux_core.testing._bench import Bench, case, needs
from routilux_core.testing._board import most_at_once
from routilux_core.testing._generated import answer, differences
from routilux_core.testing._patient import STUCK_S, Early, Stuck
from routilux_core.testing._routines import (
    Awaits,
    Carries,
    Dies,
    EmitsLock,
    Fails,
    Forward,
    Freight,
    HoldsLock,
    Opener,
    Planted,
    Record,
    Source,
    Stamps,
    Total,
    Uses,
)

MANY = 5_000


class WorkCases:
    """The promises about answers: the same under every strategy."""

    generated_flows: ClassVar[int | None] = None

    @case
    def test_generated_flows_give_the_answers_of_sequential(self, bench: Bench) -> None:
        shared = bench.capabilities.shares_memory
        for seed in range(self.generated_flows or (12 if shared else 4)):
            expected, found = answer(seed, "sequential"), answer(seed, bench.make(bench.workers), bench.patience)
            wrong = differences(expected, found)
            assert not wrong, f"generated flow {seed}: {wrong}"

    @case
    def test_a_routine_with_state_handles_one_call_at_a_time_in_order(self, bench: Bench) -> None:
        record = Record(folder=bench.folder)
        routines = {"one": Source(), "record": record, "start": Record(), "two": Source()}
        flow = bench.flow(routines, "one.out record.n", "two.out record.n")
        jobs = [flow.execute(name, {"count": 150, "first": first}) for name, first in (("one", 0), ("two", 1000))]
        for job in jobs:
            bench.finished(job)
        seen = record.seen
        assert [n for n in seen if n < 1000] == list(range(150)), "what one call emitted arrived in another order"
        assert [n for n in seen if n >= 1000] == list(range(1000, 1150)), "what one call emitted arrived out of order"
        assert most_at_once(bench.folder, "records") == 1, "a routine with state handled two calls at once"

    @case
    def test_state_comes_home(self, bench: Bench) -> None:
        record = Record()
        flow = bench.flow({"source": Source(), "record": record}, "source.out record.n")
        bench.finished(flow.execute("source", {"count": 10}))
        job = bench.finished(flow.execute("source", {"count": 10, "first": 10}))
        assert record.seen == list(range(20)), "attributes of a routine are not as its handlers left them"
        assert record.stats() == {"calls": 20}
        assert job.routines["record"] is record, "the routine of the flow is another object after a job"

    @case
    def test_ten_thousand_activations_are_all_made(self, bench: Bench) -> None:
        total = Total()
        routines = {"source": Source(), "forward": Forward(), "total": total}
        flow = bench.flow(routines, "source.out forward.n", "forward.out total.n")
        job = flow.execute("source", {"count": MANY})
        assert job.wait(bench.rest), f"not done in {bench.deadline * 0.9:g} s: {job.ledger}"
        assert job.status == "completed"
        assert job.ledger.completed == 1 + 2 * MANY
        assert job.ledger.balanced
        assert (total.count, total.total) == (MANY, sum(range(MANY)))

    @case
    def test_an_error_reaches_the_job_with_its_traceback_and_stops_it(self, bench: Bench) -> None:
        job = self._fails(bench, ErrorHandler("stop"), every=5, times=99)
        assert job.status == "failed", f"a handler raised under STOP, and the job is {job.status}"
        _check_errors(job, "stop")
        _check_ledger(job)
        assert job.ledger.failed == len(job.errors), "calls under way when one fails may fail, too, and no others"

    @case
    def test_a_job_goes_on_after_errors_under_continue_and_skip(self, bench: Bench) -> None:
        for decision, count in (("continue", "failed"), ("skip", "skipped")):
            job = self._fails(bench, ErrorHandler(decision), every=5, times=99)
            assert job.status == "completed", f"a handler raised under {decision}, and the job is {job.status}"
            assert len(job.errors) == 4
            _check_errors(job, decision)
            _check_ledger(job, **{count: 4, "completed": 17})

    @case
    def test_a_retry_runs_again_and_emits_once(self, bench: Bench) -> None:
        job = self._fails(bench, ErrorHandler("retry", max_retries=3, retry_delay=0.01), every=5, times=2)
        assert job.status == "completed", f"retries were to help, and the job is {job.status}: {job.errors}"
        assert job.ledger.retried == 8
        assert len(bench.notes("tried")) == 20 + 8, "a retried handler was called too often, or too seldom"
        assert sorted(output["n"] for output in job.outputs["fails.out"]) == list(range(20)), (
            "an attempt that failed under RETRY has emitted, or one that succeeded has not"
        )
        _check_errors(job, "retry")
        _check_ledger(job, completed=21)

    @case
    def test_retries_end(self, bench: Bench) -> None:
        policy = ErrorHandler("retry", max_retries=2, retry_delay=0.01, after_retries="continue")
        job = self._fails(bench, policy, every=10, times=99)
        assert job.status == "completed"
        assert sorted(note.text for note in bench.notes("tried")).count("10") == 3
        assert sum(each.decision == "continue" for each in job.errors) == 2
        _check_ledger(job, failed=2, completed=19)

    def _fails(self, bench: Bench, policy: ErrorHandler, every: int, times: int) -> JobState:
        """Run a job in which one of `every` of 20 calls raises, on so many attempts."""
        fails = Fails(folder=bench.folder, every=every, times=times)
        fails.set_error_handler(policy)
        flow = bench.flow({"source": Source(), "fails": fails}, "source.out fails.n")
        job = flow.execute("source", {"count": 20})
        assert bench.ended(job), f"the job did not end within {bench.patience:g} s: {job.explain()}"
        flow.shutdown(timeout=bench.patience)
        return job

    @case
    def test_what_can_not_be_pickled_is_an_error_where_memory_is_not_shared(self, bench: Bench) -> None:
        shared = bench.capabilities.shares_memory
        holds = bench.flow({"holds": HoldsLock()})
        flow = bench.flow({"emits": EmitsLock(), "carries": Carries()}, "emits.out carries.cargo")
        for what, error in {
            "lock_that_can_not_travel": _error_of(bench, holds, "holds", {"n": 1}),
            "cargo": _error_of(bench, flow, "emits", {"n": 1}),
            "'cargo'": _error_of(bench, flow, "carries", {"cargo": threading.Lock()}),
        }.items():
            assert (error is None) == shared, f"what can't be pickled, in {what}: {error or 'no error'}"
            assert shared or what.strip("'") in str(error), f"the error does not name {what}: {error}"
        job = bench.finished(flow.execute("carries", {"cargo": 1}))
        assert job.outputs["carries.out"] == [{"kind": "int"}], "after such an error the flow does not work any more"

    @case
    def test_what_is_large_arrives_whole_and_belongs_to_the_call(self, bench: Bench) -> None:
        needs(not bench.capabilities.shares_memory, "shares_memory=False")
        flow = bench.flow({"stamps": Stamps()})
        for size in (1, 70_000, 3_000_000):
            mine = Freight(bytearray(b"\x01") * size)
            job = bench.finished(flow.execute("stamps", {"freight": mine, "plain": b"x" * size}))
            (output,) = job.outputs["stamps.out"]
            *whole, writable = output["was"]
            assert whole == [size, 1, 1, size], f"{size:,} bytes were sent, and the call found others: {whole}"
            assert mine.data[0] == 1, (
                "what a call wrote to its payload, the sender sees as well: copy each of `task.pieces()` on its way, "
                "into memory of its own"
            )
            assert writable, "a payload can't be written to: give `worker.run` pieces that can, such as a bytearray"
            home = output["freight"].data
            assert (len(home), home[0]) == (size, 2), "what a call emitted has not come home as it was"
            home[0] = 3

    @case
    def test_emissions_leave_while_the_handler_runs(self, bench: Bench) -> None:
        traits = bench.capabilities
        needs((traits.shares_memory and traits.parallel) or traits.streams, "streams=True")
        early, opener = bench.patient(Early, bench.patience / 2), Opener(folder=bench.folder)
        flow = bench.flow({"early": early, "opener": opener}, "early.sent opener.n")
        job = bench.finished(flow.execute("early", {"n": 1}))
        assert job.outputs["early.out"] == [{"opened": True}], (
            f"an emission did not arrive within {bench.patience / 2:g} s, while its handler went on"
        )

    @case
    def test_a_call_that_takes_too_long_is_ended(self, bench: Bench) -> None:
        needs(bench.capabilities.enforces_timeout, "enforces_timeout=True")
        stuck = bench.patient(Stuck, bench.deadline)
        stuck.set_as_optional()
        flow = bench.flow({"source": Source(), "stuck": stuck}, "source.out stuck.n")
        thread = bench.in_background(flow.execute, "source", {"count": 5})
        assert bench.noted("entered", 1), "no call was made"
        began = monotonic()
        thread.ended()
        assert flow.job_state is not None
        job = bench.finished(flow.job_state)
        took = monotonic() - began
        assert took < 2.9 * STUCK_S, f"a call with a time-out of {STUCK_S:g} s was ended after {took:.3g} s"
        assert [type(each.exception) for each in job.errors] == [ActivationTimeout]
        assert sorted(output["n"] for output in job.outputs["stuck.out"]) == [1, 2, 3, 4]
        _check_ledger(job, failed=1, completed=5)

    @case
    def test_async_handlers_are_awaited_or_refused(self, bench: Bench) -> None:
        if not bench.capabilities.coroutines:
            with pytest.raises(CapabilityError, match="async def"):
                bench.flow({"awaits": Awaits()})
            return
        flow = bench.flow({"source": Source(), "awaits": Awaits()}, "source.out awaits.n")
        job = bench.finished(flow.execute("source", {"count": 50}))
        assert sorted(output["n"] for output in job.outputs["awaits.out"]) == list(range(50))

    @case
    def test_a_killed_worker_hangs_no_job(self, bench: Bench) -> None:
        needs(not bench.capabilities.shares_memory, "shares_memory=False")
        dies = Dies(folder=bench.folder, spared=os.getpid())
        dies.set_as_optional()
        flow = bench.flow({"source": Source(), "dies": dies}, "source.out dies.n")
        job = flow.execute("source", {"count": 10})
        assert bench.ended(job), (
            f"a worker was killed, and the job hangs: {job.explain()}. A pool that loses a worker calls "
            "`task.fail(WorkerLost(...))` for what that one had, and `host.lost(error)` if it can't go on."
        )
        if {note.pid for note in bench.notes("calls")} == {os.getpid()}:
            pytest.skip("the strategy's workers live in this process")
        assert job.errors, "a worker was killed in a call, and the job has no error"
        _check_ledger(job)
        job = bench.finished(flow.execute("dies", {"n": 1}))
        assert job.outputs["dies.out"] == [{"n": 1}], "after a worker was killed the flow does not work any more"

    @case
    def test_what_a_worker_made_for_itself_is_closed(self, bench: Bench) -> None:
        flow = bench.flow({"source": Source(), "uses": Uses(folder=bench.folder)}, "source.out uses.n")
        bench.finished(flow.execute("source", {"count": 20}))
        flow.shutdown()
        made = bench.notes("made")
        makers = len({(each.pid, each.thread) for each in made})  # a pool may have a new thread for each task
        assert 1 <= len(made) <= max(bench.workers, makers), f"{makers} workers made {len(made)} things with per_worker"
        assert bench.noted("closed", len(made)), "what per_worker made was not closed with its worker"


def _error_of(bench: Bench, flow: Flow, entry: str, params: dict[str, Any]) -> BaseException | None:
    """Return the error that a job ends with, or that `execute` raises."""
    try:
        job = flow.execute(entry, params)
    except Exception as error:
        return error
    assert bench.ended(job), f"what can't be pickled hangs the job: {job.explain()}"
    return job.errors[0].exception if job.errors else None


def _check_errors(job: JobState, decision: str) -> None:
    for each in job.errors:
        assert isinstance(each.exception, Planted), f"a handler raised Planted, and the job has {each.exception!r}"
        assert str(each.exception).startswith("planted for")
        assert "planted_deep_inside" in each.traceback, f"the traceback does not show where: {each.traceback}"
        assert (each.routine_id, each.slot) == ("fails", "n")
        assert each.decision == decision
    assert job.errors, "a handler raised, and the job has no error"


def _check_ledger(job: JobState, **counts: int) -> None:
    ledger = job.ledger
    assert ledger.balanced, f"the ledger does not balance: {ledger}"
    assert ledger.pending == 0, f"the job has ended, and activations are pending: {ledger}"
    for name, count in counts.items():
        assert getattr(ledger, name) == count, f"{name} should be {count}: {ledger}"
