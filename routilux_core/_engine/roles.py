"""Whom the engine works with, each as far as it has to know them: a job, a scheduler, a worker in its loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, Protocol

from routilux_core._engine.ending import Ended
from routilux_core._engine.ledger import LedgerCounts
from routilux_core._engine.plan import Inlet, Item, Lane, Node
from routilux_core._engine.ready import Hand, LockedReady
from routilux_core._engine.retries import Retries
from routilux_core._routines.frame import Frame
from routilux_core._routines.signature import Payload
from routilux_core._threads.resources import Resources
from routilux_core._threads.timers import Timer
from routilux_core.strategy import Task, WorkerPool


class SeatRole(Protocol):
    """The place of a thread among the workers, and the task that it came with."""

    task: Task | None


class WorkerRole(Hand, Protocol):
    """A worker in its loop. `claimed` is what it took to do next; it takes the oldest of it without the lock."""

    thread: int
    shares_thread: bool
    depth: int

    @property
    def seat(self) -> SeatRole: ...
    @property
    def claimed(self) -> deque[Item]: ...
    def counts(self) -> bool: ...
    def has_of(self, run: Any) -> bool: ...
    def permit_of(self) -> Node | None: ...
    def be_gone(self) -> None: ...


class AwaitingRole(Hand, Protocol):
    """A worker in an event loop, with an activation in hand."""

    def kill(self, run: Any, /) -> None: ...


class JobRole(Ended, Protocol):
    """A job that runs: a `Run`."""

    job_id: str
    own: dict[Node, Node]
    halted: bool
    paused: bool
    stopped: bool
    swept: set[int]
    waiters: list[Frame]

    @property
    def ledger(self) -> LedgerCounts: ...
    @property
    def retries(self) -> Retries: ...
    def post(self, inlet: Inlet, payload: Payload, cause: int, now: float) -> None: ...
    def stop(self, status: str) -> None: ...
    def abort(self) -> None: ...
    def doubt(self) -> None: ...
    def leave(self) -> None: ...
    def lost(self, scheduler: SchedulerRole, error: BaseException) -> None: ...


class SchedulerRole(Lane, Protocol):
    """The work of one strategy: a `Scheduler`."""

    hands: set[WorkerRole]
    resources: Resources
    pause: Timer | None

    @property
    def ready(self) -> LockedReady: ...
    def share_out(self) -> LockedReady: ...
    def drop(self, run: JobRole) -> list[Item]: ...
    def has_of(self, run: JobRole) -> bool: ...
    def in_hand(self) -> Iterable[Item]: ...
    def permits(self) -> Iterable[Node]: ...
    def recount(self) -> None: ...
    def take_back_unsent(self) -> None: ...
    def revoke(self, run: JobRole) -> None: ...
    def kill(self, run: JobRole) -> None: ...
    def forget(self) -> WorkerPool | None: ...
    def let_go_of_pool(self) -> WorkerPool | None: ...
