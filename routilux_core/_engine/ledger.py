"""What one job counts and remembers, as its JobState shows it: ledger, records of activations, failures, outputs."""

from __future__ import annotations

from time import perf_counter, time
from typing import Any, Protocol

from routilux_core._engine.plan import CAUSE, GATHERED, INLET, NUMBER, PAYLOAD, POSTED, Item, arrived
from routilux_core._engine.retries import Retries
from routilux_core._routines.signature import Payload
from routilux_core._threads.completion import Completion
from routilux_core._threads.guard import guarded
from routilux_core._tracking.failures import Failures
from routilux_core._tracking.history import COMPLETED, DISCARDED, FAILED, SKIPPED, WIDTH, Chunk, History
from routilux_core._tracking.payloads import Payloads
from routilux_core.error_handling import Failure
from routilux_core.errors import PayloadError, trace_of
from routilux_core.job import ROUTINE_STATES

GRAVITY = {state: rank for rank, state in enumerate(ROUTINE_STATES)}


class Recorder(Protocol):
    """Who is told of records. While `armed` it asks for what workers have counted for themselves in time."""

    armed: bool

    def record(self, chunk: Chunk, /) -> None: ...


class Span:
    """When a job began and ended: by `perf_counter`, and `..._at` by the clock of the day, which may be set meanwhile.

    So the end by the clock of the day is worked out from what has passed since the beginning; of a job that was
    recovered, since it was.
    """

    __slots__ = ("_clock", "began", "began_at", "ended")

    def __init__(self) -> None:
        self.began = perf_counter()
        self.began_at = self._clock = time()
        self.ended = 0.0  # while it runs

    def ended_at(self) -> float | None:
        """Return when it ended, which is never before it began; None while it runs."""
        return max(self.began_at, self._clock + self.ended - self.began) if self.ended else None

    def seconds(self) -> float:
        """Return how long the job has taken so far."""
        return (self.ended or perf_counter()) - self.began


class LedgerCounts:
    """The counts and records of a job."""

    __slots__ = (
        "_job_id",
        "_retries",
        "collected",
        "decided",
        "discarded",
        "doubtful",
        "failed",
        "failures",
        "final",
        "finished",
        "gathered",
        "history",
        "last",
        "late",
        "members",
        "over",
        "payloads",
        "placed",
        "readers",
        "reason",
        "recorder",
        "retried",
        "sent",
        "skipped",
        "span",
        "unconnected",
    )

    def __init__(self, job_id: str, retries: Retries, history_size: int, inlets: int) -> None:
        self._job_id, self._retries = job_id, retries
        # Workers count for themselves what they post and complete, and add it here now and then. So the job can't have
        # ended while one of them, a member, has anything of it in hand.
        self.members = 0
        self.last = 0  # how many activations were posted
        self.over = 0  # how many of them are over, however they ended
        self.failed = self.skipped = self.discarded = self.retried = self.late = 0
        # The hot path counts neither: it sends one emission for each activation that it posts.
        self.placed = self.sent = 0  # activations posted, and emissions sent, by the methods of `Run`
        self.unconnected = self.gathered = 0
        self.doubtful = False  # an exception interrupted the engine: it may have counted what is not there
        self.finished = False  # the end is being announced
        self.final = "completed"  # the status then
        self.reason = ""  # given when it was last paused or cancelled
        self.history = History(history_size, inlets)
        self.failures = Failures(max(history_size, 100))
        self.decided: dict[str, str] = {}  # routine id -> the gravest decision
        self.collected: dict[str, list[Payload]] = {}
        self.readers: list[Completion] = []  # of who waits for more of it: see `streaming`
        self.span = Span()
        self.recorder: Recorder | None = None
        self.payloads: Payloads | None = None  # where the flow keeps what calls were given

    # -- counts

    @guarded
    def discard(self, count: int) -> None:
        """Count what was posted and will not run, since the job was stopped."""
        self.over += count  # no step in between, at which a signal handler could read the books
        self.discarded += count

    @guarded
    def refuse(self) -> None:
        """Count an emission of a stopped job, which is not delivered."""
        self.last += 1
        self.over += 1
        self.discarded += 1

    @guarded
    def count(self, outcome: int) -> None:
        """Count an activation that is over."""
        self.over += 1
        if outcome == SKIPPED:
            self.skipped += 1
        elif outcome == DISCARDED:
            self.discarded += 1
        elif outcome == FAILED:
            self.failed += 1

    @guarded
    def wake_readers(self) -> None:
        """Wake who waits for more outputs: they look for themselves, and list themselves again."""
        readers, self.readers = self.readers, []
        for each in readers:
            each.set()

    @guarded
    def write_off(self) -> bool:
        """Count as discarded what was counted as posted, and is not there: an exception came in between.

        Return whether there was any.
        """
        lost = self.last - self.over
        self.over = self.last = max(self.last, self.over)
        self.members = 0
        self.discarded += max(0, lost)
        return lost > 0

    # -- records

    @guarded
    def record(self, item: Item, outcome: int, worker: int, started: float, ended: float) -> None:
        """Record an attempt, however it ended."""
        inlet, _, _, number, cause, posted = item
        attempt = self._retries.attempt(number)
        record = (number, cause, inlet.number, attempt, outcome, worker, posted, started, ended)
        if self.payloads is not None:
            self.payloads.end_of(number, arrived(item[PAYLOAD]))
        self.history.record(record)
        if self.recorder is not None:
            self.recorder.record(Chunk.of(record))

    @guarded
    def add(self, worker: int, records: list[Any]) -> None:
        """Record completed activations of a worker, which have just been counted as over."""
        if self.payloads is not None:
            self.payloads.end(records[::WIDTH])
        if self.recorder is not None:
            self.recorder.record(Chunk(worker, records))
        self.history.add(worker, records)

    @guarded
    def complete(
        self,
        items: list[Item],
        worker: int,
        started: list[float],
        ended: list[float],
    ) -> None:
        """Record and count activations of one slot that have completed; their permits are not given back."""
        if self._retries.merged:
            self._retries.merged.difference_update(item[NUMBER] for item in items)
        if self._retries.attempts or not self.history.timed:
            for item, began, end in zip(items, started, ended, strict=True):
                self.record(item, COMPLETED, worker, began, end)
                self._retries.forget(item[NUMBER])
            self.over += len(items)
            return
        flat: list[Any] = [items[0][INLET].number] * (
            len(items) * WIDTH
        )  # filled by columns, which is the quickest way
        flat[0::WIDTH] = [item[NUMBER] for item in items]
        flat[1::WIDTH] = [item[CAUSE] for item in items]
        flat[3::WIDTH] = [item[POSTED] for item in items]
        flat[4::WIDTH], flat[5::WIDTH] = started, ended
        self.over += len(items)
        self.add(worker, flat)

    @guarded
    def is_listened_to(self) -> bool:
        """Return whether a listener waits for records, and has not asked for them in time."""
        return self.recorder is not None and not self.recorder.armed

    def failure(self, item: Item, error: BaseException, emitted: int = 0, trace: str = "") -> Failure:
        """Return the record of an exception, not decided yet; `trace` is its traceback where that is text already."""
        inlet, payload, _, number, cause, _ = item
        if number == 1 and isinstance(error, PayloadError):
            error = error.at_entry().with_traceback(error.__traceback__)
        return Failure(
            job_id=self._job_id,
            routine_id=inlet.node.routine_id,
            slot=inlet.name,
            activation=number,
            cause=cause or None,
            attempt=self._retries.attempt(number),
            exception=error,
            traceback=trace or trace_of(error),
            payload_keys=tuple(dict.fromkeys(key for each in payload.get(GATHERED, (payload,)) for key in each)),
            policy=inlet.node.policy,
            emitted=emitted,
        )

    @guarded
    def note_failure(self, failure: Failure, state: str | None) -> None:
        """Record a failure with its decision."""
        self.failures.note(failure)
        if state is not None and GRAVITY[state] > GRAVITY.get(self.decided.get(failure.routine_id, ""), 0):
            self.decided[failure.routine_id] = state

    @property
    @guarded
    def emitted(self) -> int:
        """How many emissions were sent."""
        return self.last - self.placed + self.sent

    @property
    @guarded
    def pending(self) -> int:
        """How many activations are queued, running or waiting."""
        return self.last - self.over
