"""The workers that a pool knows, what is away on each of them, and which gets the next task."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

from routilux_core import Task
from routilux_dask._remote import Hello

AHEAD = 2  # tasks that a thread may have: the one that it runs, and the next


class Worker:
    """One worker process of the cluster."""

    def __init__(self, address: str, threads: int, hello: Hello) -> None:
        self.address = address
        self.host = urlsplit(address).hostname
        self.threads = threads
        self.token, self.pid, self.directory = hello
        self.known: frozenset[str] = frozenset()  # parts that it has for sure
        self.away: dict[int, Task] = {}  # by number, oldest first
        self.futures: dict[int, Any] = {}
        self.moved = 0  # number of the newest task that waited here in vain
        self.sent: dict[int, float] = {}  # when, by the loop's clock, of those that may not have begun

    def __str__(self) -> str:
        return f"{self.address} (process {self.pid})"


class Fleet:
    """All of them. Only the thread of the event loop touches it."""

    def __init__(self, most: int | None, batch: int) -> None:
        self.workers: dict[str, Worker] = {}
        self.arrived = asyncio.Event()  # set again at each arrival
        self.size = 1
        self.careful = 0  # so many more tasks are sent while no other waits behind them
        self._most, self._batch = most, batch  # workers, and calls in a task

    def be_careful(self, tasks: int) -> None:
        """Let no task wait behind another while the calls of so many are made again, each in a task of its own."""
        self.careful += tasks * self._batch

    @property
    def threads(self) -> int:
        return sum(worker.threads for worker in self.workers.values())

    def count(self) -> None:
        """Work out `size` again: how many tasks may run at a time, and at least 1. Any thread may read it."""
        self.size = max(1, self.threads if self._most is None else min(self._most, self.threads))

    @property
    def away(self) -> int:
        return sum(len(worker.away) for worker in self.workers.values())

    def add(self, worker: Worker) -> None:
        self.workers[worker.address] = worker
        self.arrived.set()
        self.arrived = asyncio.Event()

    def idlest(self) -> Worker | None:
        """Return the worker that has the least to do; None if nobody may have more."""
        if self._most is not None and self.threads > self._most and self.away >= self._most:
            return None  # a task that waits over there would be run by a thread too many
        ahead = 1 if self.careful else AHEAD
        free = [worker for worker in self.workers.values() if len(worker.away) < ahead * worker.threads]
        return min(free, key=lambda worker: (len(worker.away) / worker.threads, worker.moved), default=None)

    def overdue(self, since: float) -> tuple[Worker, int] | None:
        """Return what was sent before a time and may wait for nothing, since another worker has nothing of ours."""
        if all(worker.away for worker in self.workers.values()):
            return None
        old = ((worker, number) for worker in self.workers.values() for number, at in worker.sent.items() if at < since)
        return next(old, None)

    def find(self, task: Task) -> tuple[Worker, int] | None:
        """Return where a task is away, and its number."""
        for worker in self.workers.values():
            for number, each in worker.away.items():
                if each is task:
                    return worker, number
        return None

    def neighbour(self, gone: Worker) -> Worker | None:
        """Return a worker on the machine of one that is gone."""
        return next((each for each in self.workers.values() if each.host == gone.host), None)
