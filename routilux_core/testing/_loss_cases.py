"""The cases about what is lost or in the way: workers that die, jobs that are given up, handlers that print."""

from __future__ import annotations

import os
import random
import signal
from contextlib import suppress
from typing import ClassVar

import pytest

from routilux_core.errors import WorkerLost
from routilux_core.job import JobState
from routilux_core.testing._bench import Bench, case, needs
from routilux_core.testing._board import until
from routilux_core.testing._patient import Meeting, Watches
from routilux_core.testing._routines import DiesOnce, Forward, Lingers, Opener, Prints, Source, TellsAndDies

CALLS = 400
DEADLY = (200, 330)  # by then it is known how long a call takes, and many travel together
KILLS = 4


class LossCases:
    """The promises about failures that are nobody's fault."""

    names_the_call: ClassVar[bool] = True

    @case
    def test_a_dead_worker_costs_the_call_that_ran(self, bench: Bench) -> None:
        needs(not bench.capabilities.shares_memory, "shares_memory=False")
        dies = DiesOnce(folder=bench.folder, deadly=DEADLY, always=not self.names_the_call)
        dies.set_as_optional()
        flow = bench.flow({"source": Source(), "dies": dies}, "source.out dies.n")
        _skip_if_workers_are_here(bench)
        job = flow.execute("source", {"count": CALLS})
        assert job.wait(bench.rest), f"workers were killed, and the job hangs: {job.explain()}"
        lost = sorted(set(range(CALLS)) - {output["n"] for output in job.outputs["dies.out"]})
        assert (lost, len(job.errors)) == (list(DEADLY), len(DEADLY)), (
            f"two workers were killed while they ran calls {list(DEADLY)}; lost are {lost[:9]}, {len(lost)} in all, "
            f"and there are {len(job.errors)} errors. Say which call ran: `task.fail(error, at=index)`, with the index "
            "that routilux_core.worker.run gave to `mark` last, or `at=UNKNOWN` where that can't be known"
        )
        again = [int(note.text) for note in bench.notes("again")]
        assert not again, (
            f"a worker was killed while it ran calls {again}, and they were made again, though nobody asked for that: "
            "a pool fails the task, and what becomes of its calls is decided by their policies"
        )
        assert all(isinstance(each.exception, WorkerLost) for each in job.errors), job.errors[0]
        assert len(job.outputs["dies.out"]) == CALLS - len(DEADLY), "what some calls emitted has arrived twice"
        assert job.ledger.balanced, f"the ledger does not balance: {job.ledger}"

    @case
    def test_what_a_dead_worker_had_told_is_not_told_again(self, bench: Bench) -> None:
        needs(bench.capabilities.streams, "streams=True")
        dies = TellsAndDies(folder=bench.folder, patience=bench.moment, spared=os.getpid())
        dies.set_as_optional()
        flow = bench.flow({"dies": dies, "opener": Opener(folder=bench.folder)}, "dies.out opener.n")
        _skip_if_workers_are_here(bench)
        job = flow.execute("dies", {"n": 1})
        assert bench.ended(job), f"a worker was killed, and the job hangs: {job.explain()}"
        calls, arrived = len(bench.notes("told")), len(job.outputs["dies.out"])
        assert (calls, arrived) == (1, 1), (
            f"a worker was killed when its call had emitted, and that had arrived: the call was made {calls} times, "
            f"and {arrived} emissions came. A task whose worker died is failed, and not sent again"
        )
        assert len(job.errors) == 1

    @case
    def test_workers_killed_at_random_leave_a_ledger_that_balances(self, bench: Bench) -> None:
        needs(not bench.capabilities.shares_memory, "shares_memory=False")
        _skip_if_workers_are_here(bench)
        lingers = Lingers(folder=bench.folder, seconds=0.003)
        lingers.set_as_optional()
        flow = bench.flow({"source": Source(), "lingers": lingers}, "source.out lingers.n")
        seed = random.randrange(1 << 32)
        chance = random.Random(seed)
        job = flow.execute("source", {"count": 600})
        for _ in range(KILLS):
            calls = len(bench.notes("calls")) + 1 + chance.randrange(60)
            patience = min(bench.patience, bench.rest)
            goes_on = until(lambda n=calls: job.wait(0.0) or len(bench.notes("calls")) >= n, patience)  # type: ignore[misc]
            assert goes_on, f"workers were killed (seed {seed}), and the job hangs: {job.explain()}"
            _kill_last(bench)
        assert bench.ended(job), f"workers were killed (seed {seed}), and the job hangs: {job.explain()}"
        _check_books(job, f"workers were killed (seed {seed})")
        for _ in range(bench.workers):  # now they are idle
            job = flow.execute("lingers", {"n": 1})
            assert bench.ended(job), f"idle workers were killed, and the job hangs: {job.explain()}"
            assert job.ledger.balanced
            _kill_last(bench)
        job = flow.execute("source", {"count": 20})
        assert bench.ended(job), f"idle workers were killed, and the job hangs: {job.explain()}"
        _check_books(job, "idle workers were killed")

    @case
    def test_a_running_handler_sees_that_its_job_was_cancelled(self, bench: Bench) -> None:
        flow = bench.flow({"watches": bench.patient(Watches, 2 * bench.deadline)})
        thread = bench.in_background(flow.execute, "watches", {"n": 1})
        bench.begun()
        job = flow.job_state
        assert job is not None
        job.cancel()
        assert until(lambda: bool(bench.notes("left")), bench.moment), (
            "a job was cancelled, and its handler does not see it: `self.cancelled` is what `cancelled=` of "
            "routilux_core.worker.run returns, so `cancel` of the pool has to tell the worker"
        )
        assert bench.ended(job), f"the job was cancelled, and does not end: {job.explain()}"
        thread.ended()

    @case
    def test_cancel_with_kill_ends_a_running_call(self, bench: Bench) -> None:
        needs(bench.capabilities.enforces_timeout, "enforces_timeout=True")
        flow = bench.flow({"meeting": bench.patient(Meeting, 2 * bench.deadline, party=2)})  # it waits in vain
        thread = bench.in_background(flow.execute, "meeting", {"n": 1})
        assert bench.noted("calls", 1), "no call was made"
        job = flow.job_state
        assert job is not None
        job.cancel(kill=True)
        assert job.wait(bench.moment), (
            "enforces_timeout is declared, so the pool can end a call, and a job that was cancelled with kill=True "
            "still waits for its handler: `kill(task)` ends the worker, or raises an exception in the handler"
        )
        assert job.status == "cancelled"
        assert job.ledger.balanced, f"the ledger does not balance: {job.ledger}"
        thread.ended()

    @case
    def test_a_handler_that_prints_disturbs_nothing(self, bench: Bench) -> None:
        flow = bench.flow({"source": Source(), "prints": Prints()}, "source.out prints.n")
        job = bench.finished(flow.execute("source", {"count": 20}))
        assert sorted(output["n"] for output in job.outputs["prints.out"]) == list(range(20)), (
            "handlers printed, and something was lost: keep the channel to a worker apart from its standard output"
        )


def _skip_if_workers_are_here(bench: Bench) -> None:
    """Skip a case that kills workers, where that would be this process."""
    with bench.flow({"forward": Forward(folder=bench.folder)}) as flow:
        bench.finished(flow.execute("forward", {"n": -1}))
    if {note.pid for note in bench.notes("calls")} == {os.getpid()}:
        pytest.skip("the strategy's workers live in this process")


def _kill_last(bench: Bench) -> None:
    """Kill the worker that made the last call."""
    pid = bench.notes("calls")[-1].pid
    if pid != os.getpid():
        with suppress(OSError):  # it may have ended by itself
            os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))


def _check_books(job: JobState, what: str) -> None:
    ledger, outputs = job.ledger, [output["n"] for output in job.outputs["lingers.out"]]
    assert ledger.balanced, f"{what}, and the ledger does not balance: {ledger}"
    assert ledger.pending == 0, f"{what}, the job has ended, and activations are pending: {ledger}"
    assert len(outputs) == len(set(outputs)), f"{what}, and some emissions have arrived twice"
    assert ledger.failed <= len(job.errors), f"{what}: {ledger.failed} calls failed, with {len(job.errors)} errors"
