"""What one job counts and remembers, as its JobState shows it: ledger, records of activations, failures, outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any

from routilux_core._engine.plan import CAUSE, INLET, NUMBER, POSTED, Inlet, Item, Node
from routilux_core._engine.retries import Retries
from routilux_core._routines.signature import Payload
from routilux_core._threads.visits import is_held_here
from routilux_core._tracking.failures import Failures
from routilux_core._tracking.history import COMPLETED, WIDTH, Chunk, History, activation_records
from routilux_core._tracking.totals import JobSource
from routilux_core.error_handling import Failure, LeftOut
from routilux_core.errors import trace_of

if TYPE_CHECKING:
    from routilux_core._engine.engine import Engine
    from routilux_core._tracking.listeners import Listeners
    from routilux_core.records import ActivationRecord, Ledger
    from routilux_core.routine import Routine
    from routilux_core.tracking import Source

GATHERED = "gathered payloads"  # the key under which a gather slot's arrivals travel to its one call
GRAVITY = {"skipped": 1, "error_continued": 2, "failed": 3}


class LedgerCounts:
    """The counts and records of a job. What is marked "lock" is called with the engine's lock held."""

    __slots__ = (
        "began",
        "collected",
        "decided",
        "discarded",
        "ended_at",
        "engine",
        "failed",
        "failures",
        "final",
        "finished",
        "flow_id",
        "gathered",
        "history",
        "job_id",
        "last",
        "late",
        "listeners",
        "members",
        "merged_by",
        "over",
        "own",
        "paused",
        "placed",
        "record_to",
        "retried",
        "retries",
        "sent",
        "skipped",
        "timed",
        "unconnected",
    )

    def __init__(self, engine: Engine, job_id: str, flow_id: str, history_size: int) -> None:
        self.engine = engine
        self.job_id = job_id
        self.flow_id = flow_id
        # Workers count for themselves what they post and complete, and add it here now and then. So the job can't have
        # ended while one of them, a member, has anything of it in hand.
        self.members = 0
        self.last = 0  # how many activations were posted
        self.over = 0  # how many of them are over, however they ended
        self.failed = self.skipped = self.discarded = self.retried = self.late = 0
        # The hot path counts neither: it sends one emission for each activation that it posts.
        self.placed = self.sent = 0  # activations posted, and emissions sent, by the methods of `Run`
        self.unconnected = self.gathered = 0
        self.paused = self.finished = False
        self.final = "completed"
        self.history = History(history_size, len(engine.inlets))
        self.timed = self.history.timed
        self.failures = Failures(max(history_size, 100))
        self.decided: dict[str, str] = {}  # routine id -> the gravest decision
        self.collected: dict[str, list[Payload]] = {}
        self.retries = Retries(engine.timers)
        self.merged_by: set[int] = set()  # activations that may be tried again and have merged what they brought
        self.own: dict[Node, Node] = {}
        self.began = perf_counter()
        self.ended_at = 0.0
        self.listeners: Listeners | None = None
        self.record_to: Callable[[Chunk], None] | None = None

    # -- records

    def told_in_detail(self) -> Listeners | None:
        """Return the listeners if any of them is told of each call, or of each emission."""
        return self.listeners if self.listeners is not None and self.listeners.details else None

    def record(self, item: Item, outcome: int, worker: int, started: float, ended: float) -> None:
        """Record an attempt, however it ended. Lock."""
        inlet, _, _, number, cause, posted = item
        attempt = self.retries.attempt(number)
        record = (number, cause, inlet.number, attempt, outcome, worker, posted, started, ended)
        self.history.record(record)
        if self.record_to is not None:
            self.record_to(Chunk.of(record))

    def add(self, worker: int, records: list[Any]) -> None:
        """Count completed activations of a worker, and record them. Lock."""
        self.over += len(records) // self.history.width
        if self.record_to is not None:
            self.record_to(Chunk(worker, records))
        self.history.add(worker, records)

    def complete(
        self,
        items: list[Item],
        worker: int,
        started: list[float],
        ended: list[float],
    ) -> None:
        """Record and count activations of one slot that have completed; their permits are not given back. Lock."""
        if self.merged_by:
            self.merged_by.difference_update(item[NUMBER] for item in items)
        if self.retries.attempts or not self.timed:
            for item, began, end in zip(items, started, ended, strict=True):
                self.record(item, COMPLETED, worker, began, end)
                self.retries.forget(item[NUMBER])
            self.over += len(items)
            return
        flat: list[Any] = [items[0][INLET].number] * (
            len(items) * WIDTH
        )  # filled by columns, which is the quickest way
        flat[0::WIDTH] = [item[NUMBER] for item in items]
        flat[1::WIDTH] = [item[CAUSE] for item in items]
        flat[3::WIDTH] = [item[POSTED] for item in items]
        flat[4::WIDTH], flat[5::WIDTH] = started, ended
        self.add(worker, flat)

    def is_listened_to(self) -> bool:
        """Return whether a listener waits for records, and has not asked for them in time. Lock."""
        return self.record_to is not None and self.listeners is not None and not self.listeners.armed

    @contextmanager
    def up_to_date(self) -> Iterator[None]:
        """Hold the lock, with everything that workers have counted so far.

        A signal handler that reads in the middle of a step of its own thread finds what was counted before that.
        """
        interrupted = is_held_here(self.engine.lock)
        with self.engine.lock:
            if not interrupted:
                self.collect()
            yield

    def collect(self) -> None:
        """Add what workers have counted for themselves so far. Lock.

        What was completed first, what was posted second: so no activation is counted as over that is not as posted.
        """
        workers = [worker for worker in self.engine.hands() if worker.joined is self]
        try:
            for worker in workers:
                worker.flush_records_of_another()
            for worker in workers:
                worker.flush_posted()
        except BaseException:  # a signal handler has raised
            self.engine.hurt = True
            raise

    def failure(
        self, inlet: Inlet, payload: Payload, number: int, error: BaseException, emitted: int = 0, trace: str = ""
    ) -> Failure:
        """Return the record of an exception, not decided yet; `trace` is its traceback where that is text already."""
        return Failure(
            job_id=self.job_id,
            routine_id=inlet.node.routine_id,
            slot=inlet.name,
            attempt=self.retries.attempt(number),
            exception=error,
            traceback=trace or trace_of(error),
            payload_keys=tuple(dict.fromkeys(key for each in payload.get(GATHERED, (payload,)) for key in each)),
            policy=inlet.node.policy,
            emitted=emitted,
        )

    def note_failure(self, failure: Failure, state: str | None) -> None:
        """Record a failure with its decision. Lock."""
        self.failures.note(failure)
        if state is not None and GRAVITY[state] > GRAVITY.get(self.decided.get(failure.routine_id, ""), 0):
            self.decided[failure.routine_id] = state

    @property
    def emitted(self) -> int:
        """How many emissions were sent. Lock."""
        return self.last - self.placed + self.sent

    @property
    def pending(self) -> int:
        """How many activations are queued, running or waiting. Lock."""
        return self.last - self.over

    # -- what the JobState shows

    def status(self) -> str:
        if self.finished:
            return self.final
        return "paused" if self.paused else "running"

    def errors(self) -> list[Failure]:
        with self.engine.lock:
            return self.failures.kept()

    def left_out(self) -> LeftOut:
        return self.failures.left_out()

    def outputs(self) -> dict[str, list[Payload]]:
        with self.engine.lock:
            return {name: list(payloads) for name, payloads in self.collected.items()}

    def ledger(self) -> Ledger:
        from routilux_core.records import Ledger

        with self.up_to_date():
            return Ledger(
                posted=self.last,
                completed=self.over - self.failed - self.skipped - self.discarded,
                failed=self.failed,
                skipped=self.skipped,
                discarded=self.discarded,
                pending=self.pending,
                retried=self.retried,
                emitted=self.emitted,
                unconnected=self.unconnected,
                gathered=self.gathered,
            )

    def routines(self) -> Mapping[str, Routine]:
        with self.engine.lock:
            own = {node.routine_id: twin.routine for node, twin in self.own.items()}
            return {name: own.get(name, node.routine) for name, node in self.engine.nodes.items()}

    def routine_states(self) -> dict[str, str]:
        with self.up_to_date():
            inlets, totals = self.engine.inlets, self.history.totals()
            states = {inlets[slot].node.routine_id: "completed" for slot, total in totals.items() if total.completed}
            return {**states, **self.decided}

    def history_of(self, routine_id: str | None) -> list[ActivationRecord]:
        inlets = self.engine.inlets
        with self.up_to_date():
            newest = self.history.newest()
        found = activation_records(newest, lambda number: (inlets[number].node.routine_id, inlets[number].name))
        return [record for record in found if routine_id in (None, record.routine_id)]

    def wall(self) -> float:
        """Return the seconds that the job has taken so far."""
        return (self.ended_at or perf_counter()) - self.began

    def source(self) -> Source:
        return JobSource(self)

    def late_emissions(self) -> int:
        return self.late
