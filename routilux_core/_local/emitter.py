"""The frame of a handler that runs in this process, `emit` first of all, and what its worker counts for the job."""

from __future__ import annotations

import sys
from collections.abc import Callable
from threading import get_ident
from time import perf_counter
from typing import Any

from routilux_core._engine.crew import Pace
from routilux_core._engine.engine import Engine
from routilux_core._engine.plan import INLET, JOB, NUMBER, Inlet, Item, Node, Outlet
from routilux_core._engine.run import Run
from routilux_core._engine.scheduler import Scheduler
from routilux_core._routines.frame import CURRENT, Frame
from routilux_core._routines.signature import Payload
from routilux_core._threads.guard import guarded
from routilux_core.errors import UnknownNameError
from routilux_core.routine import Routine
from routilux_core.strategy import Task


class CallState:
    """What there is to know of the call in hand beyond its activation; most calls need none.

    `held` is what it has emitted, where that is sent only after it has succeeded. `due` is when its time is over,
    where that is judged when it returns; what it has `lent` to other handlers, which `emit` ran meanwhile, comes on
    top. `late` says that its time was over while it ran: then its activation is, or is just being, `decided` about.
    """

    __slots__ = ("counted", "decided", "due", "held", "late", "lending", "lent")

    def __init__(self) -> None:
        self.held: list[tuple[Outlet, Payload, str]] | None = None  # with its text, where there is a journal
        self.counted: dict[str, float] | None = None  # what it added to the counters of its routine, where there is one
        self.due: float | None = None
        self.lent = 0.0  # seconds
        self.lending = 0.0  # since when it does so just now
        self.late = self.decided = False

    def lent_so_far(self) -> float:
        """Return the seconds in which `emit` ran other handlers. Any thread."""
        return self.lent + (perf_counter() - self.lending if self.lending else 0.0)

    def is_over(self) -> bool:
        """Return whether the call has had its time. In its own thread."""
        return self.late or (self.due is not None and perf_counter() - self.lent_so_far() > self.due)


class Seat:
    """The place of a thread among the active workers of a scheduler; workers nested in each other share it.

    While calls in the thread go on whose time is over, another worker has its place. The lock guards that.
    """

    __slots__ = ("_late", "_scheduler", "in_caller", "pace", "task")

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._late = 0  # calls that go on though their time is over
        self.in_caller = scheduler.pool is not None and scheduler.pool.in_caller  # who waits for a job does the work
        self.pace = Pace()
        self.task: Task | None = None  # which the pool was given for this worker

    @property
    @guarded
    def is_taken(self) -> bool:
        """Whether the scheduler counts this thread as active."""
        return not self._late

    @guarded
    def step_out(self) -> None:
        """Be counted out while a late call goes on, and let another worker come. Any thread."""
        self._late += 1
        if self._late == 1:
            self._scheduler.crew.step_out()

    @guarded
    def step_in(self) -> None:
        """Be counted again: a late call has returned."""
        self._late -= 1
        if not self._late:
            self._scheduler.crew.active += 1


class Emitter:
    """The frame of the handler that a worker runs, and what the worker counts for itself of the job it has joined.

    `emitted` is how many emissions came from here, and `told` how many of them the job has counted; the same goes for
    `records`, of completed activations. Both are written by the worker alone, without the lock, and taken over with it.
    """

    __slots__ = (
        "around",
        "call",
        "depth",
        "emitted",
        "item",
        "joined",
        "outer",
        "permit",
        "records",
        "routine",
        "scheduler",
        "seat",
        "thread",
        "told",
    )

    tells = True  # whether listeners may take their time in its thread

    def __init__(self, scheduler: Scheduler, outer: Emitter | None = None) -> None:
        self.scheduler = scheduler
        self.thread = get_ident()
        self.outer: Frame | None = outer or CURRENT.get()
        self.depth: int = 0 if outer is None else outer.depth + 1  # how many handlers below it on the stack emit
        self.seat: Seat = Seat(scheduler) if outer is None else outer.seat
        self.around = sys.exception()  # which those who wait for this worker, or its emitter, are handling
        self.item: Item | None = None
        self.routine: Routine | None = None
        self.call: CallState | None = None
        self.permit = False  # of the routine whose handler runs: whether this worker has it
        self.joined: Run | None = None
        self.records: list[Any] = []
        self.emitted = self.told = 0

    @property
    def engine(self) -> Engine:
        """The engine of the flow."""
        return self.scheduler.engine

    @property
    def at(self) -> Run | None:
        """The run of the activation in hand, if there is one."""
        return None if self.item is None else self.item[JOB]

    @property
    def in_caller(self) -> bool:
        """Whether it works in the thread of who waits for the job."""
        return self.seat.in_caller

    def work(self, limit: int) -> int:
        """Run up to `limit` activations, and return how many."""
        raise NotImplementedError

    def relieve(self, node: Node) -> None:
        """Do something about what waits with a node, if that is too much."""
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
                outlet = item[INLET].node.outlets[event_name]
            except KeyError:
                self._emit_with_care(event_name, data)
                return
            inlet = outlet.lone
            if inlet is None:
                if outlet.is_unheard:
                    self._emit_to_nobody(run)
                else:
                    self._emit_with_care(event_name, data)
                return
            # The hot path: one fast target, and no lock. It is counted before it is seen: else another worker could
            # tell the job of its end first, and the job would have more ended than posted.
            node = inlet.node
            post = node.post  # as a method of `node` it would take Python twice as long to find
            number = next(run.numbers)  # one step: no two threads get the same
            self.emitted += 1
            post((inlet, data, run, number, item[NUMBER], perf_counter() if run.timed else 0.0))
            # Posted first, looked behind that: who leaves, or gives a permit back, does it the other way round. So one
            # of the two sees the other, whatever comes between these steps. An old value costs a second look.
            crew = node.crew
            if crew is not None:  # else it goes to the worker that is alone, and this is that one
                waits = node.waits
                if waits is not None:
                    if waits.free:  # else who has a permit looks there once more when giving it back
                        with run.engine.lock:
                            node.scheduler.admit(node)
                        run.engine.run_deferred()
                    if len(waits.waiting) > (node.mark or run.engine.max_pending):
                        self.relieve(node)
                    return
                if not (crew.held or crew.recruiting) and crew.active < crew.workers:
                    with run.engine.lock:
                        crew.want_worker()
                    run.engine.run_deferred()
            # Now and then: to look after each emission would cost more than it brings.
            if not number & run.engine.mask and (len(node.queue) > run.engine.max_pending or node.mailbox.waiting):
                self.relieve(node)
        except BaseException as error:
            if not isinstance(error, UnknownNameError):  # else nothing was begun
                # It may have been counted, and not queued: the loop mends that at its next step. To say so must not
                # take a call, which a stack that is full has no room for.
                self.scheduler.engine.hurt = True
                self.scheduler.engine.recover()
            raise

    def _emit_to_nobody(self, run: Run) -> None:
        """Count an emission that reaches no slot, and that nobody is told of."""
        with run.engine.lock:
            run.ledger.sent += 1
            run.ledger.unconnected += 1
            self.emitted += 1
            self.told += 1

    def _emit_with_care(self, event_name: str, data: Payload) -> None:
        """Send, hold or drop an emission that needs more than the hot path has."""
        item, call = self.item, self.call
        assert item is not None
        if call is not None and call.is_over():
            with self.scheduler.engine.lock:
                item[JOB].ledger.late += 1
            return
        node = item[INLET].node
        try:
            outlet = node.outlets[event_name]
        except KeyError:
            raise UnknownNameError("event", event_name, node.outlets, f"routine {node.routine_id!r}") from None
        if call is not None and call.held is not None:
            book = item[JOB].book
            call.held.append((outlet, data, "" if book is None else book.text_of(node, outlet, data)))
        else:
            self.send(outlet, data)

    def send(self, outlet: Outlet, data: Payload) -> None:
        """Send one emission to everything that it is connected to."""
        engine, item, now = self.scheduler.engine, self.item, perf_counter()
        assert item is not None
        run: Run = item[JOB]
        with engine.lock:
            if self.call is not None and self.call.late:
                run.ledger.late += 1
                return
            run.send(outlet, data, item[NUMBER], now)
            self.emitted += 1
            self.told += 1
        listeners = run.listeners
        if listeners is not None:
            listeners.event_emitted(item[INLET].node, outlet, item[NUMBER], now, data)
        elif not outlet.targets:  # nobody is called for it, and nothing waits behind it
            return
        engine.run_deferred()
        self.relieve_all([inlet for inlet, _ in outlet.targets], run)

    def relieve_all(self, inlets: list[Inlet], run: Run) -> None:
        """Do something about what waits where something was just sent, if that is too much."""
        # Without the lock: whether to look closer. An old length costs a look too many, or leaves it to the next emit.
        if not inlets:
            return
        engine = self.scheduler.engine
        crowded = any(scheduler.ready.backlog() > engine.max_pending for scheduler in engine.schedulers)
        for inlet in inlets:
            node = run.own.get(inlet.node, inlet.node) if run.own else inlet.node
            if crowded or node.mailbox.waiting:
                self.relieve(node)

    def take_permit(self) -> None:
        """Have the permit of the routine that emits, which a worker that is alone does not take for a fast call.

        Else a handler that `emit` runs could be one of the same routine, in the middle of its call.
        """
        # `solo` is read without the lock: a worker becomes alone at a step of its own only. Where it just stops being
        # so, it takes a permit, which is right then, too.
        if self.scheduler.ready.solo and not self.permit and self.item is not None:
            with self.scheduler.engine.lock:
                self.permit = self.item[INLET].node.mailbox.acquire()

    def is_cancelled(self) -> bool:
        """Return whether the job of the running handler was stopped or cancelled, or the time of the call is over."""
        assert self.item is not None
        # Without the lock, since handlers ask this in loops: a cancel is seen at the next look.
        return self.item[JOB].stopped or (self.call is not None and self.call.is_over())

    def call_id(self) -> tuple[str, int, int]:
        """Return the job of the activation in hand, its number, and which attempt it is."""
        assert self.item is not None
        run: Run = self.item[JOB]
        return run.job_id, self.item[NUMBER], run.retries.attempt(self.item[NUMBER])

    def resource(self, key: tuple[object, str], factory: Callable[[], Any], /) -> Any:
        """Return what this worker made for a routine with `per_worker`, making it when first asked for."""
        return self.scheduler.resources.get(key, factory)

    def drop(self, key: tuple[object, str], /) -> None:
        """Close what this worker made for a routine, which makes it anew when it next asks."""
        self.scheduler.resources.drop(key)

    # -- what the job is told (lock)

    @guarded
    def join(self, run: Run) -> None:
        """Count for a job from now on."""
        self.joined = run
        run.ledger.members += 1

    @guarded
    def leave(self) -> Run | None:
        """Tell the job everything, and be its member no longer; return it if it has ended."""
        run = self.joined
        if run is None:
            return None
        self.flush()
        self.joined = None
        run.ledger.members -= 1
        return run if run.end_if_idle() else None

    @guarded
    def flush(self) -> None:
        """Let the job count what has completed, and what was posted. In the worker's own thread."""
        if self.records:
            self.flush_records()
        if self.emitted != self.told:
            self.flush_posted()

    @guarded
    def flush_records(self) -> None:
        """Let the job take over the records. In the worker's own thread."""
        if self.records:
            assert self.joined is not None
            taken, ledger = self.records, self.joined.ledger
            count = len(taken) // ledger.history.width
            # Counted and taken away with no call in between, at which a Ctrl-C may come: it would lose all of them.
            self.records, ledger.over = [], ledger.over + count
            self.seat.pace.told += count
            ledger.add(self.thread, taken)

    @guarded
    def flush_records_of_another(self) -> None:
        """Let the job take over the records so far. Any other thread: the worker may append meanwhile."""
        if self.records:
            assert self.joined is not None
            taken, ledger = self.records[:], self.joined.ledger
            length = len(taken)
            count = length // ledger.history.width
            # With no call in between, as above; in place, and as many as were copied: what came since stays.
            self.records[:length], ledger.over = [], ledger.over + count
            self.seat.pace.told += count
            ledger.add(self.thread, taken)

    @guarded
    def flush_posted(self) -> None:
        """Let the job count what was posted so far. Any thread."""
        if self.emitted != self.told:
            assert self.joined is not None
            more = self.emitted - self.told  # the worker may raise it meanwhile: what is read once counts once
            self.told += more
            self.seat.pace.told += more
            self.joined.ledger.last += more

    @guarded
    def untold(self) -> int:
        """Return how many calls and emissions the job has not been told of. Any thread: about."""
        run = self.joined
        return 0 if run is None else self.emitted - self.told + len(self.records) // run.ledger.history.width

    # -- after an interruption (lock)

    @guarded
    def counts(self) -> bool:
        """Return whether its scheduler counts this worker: it is no nested one, and has no late call."""
        return not self.depth and self.seat.is_taken

    @guarded
    def has_of(self, run: Run) -> bool:
        """Return whether anything of a job is in these hands."""
        item = self.item
        if item is not None and item[JOB] is run and (self.call is None or not self.call.decided):
            return True
        return self.joined is run

    @guarded
    def permit_of(self) -> Node | None:
        """Return whose permit this worker has."""
        return self.item[INLET].node if self.item is not None and self.permit else None
