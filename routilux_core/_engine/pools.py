"""Opening and closing the pools of a flow, and what workers made for themselves."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

from routilux_core._engine.choosing import allowed, as_waiting
from routilux_core._engine.engine import as_exception, logger
from routilux_core._engine.plan import JOB
from routilux_core._engine.scheduler import WorkQueue
from routilux_core._routines.imports import ADVICE, incomplete
from routilux_core.errors import StrategyError
from routilux_core.seconds import stretch
from routilux_core.strategy import Waiting, WorkerPool

if TYPE_CHECKING:
    import logging

PATIENCE = 30.0  # seconds that a pool may take to close when nothing else is said


class QueueHost:
    """What a pool may ask of the engine, for one queue."""

    def __init__(self, queue: WorkQueue) -> None:
        self._queue = weakref.ref(queue)  # a pool's threads hold the host: they must not keep a forgotten flow alive
        self._resources = queue.resources
        self.opened: int | None = None  # which of the queue's pools it was made for, when that is open

    @property
    def log(self) -> logging.Logger:
        return logger()

    def waiting(self) -> list[Waiting]:
        """Return the activations that may run now, oldest first."""
        queue = self._queue()
        if queue is None:
            return []
        with queue.hub.lock:
            return [as_waiting(item) for item in allowed(queue, len(queue.ready)) if not item[JOB].halted]

    def lost(self, error: BaseException, /) -> None:
        queue = self._queue()
        if queue is not None:
            queue.lost(as_exception(error, f"strategy {queue.strategy.name!r}"), self.opened)

    def workers_changed(self) -> None:
        queue = self._queue()
        if queue is None:
            return
        with queue.hub.lock:
            if queue.pool is None:
                return
            queue.workers = queue.pool.workers
            queue.call()
        queue.hub.answer()

    def worker_ended(self) -> None:
        self._resources.close_mine()


def open_pool(queue: WorkQueue) -> None:
    """Open the pool of a queue that has none. Not under the engine's lock: it may take seconds."""
    strategy, host = queue.strategy, QueueHost(queue)
    if not strategy.capabilities.shares_memory:
        _check_not_importing(strategy.name)
    try:
        pool = strategy.open(host)
    except Exception as error:
        said = isinstance(error, StrategyError)  # whose own text is all that there is to know
        why, cause = (error, error.__cause__) if said else (repr(error), error)
        raise StrategyError(f"strategy {strategy.name!r} could not be opened: {why}") from cause
    if not isinstance(pool, WorkerPool) or pool.workers < 1:
        raise StrategyError(f"strategy {strategy.name!r} opened {pool!r}, not a WorkerPool with workers")
    with queue.hub.lock:
        queue.pool, queue.workers, queue.chooser = pool, pool.workers, pool.chooser
        queue.opened += 1
        host.opened = queue.opened
        queue.open_lane()


def _check_not_importing(strategy: str) -> None:
    """Refuse a worker process that runs a flow by importing a module: its own workers would do so as well."""
    from routilux_core._remote.cache import process  # a flow whose workers share its memory needs nothing of it

    modules = incomplete() if process().serves else []
    if modules:
        raise StrategyError(
            f"strategy {strategy!r} was to start workers in a worker process, which is importing module "
            f"{modules[-1]!r}: so each worker would start workers, and so on; {ADVICE}"
        )


def close_pool(queue: WorkQueue, *, cancel: bool = False, timeout: float | None = None) -> None:
    """Close the pool of a queue, if any, and what its workers made. Past the deadline a warning, and we go on."""
    timeout = stretch(timeout)
    with queue.hub.lock:
        pool = queue.let_go_of_pool()
    if pool is not None:
        if pool.in_caller:
            _close(pool, queue, cancel, timeout)
        else:
            _close_in_time(pool, queue, cancel, timeout)
    queue.resources.close_all()
    queue.abandon()


def _close(pool: WorkerPool, queue: WorkQueue, cancel: bool, timeout: float | None) -> None:
    try:
        pool.close(cancel=cancel, timeout=timeout)
    except Exception:
        logger().warning("strategy %r raised while its pool was closed", queue.strategy.name, exc_info=True)


def _close_in_time(pool: WorkerPool, queue: WorkQueue, cancel: bool, timeout: float | None) -> None:
    closer = threading.Thread(target=_close, args=(pool, queue, cancel, timeout), name="routilux-close", daemon=True)
    try:
        closer.start()
    except RuntimeError:  # the system gives no more threads
        _close(pool, queue, cancel, timeout)
        return
    patience = PATIENCE if timeout is None else timeout + 1.0
    closer.join(patience)
    if closer.is_alive():
        logger().warning(
            "strategy %r did not close its pool within %g s; its workers are left behind",
            queue.strategy.name,
            patience,
        )
