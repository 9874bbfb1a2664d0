"""The records of a job as spans on tracks: one track for each worker, with as many lanes as it needs."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from routilux_core.job import JobState
from routilux_core.records import ActivationRecord

NANO = 1e9


class Span(NamedTuple):
    """One attempt, in nanoseconds from the beginning of its job. `cause` is the place of the span that emitted it, and
    `earlier` that of the attempt before this one; -1 where it is not known."""

    record: ActivationRecord
    posted: int
    started: int
    ended: int
    track: int
    cause: int
    earlier: int


class Track(NamedTuple):
    """Spans of one worker that nest in each other, or follow each other: the first lane of it, or a further one."""

    worker: int  # counted from 1, by when they began
    ident: int  # as the records have it: a thread, or a process
    lane: int

    @property
    def name(self) -> str:
        """What it is called."""
        return f"worker {self.worker}" + (f" ({self.lane + 1})" if self.lane else "")


class Timeline(NamedTuple):
    """What is still known of a job's activations, in the order in which they started; `left_out` are too old for its
    ring of records."""

    spans: list[Span]
    tracks: list[Track]
    left_out: int

    @property
    def end(self) -> int:
        """When the last span ended."""
        return max((span.ended for span in self.spans), default=0)


def timeline_of(job: JobState) -> Timeline:
    """Return the time line of a job, as far as its records go."""
    ledger, records = job.ledger, job.get_execution_history()
    noted = ledger.completed + ledger.failed + ledger.skipped + ledger.retried
    origin = job._origin
    return arranged(records, origin.began if origin is not None else None, noted - len(records))


def arranged(records: Iterable[ActivationRecord], began: float | None, left_out: int) -> Timeline:
    """Return the records as spans from when the job began."""
    ordered = sorted(records, key=lambda each: (each.started, -each.ended))
    zero = min([each.posted for each in ordered], default=0.0) if began is None else began
    tracks = _Tracks()
    attempts: dict[int, dict[int, int]] = {}
    times = []
    for place, each in enumerate(ordered):
        attempts.setdefault(each.id, {})[each.attempt] = place
        started = _since(zero, each.started)
        times.append((_since(zero, each.posted), started, max(started, _since(zero, each.ended))))
    last = {number: max(places.items())[1] for number, places in attempts.items()}
    spans = [
        Span(
            each,
            *when,
            tracks.of(each.worker, when[1], when[2]),
            -1 if each.cause is None else last.get(each.cause, -1),
            attempts[each.id].get(each.attempt - 1, -1),
        )
        for each, when in zip(ordered, times, strict=True)
    ]
    return Timeline(spans, tracks.found, max(0, left_out))


def _since(zero: float, moment: float) -> int:
    return round((moment - zero) * NANO)


class _Tracks:
    """Gives each span the first lane of its worker where it nests, or follows what is there."""

    def __init__(self) -> None:
        self.found: list[Track] = []
        self._open: list[list[int]] = []  # of each track: the ends of what is not over, the innermost last
        self._of: dict[int, list[int]] = {}  # worker -> its tracks

    def of(self, ident: int, started: int, ended: int) -> int:
        """Return the track of a span; they come in the order of their starts, of two the longer one first."""
        mine = self._of.setdefault(ident, [])
        for track in mine:
            ends = self._open[track]
            while ends and ends[-1] <= started:
                ends.pop()
            if not ends or ends[-1] >= ended:
                ends.append(ended)
                return track
        mine.append(len(self.found))
        self.found.append(Track(list(self._of).index(ident) + 1, ident, len(mine) - 1))
        self._open.append([ended])
        return mine[-1]


def critical_path(spans: Sequence[Span]) -> list[int]:
    """Return the places of the spans that led to the one that ended last, from the first to that one.

    Each is behind the one that emitted it, or behind its earlier attempt. A call that nobody emitted, of a gather slot,
    is behind the one after whose end it was made.
    """
    if not spans:
        return []
    at = max(range(len(spans)), key=lambda place: spans[place].ended)
    by_end = sorted(range(len(spans)), key=lambda place: spans[place].ended)
    ends = [spans[place].ended for place in by_end]
    path, seen = [at], {at}
    while True:
        span = spans[at]
        at = span.earlier if span.earlier >= 0 else span.cause
        if at < 0 and span.record.cause is None and span.record.id > 1:
            at = _last_before(by_end, ends, span.posted)
        if at < 0 or at in seen:
            return path[::-1]
        seen.add(at)
        path.append(at)


def _last_before(by_end: list[int], ends: list[int], moment: int) -> int:
    found = bisect_right(ends, moment)
    return by_end[found - 1] if found else -1
