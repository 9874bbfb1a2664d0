"""Tasks of our own for a pool, without the engine: what a worker is to do, and what came of it."""

from __future__ import annotations

import logging
import os
import pickle
import threading
from collections.abc import Iterable
from typing import Any

from routilux_core import Task, WorkerPool

PROGRAMS = "processes.pool_programs"
SECONDS = 30.0


class Steps(Task):
    """A batch whose activations are calls of the functions in `pool_programs`."""

    parts: frozenset[str] = frozenset()

    def __init__(self, *steps: Any, timeout: float | None = None, then: Any = None) -> None:
        self.id = repr(steps)[:60]
        self.size = len(steps)
        self.timeout = timeout
        self.chunks: list[bytes] = []
        self.results: list[Any] | None = None
        self.beside: list[Any] = []  # what came back as pieces of their own
        self.error: BaseException | None = None
        self.at: int | None = None
        self.ends = 0  # how often it was told its end: once
        self.with_pieces: tuple[Any, ...] = ()  # what goes there beside the steps
        self._payload = pickle.dumps(steps)
        self._then = then
        self._ended = threading.Event()
        self._heard = threading.Semaphore(0)

    def __call__(self) -> None:
        raise AssertionError("a shipped task is not called")

    def payload(self, known: frozenset[str] = frozenset()) -> bytes:
        return self._payload

    def pieces(self, known: frozenset[str] = frozenset()) -> list[Any]:
        return [self._payload, *self.with_pieces]

    def stream(self, chunk: Any) -> None:
        assert not self._ended.is_set()
        self.chunks.append(*chunk)
        self._heard.release()

    def finish(self, reply: Any) -> None:
        head, *self.beside = reply
        self.results = pickle.loads(head)
        self._end()

    def fail(self, error: BaseException, at: int | None = None) -> None:
        self.error, self.at = error, at
        self._end()

    def _end(self) -> None:
        self.ends += 1
        if self._then is not None:
            self._then()
        self._ended.set()

    def heard(self) -> None:
        """Wait for one more chunk."""
        assert self._heard.acquire(timeout=SECONDS), f"{self.id} has sent nothing"

    def wait(self) -> Steps:
        assert self._ended.wait(SECONDS), f"{self.id} has not ended"
        return self

    @property
    def has_ended(self) -> bool:
        return self._ended.is_set()


def submit(pool: WorkerPool, *tasks: Steps) -> None:
    for task in tasks:
        pool.submit(task)


def run(pool: WorkerPool, *steps: Any, **settings: Any) -> Steps:
    """Submit one batch, and wait for its end."""
    task = Steps(*steps, **settings)
    pool.submit(task)
    return task.wait()


def wait_all(tasks: Iterable[Steps]) -> None:
    for task in tasks:
        task.wait()


class RecordingHost:
    """What the pool may ask of the engine."""

    def __init__(self) -> None:
        self.log = logging.getLogger("test.process")
        self.errors: list[BaseException] = []
        self.was_lost = threading.Event()

    def lost(self, error: BaseException, /) -> None:
        self.errors.append(error)
        self.was_lost.set()

    def worker_ended(self) -> None:
        raise AssertionError("no worker is a thread of this process")


def descriptors() -> set[str]:
    """Return the open descriptors of this process with what they lead to."""
    folder = f"/proc/{os.getpid()}/fd"
    found = set()
    for name in os.listdir(folder):
        try:
            found.add(f"{name} {os.readlink(f'{folder}/{name}')}")
        except FileNotFoundError:  # the one that was open for listing
            continue
    return found


def is_alive(pid: int) -> bool:
    """Whether a process runs: one that has ended, and was not waited for by its parent, does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
