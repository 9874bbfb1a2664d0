"""What a job remembers of its activations: exact totals for each slot, and a ring of the newest records."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from routilux_core.job import ActivationRecord

# In the ring, one activation is this many numbers in a row of a flat list: a list of numbers costs the garbage
# collector nothing, while a tuple for each activation would be visited again and again.
FIELDS = 9  # id, cause, slot number, attempt, outcome, worker, posted, started, ended
OUTCOMES = ("completed", "failed", "skipped", "retried")
COMPLETED, FAILED, SKIPPED, RETRIED = range(4)


class Totals:
    """Counts by outcome, and times in seconds, of everything that one slot ran."""

    __slots__ = ("completed", "failed", "longest", "queue_wait", "retried", "run_time", "shortest", "skipped")

    def __init__(self) -> None:
        self.completed = self.failed = self.skipped = self.retried = 0
        self.run_time = self.queue_wait = self.longest = 0.0
        self.shortest = float("inf")

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


def records(notes: list[float], name: Callable[[int], tuple[str, str]]) -> Iterable[ActivationRecord]:
    """Yield the records in a flat list of notes; `name` gives routine id and slot of a slot number."""
    for at in range(0, len(notes), FIELDS):
        number, cause, slot, attempt, outcome, worker, posted, started, ended = notes[at : at + FIELDS]
        routine_id, slot_name = name(int(slot))
        yield ActivationRecord(
            id=int(number),
            cause=int(cause) or None,
            routine_id=routine_id,
            slot=slot_name,
            attempt=int(attempt),
            outcome=OUTCOMES[int(outcome)],
            worker=int(worker),
            posted=posted,
            started=started,
            ended=ended,
        )
