"""What a pool of shared memory is given: come and work until nothing is left."""

from __future__ import annotations

from itertools import count

from routilux_core._engine.engine import as_exception, logger
from routilux_core._engine.scheduler import Scheduler
from routilux_core._local.cooperative import CooperativeWorker
from routilux_core._local.worker import Worker
from routilux_core._routines.frame import in_greenlet
from routilux_core.strategy import Task, Unknown


class WorkTask(Task):
    """What a pool of shared memory is given: come and work until nothing is left."""

    __slots__ = ("_deliveries", "id", "pool", "scheduler", "size", "timeout")

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.pool = scheduler.pool
        self.id = f"work-{id(self):x}"
        self.size = 1
        self.timeout = None
        self._deliveries = count()

    def __call__(self) -> None:
        if self._first():
            pool = self.scheduler.pool
            shares = in_greenlet() and not (pool is not None and pool.in_caller)
            worker = (CooperativeWorker if shares else Worker)(self.scheduler)
            worker.seat.task = self
            worker.start()

    def fail(self, error: BaseException, at: int | Unknown | None = None) -> None:
        if self._first() and self.pool is self.scheduler.pool:  # else it was closed, and what comes of it is history
            self.scheduler.lost(as_exception(error, f"strategy {self.scheduler.strategy.name!r}"))

    def _first(self) -> bool:
        """Return whether nobody has come with this task before."""
        # Without the lock: `next` of a count is one step, with the GIL and without it.
        if not next(self._deliveries):
            return True
        logger().warning("task %s was delivered twice by its pool; the second delivery is ignored", self.id)
        return False
