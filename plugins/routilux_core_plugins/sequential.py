"""Strategy `sequential`: everything in the thread that waits, first come, first served."""

from __future__ import annotations

import threading
from collections import deque
from time import monotonic
from typing import ClassVar

from attrs import frozen

from routilux_core import Capabilities, Done, ExecutionStrategy, Host, Task, WorkerPool

STRETCH = 0.25  # seconds of one sleep: a Ctrl-C that comes just before a sleep begins does not end it


@frozen(kw_only=True)
class SequentialStrategy(ExecutionStrategy):
    """One activation after the other, in the order of their emission; `max_workers` is stored and ignored."""

    name: ClassVar[str] = "sequential"
    capabilities: ClassVar[Capabilities] = Capabilities(shares_memory=True, parallel=False)

    def open(self, host: Host) -> WorkerPool:
        return CallerPool()


class CallerPool(WorkerPool):
    """Keeps tasks until somebody waits, and runs them there. Several threads may wait at once."""

    workers = 1
    in_caller = True

    def __init__(self) -> None:
        self._tasks: deque[Task] = deque()
        self._changed = threading.Condition()

    def submit(self, task: Task) -> None:
        with self._changed:
            self._tasks.append(task)
            self._changed.notify()

    def wait(self, done: Done, timeout: float | None) -> bool:
        deadline = None if timeout is None else monotonic() + timeout
        done.add_callback(self._wake)
        try:
            while not done.is_set():
                task = self._next(done, deadline)
                if task is None:
                    break
                task()
        finally:
            done.remove_callback(self._wake)
        return done.is_set()

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> None:
        with self._changed:
            self._tasks.clear()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _next(self, done: Done, deadline: float | None) -> Task | None:
        """Return the next task, or None when `done` is set or the time is over."""
        with self._changed:
            while not self._tasks:
                left = None if deadline is None else deadline - monotonic()
                if done.is_set() or (left is not None and left <= 0):
                    return None
                self._changed.wait(STRETCH if left is None else min(left, STRETCH))
            return self._tasks.popleft()
