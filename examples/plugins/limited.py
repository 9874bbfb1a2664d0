"""A strategy that wraps another: it gives that no more than so many tasks a second.

For one that sends its tasks to a service which asks for patience:

    Flow(execution_strategy=LimitedStrategy(inner="process", per_second=20.0))

Where memory is shared, a task is not one call, but a worker who comes to work: then it limits how quickly they come.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import ClassVar

from attrs import frozen

from routilux_core import Busy, Capabilities, Done, ExecutionStrategy, Host, Task, WorkerPool, make_strategy


@frozen(kw_only=True)
class LimitedStrategy(ExecutionStrategy):
    """Runs what `inner` runs, an installed strategy, and can do what that can."""

    name: ClassVar[str] = "limited"
    contract: ClassVar[int] = 2
    inner: str = "process"
    per_second: float = 100.0

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override] # the object's
        return make_strategy(self.inner).capabilities

    def open(self, host: Host) -> WorkerPool:
        return LimitedPool(make_strategy(self.inner, self.max_workers).open(host), self.per_second)


class WrappedPool(WorkerPool):
    """Hands on to another pool all that a pool is asked."""

    def __init__(self, pool: WorkerPool) -> None:
        self.pool = pool
        self.in_caller = pool.in_caller  # type: ignore[misc] # as the other
        self.chooser = pool.chooser

    @property
    def workers(self) -> int:  # type: ignore[override] # it may change
        return self.pool.workers

    def submit(self, task: Task) -> None:
        self.pool.submit(task)

    def cancel(self, task: Task) -> bool:
        return self.pool.cancel(task)

    def kill(self, task: Task) -> bool:
        return self.pool.kill(task)

    def spare(self, more: int) -> None:
        self.pool.spare(more)

    def wait(self, done: Done, timeout: float | None) -> bool:
        return self.pool.wait(done, timeout)

    def call_aside(self, call: Callable[[], None], /) -> bool:
        return self.pool.call_aside(call)

    def runs_here(self) -> bool:
        return self.pool.runs_here()

    def is_over(self) -> bool:
        return self.pool.is_over()

    def after_fork(self) -> None:
        self.pool.after_fork()

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> bool | None:
        return self.pool.close(cancel=cancel, timeout=timeout)


class LimitedPool(WrappedPool):
    """Is busy until the time of the next task has come."""

    def __init__(self, pool: WorkerPool, per_second: float) -> None:
        super().__init__(pool)
        self._seconds = 1.0 / per_second
        self._next = 0.0
        self._lock = threading.RLock()  # a signal handler may submit in the middle of a call

    def submit(self, task: Task) -> None:
        with self._lock:
            now = monotonic()
            if now < self._next:
                raise Busy(self._next - now)  # the engine gives it to us again then
            self._next = now + self._seconds
        self.pool.submit(task)
