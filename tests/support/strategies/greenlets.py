"""A strategy over gevent: greenlets in one thread of their own, with its hub. Nothing is monkey-patched."""

from __future__ import annotations

import threading
from typing import ClassVar

import gevent
import gevent.event
import gevent.pool
from attrs import frozen

from routilux_core import Capabilities, ExecutionStrategy, Host, Task, WorkerPool


@frozen(kw_only=True)
class GreenletStrategy(ExecutionStrategy):
    """Up to `max_workers` greenlets, which take turns where a handler waits with gevent."""

    name: ClassVar[str] = "greenlets"
    contract: ClassVar[int] = 2
    capabilities: ClassVar[Capabilities] = Capabilities(shares_memory=True, enforces_timeout=True)

    def open(self, host: Host) -> WorkerPool:
        return Greenlets(self.max_workers or 100, host)


class Greenlets(WorkerPool):
    """Spawns a greenlet for each task. The hub of a thread is used in no other, but for `run_callback_threadsafe`."""

    def __init__(self, workers: int, host: Host) -> None:
        self.workers = workers
        self._host = host
        self._closed = False
        self._running: dict[Task, gevent.Greenlet] = {}
        self._lock = threading.Lock()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="routilux-greenlets", daemon=True)
        self._thread.start()
        self._ready.wait()

    def submit(self, task: Task) -> None:
        with self._lock:
            closed = self._closed
            if not closed:
                self._hub.loop.run_callback_threadsafe(self._spawn, task)
        if closed:
            task.fail(RuntimeError("the hub is closed"))

    def _spawn(self, task: Task) -> None:
        greenlet = self._running[task] = self._group.spawn(task)
        greenlet.link(lambda _: self._running.pop(task))

    def kill(self, task: Task) -> bool:
        """Raise `GreenletExit` in the handler, the next time that it would have its turn."""
        runs = task in self._running
        if runs:
            self._hub.loop.run_callback_threadsafe(self._end, task)
        return runs

    def _end(self, task: Task) -> None:
        if task in self._running:
            self._running[task].kill(block=False)

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                self._hub.loop.run_callback_threadsafe(self._ended.set)
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def _run(self) -> None:
        self._hub = gevent.get_hub()
        self._group, self._ended = gevent.pool.Group(), gevent.event.Event()
        waker = self._hub.loop.async_()
        waker.start(lambda: None)  # a hub that has nothing to watch takes its wait for a deadlock
        self._ready.set()
        self._ended.wait()
        while self._group:
            self._group.join()
        waker.close()
        self._hub.destroy(destroy_loop=True)
        self._host.worker_ended()
