"""What a job remembers of its activations: exact totals for each slot, and a ring of the newest records."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from attrs import define

from routilux_core.job import ActivationRecord

# One activation is this many numbers in a row of a flat list: a list of numbers costs the garbage collector nothing,
# a tuple for each activation would be visited again and again.
FIELDS = 9  # id, cause, slot number, attempt, outcome, worker, posted, started, ended
OUTCOMES = ("completed", "failed", "skipped", "retried")
COMPLETED, FAILED, SKIPPED, RETRIED = range(4)


@define(eq=False)
class Totals:
    """Counts by outcome, and times in seconds, of everything that one slot ran."""

    counts: list[int]
    run_time: float = 0.0
    queue_wait: float = 0.0
    shortest: float = float("inf")
    longest: float = 0.0

    @property
    def executions(self) -> int:
        """How many times the handler was called, retries included."""
        return sum(self.counts)


class History:
    """Folds the numbers that workers noted into totals, and keeps the newest `size` of them."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.totals: dict[float, Totals] = {}
        self._newest: list[float] = []
        self._lock = threading.Lock()

    def fold(self, notes: list[float]) -> None:
        """Add a batch of notes, in the order in which the activations ended. From any thread."""
        with self._lock:
            self._count(notes)
            self._newest += notes[-self.size * FIELDS :] if self.size else ()
            if len(self._newest) > 2 * self.size * FIELDS:
                del self._newest[: -self.size * FIELDS]

    def _count(self, notes: list[float]) -> None:
        totals = self.totals
        columns = (notes[2::FIELDS], notes[4::FIELDS], notes[6::FIELDS], notes[7::FIELDS], notes[8::FIELDS])
        for number, outcome, posted, started, ended in zip(*columns, strict=True):
            total = totals.get(number)
            if total is None:
                total = totals[number] = Totals([0, 0, 0, 0])
            total.counts[int(outcome)] += 1
            run_time = ended - started
            total.run_time += run_time
            total.queue_wait += started - posted
            if run_time > total.longest:
                total.longest = run_time
            if run_time < total.shortest:
                total.shortest = run_time

    def records(self, name: Callable[[int], tuple[str, str]]) -> list[ActivationRecord]:
        """Return the newest records, oldest first; `name` gives routine id and slot of a slot number."""
        with self._lock:
            newest = self._newest[-self.size * FIELDS :] if self.size else []
        return list(_records(newest, name))


def _records(notes: list[float], name: Callable[[int], tuple[str, str]]) -> Iterable[ActivationRecord]:
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
