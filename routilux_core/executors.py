"""Strategies made of what is there: any executor of the kind that `concurrent.futures` has, and a strategy by name."""

from __future__ import annotations

import os
import threading
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import frozen

from routilux_core._registry.lookup import Plugins, resolve_strategy
from routilux_core.errors import WorkerLost
from routilux_core.strategy import ExecutionStrategy, Host, Task, WorkerPool

if TYPE_CHECKING:  # what nobody needs who runs on threads is imported when an executor is opened
    from concurrent.futures import Executor, Future


def make_strategy(
    name: str, max_workers: int | None = None, options: Mapping[str, Any] | None = None
) -> ExecutionStrategy:
    """Return the strategy that `Flow(execution_strategy=name)` runs under: for one that wraps another.

    A wrapper, such as one that counts tasks, opens the pool of what is made here, and hands everything on to it. What
    can't be found, and every wrong value, is refused as it is there.
    """
    return resolve_strategy(Plugins(), name, max_workers, options)


@frozen(kw_only=True)
class ExecutorStrategy(ExecutionStrategy):
    """A strategy over an executor: subclass it with a `name`, its `capabilities`, and `make_executor`.

    Where memory is shared, the executor is given the tasks to call; else `routilux_core.worker.run` and bytes.
    """

    @abstractmethod
    def make_executor(self) -> Executor:
        """Return a new executor with `max_workers` workers, or with its own default where that is None."""

    def open(self, host: Host) -> WorkerPool:
        executor = self.make_executor()
        workers = self.max_workers or getattr(executor, "_max_workers", None) or os.cpu_count() or 1
        return ExecutorPool(executor, workers, self.capabilities.shares_memory, host)


class ExecutorPool(WorkerPool):
    """Hands tasks to an executor, and what its futures say back to them."""

    def __init__(self, executor: Executor, workers: int, shares_memory: bool, host: Host) -> None:
        self.workers = workers
        self._executor = executor
        self._shares_memory = shares_memory
        self._host = host
        self._lock = threading.RLock()  # a signal handler may cancel in the middle of a call
        self._futures: dict[Task, Future[Any]] = {}
        self._broken = False

    def submit(self, task: Task) -> None:
        if self._broken:  # asking it again could block: it may hold its own lock while it tells of its end
            task.fail(WorkerLost(reason="the executor broke before"))
            return
        from routilux_core import worker

        try:
            if self._shares_memory:
                future: Future[Any] = self._executor.submit(task)
            else:
                future = self._executor.submit(worker.run, task.payload())
        except Exception as error:
            broke_before = self._broken
            self._failed(task, error, True)
            if broke_before:
                task.fail(error)
            return
        with self._lock:
            self._futures[task] = future
        future.add_done_callback(lambda done: self._done(task, done))

    def _done(self, task: Task, future: Future[Any]) -> None:
        from concurrent.futures import BrokenExecutor, CancelledError

        with self._lock:
            wanted = self._futures.pop(task, None) is not None
        if not wanted:
            return  # it was cancelled, and the engine knows
        error = CancelledError("the executor cancelled it") if future.cancelled() else future.exception()
        if error is not None:
            self._failed(task, error, isinstance(error, BrokenExecutor))
        elif not self._shares_memory:
            task.finish(future.result())

    def _failed(self, task: Task, error: BaseException, broken: bool) -> None:
        """Fail a task; where the executor broke, say so once: the engine fails the others."""
        if broken:
            with self._lock:
                first, self._broken = not self._broken, True
            if not first:  # the engine has failed it, or does so now
                return
            lost = WorkerLost(reason=f"the executor broke: {error}")
            lost.__cause__ = error
            error = lost
        try:
            if broken:
                self._host.lost(error)  # before a job ends with this task: the next one is to open a new pool
        finally:
            task.fail(error)

    def cancel(self, task: Task) -> bool:
        with self._lock:
            future = self._futures.pop(task, None)
        if future is None:
            return False
        if future.cancel():
            return True
        with self._lock:
            self._futures[task] = future
        if future.done():
            self._done(task, future)
        return False

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> None:
        from concurrent.futures import wait

        with self._lock:
            futures = list(self._futures.values())
        if cancel:
            for future in futures:
                future.cancel()
        in_time = timeout is None or not wait(futures, timeout).not_done
        self._executor.shutdown(wait=in_time)
