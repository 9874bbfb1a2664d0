"""What a job remembers of its activations: exact totals for each slot, and a ring of the newest records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from attrs import define

from routilux_core.job import ActivationRecord

# What the worker loop notes of an attempt: id, cause, slot number, attempt, outcome, worker, posted, started, ended.
# A tuple of plain numbers is dropped by the garbage collector's lists at its first look, and its memory is used again.
Note = tuple[int, int, int, int, int, int, float, float, float]
FRESH = 1000  # notes beyond the newest that wait to be added up
OUTCOMES = ("completed", "failed", "skipped", "retried")
COUNTS = 4  # where the counts begin in a list of sums
COMPLETED, FAILED, SKIPPED, RETRIED = range(4)
DISCARDED = 4  # the job was stopped between taking an activation and calling its handler: it leaves no record
LATE = 5  # the time of the call was over before it returned, and all was noted then


@define(eq=False, kw_only=True)
class Totals:
    """Counts by outcome, and times in seconds, of everything that one slot ran."""

    completed: int = 0
    failed: int = 0
    skipped: int = 0
    retried: int = 0
    run_time: float = 0.0
    queue_wait: float = 0.0
    longest: float = 0.0
    shortest: float = 0.0

    @property
    def executions(self) -> int:
        """How many times the handler was called, retries included."""
        return self.completed + self.failed + self.skipped + self.retried


class History:
    """The newest notes, and the sums of those before them, by slot number. All of it needs the dispatcher's lock.

    The worker loop appends to `notes` and does no more: the oldest are added up, and dropped, some hundreds at a time.
    Without records (`size` 0) no times are measured, and `notes` holds the slot numbers of completed calls.
    """

    __slots__ = ("_size", "_sums", "full", "notes", "timed")

    def __init__(self, size: int) -> None:
        self.timed = size > 0
        self.notes: list[Any] = []
        self.full = size + FRESH  # notes at which it is time to `fold`
        self._size = size  # a listener lets times be measured also where nothing is kept
        self._sums: dict[int, list[Any]] = {}

    def note(self, note: Note) -> None:
        """Note an attempt, however it ended."""
        if self.timed:
            self.notes.append(note)
        else:
            _count(self._sums, note[2], note[4], 1)

    def note_all(self, notes: Iterable[Note]) -> None:
        """Note several attempts."""
        if self.timed:
            self.notes.extend(notes)
        else:
            for note in notes:
                self.note(note)

    def fold(self) -> None:
        """Add up all notes but the newest, and drop them."""
        keep = len(self.notes) - self._size
        if keep > 0:
            self._add_up(self.notes[:keep], self._sums)
            del self.notes[:keep]

    def _add_up(self, notes: list[Any], sums: dict[int, list[Any]]) -> None:
        if self.timed:
            _add_times(notes, sums)
        else:
            for slot, count in Counter(notes).items():
                _count(sums, slot, COMPLETED, count)

    def absorb(self, other: History) -> None:
        """Take over what another one, which is not added to any more, has."""
        _add_sums(other._sums, self._sums)
        if other.timed == self.timed:
            self.notes.extend(other.notes)
            if len(self.notes) >= self.full:
                self.fold()
        else:
            other._add_up(other.notes, self._sums)

    def totals(self, *others: History) -> dict[int, Totals]:
        """Return the totals by slot number, as of now: its own, and those of others."""
        sums: dict[int, list[Any]] = {}
        for history in (self, *others):
            _add_sums(history._sums, sums)
            history._add_up(history.notes, sums)
        names = ("run_time", "queue_wait", "longest", "shortest", *OUTCOMES)
        return {slot: Totals(**dict(zip(names, numbers, strict=True))) for slot, numbers in sums.items()}

    def newest(self) -> list[Note]:
        """Return the newest notes, oldest first."""
        return self.notes[-self._size :] if self._size else []


# Sums of a slot: run time, queue wait, longest, shortest, then the count of each outcome. A list is made, and added to,
# in a fifth of the time that an object takes.


def _add_times(notes: list[Note], by_slot: dict[int, list[Any]]) -> None:
    get = by_slot.get
    for _, _, slot, _, outcome, _, posted, started, ended in notes:
        run_time = ended - started
        sums = get(slot)
        if sums is None:
            by_slot[slot] = sums = [run_time, started - posted, run_time, run_time, 0, 0, 0, 0]
        else:
            sums[0] += run_time
            sums[1] += started - posted
            if run_time > sums[2]:
                sums[2] = run_time
            if run_time < sums[3]:
                sums[3] = run_time
        sums[COUNTS + outcome] += 1


def _add_sums(more: dict[int, list[Any]], by_slot: dict[int, list[Any]]) -> None:
    for slot, numbers in more.items():
        sums = by_slot.get(slot)
        if sums is None:
            by_slot[slot] = list(numbers)
            continue
        longest, shortest = max(sums[2], numbers[2]), min(sums[3], numbers[3])
        sums[:] = [mine + other for mine, other in zip(sums, numbers, strict=True)]
        sums[2], sums[3] = longest, shortest


def _count(by_slot: dict[int, list[Any]], slot: int, outcome: int, count: int) -> None:
    by_slot.setdefault(slot, [0.0, 0.0, 0.0, 0.0, 0, 0, 0, 0])[COUNTS + outcome] += count


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
