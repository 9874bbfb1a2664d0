"""The worker loop: take an activation, call its handler, count it, take the next."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from time import perf_counter, sleep
from typing import Any

from routilux_core._binding import Payload
from routilux_core._context import CURRENT, Frame
from routilux_core._dispatch import WorkQueue, logger
from routilux_core._history import COMPLETED, FAILED, RETRIED, SKIPPED
from routilux_core._plan import Inlet, Item, Node, Outlet, snapshot
from routilux_core._run import GATHERED, NOTES, Run
from routilux_core.error_handling import Decision, ErrorStrategy
from routilux_core.errors import ActivationTimeout, FlowStateError, UnknownNameError
from routilux_core.routine import Routine
from routilux_core.strategy import Task

DEPTH = 3  # how many handlers deep `emit` runs waiting work itself
TURN = 0.005  # seconds that one such turn lasts
NAPS = (0.0, 0.0001, 0.0005, 0.002)  # seconds that an emitter waits for somebody else to work off what waits
STATES = {ErrorStrategy.STOP: "failed", ErrorStrategy.CONTINUE: "error_continued", ErrorStrategy.SKIP: "skipped"}


class WorkTask(Task):
    """What a pool of shared memory is given: come and work until nothing is left."""

    __slots__ = ("_begun", "id", "queue", "size", "timeout")

    def __init__(self, queue: WorkQueue) -> None:
        self.queue = queue
        self.id = f"work-{id(self):x}"
        self.size = 1
        self.timeout = None
        self._begun = False

    def __call__(self) -> None:
        if self._first():
            Worker(self.queue).start()

    def fail(self, error: BaseException) -> None:
        if self._first():
            self.queue.lost(error)

    def _first(self) -> bool:
        with self.queue.hub.lock:
            begun, self._begun = self._begun, True
        if begun:
            logger().warning("task %s was delivered twice by its pool; the second delivery is ignored", self.id)
        return not begun


class Worker:
    """One thread in the loop, and the frame that a handler's `emit` finds."""

    __slots__ = (
        "borrowed",
        "depth",
        "emitted",
        "held",
        "hub",
        "interrupt",
        "item",
        "node",
        "number",
        "outer",
        "queue",
        "routine",
        "run",
        "thread",
    )

    def __init__(self, queue: WorkQueue, outer: Worker | None = None) -> None:
        self.queue = queue
        self.hub = queue.hub
        self.outer: Frame | None = outer or CURRENT.get()
        self.depth: int = 0 if outer is None else outer.depth + 1
        self.thread = threading.get_ident()
        self.item: Item | None = None
        self.routine: Routine | None = None
        self.node: Node
        self.run: Run
        self.number = 0
        self.emitted = 0
        self.borrowed = 0.0  # seconds of the current handler's time in which `emit` ran other handlers
        self.held: list[tuple[Outlet, Payload]] | None = None
        self.interrupt: BaseException | None = None

    def start(self) -> None:
        """Work until the queue has nothing left for this worker."""
        with self.hub.lock:
            self.queue.begin()
        self.work(sys.maxsize)

    def work(self, limit: int) -> None:
        """Run up to `limit` activations. Only a KeyboardInterrupt in the main thread is raised."""
        token = CURRENT.set(self)
        try:
            self._loop(limit)
        except BaseException:
            self._interrupted()
            raise
        finally:
            self.routine = None
            CURRENT.reset(token)
            if self.hub.calls:
                self.hub.answer()

    def _loop(self, limit: int) -> None:
        # The hot path: everything is local, and the lock is taken once for each activation, to count one and take
        # the next in one step. That an activation is counted last, behind its record, makes completion exact.
        queue, hub = self.queue, self.hub
        lock, calls, take, clock, thread = hub.lock, hub.calls, queue.take, perf_counter, self.thread
        in_caller = queue.pool is not None and queue.pool.in_caller
        with lock:
            item = take(self)
            if item is None:
                self._leave()
            elif queue.ready:
                queue.call()
        started = clock()
        while item is not None:
            if calls:
                hub.answer()
            inlet, payload, run, number, cause, posted = item
            node = self.node = inlet.node
            self.run, self.number, self.routine = run, number, node.routine
            self.emitted, outcome, delay = 0, COMPLETED, 0.0
            try:
                if inlet.plain and run.plain:
                    inlet.call(payload)
                else:
                    self._call(inlet, payload, run, number)
            except BaseException as error:
                outcome, delay = self._failed(item, error)
            ended = clock()
            full = finished = None
            with lock:
                notes = run.notes
                attempt = run.attempts.get(number, 1) if run.attempts else 1
                notes += (number, cause, inlet.number, attempt, outcome, thread, posted, started, ended - self.borrowed)
                if len(notes) >= NOTES:
                    full, run.notes = notes, []
                keeps = False
                if outcome:
                    keeps = run.settle(item, outcome, delay)
                else:
                    run.open -= 1
                self.item = None
                if not keeps:
                    if node.waiting:
                        queue.first.append(node.waiting.popleft())
                    else:
                        node.free += 1
                if not run.open and run.quiet():
                    finished = run
                limit -= 1
                stay = limit and self.interrupt is None and (finished is None or not in_caller)
                item = take(self) if stay else None
                if item is None:
                    self._leave()
            started = ended
            if full is not None or finished is not None or outcome or self.borrowed:
                started = self._after(run, full, finished)
        if self.interrupt is not None:
            raise self.interrupt

    def _leave(self) -> None:
        """Count this worker out, unless it works inside an emit. Lock."""
        if not self.depth:
            self.queue.active -= 1
            self.queue.call()

    def _after(self, run: Run, full: list[float] | None, finished: Run | None) -> float:
        """Do what an activation left to do outside the lock; return the time at which the next one starts."""
        self.borrowed = 0.0
        if full is not None:
            run.history.fold(full)
        if finished is not None:
            finished.finish()
        return perf_counter()

    def _interrupted(self) -> None:
        """Put the books in order after a KeyboardInterrupt: what was in hand is counted, its job is cancelled."""
        if self.interrupt is not None:
            return  # it came from a handler, and the loop has done so
        with self.hub.lock:
            item, self.item = self.item, None
            if item is not None:
                run: Run = item[2]
                run.open -= 1
                run.discarded += 1
                self.queue.release(item[0].node)
                run.stop("cancelled")
                run.quiet()
            self._leave()
        if item is not None:
            item[2].finish()

    # -- calling with care: everything that is not plain

    def _call(self, inlet: Inlet, payload: Payload, run: Run, number: int) -> None:
        node = inlet.node
        if inlet.gathers:
            payload = inlet.collect(payload[GATHERED])
        elif inlet.merge is not None:
            payload = self._merge(inlet, payload, run, number)
        self.held = [] if node.holds else None
        began = perf_counter()
        try:
            if run.context is None:
                inlet.call(payload)
            else:
                run.context.copy().run(self._enter, inlet.call, payload)
            spent = perf_counter() - began - self.borrowed
            if node.timeout is not None and spent > node.timeout:
                raise ActivationTimeout(
                    f"routine {node.routine_id!r}, slot {inlet.name!r}: the call took {spent:.3g} s, "
                    f"its timeout is {node.timeout:g} s"
                )
            held, self.held = self.held, None
            for outlet, data in held or ():
                self._send(outlet, data)
        finally:
            self.held = None

    def _enter(self, call: Callable[[Payload], Any], payload: Payload) -> None:
        CURRENT.set(self)
        call(payload)

    def _merge(self, inlet: Inlet, payload: Payload, run: Run, number: int) -> Payload:
        """Merge what arrived into what the slot has in this job. The routine's permit guards it."""
        old = run.merged.get(inlet, {})
        if number not in run.attempts:  # a retry sees what its first attempt merged
            assert inlet.merge is not None
            run.merged[inlet] = old = inlet.merge(old, payload)
        return snapshot(inlet, old)

    def _failed(self, item: Item, error: BaseException) -> tuple[int, float]:
        """Decide about an exception; return the outcome and the seconds before a retry."""
        inlet, payload, number = item[0], item[1], item[3]
        run: Run = item[2]
        self.held = None
        failure = run.failure(inlet, payload, number, error, self.emitted)
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            self.interrupt = error
            decision = Decision(ErrorStrategy.STOP)
        else:
            decision = failure.policy.decide(failure)
        failure.decision = decision.strategy
        with self.hub.lock:
            run.note_failure(failure, STATES.get(decision.strategy))
            if decision.strategy is ErrorStrategy.STOP:
                run.stop("cancelled" if self.interrupt is not None else "failed")
        _log(failure.job_id, failure.routine_id, failure.slot, failure.attempt, decision, error)
        if decision.strategy is ErrorStrategy.RETRY:
            return RETRIED, decision.delay
        return (SKIPPED if decision.strategy is ErrorStrategy.SKIP else FAILED), 0.0

    # -- what a handler finds

    def emit(self, event_name: str, data: Payload, /) -> None:
        """Send what a handler emits, or hold it until the call has succeeded."""
        outlet = self.node.outlets.get(event_name)
        if outlet is None:
            raise UnknownNameError("event", event_name, self.node.outlets, f"routine {self.node.routine_id!r}")
        if self.held is not None:
            self.held.append((outlet, data))
        else:
            self._send(outlet, data)

    def _send(self, outlet: Outlet, data: Payload) -> None:
        hub, run = self.hub, self.run
        now = perf_counter()
        with hub.lock:
            run.send(outlet, data, self.number, now)
        self.emitted += 1
        if hub.calls:
            hub.answer()
        for inlet, _ in outlet.targets:
            node = inlet.node
            if node.per_job:
                node = run.own.get(node, node)
            if len(node.queue.ready) > hub.max_pending or node.waiting:
                self._relieve(node)

    def is_cancelled(self) -> bool:
        """Return whether the job of the running handler was stopped or cancelled."""
        return self.run.stopped

    def resource(self, key: tuple[object, str], factory: Callable[[], Any], /) -> Any:
        """Return what this worker made for a routine with `per_worker`, making it when first asked for."""
        mine = self.queue.resources.setdefault(self.thread, {})
        if key not in mine:
            mine[key] = factory()
        return mine[key]

    # -- back-pressure

    def _relieve(self, node: Node) -> None:
        """Work off some of what waits, or wait a little, when more than `max_pending` is queued."""
        mark = node.mark or self.hub.max_pending
        if len(node.queue.ready) <= mark and len(node.waiting) <= mark:
            return
        began = perf_counter()
        if node.queue is self.queue and self.depth < DEPTH:
            self._work_off(mark // 2, began + TURN)
        if len(node.queue.ready) > mark or len(node.waiting) > mark:
            self._nap(node, mark)
        self.borrowed += perf_counter() - began

    def _work_off(self, enough: int, until: float) -> None:
        ready = self.queue.ready
        while len(ready) > enough:
            before = len(ready)
            Worker(self.queue, self).work(min(64, before - enough))
            if len(ready) >= before or perf_counter() > until:
                return

    def _nap(self, node: Node, mark: int) -> None:
        if node not in self._nodes_held() and node.queue.workers > 1:
            for seconds in NAPS:
                sleep(seconds)
                if len(node.queue.ready) <= mark and len(node.waiting) <= mark:
                    return
        node.mark = 2 * mark  # nobody works it off, perhaps because all wait for each other: go on
        self.hub.raised.append(node)

    def _nodes_held(self) -> set[Node]:
        """Return the nodes whose handlers are on this thread's stack."""
        found: set[Node] = set()
        frame: Frame | None = self
        while isinstance(frame, Worker):
            found.add(frame.node)
            frame = frame.outer
        return found


def check_outside(hub: object, what: str) -> None:
    """Refuse a call inside a handler of the same flow, where it would wait for itself."""
    frame: Frame | None = CURRENT.get()
    while isinstance(frame, Worker):
        if frame.hub is hub and frame.thread == threading.get_ident():
            raise FlowStateError(
                f"{what} was called in a handler of the same flow, which would wait for itself: "
                "return from the handler, and wait outside"
            )
        frame = frame.outer


def inside(hub: object) -> bool:
    """Return whether the caller is a handler of the flow."""
    try:
        check_outside(hub, "")
    except FlowStateError:
        return True
    return False


def _log(job_id: str, routine_id: str, slot: str, attempt: int, decision: Decision, error: BaseException) -> None:
    """Log an error once: when it is decided for good. A retry is only news."""
    log = logger()
    message = "job %s: routine %r, slot %r, attempt %d: %s: %s -> %s"
    values = (job_id, routine_id, slot, attempt, type(error).__name__, error, decision.strategy.value)
    if decision.strategy is ErrorStrategy.RETRY:
        log.info(message, *values)
    elif decision.strategy is ErrorStrategy.STOP:
        log.error(message, *values, exc_info=error)
    else:
        log.warning(message, *values, exc_info=error)
