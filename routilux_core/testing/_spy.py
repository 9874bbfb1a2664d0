"""A strategy around the one under test: it lets everything through, and keeps a record of what its pool does."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import sleep
from typing import Any

from attrs import Factory, define, evolve, field, frozen

from routilux_core._remote.preparation import preparation
from routilux_core._threads.completion import Completion
from routilux_core.strategy import Busy, Done, ExecutionStrategy, Host, Piece, Task, Unknown, WorkerPool
from routilux_core.testing._patient import Turn


@define(eq=False)
class Report:
    """One time that a pool ran or reported a task. `inline`: by the thread that was handing it over, meanwhile."""

    kind: str
    thread: int
    overlapping: bool
    inline: bool


@define(eq=False)
class Trail:
    """What happened to one task."""

    task_id: str
    reports: list[Report] = Factory(list)


@define(eq=False)
class Log:
    """What a pool did with the tasks that it was handed.

    `hold`: seconds that a report is drawn out, so that another at the same time can be seen.
    """

    hold: float = 0.0
    trails: list[Trail] = Factory(list)
    raised: list[BaseException] = Factory(list)
    no_errors: list[object] = Factory(list)  # what `fail` was given that is no exception

    def lost(self) -> list[str]:
        """Return the tasks that nothing was heard of."""
        return [trail.task_id for trail in self.trails if not trail.reports]

    def twice(self) -> list[str]:
        """Return the tasks reported again, after the first report."""
        return [f"{t.task_id}: {_kinds(t)}" for t in self.trails if any(not r.overlapping for r in t.reports[1:])]

    def at_the_same_time(self) -> list[str]:
        """Return the tasks reported by a thread while another was at it."""
        return [f"{t.task_id}: {_kinds(t)}" for t in self.trails if any(r.overlapping for r in t.reports)]

    def inline(self) -> list[str]:
        """Return the tasks that ran inside `submit`. Failing one there is allowed."""
        return [t.task_id for t in self.trails if any(r.inline and r.kind != "fail" for r in t.reports)]


def _kinds(trail: Trail) -> str:
    return ", ".join(f"{report.kind} in thread {report.thread}" for report in trail.reports)


def spied(strategy: ExecutionStrategy, log: Log) -> ExecutionStrategy:
    """Return a strategy that does what another does, one activation for each task, and keeps a log of it."""
    traits = {"name": strategy.name, "capabilities": evolve(strategy.capabilities, max_batch=1), "__slots__": ()}
    cls: Any = type("Spied", (SpyStrategy,), traits)
    made: ExecutionStrategy = cls(max_workers=strategy.max_workers, inner=strategy, log=log)
    return made


@frozen(kw_only=True)
class SpyStrategy(ExecutionStrategy):
    """Made by `spied`: a subclass has the name and the capabilities of the strategy under test."""

    inner: ExecutionStrategy
    log: Log = field(eq=False, repr=False)

    def __getattr__(self, name: str) -> Any:  # the engine may read options of the strategy
        return getattr(object.__getattribute__(self, "inner"), name)

    def open(self, host: Host) -> WorkerPool:
        return SpyPool(self.inner.open(host), self.log, self.inner.capabilities.shares_memory)


class SpyPool(WorkerPool):
    """Passes every call on to the pool under test, with tasks that keep a trail."""

    def __init__(self, pool: WorkerPool, log: Log, one_by_one: bool) -> None:
        self._pool, self._log = pool, log
        self._spies: dict[str, SpyTask] = {}
        self.in_caller = pool.in_caller  # type: ignore[misc]
        if one_by_one and pool.chooser is not None:
            self.chooser = pool.chooser
        elif one_by_one:  # where memory is shared, a task is else all the work there is
            self.chooser = lambda waiting: 0

    @property
    def workers(self) -> int:  # type: ignore[override]
        return self._pool.workers

    def submit(self, task: Task) -> None:
        spy = SpyTask(task, self._log)
        self._spies[task.id] = spy
        try:
            with spy.being_submitted():
                self._pool.submit(spy)
        except Busy:
            raise
        except BaseException as error:
            self._log.raised.append(error)
            task.fail(error)

    def cancel(self, task: Task) -> bool:
        spy = self._spies.get(task.id)
        return spy is not None and self._pool.cancel(spy)

    def kill(self, task: Task) -> bool:
        spy = self._spies.get(task.id)
        pool: Any = self._pool
        return spy is not None and bool(pool.kill(spy))

    def runs_here(self) -> bool:
        return self._pool.runs_here()

    def is_over(self) -> bool:
        return self._pool.is_over()

    def call_aside(self, call: Callable[[], None], /) -> bool:
        return self._pool.call_aside(call)

    def wait(self, done: Done, timeout: float | None) -> bool:
        return self._pool.wait(done, timeout)

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> bool | None:
        return self._pool.close(cancel=cancel, timeout=timeout)


class TrailTask(Task):
    """A task that knows who reports it, and from where."""

    def __init__(self, task_id: str, log: Log) -> None:
        self.id = task_id
        self._log = log
        self._trail = Trail(task_id)
        self._lock = threading.Lock()
        self._inside = 0
        self._submitter: int | None = None
        log.trails.append(self._trail)

    @contextmanager
    def being_submitted(self) -> Iterator[None]:
        """Mark the time in which `submit` has not returned."""
        self._submitter = threading.get_ident()
        try:
            yield
        finally:
            self._submitter = None

    def check(self, error: object) -> None:
        """Note an error that is none: the engine can't raise it."""
        if not isinstance(error, BaseException):
            self._log.no_errors.append(error)

    @contextmanager
    def reported(self, kind: str) -> Iterator[None]:
        """Note a report, for as long as it takes."""
        thread = threading.get_ident()
        with self._lock:
            report = Report(kind, thread, bool(self._inside), inline=thread == self._submitter)
            self._trail.reports.append(report)
            self._inside += 1
        try:
            if self._log.hold:
                sleep(self._log.hold)
            yield
        finally:
            with self._lock:
                self._inside -= 1


class SpyTask(TrailTask):
    """A task of the engine, with a trail."""

    def __init__(self, task: Any, log: Log) -> None:
        super().__init__(task.id, log)
        self._task = task
        self.size, self.timeout = task.size, task.timeout
        self.parts: frozenset[str] = getattr(task, "parts", frozenset())

    @property
    def routine_ids(self) -> tuple[str, ...]:
        found: tuple[str, ...] = self._task.routine_ids
        return found

    def __call__(self) -> None:
        with self.reported("run"):
            self._task()

    async def arun(self) -> None:
        with self.reported("run"):
            await self._task.arun()

    def payload(self, known: frozenset[str] = frozenset()) -> bytes:
        found: bytes = self._task.payload(known)
        return found

    def pieces(self, known: frozenset[str] = frozenset()) -> list[Piece]:
        found: list[Piece] = self._task.pieces(known)
        return found

    def stream(self, chunk: bytes | Sequence[Piece]) -> None:
        self._task.stream(chunk)

    def finish(self, reply: bytes | Sequence[Piece]) -> None:
        with self.reported("finish"):
            self._task.finish(reply)

    def fail(self, error: BaseException, at: int | Unknown | None = None) -> None:
        self.check(error)
        with self.reported("fail"):
            if at is None:
                self._task.fail(error)
            else:
                self._task.fail(error, at)


class Errand(TrailTask):
    """A task of the kit's own, for a pool without an engine. `ended` is set with its first report."""

    _numbers = itertools.count(1)

    def __init__(self, log: Log, payload: bytes = b"", turn: Turn | None = None) -> None:
        super().__init__(f"errand-{next(self._numbers)}", log)
        self.parts: frozenset[str] = frozenset()
        self.ended = Completion()
        self.error: BaseException | None = None
        self._payload = payload
        self._turn = turn

    @property
    def was_reported(self) -> bool:
        """Whether the pool has run it, or reported it."""
        return bool(self._trail.reports)

    def __call__(self) -> None:
        with self.reported("run"):
            if self._turn is not None:
                self._turn.take()
            self.ended.set()

    async def arun(self) -> None:
        with self.reported("run"):
            if self._turn is not None:
                await self._turn.take_awaited()
            self.ended.set()

    def payload(self, known: frozenset[str] = frozenset()) -> bytes:
        return self._payload

    def stream(self, chunk: bytes | Sequence[Piece]) -> None:
        """What it sends is of no interest."""

    def finish(self, reply: bytes | Sequence[Piece]) -> None:
        with self.reported("finish"):
            self.ended.set()

    def fail(self, error: BaseException, at: int | Unknown | None = None) -> None:
        self.check(error)
        with self.reported("fail"):
            self.error = error
            self.ended.set()


class Capture(WorkerPool):
    """A pool that keeps the payload of a task that the engine made, and does not run it."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.submitted = threading.Event()

    def submit(self, task: Any) -> None:
        self.payloads.append(task.payload())
        self.submitted.set()
        threading.Thread(target=task.fail, args=(RuntimeError("captured"),), name="kit: capture").start()

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> None:
        """Nothing to end."""


class KitHost:
    """What a pool finds where the engine would be."""

    def __init__(self) -> None:
        self.log = logging.getLogger("routilux_core")
        self.errors: list[BaseException] = []

    def preparation(self) -> bytes:
        return preparation()

    def lost(self, error: BaseException, /) -> None:
        self.errors.append(error)

    async def close_awaited(self) -> None:
        """No worker made anything."""

    def worker_ended(self) -> None:
        """No worker made anything."""

    def workers_changed(self) -> None:
        """Nobody asks how many there are."""
