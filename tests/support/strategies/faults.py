"""Strategies with one fault each, over plain threads: what the conformance kit has to find."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import queue
import subprocess
import sys
import threading
from typing import Any, ClassVar

from attrs import frozen

from routilux_core import Capabilities, ExecutionStrategy, Host, Task, WorkerPool, worker


class Threads(WorkerPool):
    """A plain pool of threads, without a fault."""

    traits = Capabilities(shares_memory=True)

    def __init__(self, workers: int, host: Host) -> None:
        self.workers = workers
        self.host = host
        self.tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self.closed = False
        self.threads = [self.started(self.work) for _ in range(self.how_many())]

    def started(self, work: Any, *args: Any) -> threading.Thread:
        thread = threading.Thread(target=work, args=args, name=f"faulty {type(self).__name__}", daemon=True)
        thread.start()
        return thread

    def how_many(self) -> int:
        return self.workers

    def work(self) -> None:
        while (task := self.tasks.get()) is not None:
            self.run(task)
        self.host.worker_ended()

    def run(self, task: Task) -> None:
        task()

    def submit(self, task: Task) -> None:
        if self.closed:
            self.refuse(task)
        else:
            self.tasks.put(task)

    def refuse(self, task: Task) -> None:
        task.fail(RuntimeError("the pool is closed"))

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> None:
        self.closed = True
        for _ in self.threads:
            self.tasks.put(None)
        for thread in self.threads:
            thread.join(timeout)


@frozen(kw_only=True)
class ThreadsStrategy(ExecutionStrategy):
    name: ClassVar[str] = "healthy"
    contract: ClassVar[int] = 2
    capabilities: ClassVar[Capabilities] = Threads.traits
    pool: ClassVar[type[Threads]] = Threads

    def open(self, host: Host) -> WorkerPool:
        return self.pool(self.max_workers or 4, host)


class Drops(Threads):
    """Drops one task in a hundred."""

    def __init__(self, workers: int, host: Host) -> None:
        self.numbers = itertools.count(1)
        super().__init__(workers, host)

    def run(self, task: Task) -> None:
        if next(self.numbers) % 100:
            task()


class RunsTwice(Threads):
    """Runs, and so reports, every tenth task twice."""

    def __init__(self, workers: int, host: Host) -> None:
        self.numbers = itertools.count(1)
        super().__init__(workers, host)

    def run(self, task: Task) -> None:
        task()
        if not next(self.numbers) % 10:
            task()


class TwoThreads(Threads):
    """Has two threads at every tenth task at once."""

    def __init__(self, workers: int, host: Host) -> None:
        self.numbers = itertools.count(1)
        super().__init__(workers, host)

    def run(self, task: Task) -> None:
        other = None if next(self.numbers) % 10 else self.started(task)
        task()
        if other is not None:
            other.join()


class Swallows(Threads):
    """Says nothing where it can't run a task."""

    def refuse(self, task: Task) -> None:
        try:
            raise RuntimeError("the pool is closed")
        except RuntimeError:
            pass


class TooMany(Threads):
    """Ignores max_workers."""

    def __init__(self, workers: int, host: Host) -> None:
        super().__init__(4 * workers, host)


class OneThread(Threads):
    """Claims to run tasks in parallel, and has one thread."""

    def how_many(self) -> int:
        return 1


class AwaitsOneByOne(OneThread):
    """Claims to await coroutines together, and awaits one after the other."""

    traits = Capabilities(shares_memory=True, coroutines=True)

    def run(self, task: Task) -> None:
        asyncio.run(task.arun())


class Leaks(Threads):
    """Starts a thread that watches the pool, and never ends."""

    def __init__(self, workers: int, host: Host) -> None:
        super().__init__(workers, host)
        self.started(threading.Event().wait)


class LeaksProcess(Threads):
    """Starts a process, and leaves it behind."""

    left: ClassVar[list[subprocess.Popen[bytes]]] = []

    def __init__(self, workers: int, host: Host) -> None:
        super().__init__(workers, host)
        # It ends with the test's own process: then its input is closed.
        self.left.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))


class Inline(Threads):
    """Runs a task inside `submit`."""

    traits = Capabilities(shares_memory=True, parallel=False)

    def how_many(self) -> int:
        self.workers = 1
        return 1

    def submit(self, task: Task) -> None:
        if self.closed:
            self.refuse(task)
        else:
            task()


class Holds(Inline):
    """Returns from `submit` when the task has been run, by another thread."""

    def submit(self, task: Task) -> None:
        if self.closed:
            self.refuse(task)
        else:
            self.started(task).join()


class NeverCloses(Threads):
    """Does nothing in `close` but refuse what comes later."""

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> None:
        self.closed = True


class Hangs(Threads):
    """Never returns from `close`."""

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> None:
        self.closed = True
        threading.Event().wait()


class Raises(Threads):
    """Raises from `submit`."""

    def refuse(self, task: Task) -> None:
        raise RuntimeError("cannot schedule new tasks after shutdown")


class ClosesOnce(Threads):
    """Can't be closed a second time."""

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> None:
        if self.closed:
            raise RuntimeError("closed already")
        super().close()


class Shipped(Threads):
    """A plain pool that is sent bytes, without a fault: its workers are threads that run them."""

    traits = Capabilities(shares_memory=False)

    def run(self, task: Task) -> None:
        try:
            reply = worker.run(task.payload())
        except Exception as error:
            task.fail(error)
        else:
            self.report(task, reply)

    def report(self, task: Task, reply: bytes) -> None:
        task.finish(reply)

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> None:
        super().close(cancel=cancel, timeout=timeout)
        worker.close()


class SharesPieces(Shipped):
    """Gives a call the memory of its sender, where it was to copy that."""

    def run(self, task: Task) -> None:
        try:
            reply = worker.run(pieces=task.pieces())
        except Exception as error:
            task.fail(error)
        else:
            task.finish(reply)


class ShippedDrops(Shipped):
    """Drops one reply in a hundred."""

    def __init__(self, workers: int, host: Host) -> None:
        self.numbers = itertools.count(1)
        super().__init__(workers, host)

    def report(self, task: Task, reply: bytes) -> None:
        if next(self.numbers) % 100:
            task.finish(reply)


class FinishesTwice(Shipped):
    """Finishes every task twice."""

    def report(self, task: Task, reply: bytes) -> None:
        task.finish(reply)
        task.finish(reply)


class FinishesInTwoThreads(Shipped):
    """Finishes every task from two threads at once."""

    def report(self, task: Task, reply: bytes) -> None:
        other = self.started(task.finish, reply)
        task.finish(reply)
        other.join()


class SwallowsWorkerErrors(Shipped):
    """Says nothing where the worker raised."""

    def run(self, task: Task) -> None:
        with contextlib.suppress(Exception):
            task.finish(worker.run(task.payload()))


class ShippedInline(Shipped):
    """Runs what is shipped inside `submit`."""

    traits = Capabilities(shares_memory=False, parallel=False)

    def submit(self, task: Task) -> None:
        if self.closed:
            self.refuse(task)
        else:
            self.run(task)


class ClaimsStreams(Shipped):
    """Says that emissions come back while a task runs, and sends them with the reply."""

    traits = Capabilities(shares_memory=False, streams=True)


class ClaimsTimeouts(Shipped):
    """Says that it can end a running task, and can't."""

    traits = Capabilities(shares_memory=False, enforces_timeout=True)


# Fault -> the case that names it, and what its message has to say.
FAULTS: dict[str, tuple[type[Threads], str, str]] = {
    "drops one task in a hundred": (Drops, "test_no_task_is_lost", "neither run nor reported"),
    "reports twice": (RunsTwice, "test_no_task_is_reported_twice", "again after their first report"),
    "reports from two threads": (TwoThreads, "test_a_task_is_reported_by_one_thread_at_a_time", "two threads at once"),
    "swallows exceptions": (
        Swallows,
        "test_what_a_pool_can_not_run_is_failed_and_not_swallowed",
        "its error was swallowed",
    ),
    "ignores max_workers": (TooMany, "test_no_more_than_max_workers_run_at_once", "it has 8 workers"),
    "claims parallelism": (OneThread, "test_parallel_calls_really_overlap", "at most 1 of 4 calls"),
    "awaits one by one": (AwaitsOneByOne, "test_parallel_calls_really_overlap", "at most 1 of 4 calls"),
    "leaks a thread": (Leaks, "test_no_thread_or_process_is_left_behind", "faulty Leaks"),
    "leaves a process": (LeaksProcess, "test_no_thread_or_process_is_left_behind", "these processes behind"),
    "claims streams": (ClaimsStreams, "test_emissions_leave_while_the_handler_runs", "while its handler went on"),
    "claims timeouts": (ClaimsTimeouts, "test_a_call_that_takes_too_long_is_ended", "the job did not end within"),
    "runs inline": (Inline, "test_submit_returns_before_the_task_runs", "ran inside `submit`"),
    "waits in submit": (Holds, "test_submit_returns_before_the_task_runs", "only when the task had run"),
    "forgets close": (NeverCloses, "test_close_ends_the_workers", "faulty NeverCloses"),
    "hangs in close": (Hangs, "test_a_pool_can_be_closed_twice", "did not end within"),
    "raises from submit": (
        Raises,
        "test_what_a_pool_can_not_run_is_failed_and_not_swallowed",
        "it never raises",
    ),
    "shares what it was to copy": (
        SharesPieces,
        "test_what_is_large_arrives_whole_and_belongs_to_the_call",
        "the sender sees as well",
    ),
    "drops a reply in a hundred": (ShippedDrops, "test_no_task_is_lost", "neither run nor reported"),
    "finishes twice": (FinishesTwice, "test_no_task_is_reported_twice", "again after their first report"),
    "finishes in two threads": (
        FinishesInTwoThreads,
        "test_a_task_is_reported_by_one_thread_at_a_time",
        "two threads at once",
    ),
    "swallows worker errors": (
        SwallowsWorkerErrors,
        "test_what_a_pool_can_not_run_is_failed_and_not_swallowed",
        "routilux_core.worker.run raised for was not reported",
    ),
    "runs shipped work inline": (ShippedInline, "test_submit_returns_before_the_task_runs", "ran inside `submit`"),
    "closes once": (ClosesOnce, "test_a_pool_can_be_closed_twice", "closed already"),
}


def strategy_with(fault: str) -> type[ThreadsStrategy]:
    """Return the strategy class of a fault, by its name in the table; "none" and "none shipped" have none."""
    pool = {"none": Threads, "none shipped": Shipped}.get(fault) or FAULTS[fault][0]
    return type(
        pool.__name__,
        (ThreadsStrategy,),
        {"name": "faulty", "pool": pool, "capabilities": pool.traits, "__slots__": ()},
    )
