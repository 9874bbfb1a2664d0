"""Strategy `concurrent`: a pool of threads, started when there is work for them."""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from queue import SimpleQueue
from time import monotonic
from typing import ClassVar

from attrs import frozen

from routilux_core import Capabilities, ExecutionStrategy, Host, Task, WorkerPool


@frozen(kw_only=True)
class ConcurrentStrategy(ExecutionStrategy):
    """Up to `max_workers` threads; by default as many as `min(32, cpus + 4)`, since they mostly wait.

    They are called as long as they help: with a GIL, calls of less than 20 µs are made by one of them.
    """

    name: ClassVar[str] = "concurrent"
    contract: ClassVar[int] = 2
    capabilities: ClassVar[Capabilities] = Capabilities(shares_memory=True)

    def open(self, host: Host) -> WorkerPool:
        return ThreadPool(self.max_workers or min(32, (os.cpu_count() or 1) + 4), host)


class ThreadPool(WorkerPool):
    """Daemon threads that take tasks from one queue. They end when the pool is closed, or forgotten."""

    def __init__(self, workers: int, host: Host, name: str = "routilux-concurrent") -> None:
        self.workers = workers
        self._host, self._name = host, name
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._lock = threading.RLock()  # a signal handler may call in the middle of a call
        self._idle = _Count()  # threads that wait, less the tasks that wait
        self._leaving = _Count()  # threads that end when they have done their task
        self._threads: list[threading.Thread] = []
        self._size, self._room = 0, workers  # threads that stay, and how many there may be
        self._numbers = itertools.count(1)
        self._closed = False
        self._started = _Count()
        self._forget = weakref.finalize(self, _end_started, self._tasks, self._started)
        self._forget.atexit = False

    def submit(self, task: Task) -> None:
        with self._lock:
            refused: BaseException | None = RuntimeError("the pool is closed") if self._closed else self._make_room()
            if refused is None:
                self._tasks.put(task)
        if refused is not None:
            task.fail(refused)

    def _make_room(self) -> BaseException | None:
        """Reserve an idle thread for a task, or start one; an error only if there is no thread at all."""
        if self._size >= self._room or self._idle.value > 0:
            self._idle.add(-1)
            return None
        name = f"{self._name}-{next(self._numbers)}"
        arguments = (self._tasks, self._idle, self._leaving, self._host)
        thread = threading.Thread(target=_work, args=arguments, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the system gives no more threads: those there are go on
            if not self._size:
                return error
            self._idle.add(-1)
            return None
        self._threads = [each for each in self._threads if each.is_alive()] + [thread]
        self._started.add(1)
        self._size += 1
        return None

    def spare(self, more: int) -> None:
        with self._lock:
            self._room += more
            if more > 0 or self._size <= self._room:
                return
            self._size -= 1
            if self._idle.value > 0:
                self._idle.add(-1)
                self._tasks.put(None)
            else:
                self._leaving.add(1)

    def after_fork(self) -> None:
        _end(self._tasks, 1)  # the thread that forked, if it was one of these

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> None:
        with self._lock:
            self._closed = True
            threads, self._threads = self._threads, []
        _end(self._tasks, len(threads))
        deadline = None if timeout is None else monotonic() + timeout
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(None if deadline is None else max(0.0, deadline - monotonic()))


class _Count:
    """A number that several threads change."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.value = 0

    def add(self, more: int) -> None:
        with self._lock:
            self.value += more

    def take(self) -> bool:
        """Take one off, if there is one."""
        with self._lock:
            if self.value <= 0:
                return False
            self.value -= 1
            return True


def _work(tasks: SimpleQueue[Task | None], idle: _Count, leaving: _Count, host: Host) -> None:
    # A function, not a method: a thread that held its pool would keep a forgotten one alive.
    try:
        while _serve(tasks, idle, leaving, host):
            pass
    except BaseException as error:  # somebody has raised it in this thread, and perhaps a task was lost with it
        name = threading.current_thread().name
        host.log.error("thread %r has ended; the next job gets new threads", name, exc_info=error)
        host.lost(error)
    finally:
        host.worker_ended()


def _serve(tasks: SimpleQueue[Task | None], idle: _Count, leaving: _Count, host: Host) -> bool:
    """Wait for a task, and do it; return whether this thread is wanted for another."""
    task = tasks.get()
    if task is None:
        return False
    try:
        task()
    except BaseException as error:  # no task raises; where one does all the same, the others still need this thread
        name, kind = threading.current_thread().name, type(error).__name__
        host.log.error("thread %r: %s has left a task; it takes the next one", name, kind, exc_info=error)
    if leaving.take():
        return False
    idle.add(1)
    return True


def _end_started(tasks: SimpleQueue[Task | None], started: _Count) -> None:
    _end(tasks, started.value)


def _end(tasks: SimpleQueue[Task | None], threads: int) -> None:
    for _ in range(threads):
        tasks.put(None)
