"""What a job remembers of its activations: exact totals for each slot, and a ring of the newest records."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from operator import itemgetter, sub
from typing import Any, NamedTuple

from routilux_core._tracking import times

# The record of an attempt: id, cause, slot number, attempt, outcome, worker, posted, started, ended.
Record = tuple[int, int, int, int, int, int, float, float, float]
# What a worker records of a first attempt that has completed: id, cause, slot number, posted, started, ended. These lie
# one behind the other in a flat list: nothing is left for the garbage collector, and a column is a slice.
WIDTH = 6
FRESH = 1000  # records beyond the newest that wait to be added up, at least
EACH = 2  # of each slot that may, on average: what is added up for a slot costs little more than a single record
FEW = 8  # records that are not worth a chunk of their own
FEW_EACH = 4  # records of a routine that are not worth columns of their own
OUTCOMES = ("completed", "failed", "skipped", "retried")
COUNTS, TIMES, LATER = 4, 8, 9  # where the counts begin in a list of sums, the histogram, and what is added up later
ENOUGH = 64  # numbers that lie there of a slot, two for each call, until they are
COMPLETED, FAILED, SKIPPED, RETRIED = range(4)
DISCARDED = 4  # the job was stopped between taking an activation and calling its handler: it leaves no record
LATE = 5  # the time of the call was over before it returned, and all was recorded then


class Totals(NamedTuple):
    """Counts by outcome, and times in seconds, of everything that one slot ran."""

    completed: int = 0
    failed: int = 0
    skipped: int = 0
    retried: int = 0
    run_time: float = 0.0
    queue_wait: float = 0.0
    longest: float = 0.0
    shortest: float = 0.0
    times: Mapping[int, int] = {}  # a histogram, see `_tracking.times`

    @property
    def executions(self) -> int:
        """How many times the handler was called, retries included."""
        return self.completed + self.failed + self.skipped + self.retried


class Chunk:
    """Records that follow each other: of one worker's completed calls in a flat list, or of all kinds, one by one."""

    __slots__ = ("flat", "rows", "worker")

    def __init__(self, worker: int, flat: list[Any]) -> None:
        self.worker = worker
        self.flat = flat
        self.rows: list[Record] = []  # these, where there is nothing in `flat`

    @classmethod
    def of(cls, *records: Record) -> Chunk:
        """Return records of any kind."""
        chunk = cls(0, [])
        chunk.rows += records
        return chunk

    def split(self, count: int) -> tuple[Chunk, Chunk]:
        """Return the first `count` records, and the others."""
        if self.flat:
            return Chunk(self.worker, self.flat[: count * WIDTH]), Chunk(self.worker, self.flat[count * WIDTH :])
        return Chunk.of(*self.rows[:count]), Chunk.of(*self.rows[count:])

    def since(self, end: float) -> tuple[Chunk, Chunk]:
        """Return the records that ended before a time, and the others."""
        if self.flat:
            return self.split(bisect_left(self.ends(), end))
        older, newer = ([row for row in self.rows if (row[8] >= end) is new] for new in (False, True))
        return Chunk.of(*older), Chunk.of(*newer)

    def ends(self) -> list[float]:
        """Return when each of these calls ended."""
        return self.flat[WIDTH - 1 :: WIDTH] or [row[8] for row in self.rows]

    def __len__(self) -> int:
        return len(self.flat) // WIDTH or len(self.rows)

    def first_end(self) -> float:
        """Return when the first of these calls ended; a worker records its own in that order."""
        end: float = self.flat[WIDTH - 1] if self.flat else min(row[8] for row in self.rows)
        return end

    def last_end(self) -> float:
        """Return when the last of these calls ended."""
        end: float = self.flat[-1] if self.flat else max(row[8] for row in self.rows)
        return end

    def records(self) -> list[Record]:
        """Return the records in full."""
        return in_full(self.worker, self.flat) if self.flat else self.rows


class History:
    """The newest records, and the sums of those before them, by slot number. All of it needs the engine's lock.

    Without records (`size` 0) no times are measured; workers then record just the slot numbers of completed calls.
    """

    __slots__ = ("_chunks", "_count", "_fresh", "_most", "_size", "_sums", "timed", "width")

    def __init__(self, size: int, slots: int = 0) -> None:
        self._chunks: deque[Chunk] = deque()
        self._count = 0  # of records in them
        self._size = size
        self._fresh = max(FRESH, EACH * slots)
        self._most = size + self._fresh  # records at which the oldest are added up
        self._sums: dict[int, list[Any]] = {}
        self.time(size > 0)

    def __len__(self) -> int:
        """Return how many records are kept."""
        return self._count

    def time(self, timed: bool) -> None:
        """Say whether times are measured: a listener wants them also where nothing is kept. Before the first record."""
        self.timed = timed
        self.width = WIDTH if timed else 1

    def record(self, record: Record) -> None:
        """Record an attempt, however it ended."""
        if not self.timed:
            _count(self._sums, record[2], record[4], 1)
            return
        last = self._chunks[-1] if self._chunks else None
        if last is None or last.flat or len(last.rows) >= FRESH:
            self._chunks.append(Chunk.of(record))  # never an empty one, whatever comes in between
        else:
            last.rows.append(record)
        self._count += 1
        if self._count > self._most:
            self._fold()

    def add(self, worker: int, flat: list[Any]) -> None:
        """Take over what a worker has recorded; the list is the history's from now on."""
        if not self.timed:
            for slot, count in Counter(flat).items():
                _count(self._sums, slot, COMPLETED, count)
        elif len(flat) < FEW * WIDTH:
            for record in in_full(worker, flat):
                self.record(record)
        else:
            self._append(Chunk(worker, flat))

    def _append(self, chunk: Chunk) -> None:
        self._chunks.append(chunk)
        self._count += len(chunk)
        if self._count > self._most:
            self._fold()

    def _fold(self) -> None:
        """Add up chunks that are older than enough others, and drop them.

        Not those that came first: what a slow worker records may come long after what others recorded later.
        """
        since, enough = float("inf"), 0
        for chunk in sorted(self._chunks, key=Chunk.first_end, reverse=True):
            if enough >= self._size:
                break
            since, enough = chunk.first_end(), enough + len(chunk)
        kept: deque[Chunk] = deque()
        for chunk in self._chunks:
            if chunk.last_end() >= since:
                kept.append(chunk)
                continue
            _add_up(chunk, self._sums)
        self._chunks, self._count = kept, sum(map(len, kept))
        self._most = max(self._size, self._count) + self._fresh

    def trim(self) -> None:
        """Add up all but the newest, if any were before: so what a long job leaves does not depend on its length."""
        if self._count <= self._size or not self._sums:
            return
        ends = sorted(end for chunk in self._chunks for end in chunk.ends())
        over = len(ends) - self._size
        if over <= 0:  # an exception has kept it from being counted
            return
        since = ends[over] if self._size else float("inf")
        kept: deque[Chunk] = deque()
        for chunk in self._chunks:
            older, newer = chunk.since(since)
            if len(older):
                _add_up(older, self._sums)
            if len(newer):
                kept.append(newer)
        self._chunks, self._count = kept, sum(map(len, kept))

    def absorb(self, other: History) -> None:
        """Take over what another one, which is not added to any more, has."""
        self._fresh = max(self._fresh, other._fresh)
        self._most = max(self._most, self._size + self._fresh)
        _add_sums(other._sums, self._sums)
        for chunk in other._chunks:
            if self.timed:
                self._append(chunk)
            else:
                _add_up(chunk, self._sums)
        if other._sums:
            self.trim()

    def totals(self, *others: History) -> dict[int, Totals]:
        """Return the totals by slot number, as of now: its own, and those of others."""
        sums: dict[int, list[Any]] = {}
        for history in (self, *others):
            _add_sums(history._sums, sums)
            for chunk in history._chunks:
                _add_up(chunk, sums)
        for numbers in sums.values():
            _catch_up(numbers)
        names = ("run_time", "queue_wait", "longest", "shortest", *OUTCOMES, "times")
        return {slot: Totals(**dict(zip(names, numbers[:LATER], strict=True))) for slot, numbers in sums.items()}

    def newest(self) -> list[Record]:
        """Return the newest records, by the time at which they ended."""
        records = [record for chunk in self._chunks for record in chunk.records()]
        records.sort(key=itemgetter(8))
        return records[-self._size :] if self._size else []


def in_full(worker: int, flat: list[Any]) -> list[Record]:
    """Return what a worker has recorded of completed calls as records like all others."""
    rows = zip(*[iter(flat)] * WIDTH, strict=True)
    return [
        (number, cause, slot, 1, COMPLETED, worker, posted, started, ended)
        for number, cause, slot, posted, started, ended in rows
    ]


# Sums of a slot: run time, queue wait, longest, shortest, then the count of each outcome, the histogram of its run
# times, and run time and wait, in turn, of completed calls that are in none of these yet. A list is made, and added to,
# in a fifth of the time that an object takes.


def _nothing() -> list[Any]:
    return [0.0, 0.0, 0.0, float("inf"), 0, 0, 0, 0, {}, []]


def _add_up(chunk: Chunk, by_slot: dict[int, list[Any]]) -> None:
    if not chunk.flat:
        _add_calls(by_slot, [(row[2], row[4], row[8] - row[7], row[7] - row[6]) for row in chunk.rows])
        return
    columns: list[list[Any]] = [chunk.flat[column::WIDTH] for column in range(2, WIDTH)]
    slots, posted, started, ended = columns
    if slots.count(slots[0]) == len(slots):  # the most frequent case, at C's speed
        _add_completed(by_slot, slots[0], sorted(map(sub, ended, started)), sum(started) - sum(posted))
        return
    different = set(slots)
    if len(slots) < FEW_EACH * len(different):
        _keep_for_later(by_slot, slots, map(sub, ended, started), map(sub, started, posted))
        return
    found: dict[int, tuple[list[float], list[float]]] = {slot: ([], []) for slot in different}
    keep = {slot: (run_times.append, waits.append) for slot, (run_times, waits) in found.items()}
    for slot, run_time, wait in zip(slots, map(sub, ended, started), map(sub, started, posted), strict=True):
        keep_run_time, keep_wait = keep[slot]
        keep_run_time(run_time)
        keep_wait(wait)
    for slot, (run_times, waits) in found.items():
        run_times.sort()
        _add_completed(by_slot, slot, run_times, sum(waits))


def _add_completed(by_slot: dict[int, list[Any]], slot: int, ordered: list[float], wait: float) -> None:
    """Add the run times of completed calls, in ascending order, and how long they have waited together."""
    sums = by_slot.get(slot)
    if sums is None:
        by_slot[slot] = sums = _nothing()
    _add(sums, ordered, wait)


def _add(sums: list[Any], ordered: list[float], wait: float) -> None:
    if ordered[-1] > sums[2]:
        sums[2] = ordered[-1]
    if ordered[0] < sums[3]:
        sums[3] = ordered[0]
    sums[0] += sum(ordered)
    sums[1] += wait
    sums[COUNTS] += len(ordered)
    times.add(ordered, sums[TIMES])


def _keep_for_later(
    by_slot: dict[int, list[Any]], slots: Iterable[int], run_times: Iterable[float], waits: Iterable[float]
) -> None:
    """Keep completed calls of many slots, few of each, until there are enough of a slot to add them up at C's speed."""
    for slot, run_time, wait in zip(slots, run_times, waits, strict=True):
        sums = by_slot.get(slot)
        if sums is None:
            by_slot[slot] = sums = _nothing()
        later = sums[LATER]
        later += (run_time, wait)
        if len(later) >= ENOUGH:
            _catch_up(sums)


def _catch_up(sums: list[Any]) -> None:
    """Add up what was kept for later."""
    later = sums[LATER]
    if later:
        sums[LATER] = []
        _add(sums, sorted(later[::2]), sum(later[1::2]))


def _add_calls(by_slot: dict[int, list[Any]], calls: list[tuple[int, int, float, float]]) -> None:
    """Add calls one by one, each with its slot, outcome, run time, and how long it has waited."""
    buckets = times.buckets([run_time for _, _, run_time, _ in calls])
    for (slot, outcome, run_time, wait), bucket in zip(calls, buckets, strict=True):
        sums = by_slot.get(slot)
        if sums is None:
            by_slot[slot] = sums = _nothing()
        sums[0] += run_time
        sums[1] += wait
        if run_time > sums[2]:
            sums[2] = run_time
        if run_time < sums[3]:
            sums[3] = run_time
        sums[COUNTS + outcome] += 1
        counted = sums[TIMES]
        counted[bucket] = counted.get(bucket, 0) + 1


def _add_sums(more: dict[int, list[Any]], by_slot: dict[int, list[Any]]) -> None:
    for slot, numbers in more.items():
        sums = by_slot.get(slot)
        if sums is None:
            by_slot[slot] = [*numbers[:TIMES], dict(numbers[TIMES]), numbers[LATER].copy()]
            continue
        longest, shortest = max(sums[2], numbers[2]), min(sums[3], numbers[3])
        sums[:TIMES] = [mine + other for mine, other in zip(sums[:TIMES], numbers[:TIMES], strict=True)]
        sums[2], sums[3] = longest, shortest
        times.merge(numbers[TIMES], sums[TIMES])
        sums[LATER] += numbers[LATER]
        if len(sums[LATER]) >= ENOUGH:
            _catch_up(sums)


def _count(by_slot: dict[int, list[Any]], slot: int, outcome: int, count: int) -> None:
    by_slot.setdefault(slot, [0.0, 0.0, 0.0, 0.0, 0, 0, 0, 0, {}, []])[COUNTS + outcome] += count
