"""Strategy `asyncio`: `async def` handlers as tasks in an event loop, plain ones in threads beside it."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from time import monotonic
from typing import Any, ClassVar

from attrs import field, frozen

from routilux_core import (
    Capabilities,
    ConfigurationError,
    ExecutionStrategy,
    Host,
    StrategyError,
    Task,
    UnknownNameError,
    WorkerPool,
)
from routilux_core_plugins.threaded import ThreadPool

WORKERS = 100  # handlers under way at a time, where nothing else is said
CLEAN_UP_S = 0.5  # that handlers get which were cancelled because the time to close was over
PARENTS: list[object] = []  # in the child of a fork: to close a copy of a loop would disturb the one of the parent

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def _check_plain_workers(value: Any) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ConfigurationError(f"plain_workers has to be a whole number from 1, or None, not {value!r}")


def _check_loop(value: Any) -> str:
    if value in ("own", "running"):
        return str(value)
    raise UnknownNameError("loop", value, ("own", "running"), "Strategy 'asyncio'")


def _check_factory(value: Any) -> LoopFactory | None:
    if value is None or callable(value):
        return value  # type: ignore[no-any-return]
    raise ConfigurationError(f"loop_factory has to be what makes an event loop when called, not {value!r}")


@frozen(kw_only=True)
class AsyncioStrategy(ExecutionStrategy):
    """Up to `max_workers` handlers under way at a time, by default 100, in one event loop.

    `loop="own"` is a loop in a thread of its own, made by `loop_factory` where that is given. `loop="running"` is the
    one that runs where the first job begins. Plain handlers run in up to `plain_workers` threads, by default
    `min(32, cpus + 4)`.
    """

    name: ClassVar[str] = "asyncio"
    contract: ClassVar[int] = 2
    capabilities: ClassVar[Capabilities] = Capabilities(shares_memory=True, coroutines=True, enforces_timeout=True)
    plain_workers: int | None = field(default=None, converter=_check_plain_workers)
    loop: str = field(default="own", converter=_check_loop)
    loop_factory: LoopFactory | None = field(default=None, converter=_check_factory)

    def __attrs_post_init__(self) -> None:
        if self.loop == "running" and self.loop_factory is not None:
            raise ConfigurationError("loop='running' takes the loop that is there: leave loop_factory out")

    def open(self, host: Host) -> WorkerPool:
        work = self._take_running(host) if self.loop == "running" else self._start_own(host)
        return LoopPool(self.max_workers or WORKERS, work)

    def _take_running(self, host: Host) -> LoopWork:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise StrategyError(
                "loop='running' needs an event loop that runs where the job begins: await flow.arun(...) in it, or "
                "leave loop='running' out"
            ) from None
        return LoopWork(loop, host, self._companions(host))

    def _start_own(self, host: Host) -> LoopWork:
        loop = (self.loop_factory or asyncio.new_event_loop)()
        if not isinstance(loop, asyncio.AbstractEventLoop):
            raise StrategyError(f"loop_factory made {loop!r}, which is no event loop")
        work = OwnLoopWork(loop, host, self._companions(host))
        try:
            work.start()
        except BaseException:
            loop.close()
            raise
        return work

    def _companions(self, host: Host) -> ThreadPool:
        return ThreadPool(self.plain_workers or min(32, (os.cpu_count() or 1) + 4), host, "routilux-plain")


class LoopPool(WorkerPool):
    """The face of what works in an event loop. It ends when it is closed, or forgotten."""

    def __init__(self, workers: int, work: LoopWork) -> None:
        self.workers = workers
        self._work = work
        self._forget = weakref.finalize(self, work.end, 0.0)
        self._forget.atexit = False

    def submit(self, task: Task) -> None:
        self._work.submit(task)

    def call_aside(self, call: Callable[[], None], /) -> bool:
        return self._work.call_aside(call)

    def runs_here(self) -> bool:
        return self._work.is_here()

    def is_over(self) -> bool:
        return self._work.loop.is_closed()

    def after_fork(self) -> None:
        self._forget.detach()
        PARENTS.append(self._work)

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> None:
        self._forget.detach()
        self._work.close(timeout)


class LoopWork:
    """Makes an asyncio task of each task, in a loop that somebody else runs. Threads hold this, never its pool."""

    def __init__(self, loop: asyncio.AbstractEventLoop, host: Host, companions: ThreadPool) -> None:
        self.loop, self.host = loop, host
        self._companions = companions
        self._lock = threading.RLock()  # a signal handler may call in the middle of a call
        self._closed = False
        self._ended = threading.Event()
        self._thread = threading.current_thread()  # that runs the loop
        # In the loop's thread:
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself keeps no reference
        self._ending: asyncio.Task[None] | None = None
        self._broken = False  # the loop ends, and what is begun now would be left half done

    def submit(self, task: Task) -> None:
        with self._lock:
            taken = not self._closed and self._call(self._begin, task)
        if not taken:
            task.fail(RuntimeError("the event loop is closed"))

    def call_aside(self, call: Callable[[], None]) -> bool:
        aside = PlainCall(call)
        self._companions.submit(aside)
        return not aside.refused

    def end(self, seconds: float | None) -> None:
        """Let what runs end, and cancel what still runs after so many seconds. Any thread; it does not wait."""
        with self._lock:
            self._closed = True
            if not self._call(self._end, seconds):
                self._ended.set()

    def close(self, seconds: float | None) -> None:
        """End, and wait for it; not in the loop's own thread, which would never come to it."""
        deadline = None if seconds is None else monotonic() + seconds + CLEAN_UP_S
        self.end(seconds)
        if not self.is_here() and self._may_end():
            self._ended.wait(_left(deadline))
        self._companions.close(timeout=0.0 if self.is_here() else _left(deadline))

    def is_here(self) -> bool:
        """Return whether this thread runs the loop."""
        return threading.current_thread() is self._thread and self.loop.is_running()

    def _may_end(self) -> bool:
        """Return whether there is an end to wait for: a loop of somebody else's may just have been left standing."""
        return self.loop.is_running()

    def _call(self, call: Callable[..., None], *arguments: Any) -> bool:
        """Let the loop make a call; return whether it will: not when it is closed."""
        with suppress(RuntimeError):
            # In a context of its own: else a worker would keep the variables of whoever called for it.
            self.loop.call_soon_threadsafe(call, *arguments, context=Context())
            return True
        return False

    # -- in the loop's thread

    def _begin(self, task: Task) -> None:
        if self._broken:
            task.fail(RuntimeError("the event loop is ending"))
            return
        made = self.loop.create_task(self._do(task))
        self._tasks.add(made)
        made.add_done_callback(self._over)

    async def _do(self, task: Task) -> None:
        try:
            await task.arun()
        except asyncio.CancelledError:
            others = self._tasks - {asyncio.current_task()}
            if self._break() and others:  # asyncio.run waits for this task, and so for those that began too late for it
                await asyncio.wait(others)
            raise

    def _over(self, made: asyncio.Task[None]) -> None:
        self._tasks.discard(made)
        if made.cancelled():  # perhaps before it had begun
            self._break()

    def _break(self) -> bool:
        """Somebody else ends the whole loop, asyncio.run most often: let nothing begin in it. False if known before."""
        if self._closed or self._broken:
            return False
        self._broken = True
        self._cancel()
        self.host.lost(
            StrategyError("the event loop was ended while jobs ran in it: await them, or use async with Flow")
        )
        return True

    def _end(self, seconds: float | None) -> None:
        if self._broken:  # a task would not come to run any more
            self._stop()
            return
        if seconds is not None:
            self.loop.call_later(seconds, self._cancel)
        if self._ending is None:
            self._ending = self.loop.create_task(self._wait_and_stop())

    def _cancel(self) -> None:
        for task in self._tasks:
            if task is not asyncio.current_task(self.loop):
                task.cancel()

    async def _wait_and_stop(self) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self.host.close_awaited()
        self._stop()

    def _stop(self) -> None:
        self.host.worker_ended()
        self._ended.set()


class OwnLoopWork(LoopWork):
    """The same in a loop that runs in a thread of its own, and ends with it."""

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="routilux-asyncio", daemon=True)
        self._thread.start()

    def _may_end(self) -> bool:
        return True

    def close(self, seconds: float | None) -> None:
        super().close(seconds)
        if self._ended.is_set() and not self.is_here():
            self._thread.join(None if seconds is None else CLEAN_UP_S)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
                runner.get_loop().run_forever()
                self._say_if_lost()  # before what is left is cancelled: a job that ends with that may have a successor
        except BaseException as error:  # a SystemExit in a task that a handler has left behind, say
            self.host.log.error("the event loop of strategy 'asyncio' has ended", exc_info=error)
        finally:
            self._say_if_lost()
            self.host.worker_ended()
            self._ended.set()

    def _say_if_lost(self) -> None:
        with self._lock:
            was_closed, self._closed = self._closed, True
        if not was_closed:
            self.host.lost(StrategyError("the event loop of strategy 'asyncio' was stopped while it was open"))

    def _stop(self) -> None:
        self.loop.stop()


class PlainCall(Task):
    """One call of a plain handler, for a companion thread."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.id = f"plain-{id(self):x}"
        self.refused = False
        self._call = call

    def __call__(self) -> None:
        self._call()

    def fail(self, error: BaseException, at: object = None) -> None:
        self.refused = True  # inside `submit`: there is no thread for it


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - monotonic())
