"""The end of a call's time, on threads: the activation fails when it comes, and the call itself goes on.

Nothing can end a thread; a pool of greenlets can end one, and is asked to. Either way the call is given up: another
worker takes its worker's place, what it still emits is dropped and counted, and a routine with state keeps its permit
until the call has returned.
"""

from __future__ import annotations

import sys
from functools import partial
from time import perf_counter

from routilux_core._engine.failures import OUTCOMES, carry_out, decide
from routilux_core._engine.plan import INLET, JOB, Item, Node
from routilux_core._engine.run import Run
from routilux_core._engine.scheduler import Scheduler
from routilux_core._local.emitter import CallState, Emitter
from routilux_core._routines.frame import has_gil
from routilux_core._threads.guard import guarded
from routilux_core._tracking.history import FAILED
from routilux_core.errors import ActivationTimeout

FRAMES_ARE_SAFE = sys.version_info >= (3, 12)  # CPython 3.11 may switch threads while it makes or clears a frame
SHORTEST_S = 0.001  # until a call is looked at again that has lent its time to others


def too_long(node: Node, slot: str, spent: float) -> ActivationTimeout:
    """Return the error of a call that took `spent` seconds."""
    return ActivationTimeout(
        f"routine {node.routine_id!r}, slot {slot!r}: the call took {spent:.3g} s, its timeout is {node.timeout:g} s"
    )


class Deadline(CallState):
    """The state of a call that is given up when its time is over. The lock guards what is set then."""

    __slots__ = ("_before", "_began", "_item", "_limit", "_node", "_returned", "_timer", "_worker")

    def __init__(self, worker: Emitter, item: Item) -> None:
        super().__init__()
        self._worker, self._item = worker, item
        self._node: Node = item[INLET].node
        self._limit: float = self._node.timeout or 0.0
        self._began = perf_counter()
        self._before = worker.emitted  # until the call
        self._returned = False
        engine = worker.scheduler.engine
        with engine.step():
            self._timer = engine.timers.add(self._limit, self._due)

    def close(self) -> bool:
        """Say that the call has returned; True if its time was over before."""
        with self._worker.scheduler.engine.step():
            self._timer.cancel()
            return self.late

    @guarded
    def _due(self) -> None:
        """Look whether the time is really over. In the thread of the timers."""
        left = self._limit - (perf_counter() - self._began - self.lent_so_far())
        engine = self._worker.scheduler.engine
        if left > 0:
            self._timer = engine.timers.add(max(left, SHORTEST_S), self._due)
            return
        # Set once, under the lock: `close`, in the thread of the call, finds it or has cancelled the timer before.
        self.late = True  # from now on what it emits is dropped
        self._worker.leave()  # and its job may end without it
        engine.deferred.append(self._expire)

    def _expire(self) -> None:
        """Let the activation fail, and let the pool have another worker meanwhile. Outside the lock."""
        worker, ended = self._worker, perf_counter()
        run: Run = self._item[JOB]
        stack = stack_of(worker.thread)  # where it is now, which is what its author will want to know
        error = too_long(self._node, self._item[INLET].name, ended - self._began)
        failure = run.ledger.failure(self._item, error, worker.emitted - self._before)
        failure.traceback = stack + failure.traceback
        decision = carry_out(run, self._item, failure, decide(failure, run))
        outcome = OUTCOMES.get(decision.strategy, FAILED)
        _spare(worker.scheduler, 1)
        with run.engine.step(run):
            run.ledger.record(self._item, outcome, worker.thread, self._began, ended)
            run.settle(self._item, outcome, decision.delay, permit=self._returned)
            self.decided = True
            if self._returned:  # its worker may have left, and not have seen who has the permit now
                self._node.scheduler.crew.want_worker()
            else:
                worker.seat.step_out()
        if not self._returned and worker.seat.task is not None and ends_calls(worker.scheduler):
            worker.scheduler.kill_task(worker.seat.task)

    @guarded
    def come_back(self) -> None:
        """Let go of the call, which has returned, and of the permit that it has kept. In its thread."""
        worker, scheduler = self._worker, self._worker.scheduler
        self._returned = True
        if self.decided:  # else the permit goes the way of the decision
            worker.seat.step_in()
            if not self._item[JOB].retries.keep_permit(self._item):
                self._node.scheduler.ready.release(self._node)
        worker.item = worker.call = None
        scheduler.engine.deferred.append(partial(_spare, scheduler, -1))


def ends_calls(scheduler: Scheduler) -> bool:
    """Return whether the pool of a scheduler ends calls whose time is over."""
    return scheduler.strategy.capabilities.enforces_timeout


def start_deadline(worker: Emitter, node: Node) -> Deadline | None:
    """Let a call fail on time, if its routine has a time-out, and another worker can take this one's place."""
    pool = worker.scheduler.pool
    if node.timeout is None or worker.item is None or pool is None or pool.in_caller:
        return None
    return Deadline(worker, worker.item)


def _spare(scheduler: Scheduler, more: int) -> None:
    """Tell the pool that it needs one worker more, or no longer. Outside the lock."""
    scheduler.ask_pool("spare", lambda pool: pool.spare(more))


def stack_of(thread: int) -> str:
    """Return where another thread is, as a traceback shows it; nothing where that can't be told.

    Without the GIL, a thread that runs changes its frames while they are looked at.
    """
    try:
        return _stack_of(thread) if has_gil() else ""
    except Exception:  # the lines come from loaders, which may be anybody's
        return ""


def _stack_of(thread: int) -> str:
    import traceback

    if FRAMES_ARE_SAFE:
        frame = sys._current_frames().get(thread)
        return "" if frame is None else "".join(traceback.format_stack(frame))
    oldest_first = [(file, line, function, None) for file, line, function in reversed(_places_of(thread))]
    return "".join(traceback.StackSummary.from_list(oldest_first).format())


def _places_of(thread: int) -> list[tuple[str, int, str]]:
    """Return the lines that a thread is at, the newest first, by a report that makes no objects of its frames."""
    import faulthandler
    import re
    import tempfile

    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        report = file.read().decode(errors="replace")
    part = re.search(rf"^(?:Thread|Current thread) 0x0*{thread:x} .*\n((?:  File .*\n)*)", report, re.MULTILINE)
    places = re.findall(r'^  File "(.*)", line (\d+|\?\?\?) in (.*)$', part[1] if part else "", re.MULTILINE)
    return [(file, int(line) if line.isdigit() else 0, function) for file, line, function in places]
