"""The worker loop: take an activation, call its handler, count it, take the next."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import perf_counter, sleep
from typing import Any

from routilux_core._binding import Payload
from routilux_core._context import CURRENT, Frame, in_greenlet
from routilux_core._deadlines import Deadline, too_long
from routilux_core._decisions import OUTCOMES, carry_out, decide
from routilux_core._dispatch import WorkQueue, logger
from routilux_core._history import COMPLETED, DISCARDED, FAILED, LATE
from routilux_core._plan import Inlet, Item, Node, Outlet, snapshot
from routilux_core._run import GATHERED, Run
from routilux_core.error_handling import Decision, ErrorStrategy
from routilux_core.errors import UnknownNameError
from routilux_core.routine import Routine
from routilux_core.strategy import Task

FOREVER = 1 << 29  # activations; small enough for CPython's fast integers
OUTBOX = 64  # emissions after which the only worker of a flow queues them, and looks at what waits
DEPTH = 3  # how many handlers deep `emit` runs waiting work itself
TURN = 0.005  # seconds that one such turn lasts
NAPS = (0.0, 0.0001, 0.0005, 0.002)  # seconds that an emitter waits for somebody else to work off what waits


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
            pool = self.queue.pool
            shares = in_greenlet() and not (pool is not None and pool.in_caller)
            (Interleaved if shares else Worker)(self.queue).start()

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
        "away",
        "borrowed",
        "delay",
        "depth",
        "emitted",
        "held",
        "hub",
        "interrupt",
        "item",
        "late",
        "lending",
        "outbox",
        "outer",
        "outlets",
        "queue",
        "routine",
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
        self.emitted = 0
        self.delay = 0.0  # seconds before the retry that was decided
        self.borrowed = 0.0  # seconds of the current handler's time in which `emit` ran other handlers
        self.lending = 0.0  # when it began to do so just now
        self.late: Deadline | None = None  # the time of the current call is over
        self.away = 0  # late calls in this thread, noted in its outermost worker
        self.held: list[tuple[Outlet, Payload]] | None = None
        self.interrupt: BaseException | None = None
        self.outlets: dict[str, Outlet] = {}
        # Where nobody else could take it, what is emitted is queued in the step that counts the handler's end.
        self.outbox: list[Item] | None = [] if queue.is_solo() and not queue.hub.has_timeouts else None

    @property
    def run(self) -> Run:
        """The run of the activation in hand."""
        assert self.item is not None
        run: Run = self.item[2]
        return run

    @property
    def node(self) -> Node:
        """The node of the activation in hand."""
        assert self.item is not None
        return self.item[0].node

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
            queue.hands.add(self)
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
            node = inlet.node
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
                    outcome = self._call(inlet, payload, run, number)
            except BaseException as error:
                outcome = self._failed(item, error)
            ended = clock() if run.timed else 0.0
            finished = None
            acquire()
            try:
                # Counted here and not in methods: their calls would cost as much as all of it.
                if outbox:
                    if run.stopped:
                        run.discard(outbox)
                    else:
                        ready.extend(outbox)
                    outbox.clear()
                notes = run.notes
                if outcome or run.attempts:
                    self._settle(item, outcome, started, ended)
                    if self.interrupt is not None or outcome == LATE:
                        limit = 1
                else:
                    if ended:
                        if posted > started:  # it came while this worker waited for the lock
                            started = posted
                        ended_at = ended - self.borrowed
                        notes.append((number, cause, inlet.number, 1, 0, thread, posted, started, ended_at))
                    else:
                        notes.append(inlet.number)
                    run.over += 1
                    self.item = None
                    if node.limited:
                        if node.waiting:
                            queue.release(node)
                        else:
                            node.free += 1
                if len(notes) >= run.full:
                    run.fold()
                if run.over == run.last and run.quiet():
                    finished = run
                    if in_caller:
                        limit = 1
                limit -= 1
                if first or not ready or not limit:
                    item = take(self) if limit else None
                else:  # `WorkQueue.take`, where the oldest can simply be taken
                    item = ready[0]
                    node = item[0].node
                    if item[2].halted or not node.free:
                        item = take(self)
                    else:
                        if node.limited:
                            node.free -= 1
                        self.item = item
                        popleft()
                if item is None:
                    self._leave()
            finally:
                release()
            started = ended
            if outcome or finished is not None or self.borrowed or not ended:
                self.borrowed = 0.0
                if finished is not None:
                    finished.finish()
                if self.interrupt is not None:
                    raise self.interrupt
                started = clock()

    def _settle(self, item: Item, outcome: int, started: float, ended: float) -> None:
        """Note and count an attempt that was not simply the first and completed. Lock."""
        run: Run = item[2]
        if outcome == LATE:  # it was noted and counted when its time was over
            self._come_back()
            return
        if outcome != DISCARDED:
            started = max(started, item[5])
            run.note(item, outcome, self.thread, started, max(started, ended - self.borrowed))
        run.settle(item, outcome, self.delay)
        self.item = None

    def _leave(self) -> None:
        """Count this worker out, unless it works inside an emit. Lock."""
        self.queue.hands.discard(self)
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
                run.over += 1
                run.discarded += 1
                self.queue.release(item[0].node)
                run.stop("cancelled")
                run.quiet()
            self._leave()
        if item is not None:
            item[2].finish()

    # -- calling with care: everything that is not plain

    def _call(self, inlet: Inlet, payload: Payload, run: Run, number: int) -> int:
        """Call a handler with everything that goes with it, and return the outcome."""
        if run.stopped:
            return DISCARDED
        node = inlet.node
        payload = self._prepare(inlet, payload, run, number)
        if run.stopped:
            return DISCARDED
        deadline = self._deadline(node)
        began = perf_counter()
        try:
            if run.context is None:
                inlet.call(payload)
            else:
                run.context.copy().run(self._enter, inlet.call, payload)
        except BaseException as error:
            if deadline is not None and deadline.close():
                return self._late_error(node, error)
            raise
        spent = perf_counter() - began - self.borrowed
        if deadline is not None:
            if deadline.close():
                return LATE
        elif node.timeout is not None and spent > node.timeout:
            raise too_long(node, inlet.name, spent)
        run.merged_by.discard(number)
        held, self.held = self.held, None
        for outlet, data in held or ():
            self._emit_with_care(outlet, data)
        return COMPLETED

    def _prepare(self, inlet: Inlet, payload: Payload, run: Run, number: int) -> Payload:
        """Return what the handler sees, and tell that it begins."""
        node = inlet.node
        if inlet.gathers:
            payload = inlet.collect(payload[GATHERED])
        elif inlet.merge is not None:
            payload = merged(inlet, payload, run, number, node.holds)
        self.held = [] if node.holds else None
        listeners = run.listeners
        if listeners is not None and listeners.details:
            self.outlets = listeners.outlets_of(node)
            listeners.activation_started(inlet, number, run.attempts.get(number, 1), self.item, payload)
        return payload

    def _enter(self, call: Callable[[Payload], Any], payload: Payload) -> None:
        CURRENT.set(self)
        call(payload)

    def _deadline(self, node: Node) -> Deadline | None:
        """Return what lets a call fail on time, where another worker can take this one's place."""
        pool = self.queue.pool
        if node.timeout is None or self.item is None or pool is None or pool.in_caller:
            return None
        return Deadline(self, self.item)

    def _late_error(self, node: Node, error: BaseException) -> int:
        logger().warning("routine %r: a call whose time was over has raised %r", node.routine_id, error, exc_info=error)
        return LATE

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
            decision = decide(failure, run)
        decision = carry_out(run, failure, decision, "failed" if self.interrupt is None else "cancelled")
        self.delay = decision.delay
        return OUTCOMES.get(decision.strategy, FAILED)

    # -- what a handler finds

    def emit(self, event_name: str, data: Payload, /) -> None:
        """Send what a handler emits, or hold it until the call has succeeded."""
        try:
            outlet = self.outlets[event_name]
        except KeyError:
            if self.late is not None:
                self._drop_late()
                return
            raise UnknownNameError("event", event_name, self.outlets, f"routine {self.node.routine_id!r}") from None
        inlet = outlet.lone
        if inlet is None:
            self._emit_with_care(outlet, data)
            return
        _, _, run, cause, _, _ = self.item  # type: ignore[misc]
        now = perf_counter() if run.timed else 0.0
        outbox = self.outbox
        if outbox is not None:
            run.last = number = run.last + 1
            outbox.append((inlet, data, run, number, cause, now))
            if len(outbox) >= OUTBOX:
                self._flush(outbox)
            return
        # The hot path again: `Run.send` and `Run.post` for a single plain target, without their calls.
        hub, node = self.hub, inlet.node
        queue = node.queue
        ready = queue.ready
        hub.acquire()
        try:
            if run.stopped or self.late is not None:
                run.refuse(self.late is not None)
            else:
                run.last = number = run.last + 1
                ready.append((inlet, data, run, number, cause, now))
                if queue.active < queue.workers and not queue.recruiting:
                    queue.call()
        finally:
            hub.release()
        self.emitted += 1
        if hub.calls:
            hub.answer()
        if len(ready) > hub.max_pending or node.waiting:
            self._relieve(node)

    def _flush(self, outbox: list[Item]) -> None:
        """Queue what is in the outbox, and work off some of what waits."""
        nodes = {item[0].node for item in outbox}
        with self.hub.lock:
            self._post(outbox)
        for node in nodes:
            self._relieve(node)

    def _post(self, outbox: list[Item]) -> None:
        """Queue what the only worker has emitted to lone plain targets, and empty the outbox. Lock."""
        self.emitted += len(outbox)
        if self.run.stopped:
            self.run.discard(outbox)
        else:
            self.queue.ready.extend(outbox)
        outbox.clear()

    def _emit_with_care(self, outlet: Outlet, data: Payload) -> None:
        if self.held is not None:
            self.held.append((outlet, data))
            return
        hub, item, now = self.hub, self.item, perf_counter()
        assert item is not None
        run: Run = item[2]
        with hub.lock:
            if self.outbox:
                self._post(self.outbox)
            if self.late is not None:
                run.late += 1
                return
            run.send(outlet, data, item[3], now)
        self.emitted += 1
        listeners = run.listeners
        if listeners is not None:
            listeners.event_emitted(self.node, outlet, item[3], now, data)
        hub.answer()
        for inlet, _ in outlet.targets:
            node = run.own.get(inlet.node, inlet.node)
            if len(node.queue.ready) > hub.max_pending or node.waiting:
                self._relieve(node)

    def is_cancelled(self) -> bool:
        """Return whether the job of the running handler was stopped or cancelled."""
        return self.run.stopped or self.late is not None

    def resource(self, key: tuple[object, str], factory: Callable[[], Any], /) -> Any:
        """Return what this worker made for a routine with `per_worker`, making it when first asked for."""
        return self.queue.resources.get(self.thread, key, factory)

    # -- calls whose time is over

    def lent(self) -> float:
        """Return the seconds of the current call in which it ran other handlers. Any thread."""
        return self.borrowed + (perf_counter() - self.lending if self.lending else 0.0)

    def give_up(self, deadline: Deadline) -> None:
        """Drop what the current call emits from now on. Lock, in the thread of the timers."""
        self.late = deadline
        self.outlets = {}

    def step_out(self) -> None:
        """Be counted out while a late call goes on: another worker takes this one's place. Lock, any thread."""
        root = self._root()
        root.away += 1
        if root.away == 1:
            self.queue.active -= 1
            self.queue.call()

    def step_in(self) -> None:
        """Be counted again: the late call has returned. Lock."""
        root = self._root()
        root.away -= 1
        if not root.away:
            self.queue.active += 1

    def _come_back(self) -> None:
        """Be done with a late call. Lock."""
        assert self.late is not None
        self.late.come_back()
        self.item = self.late = None
        self.hub.calls.append(Spare(self, -1))

    def _drop_late(self) -> None:
        with self.hub.lock:
            self.run.late += 1

    def _root(self) -> Worker:
        worker = self
        while worker.depth and isinstance(worker.outer, Worker):
            worker = worker.outer
        return worker

    def spare(self, more: int) -> None:
        """Tell the pool that it needs one worker more, or no longer. Not under the lock."""
        pool = self.queue.pool
        try:
            if pool is not None:
                pool.spare(more)
        except Exception:
            logger().exception("strategy %r: its pool raised in spare", self.queue.strategy.name)

    # -- back-pressure

    def _relieve(self, node: Node) -> None:
        """Work off some of what waits, or wait a little, when more than `max_pending` is queued."""
        mark = node.mark or self.hub.max_pending
        if (len(node.queue.ready) <= mark and len(node.waiting) <= mark) or node.queue.chooser is not None:
            return
        began = self.lending = perf_counter()
        if node.queue is self.queue and self.depth < DEPTH:
            self._work_off(mark // 2, began + TURN)
        if len(node.queue.ready) > mark or len(node.waiting) > mark:
            self._nap(node, mark)
        self.borrowed, self.lending = self.borrowed + perf_counter() - began, 0.0

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


class Spare:
    """Something to tell the pool when the lock is free again."""

    __slots__ = ("_more", "_worker")

    def __init__(self, worker: Worker, more: int) -> None:
        self._worker, self._more = worker, more

    def recruit(self) -> None:
        self._worker.spare(self._more)


class Interleaved(Worker):
    """A worker that shares its thread with others that take turns: a greenlet, or a coroutine.

    It runs one activation, so that what a handler started in this thread, and left behind, can't emit as the next.
    Its back-pressure never naps, which would stop all the others.
    """

    __slots__ = ()

    def __init__(self, queue: WorkQueue, outer: Worker | None = None) -> None:
        super().__init__(queue, outer)
        self.outer = outer  # the context may be a copy of an emitter's, on whose stack this is not

    def start(self) -> None:
        with self.hub.lock:
            self.queue.begin()
        self.work(1)

    def _work_off(self, enough: int, until: float) -> None:
        ready = self.queue.ready
        while len(ready) > enough and perf_counter() < until:
            before = len(ready)
            type(self)(self.queue, self).work(1)
            if len(ready) >= before:
                return

    def _nap(self, node: Node, mark: int) -> None:
        node.mark = 2 * mark
        self.hub.raised.append(node)


def merged(inlet: Inlet, payload: Payload, run: Run, number: int, again: bool) -> Payload:
    """Merge what arrived into what the slot has in this job, and return what the handler sees.

    The routine's permit guards it. `again`: the activation may run again, and then sees what was merged the first time.
    """
    old = run.merged.get(inlet, {})
    if number not in run.merged_by:
        assert inlet.merge is not None
        run.merged[inlet] = old = inlet.merge(old, payload)
        if again or (run.plugins is not None and run.plugins.decides):
            run.merged_by.add(number)
    return snapshot(inlet, old)
