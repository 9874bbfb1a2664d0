"""The cases about a pool as such: what it does with tasks and workers, whatever a flow does with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from time import sleep
from typing import Any, ClassVar

import attrs
import pytest

from routilux_core.job import JobState
from routilux_core.strategy import CONTRACT, Busy, Capabilities, WorkerPool
from routilux_core.testing._bench import Bench, case, needs
from routilux_core.testing._board import most_at_once, until
from routilux_core.testing._patient import Gated, Meeting
from routilux_core.testing._routines import Dies, Forward, Source
from routilux_core.testing._spy import Errand, Log
from routilux_core.testing._watch import is_alive, processes_alive, threads_alive

TASKS = 500  # more than a hundred, so that who loses one in a hundred loses some


class PoolCases:
    """What the contract asks of a strategy and of the pools that it opens."""

    owns_workers: ClassVar[bool] = True
    exempt: ClassVar[Mapping[str, str]] = {}

    @case
    def test_a_strategy_is_configuration_that_can_be_compared(self, bench: Bench) -> None:
        strategy = bench.make(2)
        contract = getattr(type(strategy), "contract", None)
        assert type(contract) is int, f"write `contract: ClassVar[int] = {CONTRACT}` in the class, not {contract!r}"
        assert contract == CONTRACT, f"made for version {contract} of the contract, and this is version {CONTRACT}"
        assert isinstance(strategy.name, str)
        assert isinstance(strategy.capabilities, Capabilities)
        assert strategy.max_workers == 2
        assert attrs.has(type(strategy)), "a strategy is a frozen attrs class"
        assert strategy == bench.make(2), "two strategies with the same settings are equal"
        assert strategy != bench.make(3)

    @case
    def test_no_task_is_lost(self, bench: Bench) -> None:
        log, job = self._run_many(bench, TASKS)
        if job is not None:
            lost = log.lost()
            pytest.fail(
                f"{len(lost)} of {len(log.trails)} tasks were handed to the pool and neither run nor reported within "
                f"{bench.patience:g} s ({', '.join(lost[:3])}). A pool runs every task, or calls its `fail`."
            )
        called = sorted(int(note.text) for note in bench.notes("calls"))
        assert called == list(range(TASKS)), "a handler was not called exactly once for each emission"

    @case
    def test_no_task_is_reported_twice(self, bench: Bench) -> None:
        log, _ = self._run_many(bench, 50)
        twice = log.twice()
        assert not twice, (
            f"{len(twice)} of {len(log.trails)} tasks were run or reported again after their first report: {twice[:3]}"
            ". A pool calls a task once (where memory is shared), or `finish` or `fail` once."
        )

    @case
    def test_a_task_is_reported_by_one_thread_at_a_time(self, bench: Bench) -> None:
        log, _ = self._run_many(bench, 50, hold=0.01)
        both = log.at_the_same_time()
        assert not both, (
            f"{len(both)} of {len(log.trails)} tasks were run or reported by two threads at once: {both[:3]}. A task "
            "belongs to one thread at a time."
        )

    def _run_many(self, bench: Bench, tasks: int, hold: float = 0.0) -> tuple[Log, JobState | None]:
        """Run a task for each of so many calls, close the pool, and return what it did, and the job if it hung."""
        log = Log(hold)
        routines = {"source": Source(), "forward": Forward(folder=bench.folder)}
        flow = bench.flow(routines, "source.out forward.n", execution_strategy=bench.spied(log), max_pending=10 * TASKS)
        job = flow.execute("source", {"count": tasks})
        hung = None if bench.ended(job) else job
        flow.cancel()
        flow.shutdown(timeout=bench.patience / 2)
        assert not log.raised, f"`submit` raised {log.raised[0]!r}: it never raises, it calls `task.fail` instead"
        return log, hung

    @case
    def test_submit_returns_before_the_task_runs(self, bench: Bench) -> None:
        log = Log()
        gated = bench.patient(Gated, bench.patience / 2)
        flow = bench.flow({"gated": gated}, execution_strategy=bench.spied(log))
        in_caller = bench.open().in_caller
        if in_caller:  # then `execute` returns when the job has ended
            bench.open_gate()
        job = flow.execute("gated", {"n": 1})
        bench.open_gate()
        bench.ended(job)
        inline = log.inline()
        assert not inline, (
            f"{len(inline)} of {len(log.trails)} tasks ran inside `submit`, in the thread that called it. `submit` "
            "hands the task over and returns before it runs: an emitting handler would else run others inline"
        )
        opened = [output["opened"] for output in job.outputs["gated.out"]]
        assert opened == [True], "`submit` returned only when the task had run: a task that waits would hold it up"

    @case
    def test_what_a_pool_can_not_run_is_failed_and_not_swallowed(self, bench: Bench) -> None:
        pool = bench.open()
        pool.close()
        late = bench.errand(Log())
        self._submit(pool, late)
        pool.wait(late.ended, bench.patience)
        assert late.ended.is_set(), (
            "a task submitted to a closed pool was neither run nor failed: its error was swallowed, and a job would "
            "wait for it for ever. Call `task.fail(error)` with the error."
        )
        if not bench.capabilities.shares_memory:
            broken = Errand(Log(), b"this is no payload")
            self._submit(bench.open(), broken)
            broken.ended.wait(bench.patience)
            assert broken.error is not None, (
                "a payload that routilux_core.worker.run raised for was not reported: its error was swallowed. Call "
                "`task.fail(error)` with what the worker raised."
            )

    def _submit(self, pool: WorkerPool, task: Errand) -> None:
        """Give a task to a pool, and again where that is busy, as the engine does."""
        try:
            pool.submit(task)
        except Busy as busy:
            sleep(min(busy.retry_after, 0.1))
            self._submit(pool, task)
        except BaseException as error:
            pytest.fail(f"`submit` raised {error!r}: it never raises, it calls `task.fail(error)` instead")

    @case
    def test_a_pool_fails_tasks_with_exceptions(self, bench: Bench) -> None:
        log = Log()
        pool = bench.open()
        pool.close()
        late = bench.errand(log)
        self._submit(pool, late)
        pool.wait(late.ended, bench.patience)
        if not bench.capabilities.shares_memory:
            pool = bench.open(1)
            dies = bench.payload(Dies(folder=bench.folder, spared=os.getpid()), 0)
            for payload in (b"this is no payload", dies):
                errand = Errand(log, payload)
                self._submit(pool, errand)
                errand.ended.wait(bench.patience)
        assert not log.no_errors, (
            f"`fail` was given {log.no_errors[0]!r}: it takes an exception, which the job ends with. Wrap what you "
            "have to say: `task.fail(RuntimeError(text))`"
        )

    @case
    def test_cancel_tells_the_truth(self, bench: Bench) -> None:
        pool = self._open_busy(bench)
        first, second, third = (bench.turn(Log(), n) for n in range(3))
        self._begin(bench, pool, first)
        self._submit(pool, second)
        assert not pool.cancel(first), "`cancel` returned True for a task that runs: it means that it did not run"
        taken = pool.cancel(second)
        self._submit(pool, third)
        bench.open_gate()
        for errand in (first, third) if taken else (first, second, third):
            assert errand.ended.wait(2 * bench.moment), (
                "`cancel` returned False, so the task is still the pool's, and it was neither run nor reported"
            )
        begun = {note.text for note in bench.notes("entered")}
        assert not (taken and ("1" in begun or second.was_reported)), (
            "`cancel` returned True for a task that had not begun, and then it was run: the engine may run it elsewhere"
        )

    @case
    def test_kill_tells_the_truth(self, bench: Bench) -> None:
        needs(not bench.capabilities.shares_memory, "shares_memory=False")
        pool = self._open_busy(bench)
        victim, next_one = bench.turn(Log(), 0, 4 * bench.patience), bench.errand(Log())
        self._begin(bench, pool, victim)
        (worker,) = {note.pid for note in bench.notes("entered")}
        killed = pool.kill(victim)
        assert killed or not bench.capabilities.enforces_timeout, (
            "enforces_timeout is declared, so the pool can end a running task, and `kill` has ended none: "
            "`job.cancel(kill=True)` would wait for its handlers"
        )
        if not killed:
            bench.open_gate()
        assert victim.ended.wait(bench.moment), (
            f"`kill` returned {killed} for a task that runs, and {bench.moment:g} s later it is neither failed "
            "nor finished: `fail` has to follow"
        )
        assert not killed or victim.error is not None, "`kill` returned True, and the task was finished"
        assert not killed or worker == os.getpid() or not _left(bench, lambda: [worker] if is_alive(worker) else []), (
            "`kill` returned True, and the worker still runs: the handler goes on"
        )
        self._submit(pool, next_one)
        assert next_one.ended.wait(bench.patience), "after `kill` the pool runs nothing any more"
        assert next_one.error is None, f"after `kill` the pool fails what it is given: {next_one.error!r}"

    def _open_busy(self, bench: Bench) -> WorkerPool:
        """Open a pool with one worker, which a task can hold up."""
        pool = bench.open(1)
        if pool.in_caller:
            pytest.skip("the strategy's tasks run in the thread that waits for them")
        return pool

    def _begin(self, bench: Bench, pool: WorkerPool, errand: Errand) -> None:
        """Hand the first task to a pool, and wait until it runs."""
        self._submit(pool, errand)
        bench.begun()

    @case
    def test_close_keeps_to_its_time_limit(self, bench: Bench) -> None:
        for cancel in (False, True):
            pool = self._open_busy(bench)
            self._submit(pool, bench.turn(Log(), 0, 4 * bench.patience))
            bench.begun(1 + cancel)
            closing = bench.in_background(partial(pool.close, cancel=cancel, timeout=0.3))
            assert closing.has_ended(bench.moment), (
                f"`close(cancel={cancel}, timeout=0.3)` has not returned after {bench.moment:g} s, while a task "
                "runs: a program would not end"
            )

    @case
    def test_close_with_cancel_drops_what_has_not_begun(self, bench: Bench) -> None:
        needs(not bench.capabilities.shares_memory, "shares_memory=False")  # else there is nothing to do in a task then
        pool = self._open_busy(bench)
        errands = [bench.turn(Log(), n, 0.15) for n in range(16)]
        self._begin(bench, pool, errands[0])
        for errand in errands[1:]:
            self._submit(pool, errand)
        before = len(bench.notes("entered"))
        bench.in_background(partial(pool.close, cancel=True, timeout=bench.patience / 2)).ended()
        begun = len(bench.notes("entered"))
        assert begun - before < len(errands) / 2, (
            f"{before} of {len(errands)} tasks had begun, then `close(cancel=True)`, and then {begun}: it drops those "
            "that have not begun"
        )

    @case
    def test_a_pool_goes_on_when_the_thread_that_opened_it_has_ended(self, bench: Bench) -> None:
        if bench.open().in_caller:
            pytest.skip("the strategy's tasks run in the thread that waits for them")
        gated = bench.patient(Gated, bench.patience)
        gated.set_as_optional()
        flow = bench.flow({"source": Source(), "gated": gated}, "source.out gated.n")

        def open_and_begin() -> None:
            flow.execute("source", {"count": 3})
            bench.begun()

        bench.in_background(open_and_begin).ended()
        sleep(0.3)  # what ends with its thread does so now
        bench.open_gate()
        assert flow.job_state is not None
        job = bench.finished(flow.job_state)
        assert not job.errors, f"the thread that opened the pool has ended, and its workers with it: {job.errors[0]}"

    @case
    def test_a_pool_can_be_closed_twice(self, bench: Bench) -> None:
        pool = bench.open()
        done = bench.errand(Log())
        self._submit(pool, done)
        assert pool.wait(done.ended, bench.patience), "the pool did not run its only task"
        pool.close()
        pool.close()
        pool.close(cancel=True, timeout=0.1)

    @case
    def test_no_more_than_max_workers_run_at_once(self, bench: Bench) -> None:
        limit = 2
        pool = bench.open(limit)
        assert isinstance(pool, WorkerPool)
        assert 1 <= pool.workers <= limit, (
            f"with max_workers={limit} the pool says that it has {pool.workers} workers, and would be given as many "
            "tasks at a time"
        )
        meeting = bench.patient(Meeting, min(0.4, bench.patience), party=limit + 1)
        routines = {"source": Source(), "meeting": meeting}
        flow = bench.flow(routines, "source.out meeting.n", execution_strategy=bench.make(limit))
        bench.finished(flow.execute("source", {"count": limit + 1}))
        most = most_at_once(bench.folder, "meeting")
        assert most <= limit, f"with max_workers={limit} there were {most} calls at once"

    @case
    def test_parallel_calls_really_overlap(self, bench: Bench) -> None:
        needs(bench.capabilities.parallel, "parallel=True")
        workers = bench.open(bench.workers).workers
        assert workers > 1, f"declared parallel, but with max_workers={bench.workers} the pool has {workers} worker"
        seconds = bench.patience / workers  # one after the other, they still end in time
        job = self._meet(bench, workers, seconds)
        met = [output["met"] for output in job.outputs["meeting.out"]]
        assert met == [True] * workers, (
            f"declared parallel, with {workers} workers, but at most {most_at_once(bench.folder, 'meeting')} of "
            f"{workers} calls were made at the same time, in {seconds:g} s. Declare parallel=False, or give "
            "every task a worker of its own."
        )

    def _meet(self, bench: Bench, party: int, seconds: float = 0.5) -> JobState:
        """Let all workers be at work at the same time, if they can, and shut the flow down."""
        meeting = bench.patient(Meeting, min(seconds, bench.patience / 2), party=party)
        flow = bench.flow({"source": Source(), "meeting": meeting}, "source.out meeting.n")
        job = flow.execute("source", {"count": party})
        bench.ended(job)
        flow.shutdown(timeout=bench.patience / 2)
        return job

    @case
    def test_close_ends_the_workers(self, bench: Bench) -> None:
        needs(self.owns_workers, "owns_workers")
        threads = threads_alive()
        self._meet(bench, bench.workers if bench.capabilities.parallel else 1)
        pids, idents = _who_worked(bench)
        left = _left(bench, lambda: [pid for pid in pids if is_alive(pid)])
        assert not left, f"`close` has returned, and these worker processes still run: {left}"
        idents -= threads.keys()
        left = _left(bench, lambda: [name for ident, name in threads_alive().items() if ident in idents])
        assert not left, f"`close` has returned, and these worker threads still run: {left}. `close` ends the workers."

    @case
    def test_no_thread_or_process_is_left_behind(self, bench: Bench) -> None:
        needs(self.owns_workers, "owns_workers")
        party = bench.workers if bench.capabilities.parallel else 1
        self._meet(bench, party)  # what stays for good, such as a server that forks, may come with the first pool
        threads, processes = threads_alive(), processes_alive()
        for _ in range(3):
            self._meet(bench, party)
        pids, workers = _who_worked(bench)  # whether these end is another case
        left = _left(bench, lambda: [n for i, n in threads_alive().items() if i not in threads and i not in workers])
        assert not left, f"opening and closing 3 pools has left these threads behind, beside the workers: {left}"
        left = _left(bench, lambda: sorted(processes_alive() - processes - pids))
        assert not left, f"opening and closing 3 pools has left these processes behind, beside the workers: {left}"


def _who_worked(bench: Bench) -> tuple[set[int], set[int]]:
    """Return the other processes, and the threads of this one, that handlers ran in."""
    notes = bench.notes("calls")
    here = os.getpid()
    return {note.pid for note in notes} - {here}, {note.thread for note in notes if note.pid == here}


def _left(bench: Bench, look: Callable[[], list[Any]]) -> list[Any]:
    """Return what is left, after giving it a moment to end."""
    until(lambda: not look(), bench.patience / 2)
    return look()
