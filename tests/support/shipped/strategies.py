"""Strategies that share no memory, each written from the contract alone."""

from __future__ import annotations

import itertools
import multiprocessing
import random
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from queue import SimpleQueue
from time import monotonic
from typing import Any, ClassVar

from attrs import field, frozen

from routilux_core import (
    UNKNOWN,
    Capabilities,
    ExecutionStrategy,
    ExecutorStrategy,
    Host,
    Task,
    WorkerLost,
    WorkerPool,
    worker,
)


@frozen(kw_only=True)
class Spawned(ExecutorStrategy):
    """The standard library's pool of processes, started anew."""

    name: ClassVar[str] = "spawned"
    capabilities: ClassVar[Capabilities] = Capabilities(shares_memory=False)

    def make_executor(self) -> Executor:
        return ProcessPoolExecutor(self.max_workers, mp_context=multiprocessing.get_context("spawn"))


@frozen(kw_only=True)
class LokyStrategy(ExecutorStrategy):
    """The pool of processes of loky, as the documentation has it."""

    name: ClassVar[str] = "loky"
    capabilities: ClassVar[Capabilities] = Capabilities(shares_memory=False)

    def make_executor(self) -> Executor:
        import loky  # no worker of the others needs it

        made: Executor = loky.ProcessPoolExecutor(self.max_workers)
        return made


class Kept(Executor):
    """An executor that outlives the pools that it is lent to."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return self._executor.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        pass


@frozen(kw_only=True)
class Shared(ExecutorStrategy):
    """Runs on an executor that is there already; `batched` lets several activations travel together."""

    name: ClassVar[str] = "shared"
    capabilities: ClassVar[Capabilities] = Capabilities(shares_memory=False)
    executor: Executor = field(eq=False, repr=False)

    def make_executor(self) -> Executor:
        return Kept(self.executor)


@frozen(kw_only=True)
class SharedBatches(Shared):
    name: ClassVar[str] = "shared-batches"
    capabilities: ClassVar[Capabilities] = Capabilities(shares_memory=False, max_batch=1024)


# -- a pool that streams, and whose workers die


class Died(BaseException):
    """The worker is gone: no handler can catch it where it is raised, before an activation begins."""


@frozen(kw_only=True)
class Mortal(ExecutionStrategy):
    """Threads that take nothing but bytes. Before an activation a worker may die, with the odds given.

    One that dies behind its chunks goes on as a ghost: what it still says has to be ignored.
    """

    name: ClassVar[str] = "mortal"
    capabilities: ClassVar[Capabilities] = Capabilities(shares_memory=False, streams=True, max_batch=1024)
    deaths: float = 0.0
    chunks: int | None = None  # a worker dies when it has sent so many
    seed: int = 0
    max_worker_losses: int = 3
    says_which: bool = True  # it ran when it died
    sizes: list[tuple[int, int]] = field(factory=list, eq=False)  # of each task, and how many were away with it

    def open(self, host: Host) -> WorkerPool:
        return MortalPool(self)


class MortalPool(WorkerPool):
    def __init__(self, strategy: Mortal) -> None:
        self.workers = workers = strategy.max_workers or 2
        self._strategy: Any = strategy
        self._away, self._lock = 0, threading.Lock()
        self._random = random.Random(strategy.seed)
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._cancelled: set[Task] = set()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    def submit(self, task: Task) -> None:
        self._count_away(1)
        self._strategy.sizes.append((task.size, self._away))
        self._tasks.put(task)

    def _count_away(self, change: int) -> None:
        with self._lock:
            self._away += change

    def cancel(self, task: Task) -> bool:
        self._cancelled.add(task)
        return False

    def kill(self, task: Task) -> bool:
        self._cancelled.add(task)  # a thread can't be killed: its ghost goes on until it asks
        task.fail(WorkerLost(reason="killed"))
        return True

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> None:
        for _ in self._threads:
            self._tasks.put(None)
        deadline = None if timeout is None else monotonic() + timeout
        for thread in self._threads:
            thread.join(None if deadline is None else max(0.0, deadline - monotonic()))

    def _work(self) -> None:
        known: frozenset[str] = frozenset()
        while (task := self._tasks.get()) is not None:
            payload = task.payload(known)
            known = known | task.parts if self._run(task, payload) else frozenset()

    def _run(self, task: Task, payload: bytes) -> bool:
        at, left, says_which = -1, self._strategy.chunks, self._strategy.says_which

        def send(chunk: bytes) -> None:
            nonlocal left
            task.stream(chunk)
            if left is not None:
                left -= 1
                if left == 0:
                    task.fail(WorkerLost(worker="ghost", reason="it had said enough"), at)

        def mark(index: int) -> None:
            nonlocal at
            at = index
            if self._random.random() < self._strategy.deaths:
                raise Died

        try:
            reply = worker.run(
                payload,
                send,
                mark=mark,
                cancelled=lambda: task in self._cancelled,
                mark_every=None if says_which else 0.0005,
            )
        except Died:
            self._count_away(-1)  # before the engine hears of it, and sends the next
            task.fail(WorkerLost(worker=threading.get_ident(), reason="drawn by lot"), at if says_which else UNKNOWN)
            return False
        self._count_away(-1)
        task.finish(reply)
        return True


# -- a queue that delivers some tasks twice


@frozen(kw_only=True)
class TwiceStrategy(ExecutionStrategy):
    """Processes behind one queue, which delivers each third task twice, beginning with the first."""

    name: ClassVar[str] = "twice"
    capabilities: ClassVar[Capabilities] = Capabilities(shares_memory=False)

    def open(self, host: Host) -> WorkerPool:
        return TwicePool(self.max_workers or 2)


def _serve(tasks: Any, replies: Any) -> None:
    while (received := tasks.get()) is not None:
        task_id, payload = received
        replies.put((task_id, worker.run(payload)))
    worker.close()


class TwicePool(WorkerPool):
    def __init__(self, workers: int) -> None:
        self.workers = workers
        context = multiprocessing.get_context("spawn")
        self._tasks, self._replies = context.Queue(), context.Queue()
        self._count = itertools.count()
        self._sent: dict[str, Task] = {}
        self._processes = [
            context.Process(target=_serve, args=(self._tasks, self._replies), daemon=True) for _ in range(workers)
        ]
        for process in self._processes:
            process.start()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def submit(self, task: Task) -> None:
        self._sent[task.id] = task
        for _ in range(2 if next(self._count) % 3 == 0 else 1):
            self._tasks.put((task.id, task.payload()))

    def _read(self) -> None:
        while (reply := self._replies.get()) is not None:
            self._sent[reply[0]].finish(reply[1])

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> None:
        for _ in self._processes:
            self._tasks.put(None)
        for process in self._processes:
            process.join(timeout)
        self._replies.put(None)
        self._reader.join(timeout)
        for queue in (self._tasks, self._replies):
            queue.close()
            queue.join_thread()
