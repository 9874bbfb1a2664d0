"""A correct pool over pipes with one fault each: what the conformance kit has to find.

The pool is that of `examples/pipes_strategy`, written on public names, as a third party would. Each fault does harm.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar

from attrs import frozen

sys.path.insert(0, str(Path(__file__).parents[3] / "examples" / "pipes_strategy" / "src"))

from routilux_pipes import Minder, PipesPool, PipesStrategy
from routilux_pipes.worker import Worker, take_pipes

from routilux_core import Host, Task, WorkerPool, worker


@frozen(kw_only=True)
class Mutant(PipesStrategy):
    """The strategy with a pool that has a fault, by its name in the table."""

    fault: str = ""

    def open(self, host: Host) -> WorkerPool:
        return POOLS[self.fault](self.max_workers or 2, host)


# -- the pool's side


class CancelLies(PipesPool):
    """Says that a task was taken back, and it is run all the same."""

    def cancel(self, task: Task) -> bool:
        return True


class CancelForgets(PipesPool):
    """Takes a task back, and says that it did not."""

    def cancel(self, task: Task) -> bool:
        super().cancel(task)
        return False


class KillLies(PipesPool):
    """Says that a worker will end, and does nothing."""

    def kill(self, task: Task) -> bool:
        return True


class KillDoesNothing(PipesPool):
    """Ends no worker, and says so, though it declares that it can."""

    def kill(self, task: Task) -> bool:
        return False


class NeverTells(PipesPool):
    """Tells no worker that a task was cancelled."""

    def make_minder(self) -> Minder:
        class Silent(Minder):
            def tell_to_stop(self, task: Task) -> None:
                pass

        return Silent(self)


class Misses(PipesPool):
    """Says of a lost task that another activation ran than the one that did."""

    off: ClassVar[int] = 1

    def make_minder(self) -> Minder:
        off = self.off

        class OffByOne(Minder):
            def fail(self, task: Task, error: Exception) -> None:
                task.fail(error, at=None if self.at is None else max(0, self.at + off))

        return OffByOne(self)


class MissesBelow(Misses):
    """The same, in the other direction."""

    off = -1


class AlwaysFirst(Misses):
    """Always says that it was the first."""

    off = -(1 << 30)


class NoMark(PipesPool):
    """Never says which activation ran."""

    def make_minder(self) -> Minder:
        class Vague(Minder):
            def fail(self, task: Task, error: Exception) -> None:
                task.fail(error)

        return Vague(self)


class Patient(PipesPool):
    """Waits in `close` for what runs, however long that takes."""

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> None:
        super().close(cancel=cancel)


class RunsAll(PipesPool):
    """Runs in `close` what has not begun, though it is to be dropped."""

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> None:
        super().close(timeout=timeout)


class Late(PipesPool):
    """Ends a call after three times its time-out."""

    def make_minder(self) -> Minder:
        class Slow(Minder):
            def time_left(self, task: Task) -> float | None:
                left = super().time_left(task)
                return None if left is None or task.timeout is None else left + 2 * task.timeout

        return Slow(self)


class RefusesInWords(PipesPool):
    """Fails a task that comes too late with a text."""

    def refuse(self, task: Task) -> None:
        task.fail("the pool is closed")  # type: ignore[arg-type]


class LosesInWords(PipesPool):
    """Fails a task whose worker died with a text."""

    def make_minder(self) -> Minder:
        class Wordy(Minder):
            def lost(self, task: Task, reason: str) -> None:
                task.fail(reason, at=self.at)  # type: ignore[arg-type]

        return Wordy(self)


class Redelivers(PipesPool):
    """Sends a task to the next worker when one has died, as a queue does that was not told that it is done."""

    def make_minder(self) -> Minder:
        class Again(Minder):
            def lost(self, task: Task, reason: str) -> None:
                self.run(task)

        return Again(self)


class Forgets(PipesPool):
    """Says nothing of a task whose worker has died."""

    def make_minder(self) -> Minder:
        class Silent(Minder):
            def lost(self, task: Task, reason: str) -> None:
                pass

        return Silent(self)


class ForgetsTheUnbegun(PipesPool):
    """Says nothing of a task that a worker had been sent, and had not begun when it died."""

    def make_minder(self) -> Minder:
        class Silent(Minder):
            def run(self, task: Task) -> None:
                self.at = None
                try:
                    if self.process is None:
                        self.start()
                    self.send(task)
                    self.listen(task)
                except (EOFError, OSError):
                    reason = self.bury()
                    if self.at is not None or self.why:
                        self.lost(task, reason)

        return Silent(self)


class OpensOnce(PipesPool):
    """Has workers that end with the thread that opened the pool, as the system's signal for a parent's death does."""

    serve = "strategies.pipe_mutants:serve_bound"

    def __init__(self, workers: int, host: Host) -> None:
        super().__init__(workers, host)
        for minder in self.minders:
            minder.start()


class KeepsTheProgram(PipesPool):
    """Has threads that are no daemons, and wait for what runs: a program that ends waits with them."""

    def make_minder(self) -> Minder:
        minder = Minder(self)
        minder.thread.daemon = False
        return minder


# -- the worker's side


class NeverAsks(PipesPool):
    """Its workers don't ask whether a task was cancelled."""

    serve = "strategies.pipe_mutants:serve_deaf"


class Prints(PipesPool):
    """Its workers leave standard output to handlers, and their words to the parent go there, too."""

    serve = "strategies.pipe_mutants:serve_loud"


class NoMain(PipesPool):
    """Its workers have the paths of the program, and not its main module."""

    serve = "strategies.pipe_mutants:serve_bare"


class Orphans(PipesPool):
    """Its workers don't see that their parent is gone."""

    serve = "strategies.pipe_mutants:serve_orphan"


class DeafWorker(Worker):
    def reply(self, number: int, payload: bytes) -> bytes:
        return worker.run(payload, partial(self.tell, "chunk", number), mark=partial(self.tell, "mark", number))


class BareWorker(Worker):
    def prepare(self, data: bytes) -> None:
        pass


class OrphanWorker(Worker):
    def parent_is_gone(self) -> None:
        signal.pause()

    def work(self) -> None:
        with contextlib.suppress(OSError):
            super().work()
        signal.pause()


def take_loud_pipes() -> tuple[Connection, Connection]:
    return Connection(os.dup(0), writable=False), Connection(os.dup(1), readable=False)


def serve(kind: type[Worker], pipes: Callable[[], tuple[Connection, Connection]] = take_pipes) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    kind(*pipes()).work()


serve_deaf, serve_bare, serve_orphan = (
    partial(serve, DeafWorker),
    partial(serve, BareWorker),
    partial(serve, OrphanWorker),
)
serve_loud = partial(serve, Worker, take_loud_pipes)


def serve_bound() -> None:
    ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)  # PR_SET_PDEATHSIG: the parent is a thread
    serve(Worker)


# Fault -> the pool, the case that names it, and what its message has to say.
MUTANTS: dict[str, tuple[type[PipesPool], str, str]] = {
    "cancel lies": (CancelLies, "test_cancel_tells_the_truth", "`cancel` returned True"),
    "cancel forgets": (CancelForgets, "test_cancel_tells_the_truth", "neither run nor reported"),
    "kill lies": (KillLies, "test_kill_tells_the_truth", "`fail` has to follow"),
    "kill does nothing": (KillDoesNothing, "test_kill_tells_the_truth", "`kill` has ended none"),
    "cancelled never asked": (
        NeverAsks,
        "test_a_running_handler_sees_that_its_job_was_cancelled",
        "its handler does not see it",
    ),
    "cancelled never sent": (
        NeverTells,
        "test_a_running_handler_sees_that_its_job_was_cancelled",
        "its handler does not see it",
    ),
    "at above": (Misses, "test_a_dead_worker_costs_the_call_that_ran", "Say which call ran"),
    "at below": (MissesBelow, "test_a_dead_worker_costs_the_call_that_ran", "Say which call ran"),
    "at always zero": (AlwaysFirst, "test_a_dead_worker_costs_the_call_that_ran", "Say which call ran"),
    "no mark": (NoMark, "test_a_dead_worker_costs_the_call_that_ran", "Say which call ran"),
    "prints": (Prints, "test_a_handler_that_prints_disturbs_nothing", ""),
    "close ignores timeout": (Patient, "test_close_keeps_to_its_time_limit", "has not returned after"),
    "close ignores cancel": (RunsAll, "test_close_with_cancel_drops_what_has_not_begun", "it drops those"),
    "timeout late": (Late, "test_a_call_that_takes_too_long_is_ended", "a time-out of 1.5 s was ended after"),
    "no main module": (NoMain, "test_workers_know_the_classes_of_the_program", "`host.preparation()`"),
    "refuses in words": (RefusesInWords, "test_a_pool_fails_tasks_with_exceptions", "it takes an exception"),
    "loses in words": (LosesInWords, "test_a_pool_fails_tasks_with_exceptions", "it takes an exception"),
    "redelivers": (Redelivers, "test_what_a_dead_worker_had_told_is_not_told_again", "not sent again"),
    "forgets the lost": (Forgets, "test_a_killed_worker_hangs_no_job", "the job hangs"),
    "forgets the unbegun": (
        ForgetsTheUnbegun,
        "test_workers_killed_at_random_leave_a_ledger_that_balances",
        "the job hangs",
    ),
    "ends with the opener": (
        OpensOnce,
        "test_a_pool_goes_on_when_the_thread_that_opened_it_has_ended",
        "its workers with it",
    ),
    "keeps the program": (KeepsTheProgram, "test_a_program_that_ends_leaves_nothing", "it is still there after"),
    "orphans at kill": (Orphans, "test_a_program_that_is_killed_leaves_nothing", "its parent is gone"),
}
POOLS: dict[str, type[PipesPool]] = {"none": PipesPool} | {fault: pool for fault, (pool, _, _) in MUTANTS.items()}


def strategy_with(fault: str) -> Any:
    """Return what makes the strategy of a fault; "none" has none."""
    return partial(Mutant, fault=fault)
