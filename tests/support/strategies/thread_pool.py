"""A strategy over a stock `ThreadPoolExecutor`."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import ClassVar

from attrs import frozen

from routilux_core import Capabilities, ExecutionStrategy, Host, Task, WorkerPool


@frozen(kw_only=True)
class StockThreadsStrategy(ExecutionStrategy):
    """Threads of the standard library."""

    name: ClassVar[str] = "stock-threads"
    contract: ClassVar[int] = 2
    capabilities: ClassVar[Capabilities] = Capabilities(shares_memory=True)

    def open(self, host: Host) -> WorkerPool:
        return StockThreads(self.max_workers or 4)


class StockThreads(WorkerPool):
    """Submits tasks as calls; one that was cancelled, or came too late, fails."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._executor = ThreadPoolExecutor(workers, "routilux-stock")
        self._futures: dict[str, Future[None]] = {}

    def submit(self, task: Task) -> None:
        try:
            future = self._executor.submit(task)
        except RuntimeError as error:
            task.fail(error)
            return
        self._futures[task.id] = future
        future.add_done_callback(lambda done: self._ended(task, done))

    def cancel(self, task: Task) -> bool:
        future = self._futures.get(task.id)
        return future is not None and future.cancel()

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> None:
        self._executor.shutdown(wait=timeout != 0, cancel_futures=cancel)

    def _ended(self, task: Task, future: Future[None]) -> None:
        self._futures.pop(task.id, None)
        if future.cancelled():
            task.fail(RuntimeError("the executor was shut down before the task began"))
