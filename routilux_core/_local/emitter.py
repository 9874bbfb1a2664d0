"""What a running handler finds in its thread: `emit`, `per_worker`, and back-pressure."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Any

from routilux_core._engine.plan import INLET, JOB, NUMBER, Inlet, Item, Node, Outlet
from routilux_core._engine.run import Run
from routilux_core._engine.scheduler import Scheduler
from routilux_core._routines.frame import CURRENT, Frame
from routilux_core._routines.signature import Payload
from routilux_core.errors import UnknownNameError
from routilux_core.routine import Routine

if TYPE_CHECKING:
    from routilux_core._local.deadlines import Deadline

DEPTH = 3  # how many handlers deep `emit` runs waiting work itself
TURN = 0.005  # seconds that one such turn lasts
AT_ONCE = (64, 512)  # activations in it between two looks at the clock: at first, and where they are short
NAPS = (0.0, 0.0001, 0.0005, 0.002)  # seconds that an emitter waits for somebody else to work off what waits


class Emitter:
    """The frame of the handler that a worker runs, and what the worker counts for itself of one job.

    `emitted` is how many emissions came from here, and `told` how many of them the job has counted; the same goes for
    `records`, of completed activations. Both are written by the worker alone, without the lock, and taken over with it.
    """

    __slots__ = (
        "away",
        "borrowed",
        "depth",
        "due",
        "emitted",
        "engine",
        "held",
        "item",
        "joined",
        "late",
        "lending",
        "mask",
        "outer",
        "permit",
        "records",
        "routine",
        "scheduler",
        "thread",
        "told",
    )

    tells = True  # whether listeners may take their time in its thread

    def __init__(self, scheduler: Scheduler, outer: Emitter | None = None) -> None:
        self.scheduler = scheduler
        self.engine = scheduler.engine
        self.outer: Frame | None = outer or CURRENT.get()
        self.mask = (
            scheduler.engine.mask if len(scheduler.engine.schedulers) == 1 else 0
        )  # else those numbers could all go elsewhere
        self.depth: int = 0 if outer is None else outer.depth + 1
        self.thread = threading.get_ident()
        self.item: Item | None = None
        self.routine: Routine | None = None
        self.joined: Run | None = None  # the job that this worker is a member of
        self.records: list[Any] = []
        self.emitted = self.told = 0
        self.permit = False  # of the routine whose handler runs: whether this worker has it
        self.borrowed = 0.0  # seconds of the current handler's time in which `emit` ran other handlers
        self.lending = 0.0  # when it began to do so just now
        self.late: Deadline | None = None  # the time of the current call is over
        self.due: float | None = (
            None  # when it is over for a call that is judged when it returns, less what it has lent
        )
        self.away = 0  # late calls in this thread, noted in its outermost worker
        self.held: list[tuple[Outlet, Payload]] | None = None

    @property
    def run(self) -> Run:
        """The run of the activation in hand."""
        assert self.item is not None
        run: Run = self.item[JOB]
        return run

    @property
    def at(self) -> Run | None:
        """The run of the activation in hand, if there is one."""
        return None if self.item is None else self.run

    @property
    def node(self) -> Node:
        """The node of the activation in hand."""
        assert self.item is not None
        return self.item[INLET].node

    def work(self, limit: int) -> None:
        """Run up to `limit` activations."""
        raise NotImplementedError

    # -- what a handler finds

    def emit(self, event_name: str, data: Payload, /) -> None:
        """Send what a handler emits, or hold it until the call has succeeded."""
        try:
            run, item = self.joined, self.item
            if run is None or item is None or not run.may_emit_fast:
                self._emit_with_care(event_name, data)
                return
            try:
                inlet = item[INLET].node.outlets[event_name].lone
            except KeyError:
                inlet = None
            if inlet is None:
                self._emit_with_care(event_name, data)
                return
            # The hot path: one target that is fast, in whose lane it can be put without the lock. It is counted
            # before it is seen.
            node = inlet.node
            scheduler = node.scheduler
            lane = scheduler.lane
            number = next(run.numbers)
            if scheduler.solo:
                self.emitted += 1
                lane.append((inlet, data, run, number, item[NUMBER], perf_counter() if run.timed else 0.0))  # type: ignore[union-attr]
            elif lane is None:
                self._post(inlet, data, run, number, item[NUMBER])
                return
            elif node.mailbox.limited:
                mailbox = node.mailbox
                waiting = mailbox.waiting
                self.emitted += 1
                waiting.append((inlet, data, run, number, item[NUMBER], perf_counter() if run.timed else 0.0))
                if mailbox.free:  # else who has a permit looks here once more when giving it back
                    with self.engine.lock:
                        mailbox.admit(scheduler.first)
                        scheduler.want_worker()
                    self.engine.run_deferred()
                if len(waiting) > (node.mark or self.engine.max_pending):
                    self._relieve(node)
                    return
            else:
                self.emitted += 1
                lane.append((inlet, data, run, number, item[NUMBER], perf_counter() if run.timed else 0.0))
                if scheduler.active < scheduler.workers and not scheduler.recruiting:
                    with self.engine.lock:
                        scheduler.want_worker()
                    self.engine.run_deferred()
            if not number & self.mask and len(lane) > self.engine.max_pending:  # type: ignore[arg-type]
                self._relieve(node)
        except BaseException as error:
            if not isinstance(error, UnknownNameError):  # else nothing was begun
                self.engine.hurt = (
                    True  # it may have been counted, and not queued: the loop mends that at its next step
                )
                self.engine.recover()
            raise

    def _post(self, inlet: Inlet, data: Payload, run: Run, number: int, cause: int) -> None:
        """Queue what goes to one target that is fast, under the lock."""
        engine, node = self.engine, inlet.node
        scheduler = node.scheduler
        now = perf_counter() if run.timed else 0.0
        engine.acquire()
        try:
            if run.stopped:
                run.ledger.refuse()
            else:
                run.ledger.last += 1
                scheduler.ready.append((inlet, data, run, number, cause, now))
                if scheduler.active < scheduler.workers and not scheduler.recruiting:
                    scheduler.want_worker()
            self.emitted += 1
            self.told += 1
        finally:
            engine.release()
        if engine.deferred:
            engine.run_deferred()
        if len(scheduler.ready) > engine.max_pending or node.mailbox.waiting:
            self._relieve(node)

    def _emit_with_care(self, event_name: str, data: Payload) -> None:
        if self.late is not None or (self.due is not None and self.is_over()):
            self._drop_late()
            return
        try:
            outlet = self.node.outlets[event_name]
        except KeyError:
            raise UnknownNameError(
                "event", event_name, self.node.outlets, f"routine {self.node.routine_id!r}"
            ) from None
        if self.held is not None:
            self.held.append((outlet, data))
        else:
            self._send(outlet, data)

    def _send(self, outlet: Outlet, data: Payload) -> None:
        """Send one emission to everything that it is connected to."""
        engine, item, now = self.engine, self.item, perf_counter()
        assert item is not None
        run: Run = item[JOB]
        with engine.lock:
            if self.late is not None:
                run.ledger.late += 1
                return
            run.send(outlet, data, item[NUMBER], now)
            self.emitted += 1
            self.told += 1
        listeners = run.listeners
        if listeners is not None:
            listeners.event_emitted(self.node, outlet, item[NUMBER], now, data)
        engine.run_deferred()
        crowded = any(scheduler.backlog() > engine.max_pending for scheduler in engine.schedulers)
        for inlet, _ in outlet.targets:
            node = run.own.get(inlet.node, inlet.node) if run.own else inlet.node
            if crowded or node.mailbox.waiting:
                self._relieve(node)

    def _drop_late(self) -> None:
        with self.engine.lock:
            self.run.ledger.late += 1

    def is_cancelled(self) -> bool:
        """Return whether the job of the running handler was stopped or cancelled, or the time of the call is over."""
        return self.run.stopped or self.late is not None or self.is_over()

    def is_over(self) -> bool:
        """Return whether the time is over of a call that is judged when it returns. In the thread of the call."""
        return self.due is not None and perf_counter() - self.lent() > self.due

    def resource(self, key: tuple[object, str], factory: Callable[[], Any], /) -> Any:
        """Return what this worker made for a routine with `per_worker`, making it when first asked for."""
        return self.scheduler.resources.get(key, factory)

    # -- after an interruption (lock)

    def counts(self) -> bool:
        """Return whether this is one of the workers that its queue counts: no nested one, and no late call."""
        return not self.depth and not self.away

    def has_of(self, run: Run) -> bool:
        """Return whether anything of a job is in these hands."""
        item = self.item
        if item is not None and item[JOB] is run and (self.late is None or not self.late.decided):
            return True
        return self.joined is run

    def permit_of(self) -> Node | None:
        """Return whose permit this worker has."""
        return self.item[INLET].node if self.item is not None and self.permit else None

    # -- what the job is told (lock)

    def join(self, run: Run) -> None:
        """Count for a job from now on. Lock."""
        self.joined = run
        run.ledger.members += 1

    def leave(self) -> Run | None:
        """Tell the job everything, and be its member no longer; return it if it has ended. Lock."""
        run = self.joined
        if run is None:
            return None
        self.flush_records()
        self.flush_posted()
        self.joined = None
        run.ledger.members -= 1
        return run if run.end_if_idle() else None

    def flush_records(self) -> None:
        """Let the job take over the records. Lock, in the worker's own thread."""
        if self.records:
            assert self.joined is not None
            taken, self.records = self.records, []
            self.joined.ledger.add(self.thread, taken)

    def flush_records_of_another(self) -> None:
        """Let the job take over the records so far. Lock, any other thread: the worker may append meanwhile."""
        if self.records:
            assert self.joined is not None
            taken = self.records[:]
            del self.records[: len(taken)]
            self.joined.ledger.add(self.thread, taken)

    def flush_posted(self) -> None:
        """Let the job count what was posted so far. Lock, any thread."""
        if self.emitted != self.told:
            assert self.joined is not None
            more = self.emitted - self.told
            self.told += more
            self.joined.ledger.last += more

    # -- back-pressure

    def lent(self) -> float:
        """Return the seconds of the current call in which it ran other handlers. Any thread."""
        return self.borrowed + (perf_counter() - self.lending if self.lending else 0.0)

    def _relieve(self, node: Node) -> None:
        """Work off some of what waits, or wait a little, when more than `max_pending` is queued."""
        mark = node.mark or self.engine.max_pending
        if is_within(node, mark) or node.scheduler.chooser is not None:
            return
        began = self.lending = perf_counter()
        before = waits_with(node)
        if node.scheduler is self.scheduler and self.depth < DEPTH:
            self._take_permit()
            self._work_off(node, mark // 2, began + TURN)
        if waits_with(node) >= before:  # nothing came of it: not just that the turn was over
            self._nap(node, mark)
        self.borrowed, self.lending = self.borrowed + perf_counter() - began, 0.0

    def _take_permit(self) -> None:
        """Have the permit of the routine that emits, which a worker that is alone does not take for a fast call."""
        if self.scheduler.solo and not self.permit:
            with self.engine.lock:
                self.permit = self.node.mailbox.acquire()

    def _work_off(self, node: Node, enough: int, until: float) -> None:
        nested, at_once = type(self)(self.scheduler, self), AT_ONCE[0]
        while (before := waits_with(node)) > enough:
            nested.work(min(at_once, before - enough))
            if waits_with(node) >= before or perf_counter() > until:
                return
            at_once = AT_ONCE[1]

    def _nap(self, node: Node, mark: int) -> None:
        if node not in self._nodes_held() and node.scheduler.workers > 1:
            for seconds in NAPS:
                sleep(seconds)
                if is_within(node, mark):
                    return
        node.mark = 2 * mark  # nobody works it off, perhaps because all wait for each other: go on
        self.engine.raised.append(node)

    def _nodes_held(self) -> set[Node]:
        """Return the nodes whose handlers are on this thread's stack."""
        found: set[Node] = set()
        frame: Frame | None = self
        while isinstance(frame, Emitter):
            found.add(frame.node)
            frame = frame.outer
        return found


def is_within(node: Node, mark: int) -> bool:
    """Return whether no more than that is queued with a node, and for it, without the lock: about."""
    return node.scheduler.backlog() <= mark and len(node.mailbox.waiting) <= mark


def waits_with(node: Node) -> int:
    """Return how much is queued with a node, and for it, without the lock: about."""
    return node.scheduler.backlog() + len(node.mailbox.waiting)
