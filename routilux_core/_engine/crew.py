"""Who works in the pool of a strategy, and whether another worker is wanted: decided here alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from routilux_core._engine.engine import Engine
from routilux_core._engine.ready import LockedReady
from routilux_core._threads.guard import guarded
from routilux_core._threads.timers import Timer


class Owner(Protocol):
    """What is needed of the scheduler."""

    engine: Engine

    @property
    def ready(self) -> LockedReady: ...
    @property
    def submit_worker(self) -> Callable[[], None]: ...


class Crew:
    """The workers of one pool. Guarded by the engine's lock.

    Emitters look at it without the lock: they post first, and look behind that whether somebody is to be called. Who
    leaves does it the other way round: first counted out, then a second look at what waits.
    """

    __slots__ = ("_owner", "active", "pause", "recruiting", "workers")

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self.workers = 0  # how many there may be
        self.active = 0  # in their loop
        self.recruiting = False  # a task is on its way to the pool, and has not begun: one at a time
        self.pause: Timer | None = None  # in which the pool, which is busy, is given nothing

    @guarded
    def want_worker(self) -> None:
        """Ask for one more worker, if there could be one. `Engine.run_deferred` follows, when the lock is free."""
        owner = self._owner
        ready = owner.ready
        if self.recruiting or self.active >= self.workers or not (ready.first or ready.queue or ready.lane):
            return
        if ready.solo and self.active:
            return  # where there could be more workers by now, the one that is alone says so
        self.recruiting = True
        owner.engine.deferred.append(owner.submit_worker)

    @guarded
    def begin(self) -> None:
        """Count a worker in, and call the next one if there is more for it."""
        self.recruiting = False
        self.active += 1
        ready = self._owner.ready
        if ready.backlog() + len(ready.first) > 1:
            self.want_worker()
