"""What a job remembers of its activations: exact totals for each slot, and a ring of the newest records."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from routilux_core.job import ActivationRecord

# What the worker loop notes of an attempt: id, cause, slot number, attempt, outcome, worker, posted, started, ended.
# A tuple of plain numbers is dropped by the garbage collector's lists at its first look, and its memory is used again.
Note = tuple[int, int, int, int, int, int, float, float, float]
OUTCOMES = ("completed", "failed", "skipped", "retried")
INFINITE = float("inf")
COMPLETED, FAILED, SKIPPED, RETRIED = range(4)


class Totals:
    """Counts by outcome, and times in seconds, of everything that one slot ran."""

    __slots__ = ("completed", "failed", "longest", "queue_wait", "retried", "run_time", "shortest", "skipped")

    def __init__(self) -> None:
        self.completed = self.failed = self.skipped = self.retried = 0
        self.run_time = self.queue_wait = self.longest = 0.0
        self.shortest = INFINITE

    @property
    def executions(self) -> int:
        """How many times the handler was called, retries included."""
        return self.completed + self.failed + self.skipped + self.retried

    def add(self, outcome: int, run_time: float, queue_wait: float) -> None:
        """Count one attempt; the worker loop does the same for a call that completed."""
        name = OUTCOMES[outcome]
        setattr(self, name, getattr(self, name) + 1)
        self.run_time += run_time
        self.queue_wait += queue_wait
        self.longest = max(self.longest, run_time)
        self.shortest = min(self.shortest, run_time)


def records(notes: Iterable[Note], name: Callable[[int], tuple[str, str]]) -> Iterable[ActivationRecord]:
    """Yield a record for each note; `name` gives routine id and slot of a slot number."""
    for number, cause, slot, attempt, outcome, worker, posted, started, ended in notes:
        routine_id, slot_name = name(slot)
        yield ActivationRecord(
            id=number,
            cause=cause or None,
            routine_id=routine_id,
            slot=slot_name,
            attempt=attempt,
            outcome=OUTCOMES[outcome],
            worker=worker,
            posted=posted,
            started=started,
            ended=ended,
        )
