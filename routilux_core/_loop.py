"""The worker loop: take an activation, call its handler, count it, take the next."""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable
from time import perf_counter, sleep
from typing import Any

from routilux_core._binding import Payload
from routilux_core._context import CURRENT, Frame
from routilux_core._dispatch import WorkQueue, logger
from routilux_core._history import COMPLETED, FAILED, RETRIED, SKIPPED, Totals
from routilux_core._plan import Inlet, Item, Node, Outlet, snapshot
from routilux_core._run import GATHERED, Run
from routilux_core.error_handling import Decision, ErrorStrategy, Failure
from routilux_core.errors import ActivationTimeout, UnknownNameError
from routilux_core.routine import Routine
from routilux_core.strategy import Task

FOREVER = 1 << 29  # activations; small enough for CPython's fast integers
OUTBOX = 64  # emissions after which the only worker of a flow queues them, and looks at what waits
DEPTH = 3  # how many handlers deep `emit` runs waiting work itself
TURN = 0.005  # seconds that one such turn lasts
NAPS = (0.0, 0.0001, 0.0005, 0.002)  # seconds that an emitter waits for somebody else to work off what waits
OUTCOMES = {ErrorStrategy.SKIP: SKIPPED, ErrorStrategy.RETRY: RETRIED}
LEVELS = {ErrorStrategy.STOP: logging.ERROR, ErrorStrategy.RETRY: logging.INFO}
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

    def fail(self, error: BaseException, at: int | None = None) -> None:
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
        "delay",
        "depth",
        "emitted",
        "held",
        "hub",
        "interrupt",
        "item",
        "node",
        "number",
        "outbox",
        "outer",
        "outlets",
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
        self.delay = 0.0  # seconds before the retry that was decided
        self.borrowed = 0.0  # seconds of the current handler's time in which `emit` ran other handlers
        self.held: list[tuple[Outlet, Payload]] | None = None
        self.interrupt: BaseException | None = None
        self.outlets: dict[str, Outlet] = {}
        # Where nobody else could take it, what is emitted is queued in the step that counts the handler's end.
        self.outbox: list[Item] | None = [] if queue.is_solo() else None

    def start(self) -> None:
        """Work until the queue has nothing left for this worker."""
        with self.hub.lock:
            self.queue.begin()
        self.work(FOREVER if self.queue.chooser is None else 1)

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
        acquire, release, calls, take = hub.acquire, hub.release, hub.calls, queue.take
        clock, thread, outbox = perf_counter, self.thread, self.outbox
        first, ready, popleft = queue.first, queue.ready, queue.ready.popleft
        in_caller = queue.pool is not None and queue.pool.in_caller
        with hub.lock:
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
            self.run = run
            self.number = number
            self.routine = node.routine
            self.outlets = node.outlets
            self.emitted = outcome = COMPLETED
            try:
                if inlet.plain and run.plain:
                    key = inlet.key
                    if key in payload:
                        inlet.handler(payload[key])
                    else:
                        inlet.call(payload)
                else:
                    self._call(inlet, payload, run, number)
            except BaseException as error:
                outcome = self._failed(item, error)
            ended = clock()
            limit -= 1
            finished = None
            acquire()
            try:
                # Counted here and not in methods: their calls would cost as much as all of it.
                if outbox:
                    self._post(outbox)
                if posted > started:  # it came while this worker waited for the lock
                    started = posted
                run_time = ended - started - self.borrowed
                totals = run.totals.get(inlet)
                if totals is None:
                    totals = run.totals[inlet] = Totals()
                if outcome:
                    totals.add(outcome, run_time, started - posted)
                else:
                    totals.completed += 1
                    totals.run_time += run_time
                    totals.queue_wait += started - posted
                    if run_time > totals.longest:
                        totals.longest = run_time
                    if run_time < totals.shortest:
                        totals.shortest = run_time
                if run.keeps_notes:
                    attempt = run.attempts.get(number, 1) if run.attempts else 1
                    note = (number, cause, inlet.number, attempt, outcome, thread, posted, started, started + run_time)
                    run.notes.append(note)
                if outcome:
                    run.settle(item, outcome, self.delay)
                    self.item = None
                else:
                    run.open -= 1
                    self.item = None
                    if run.attempts:
                        run.attempts.pop(number, None)
                    if node.waiting:
                        queue.release(node)
                    else:
                        node.free += 1
                if not run.open and run.quiet():
                    finished = run
                if not limit or self.interrupt is not None or (finished is not None and in_caller):
                    item = None
                elif first or not ready:
                    item = take(self)
                else:  # `WorkQueue.take`, where the oldest can simply be taken
                    item = ready[0]
                    node = item[0].node
                    if node.free and not item[2].halted:
                        node.free -= 1
                        self.item = item
                        popleft()
                    else:
                        item = take(self)
                if item is None:
                    self._leave()
            finally:
                release()
            started = ended
            if finished is not None or outcome or self.borrowed:
                self.borrowed = 0.0
                if finished is not None:
                    finished.finish()
                started = clock()
        if self.interrupt is not None:
            raise self.interrupt

    def _leave(self) -> None:
        """Count this worker out, unless it works inside an emit. Lock."""
        if not self.depth:
            self.queue.active -= 1
            self.queue.call()

    def _interrupted(self) -> None:
        """Put the books in order after a KeyboardInterrupt: what was in hand is counted, its job is cancelled."""
        if self.interrupt is not None:
            return  # it came from a handler, and the loop has done so
        self.hub.recover()
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
            payload = merged(inlet, payload, run, number, node.holds)
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
            run.merged_by.discard(number)
            held, self.held = self.held, None
            for outlet, data in held or ():
                self._emit_with_care(outlet, data)
        finally:
            self.held = None

    def _enter(self, call: Callable[[Payload], Any], payload: Payload) -> None:
        CURRENT.set(self)
        call(payload)

    def _failed(self, item: Item, error: BaseException) -> int:
        """Decide about an exception, and return the outcome."""
        inlet, payload, number = item[0], item[1], item[3]
        run: Run = item[2]
        self.held = None
        failure = run.failure(inlet, payload, number, error, self.emitted + len(self.outbox or ()))
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            self.hub.recover()
            self.interrupt = error
            decision = Decision(ErrorStrategy.STOP)
        else:
            decision = decide(failure)
        decision = carry_out(run, failure, decision, "failed" if self.interrupt is None else "cancelled")
        self.delay = decision.delay
        return OUTCOMES.get(decision.strategy, FAILED)

    # -- what a handler finds

    def emit(self, event_name: str, data: Payload, /) -> None:
        """Send what a handler emits, or hold it until the call has succeeded."""
        try:
            outlet = self.outlets[event_name]
        except KeyError:
            raise UnknownNameError("event", event_name, self.outlets, f"routine {self.node.routine_id!r}") from None
        inlet = outlet.lone
        if inlet is None or self.held is not None:
            self._emit_with_care(outlet, data)
            return
        run = self.run
        outbox = self.outbox
        if outbox is not None:
            run.last = number = run.last + 1
            outbox.append((inlet, data, run, number, self.number, perf_counter()))
            if len(outbox) >= OUTBOX:
                self._flush()
            return
        # The hot path again: `Run.send` and `Run.post` for a single plain target, without their calls.
        hub, node, now = self.hub, inlet.node, perf_counter()
        queue = node.queue
        ready = queue.ready
        hub.acquire()
        try:
            run.emitted += 1
            run.posted += 1
            run.last = number = run.last + 1
            if run.stopped:
                run.discarded += 1
            else:
                run.open += 1
                ready.append((inlet, data, run, number, self.number, now))
                if queue.active < queue.workers and not queue.recruiting:
                    queue.call()
        finally:
            hub.release()
        self.emitted += 1
        if hub.calls:
            hub.answer()
        if len(ready) > hub.max_pending or node.waiting:
            self._relieve(node)

    def _flush(self) -> None:
        """Queue what is in the outbox, and work off some of what waits."""
        outbox = self.outbox
        if outbox:
            nodes = {item[0].node for item in outbox}
            with self.hub.lock:
                self._post(outbox)
            for node in nodes:
                self._relieve(node)

    def _post(self, outbox: list[Item]) -> None:
        """Queue what the only worker has emitted to lone plain targets, and empty the outbox. Lock."""
        run, count = self.run, len(outbox)
        self.emitted += count
        run.emitted += count
        run.posted += count
        if run.stopped:
            run.discarded += count
        else:
            run.open += count
            self.queue.ready.extend(outbox)
        outbox.clear()

    def _emit_with_care(self, outlet: Outlet, data: Payload) -> None:
        if self.held is not None:
            self.held.append((outlet, data))
            return
        hub, run, now = self.hub, self.run, perf_counter()
        with hub.lock:
            if self.outbox:
                self._post(self.outbox)
            run.send(outlet, data, self.number, now)
        self.emitted += 1
        hub.answer()
        for inlet, _ in outlet.targets:
            node = run.own.get(inlet.node, inlet.node)
            if len(node.queue.ready) > hub.max_pending or node.waiting:
                self._relieve(node)

    def is_cancelled(self) -> bool:
        """Return whether the job of the running handler was stopped or cancelled."""
        return self.run.stopped

    def resource(self, key: tuple[object, str], factory: Callable[[], Any], /) -> Any:
        """Return what this worker made for a routine with `per_worker`, making it when first asked for."""
        return self.queue.resources.get(self.thread, key, factory)

    # -- back-pressure

    def _relieve(self, node: Node) -> None:
        """Work off some of what waits, or wait a little, when more than `max_pending` is queued."""
        mark = node.mark or self.hub.max_pending
        if (len(node.queue.ready) <= mark and len(node.waiting) <= mark) or node.queue.chooser is not None:
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


def merged(inlet: Inlet, payload: Payload, run: Run, number: int, again: bool) -> Payload:
    """Merge what arrived into what the slot has in this job, and return what the handler sees.

    The routine's permit guards it. `again`: the activation may run again, and then sees what was merged the first time.
    """
    old = run.merged.get(inlet, {})
    if number not in run.merged_by:
        assert inlet.merge is not None
        run.merged[inlet] = old = inlet.merge(old, payload)
        if again:
            run.merged_by.add(number)
    return snapshot(inlet, old)


def decide(failure: Failure) -> Decision:
    """Ask the policy; one that raises itself is logged, and the job stops."""
    try:
        return failure.policy.decide(failure)
    except Exception:
        logger().exception("job %s: the error handler of routine %r raised", failure.job_id, failure.routine_id)
        return Decision(ErrorStrategy.STOP)


def carry_out(run: Run, failure: Failure, decision: Decision, status: str = "failed") -> Decision:
    """Note a failure with the decision, and stop the job as `status` on STOP; return what is done in the end."""
    with run.hub.lock:
        if run.stopped and decision.strategy is ErrorStrategy.RETRY:
            decision = Decision(ErrorStrategy.STOP)  # there is no other attempt
        failure.decision = decision.strategy
        run.note_failure(failure, STATES.get(decision.strategy))
        if decision.strategy is ErrorStrategy.STOP:
            run.stop(status)
    _log(failure, decision.strategy)
    return decision


def _log(failure: Failure, decision: ErrorStrategy) -> None:
    """Log an error once, when it is decided for good; a retry is only news. A broken log handler costs the line."""
    error = failure.exception
    level = LEVELS.get(decision, logging.WARNING)
    try:
        logger().log(
            level,
            "job %s: routine %r, slot %r, attempt %d: %s: %s -> %s",
            *(failure.job_id, failure.routine_id, failure.slot, failure.attempt),
            *(type(error).__name__, error, decision.value),
            exc_info=error if level > logging.INFO else None,
        )
    except Exception:
        traceback.print_exc()
