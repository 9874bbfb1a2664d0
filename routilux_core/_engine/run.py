"""One job's run: posting, gathering, and how it stops and ends."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from contextvars import Context
from time import perf_counter
from typing import TYPE_CHECKING

from routilux_core._engine.ending import Ending
from routilux_core._engine.engine import Engine
from routilux_core._engine.ledger import LedgerCounts
from routilux_core._engine.merging import SlotMemory
from routilux_core._engine.plan import CAUSES, INLET, JOB, NUMBER, PAYLOAD, Inlet, Item, Node, Outlet, arrived, rename
from routilux_core._engine.retries import Retries
from routilux_core._engine.roles import BookRole, SchedulerRole
from routilux_core._routines.signature import Payload
from routilux_core._threads.guard import guarded
from routilux_core._threads.visits import Visit
from routilux_core._tracking.history import DISCARDED, RETRIED
from routilux_core._tracking.payloads import Payloads
from routilux_core.error_handling import Decision, ErrorStrategy, Failure

if TYPE_CHECKING:
    from routilux_core._tracking.listeners import Listeners


class Run:
    """The live side of a job."""

    __slots__ = (
        "admit",
        "book",
        "context",
        "decide",
        "ended",
        "ending",
        "engine",
        "halted",
        "is_fast",
        "job_id",
        "ledger",
        "listeners",
        "may_emit_fast",
        "numbers",
        "own",
        "parked",
        "paused",
        "retries",
        "slots",
        "stopped",
        "swept",
        "timed",
    )

    def __init__(self, engine: Engine, job_id: str, history_size: int, context: Context | None) -> None:
        self.engine = engine
        self.job_id = job_id
        self.retries = Retries(engine.timers)
        self.ledger = LedgerCounts(job_id, self.retries, history_size, len(engine.inlets))
        self.timed = self.ledger.history.timed
        self.paused = False
        self.book: BookRole | None = None  # what a journal has of the job, if the flow has one
        self.own: dict[Node, Node] = {}  # its own twins of nodes with `scope="job"`
        self.listeners: Listeners | None = None
        self.context = context
        self.is_fast = context is None  # whether calling a handler is no more than that: the loop looks at nothing else
        self.may_emit_fast = True  # whether an emission needs no further thought
        self.numbers = itertools.count(1)  # of activations
        self.stopped = self.halted = self.ended = False
        self.ending = Ending()
        self.slots = SlotMemory()
        self.parked: list[Item] = []  # what workers came upon while the job was paused
        self.swept: set[int] = set()  # counted as discarded, but still in the lane of a worker that works alone
        self.decide: Callable[[Failure], Decision] | None = None  # what plugins say to an exception, if any may
        # What plugins say to a call before it is made, if any may: the activation, and who is to make the call.
        self.admit: Callable[[Item, int], Decision | None] | None = None

    def listen(self, listeners: Listeners) -> None:
        """Tell these about the job; said once, before anything is posted."""
        self.listeners = listeners
        if listeners.counts:
            self.timed = True
            self.ledger.history.time(True)
            self.ledger.recorder = listeners
        self.halted = listeners.starts  # nothing runs before they have been told
        self.refresh_flags()

    def ask_before_calls(self, admit: Callable[[Item, int], Decision | None]) -> None:
        """Ask before each call; said once, before anything is posted."""
        self.admit = admit
        self.refresh_flags()

    def keep_payloads(self, payloads: Payloads) -> None:
        """Keep what handlers are called with; said once, before anything is posted."""
        self.ledger.payloads = payloads
        self.refresh_flags()

    def leave(self) -> None:
        """Do nothing more, and tell nobody: this is a fork, and the job is the parent's."""
        self.listeners = self.ledger.recorder = None
        self.stopped, self.halted = True, False
        self.refresh_flags()

    def told_in_detail(self) -> Listeners | None:
        """Return the listeners if any of them is told of each call, or of each emission."""
        return self.listeners if self.listeners is not None and self.listeners.details else None

    def refresh_flags(self) -> None:
        """Work out `may_emit_fast` and `is_fast`. Under the lock, or before anything is posted."""
        self.may_emit_fast = not self.stopped and (self.listeners is None or not self.listeners.details)
        plain = self.context is None and self.admit is None and not self.retries.may_retry
        plain = plain and self.ledger.payloads is None and self.book is None
        self.is_fast = self.may_emit_fast and not self.halted and plain

    # -- posting (lock)

    @guarded
    def post(self, inlet: Inlet, payload: Payload, cause: int, now: float) -> None:
        """Queue one activation, or keep what arrives at a gather slot."""
        if inlet.node.per_job:
            inlet = self.node_for(inlet.node).inlets[inlet.name]
        if inlet.gathers:
            self.ledger.gathered += 1
            if not self.stopped:
                self.slots.gather(inlet, payload, cause if self.keeps_causes else 0)
            return
        self._queue(inlet, payload, cause, now)

    @property
    def keeps_causes(self) -> bool:
        """Whether somebody is told by what a gather slot was called."""
        return self.listeners is not None or self.admit is not None

    def _queue(self, inlet: Inlet, payload: Payload, cause: int, now: float) -> int:
        ledger = self.ledger
        ledger.last += 1
        ledger.placed += 1
        if self.stopped:
            ledger.discard(1)
            return 0
        number = next(self.numbers)
        self.put(inlet, payload, number, cause, now)
        return number

    @guarded
    def put(self, inlet: Inlet, payload: Payload, number: int, cause: int, now: float) -> None:
        """Queue an activation that is counted as posted."""
        scheduler = inlet.node.scheduler
        inlet.node.queue.append((inlet, payload, self, number, cause, now))
        if inlet.node.waits is not None:
            scheduler.admit(inlet.node)
        elif scheduler.crew.active < scheduler.crew.workers and not (scheduler.crew.recruiting or scheduler.crew.held):
            scheduler.crew.want_worker()

    @guarded
    def post_numbered(self, inlet: Inlet, payload: Payload, number: int, cause: int, now: float) -> None:
        """Queue an activation that has its number already, since a journal had it first."""
        self.ledger.last += 1
        self.ledger.placed += 1
        self.put(inlet, payload, number, cause, now)

    @guarded
    def send(self, outlet: Outlet, data: Payload, cause: int, now: float) -> None:
        """Post one emission to everything that it is connected to."""
        self.ledger.sent += 1
        if outlet.is_fast and not self.stopped:
            self._send_plainly(outlet, data, cause, now)
            return
        for inlet, mapping in outlet.targets:
            self.post(inlet, data if mapping is None else rename(data, mapping), cause, now)
        if outlet.outputs and not self.stopped:
            for name in outlet.outputs:
                self.ledger.collected.setdefault(name, []).append(dict(data))
            if self.ledger.readers:
                self.ledger.wake_readers()
        elif not outlet.targets:
            self.ledger.unconnected += 1

    @guarded
    def collect(self, outlet: Outlet, data: Payload) -> None:
        """Do for an emission what `send` does behind its targets: a journal had it first, and has sent it to those."""
        # `send` has the same lines: a call of its own would make each emission dearer that nobody journals.
        if outlet.outputs and not self.stopped:
            for name in outlet.outputs:
                self.ledger.collected.setdefault(name, []).append(dict(data))
            if self.ledger.readers:
                self.ledger.wake_readers()
        elif not outlet.targets:
            self.ledger.unconnected += 1

    def _send_plainly(self, outlet: Outlet, data: Payload, cause: int, now: float) -> None:
        # `post` for targets that need no further thought: a fan of a thousand holds the lock for less time.
        numbers = self.numbers
        self.ledger.last += len(outlet.targets)
        self.ledger.placed += len(outlet.targets)
        for inlet, _ in outlet.targets:
            node = inlet.node
            node.queue.append((inlet, data, self, next(numbers), cause, now))
            if node.waits is not None:
                node.waits.admit(node.scheduler.ready.first)
        for scheduler in self.engine.schedulers:
            scheduler.crew.want_worker()

    @guarded
    def send_all(self, outlet: Outlet, payloads: list[Payload], causes: Iterable[int], now: float) -> None:
        """Post emissions of one event, each with the activation that caused it. Nobody else has the payloads."""
        lone = outlet.targets[0][0] if outlet.is_fast and len(outlet.targets) == 1 else None
        if self.stopped or (lone is None and (outlet.targets or len(outlet.outputs) > 1)):
            for data, cause in zip(payloads, causes, strict=True):
                self.send(outlet, data, cause, now)
            return
        count = len(payloads)
        self.ledger.sent += count
        for name in outlet.outputs:
            self.ledger.collected.setdefault(name, []).extend(payloads)
        if self.ledger.readers and outlet.outputs:
            self.ledger.wake_readers()
        if lone is not None:
            numbers, ledger = self.numbers, self.ledger
            ledger.last, ledger.placed = ledger.last + count, ledger.placed + count  # before others see them
            lone.node.queue.extend(
                zip(itertools.repeat(lone), payloads, itertools.repeat(self), numbers, causes, itertools.repeat(now))
            )  # payloads end first
            lone.node.scheduler.admit(lone.node)
        elif not outlet.outputs:
            self.ledger.unconnected += count

    def node_for(self, node: Node) -> Node:
        """Return this job's own twin of a node with `scope="job"`. Under the lock, or before anything is posted."""
        twin = self.own.get(node)
        if twin is None:
            twin = self.own[node] = node.for_job()
        return twin

    # -- the end of an activation (lock)

    @guarded
    def end_if_idle(self) -> bool:
        """Nothing is queued, running or waiting: call the next gather slot, or end. True if the job ended."""
        if self.ended:
            return False
        ledger = self.ledger
        if ledger.doubtful:
            if self.retries or self.parked or self.engine.has_of(self):
                return False
            if ledger.write_off() and not self.stopped:
                self.stopped, ledger.final = True, "failed"
        elif ledger.members or ledger.over != ledger.last:
            return False
        if self.slots.arrivals and not self.stopped:
            found = self.slots.next_gathered(self.engine.gather_order, self.own)
            if found is not None:
                number = self._queue(*found, 0, perf_counter())
                if self.book is not None:
                    self.book.gather(number, found[0])
                if self.listeners is not None:
                    self.listeners.causes[number] = tuple(found[1][CAUSES])
            return False
        self.ended = True
        ledger.span.ended = perf_counter()
        return True

    @guarded
    def doubt(self) -> None:
        """Let what there really is decide about the end, from now on: the counts may be wrong."""
        self.ledger.doubtful = True
        if self.book is not None and not self.ended:  # what is in the journal is right: another process goes on with it
            self.book.detach()
            self.stop("cancelled")
        elif self.stopped and not self.ended:
            self._discard_all()

    @guarded
    def settle(self, item: Item, outcome: int, delay: float, permit: bool = True) -> None:
        """Count an activation that did not simply complete, and give its permit back if it is over.

        Without `permit` a call that is late still has it.
        """
        node = item[INLET].node
        if outcome == RETRIED and not self.stopped:
            self.ledger.retried += 1
            kept = self.retries.add(item, delay, permit)
            self.refresh_flags()
            if self.book is not None:
                self.book.settle(item, outcome, delay)
            if permit and not kept:
                node.scheduler.ready.release(node)
            return
        if outcome == RETRIED:  # the job was stopped since that was decided: discarded, as waiting ones are
            self.ledger.retried += 1
            outcome = DISCARDED
        if self.book is not None:
            self.book.settle(item, outcome, delay)
        self.retries.forget(item[NUMBER])
        self.ledger.count(outcome)
        if permit:
            node.scheduler.ready.release(node)

    @guarded
    def set_aside(self, item: Item, permit: bool) -> None:
        """Keep an activation of a paused job that a worker came upon."""
        if permit and self.retries.park(item):
            return
        self.parked.append(item)
        if permit:
            item[INLET].node.scheduler.ready.release(item[INLET].node)

    # -- stop, pause (lock)

    @guarded
    def stop(self, status: str) -> None:
        """Discard everything that has not started, and count it; what runs ends.

        From here on no worker commits to an activation of this job: each looks at `is_fast` or `stopped` with the item
        in hand, and the handler is what it calls next. One that looked just before goes on, and nobody waits for it.
        """
        if self.stopped or self.ended:
            return
        self.stopped, self.halted, self.ledger.final = True, False, status
        self.refresh_flags()
        self._discard_all()

    @guarded
    def _discard_all(self) -> None:
        """Discard and count what has not started, of a stopped job."""
        gone = self.engine.drop(self) + self.parked + self.retries.give_up()
        self.parked, self.slots.arrivals, self.slots.causes = [], {}, {}
        self.ledger.discard(len(gone))
        if self.book is not None:
            self.book.stop(self.ledger.final, [item[NUMBER] for item in gone])
        for scheduler in self.engine.schedulers:
            scheduler.crew.want_worker()

    @guarded
    def fail_with(self, error: BaseException, entry: Inlet) -> None:
        """Let a job that has ended have failed after all, and say why."""
        failure = self.ledger.failure((entry, {}, self, 1, 0, 0.0), error)
        failure.decision = ErrorStrategy.STOP
        self.ledger.note_failure(failure, None)
        self.ledger.final = "failed"

    @guarded
    def lost(self, scheduler: SchedulerRole, error: BaseException) -> None:
        """The executor of a queue broke: what this job has there fails."""
        boxes = (node.mailbox for node in self.engine.all_nodes() if node.scheduler is scheduler)
        behind = (item for mailbox in boxes for item in mailbox.waiting.copy())  # emitters may append, without the lock
        mine = [item for item in (*scheduler.ready.queued(), *behind) if item[JOB] is self]
        if not mine:
            return
        failure = self.ledger.failure(mine[0], error)
        failure.decision = ErrorStrategy.STOP
        self.ledger.note_failure(failure, "failed")
        if self.listeners is not None:
            self.listeners.failure_decided_here(failure, arrived(mine[0][PAYLOAD]))
        self.stop("failed")
        self.end_if_idle()

    @guarded
    def unpark(self) -> None:
        """Put what was set aside back before everything else of this job, in the order posted."""
        self.refresh_flags()
        self.retries.unpark()
        if self.parked:
            back = sorted(self.parked + self.engine.drop(self), key=lambda item: item[NUMBER])
            self.parked.clear()
            for scheduler in self.engine.schedulers:
                scheduler.ready.put_back([item for item in back if item[INLET].node.scheduler is scheduler])
        for scheduler in self.engine.schedulers:
            scheduler.crew.want_worker()

    def abort(self, kill: bool = False) -> None:
        """Cancel, also in the middle of a call into the engine, whose own this is."""
        with Visit(self.engine):
            with self.engine.step():
                self.paused = False
                self.stop("cancelled")
                self.end_if_idle()
            for scheduler in self.engine.schedulers:
                scheduler.revoke(self)
                if kill:
                    scheduler.kill(self)
            self.engine.settle([self])
