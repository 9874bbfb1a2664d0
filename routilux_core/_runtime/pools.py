"""Opening and closing the pools of a flow, and what workers made for themselves."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from routilux_core._engine.engine import as_exception, logger
from routilux_core._engine.roles import SchedulerRole
from routilux_core._engine.scheduler import Scheduler
from routilux_core.errors import StrategyError
from routilux_core.seconds import stretch
from routilux_core.strategy import Waiting, WorkerPool, check_pool

if TYPE_CHECKING:
    import logging

PATIENCE = 30.0  # seconds that a pool may take to close when nothing else is said


class SchedulerHost:
    """What a pool may ask of the engine, for one queue."""

    def __init__(self, scheduler: Scheduler, preparation: Callable[[], bytes]) -> None:
        self._scheduler = weakref.ref(scheduler)  # a pool's threads hold the host: not a forgotten flow, too
        self._resources = scheduler.resources
        self.preparation = preparation
        self.opened: int | None = None  # which of the queue's pools it was made for, when that is open

    @property
    def log(self) -> logging.Logger:
        return logger()

    def waiting(self) -> list[Waiting]:
        """Return the activations that may run now, oldest first."""
        scheduler = self._scheduler()
        return [] if scheduler is None else scheduler.waiting()

    def lost(self, error: BaseException, /) -> None:
        scheduler = self._scheduler()
        if scheduler is not None:
            scheduler.lost(as_exception(error, f"strategy {scheduler.strategy.name!r}"), self.opened)

    def workers_changed(self) -> None:
        scheduler = self._scheduler()
        if scheduler is None:
            return
        try:
            scheduler.workers_changed()
        except StrategyError as error:
            logger().error("strategy %r: %s; what it had before counts", scheduler.strategy.name, error)

    async def close_awaited(self) -> None:
        await self._resources.close_awaited()

    def worker_ended(self) -> None:
        self._resources.close_mine()


def open_pool(scheduler: Scheduler, preparation: Callable[[], bytes]) -> None:
    """Open the pool of a queue that has none. Not under the engine's lock: it may take seconds."""
    strategy, host = scheduler.strategy, SchedulerHost(scheduler, preparation)
    pool = None
    try:
        pool = strategy.open(host)
        check_pool(pool)
    except Exception as error:
        if isinstance(pool, WorkerPool):
            _close(pool, scheduler, True, 0.0)  # what is refused is not left behind
        said = isinstance(error, StrategyError)  # whose own text is all that there is to know
        why, cause = (error, error.__cause__) if said else (repr(error), error)
        raise StrategyError(f"strategy {strategy.name!r} could not be opened: {why}") from cause
    host.opened = scheduler.take_pool(pool)


def close_pool(scheduler: Scheduler, *, cancel: bool = False, timeout: float | None = None) -> None:
    """Close the pool of a queue, if any, and what its workers made. Past the deadline a warning, and we go on."""
    timeout = stretch(timeout)
    pool = scheduler.let_go_of_pool()
    here = pool is not None and pool.runs_here()
    if pool is not None and (here or pool.in_caller):
        _close(pool, scheduler, cancel, timeout)
    elif pool is not None:
        _close_in_time(pool, scheduler, cancel, timeout)
    if not here:  # else it ends when this thread comes to that, with what was made in it
        scheduler.resources.close_all()
    scheduler.abandon()


def close_at_exit(scheduler: SchedulerRole, timeout: float) -> None:
    """The interpreter exits: end the workers. One that works for this very thread has nothing to end."""
    pool = scheduler.let_go_of_pool()
    if pool is not None and not pool.in_caller:
        _close_in_time(pool, scheduler, True, timeout)


def _close(pool: WorkerPool, scheduler: SchedulerRole, cancel: bool, timeout: float | None) -> None:
    try:
        if pool.close(cancel=cancel, timeout=timeout) is False:
            logger().warning(
                "strategy %r closed its pool, and gave up on work that still runs; it is left behind",
                scheduler.strategy.name,
            )
    except Exception:
        logger().warning("strategy %r raised while its pool was closed", scheduler.strategy.name, exc_info=True)


def _close_in_time(pool: WorkerPool, scheduler: SchedulerRole, cancel: bool, timeout: float | None) -> None:
    closer = threading.Thread(
        target=_close, args=(pool, scheduler, cancel, timeout), name="routilux-close", daemon=True
    )
    try:
        closer.start()
    except RuntimeError:  # the system gives no more threads
        _close(pool, scheduler, cancel, timeout)
        return
    patience = PATIENCE if timeout is None else timeout + 1.0
    closer.join(patience)
    if closer.is_alive():
        logger().warning(
            "strategy %r did not close its pool within %g s; its workers are left behind",
            scheduler.strategy.name,
            patience,
        )
