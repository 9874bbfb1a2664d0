"""Workers that share their thread with others which take turns there, such as greenlets."""

from __future__ import annotations

from time import perf_counter

from routilux_core._engine.plan import JOB, Node
from routilux_core._engine.run import Run
from routilux_core._engine.scheduler import Scheduler
from routilux_core._local.backpressure import raise_mark, relieve_by, waits_with
from routilux_core._local.emitter import Emitter
from routilux_core._local.worker import Worker


class CooperativeWorker(Worker):
    """A worker that shares its thread with others that take turns.

    It runs one activation, so that what a handler started in this thread, and left behind, can't emit as the next.
    Its back-pressure never naps, which would stop all the others.
    """

    __slots__ = ()

    tells = False
    shares_thread = True

    def __init__(self, scheduler: Scheduler, outer: Emitter | None = None) -> None:
        super().__init__(scheduler, outer)
        self.outer = outer  # the context may be a copy of an emitter's, on whose stack this is not

    def relieve(self, node: Node) -> None:
        relieve_by(self, node, _work_off_in_turns, raise_mark)

    def _sign_in(self) -> int:
        self.scheduler.crew.begin()
        self.scheduler.hands.add(self)
        return 1

    def _next(self, stuck: bool) -> Run | None:
        # Never from the lane without the lock, nor more than this one: the next is another worker's turn.
        self.permit = True
        item = self.scheduler.ready.take(self)
        return None if item is None else item[JOB]


def _work_off_in_turns(worker: Emitter, node: Node, enough: int, until: float) -> bool:
    """Run what waits one by one, each in a worker of its own, until few enough wait; return whether any did."""
    ran_any = False
    while waits_with(node) > enough and perf_counter() < until:
        if not type(worker)(worker.scheduler, worker).work(1):
            break
        ran_any = True
    return ran_any
