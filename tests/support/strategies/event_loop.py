"""A strategy over asyncio: one event loop in a thread of its own, with many handlers under way in it."""

from __future__ import annotations

import asyncio
import threading
from typing import ClassVar

from attrs import frozen

from routilux_core import Capabilities, ExecutionStrategy, Host, Task, WorkerPool


@frozen(kw_only=True)
class EventLoopStrategy(ExecutionStrategy):
    """Awaits `async def` handlers, `max_workers` at a time; plain ones are called in the loop's thread."""

    name: ClassVar[str] = "event-loop"
    contract: ClassVar[int] = 2
    capabilities: ClassVar[Capabilities] = Capabilities(shares_memory=True, coroutines=True, enforces_timeout=True)

    def open(self, host: Host) -> WorkerPool:
        return EventLoop(self.max_workers or 100, host)


class EventLoop(WorkerPool):
    """Makes an asyncio task of each task. `tasks` are those under way."""

    def __init__(self, workers: int, host: Host) -> None:
        self.workers = workers
        self.tasks: set[asyncio.Task[None]] = set()  # the loop itself keeps no reference
        self._host = host
        self._loop = asyncio.new_event_loop()
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="routilux-event-loop", daemon=True)
        self._thread.start()

    def submit(self, task: Task) -> None:
        with self._lock:
            closed = self._closed
            if not closed:
                self._loop.call_soon_threadsafe(self._begin, task)
        if closed:
            task.fail(RuntimeError("the event loop is closed"))

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                self._loop.call_soon_threadsafe(self._end, cancel)
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    # -- in the loop's thread

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.get_loop().run_forever()
        self._host.worker_ended()

    def _begin(self, task: Task) -> None:
        made = self._loop.create_task(task.arun())
        self.tasks.add(made)
        made.add_done_callback(self.tasks.discard)

    def _end(self, cancel: bool) -> None:
        if cancel:
            for task in self.tasks:
                task.cancel()
        self._ending = self._loop.create_task(self._wait_and_stop())

    async def _wait_and_stop(self) -> None:
        while self.tasks:
            await asyncio.wait(self.tasks)
        self._loop.stop()
