"""The workers of a pool and the tasks that wait for them: who gets what."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import ExitStack

from routilux_core import StrategyError, Task
from routilux_core_plugins.process.handle import Batch, Worker

AT_MOST = 2  # batches for each worker: one runs, and one waits where there are more than workers

Failure = tuple[Task, BaseException]


class Roster:
    """Workers and waiting batches. `lock` guards both; no method of a task but `payload` is called under it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.lock = threading.RLock()
        self.workers: list[Worker] = []
        self.waiting: deque[Batch] = deque()
        self.closed: BaseException | None = None  # what a task fails with that comes from now on

    def add(self, task: Task) -> bool:
        """Take a task in, and hand it on at once where that goes; return whether the supervisor has to be woken.

        The main thread leaves that to the supervisor: a KeyboardInterrupt in between would lose the task.
        """
        failed: list[Failure] = []
        wake = True
        with self.lock:
            if self.closed is not None:
                failed.append((task, self.closed))
            else:
                self.waiting.append(Batch(task))
                if threading.current_thread() is not threading.main_thread():
                    failed = self.spread()
                    wake = task.timeout is not None or any(worker.channel.waits for worker in self.workers)
        fail_all(failed)
        return wake

    def spread(self) -> list[Failure]:
        """Hand out what waits: to an idle worker first. Under the lock; what is returned fails outside it."""
        failed: list[Failure] = []
        while self.waiting:
            worker = self._choose()
            if worker is None:
                break
            batch = self.waiting.popleft()
            try:
                worker.give(batch)
            except BaseException as error:
                failed.append((batch.task, error))
        return failed

    def _choose(self) -> Worker | None:
        """Return the worker for the next batch.

        What an idle worker could do that is still being started does not wait behind another batch.
        """
        free = [worker for worker in self.workers if worker.is_open]
        least = min(free, key=lambda worker: len(worker.batches), default=None)
        if least is None or not least.batches:
            return least
        missing = self.size - len(free)
        return least if len(least.batches) < AT_MOST and len(self.waiting) > missing else None

    def take_back(self, task: Task) -> bool:
        """Remove a task that no worker has; tell the worker that has it to stop before its next activation."""
        with self.lock:
            for batch in self.waiting:
                if batch.task is task:
                    self.waiting.remove(batch)
                    return True
            for worker in self.workers:
                for batch in worker.batches:
                    if batch.task is task:
                        worker.tell_to_stop_before_the_next(batch)
        return False

    def kill(self, task: Task, reason: str) -> bool:
        """End the worker that runs a task."""
        with self.lock:
            for worker in self.workers:
                if worker.batches and worker.batches[0].task is task:
                    worker.batches[0].killed = True
                    worker.kill(reason)
                    return True
        return False

    def present(self) -> int:
        """Return how many workers there are, or will be when they have started. Under the lock."""
        return sum(not worker.leaving for worker in self.workers)

    def give_up_waiting(self, error: BaseException) -> list[Failure]:
        """Empty the queue; what is returned fails without the lock."""
        with self.lock:
            failed: list[Failure] = [(batch.task, error) for batch in self.waiting]
            self.waiting.clear()
        return failed


def closed_error() -> StrategyError:
    """Return what a task fails with that the pool did not begin."""
    return StrategyError("the process pool was closed before this task was begun")


def fail_all(failures: list[Failure]) -> None:
    """Tell tasks that they failed, each of them whatever another one raises. The lock is not held."""
    with ExitStack() as steps:
        for task, error in reversed(failures):
            steps.callback(task.fail, error)
