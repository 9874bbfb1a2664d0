"""What a job remembers of its activations: exact totals for each slot, and a ring of the newest records."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any

from routilux_core.job import ActivationRecord

# What the worker loop notes of an attempt: id, cause, slot number, attempt, outcome, worker, posted, started, ended.
# A tuple of plain numbers is dropped by the garbage collector's lists at its first look, and its memory is used again.
Note = tuple[int, int, int, int, int, int, float, float, float]
FRESH = 1000  # notes that wait to be added up
OUTCOMES = ("completed", "failed", "skipped", "retried")
INFINITE = float("inf")
COMPLETED, FAILED, SKIPPED, RETRIED = range(4)
DISCARDED = 4  # the job was stopped between taking an activation and calling its handler: it leaves no record


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

    def add(self, outcome: int, count: int = 1) -> None:
        """Count attempts by their outcome."""
        name = OUTCOMES[outcome]
        setattr(self, name, getattr(self, name) + count)


class History:
    """The totals by slot number, and the newest notes. Everything here needs the dispatcher's lock.

    The worker loop appends to `fresh` and does no more: adding up is put off until somebody asks, or `FRESH` notes
    lie there. Without records (`size` 0) no times are measured, and `fresh` holds the slot numbers of completed calls.
    """

    __slots__ = ("_newest", "_totals", "fresh", "timed")

    def __init__(self, size: int) -> None:
        self.timed = size > 0
        self.fresh: list[Any] = []
        self._newest: deque[Note] = deque(maxlen=size)
        self._totals: dict[int, Totals] = {}

    def note(self, note: Note) -> None:
        """Note an attempt, however it ended."""
        if self.timed:
            self.fresh.append(note)
        else:
            self._of(note[2]).add(note[4])

    def fold(self) -> None:
        """Add up what is fresh."""
        if self.timed:
            self._fold_times()
            self._newest.extend(self.fresh)
        else:
            for slot, count in Counter(self.fresh).items():
                self._of(slot).add(COMPLETED, count)
        self.fresh.clear()

    def _fold_times(self) -> None:
        last, total = -1, Totals()
        for _, _, slot, _, outcome, _, posted, started, ended in self.fresh:
            if slot != last:
                last, total = slot, self._of(slot)
            run_time = ended - started
            total.run_time += run_time
            total.queue_wait += started - posted
            if run_time > total.longest:
                total.longest = run_time
            if run_time < total.shortest:
                total.shortest = run_time
            if outcome:
                total.add(outcome)
            else:
                total.completed += 1

    def _of(self, slot: int) -> Totals:
        total = self._totals.get(slot)
        if total is None:
            total = self._totals[slot] = Totals()
        return total

    def totals(self) -> dict[int, Totals]:
        """Return the totals by slot number, up to date."""
        self.fold()
        return self._totals

    def newest(self) -> list[Note]:
        """Return the newest notes, oldest first."""
        self.fold()
        return list(self._newest)


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
