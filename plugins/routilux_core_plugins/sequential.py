"""Strategy `sequential`: everything in the thread that waits, first come, first served."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from time import monotonic
from typing import ClassVar

from attrs import frozen

from routilux_core import Capabilities, Done, ExecutionStrategy, Host, Task, WorkerPool

NEVER = float("inf")
STRETCH = 0.25  # seconds of one sleep: a Ctrl-C that comes just before a sleep begins does not end it


@frozen(kw_only=True)
class SequentialStrategy(ExecutionStrategy):
    """One activation after the other, in the order of their emission; `max_workers` is stored and ignored."""

    name: ClassVar[str] = "sequential"
    contract: ClassVar[int] = 2
    capabilities: ClassVar[Capabilities] = Capabilities(shares_memory=True, parallel=False)

    def open(self, host: Host) -> WorkerPool:
        return CallerPool()


class CallerPool(WorkerPool):
    """Keeps tasks until somebody waits, and runs them there. Several threads may wait at once.

    It has no lock, which a signal handler could find held by the thread that it interrupted: who waits is listed first
    and then looks once more; who has something for them does it first and then looks at the list.
    """

    workers = 1
    in_caller = True

    def __init__(self) -> None:
        self._tasks: deque[Task] = deque()
        self._waiters: list[threading.Lock] = []  # one for each thread that sleeps, held until there is news

    def submit(self, task: Task) -> None:
        self._tasks.append(task)
        self._wake()

    def wait(self, done: Done, timeout: float | None) -> bool:
        deadline = NEVER if timeout is None else monotonic() + timeout
        done.add_callback(self._wake)
        try:
            while not done.is_set():
                task = self._next()
                if task is not None:
                    task()
                elif monotonic() >= deadline:
                    break
                else:
                    self._sleep(done, deadline)
        finally:
            done.remove_callback(self._wake)
        return done.is_set()

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> None:
        self._tasks.clear()

    def _next(self) -> Task | None:
        try:
            return self._tasks.popleft()
        except IndexError:
            return None

    def _sleep(self, done: Done, deadline: float) -> None:
        """Sleep until there is news, or for a stretch."""
        waiter = threading.Lock()
        waiter.acquire()
        self._waiters.append(waiter)
        try:
            if not (self._tasks or done.is_set()):
                waiter.acquire(timeout=max(0.0, min(STRETCH, deadline - monotonic())))
        finally:
            with suppress(ValueError):
                self._waiters.remove(waiter)

    def _wake(self) -> None:
        while self._waiters:
            with suppress(IndexError):  # another thread was faster
                self._waiters.pop().release()
