"""The limit rows' tools: what one would write by hand, with nothing that is not needed."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

Post = Callable[[tuple[Callable[[Any], None], Any]], None]


def drain(queue: deque[tuple[Callable[[Any], None], Any]]) -> None:
    """The bare deque loop: call what is queued, oldest first, until nothing is left."""
    while queue:
        handler, argument = queue.popleft()
        handler(argument)


class QueuePool:
    """Plain threads around one `SimpleQueue`: no results, no counter, no lock of its own.

    It does not know when it is done: somebody who does calls `finish`, then `join` returns.
    """

    def __init__(self, workers: int) -> None:
        self._queue: SimpleQueue[tuple[Callable[[Any], None], Any] | None] = SimpleQueue()
        self.post: Post = self._queue.put
        self._threads = [threading.Thread(target=self._work) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        take = self._queue.get
        while (task := take()) is not None:
            handler, argument = task
            handler(argument)

    def finish(self) -> None:
        """End each thread after what is queued now."""
        for _ in self._threads:
            self._queue.put(None)

    def join(self) -> None:
        """Wait until every thread has ended."""
        for thread in self._threads:
            thread.join()


class CountingPool(QueuePool):
    """The same, but it knows when all is done, as anybody has to: it counts what is posted and done, under a lock."""

    def __init__(self, workers: int) -> None:
        self._lock = threading.Lock()
        self._undone = 0
        super().__init__(workers)
        self.post = self._post

    def _post(self, task: tuple[Callable[[Any], None], Any]) -> None:
        with self._lock:
            self._undone += 1
        self._queue.put(task)

    def _work(self) -> None:
        take = self._queue.get
        while (task := take()) is not None:
            handler, argument = task
            handler(argument)
            with self._lock:
                self._undone -= 1
                over = not self._undone
            if over:
                self.finish()
