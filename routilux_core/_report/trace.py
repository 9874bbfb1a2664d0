"""A run in Chrome's trace-event format, for https://ui.perfetto.dev and chrome://tracing."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from routilux_core._report.picture import shortened
from routilux_core._report.timeline import Span, Timeline, timeline_of
from routilux_core._text.printable import printable
from routilux_core.job import JobState
from routilux_core.serialization.files import replace_file

NAME_COLUMNS = 120
SAMPLES = 20_000  # of each job's counters, at most: the value at the end of each step
COLOURS = {"failed": "terrible", "retried": "bad", "skipped": "grey"}  # names that the format has

Event = dict[str, Any]


def write_trace(path: str | os.PathLike[str], jobs: Sequence[JobState]) -> None:
    """Write jobs to a file, each as a process that begins at 0; compressed where the name ends with `.gz`."""
    timelines = [timeline_of(job) for job in jobs]
    found = chain.from_iterable(
        events_of(timeline, job.job_id, number)
        for number, (job, timeline) in enumerate(zip(jobs, timelines, strict=True), start=1)
    )
    about = {
        "producer": "routilux-core",
        "jobs": [
            {"job": printable(job.job_id), "status": job.status, "records left out": timeline.left_out}
            for job, timeline in zip(jobs, timelines, strict=True)
        ],
    }
    lines = ",\n".join(json.dumps(each, separators=(",", ":")) for each in found)
    text = f'{{"displayTimeUnit":"ms","otherData":{json.dumps(about)},"traceEvents":[\n{lines}\n]}}\n'.encode()
    packed = os.fspath(path).endswith(".gz")
    replace_file(path, gzip.compress(text, 6, mtime=0) if packed else text)


def events_of(timeline: Timeline, job_id: str, process: int) -> list[Event]:
    """Return the events of one job: names first, and the others by time."""
    names = [_named("process_name", process, 0, shortened(job_id, NAME_COLUMNS))]
    for thread, track in enumerate(timeline.tracks, start=1):
        names.append(_named("thread_name", process, thread, track.name))
        order: Event = {"sort_index": 100 * track.worker + track.lane}
        names.append({"ph": "M", "name": "thread_sort_index", "pid": process, "tid": thread, "args": order})
    timed = [*_slices(timeline.spans, process), *_arrows(timeline.spans, process), *_counters(timeline, process)]
    timed.sort(key=lambda event: (event[0], -event[1].get("dur", 0.0)))  # of two at once the outer one first
    return names + [event for _, event in timed]


def _named(what: str, process: int, thread: int, name: str) -> Event:
    return {"ph": "M", "name": what, "pid": process, "tid": thread, "args": {"name": name}}


def _slices(spans: Sequence[Span], process: int) -> Iterator[tuple[int, Event]]:
    names: dict[str, str] = {}
    for span in spans:
        each = span.record
        name = names.get(each.routine_id) or names.setdefault(each.routine_id, shortened(each.routine_id, NAME_COLUMNS))
        told = {"activation": each.id, "slot": shortened(each.slot, NAME_COLUMNS), "attempt": each.attempt}
        told |= {"outcome": each.outcome, "queue wait (ms)": _micro(span.started - span.posted) / 1000}
        event: Event = {"ph": "X", "name": name, "cat": each.outcome, "ts": _micro(span.started)}
        event |= {"dur": _micro(span.ended - span.started), "pid": process, "tid": span.track + 1, "args": told}
        if each.outcome in COLOURS:
            event["cname"] = COLOURS[each.outcome]
        yield span.started, event


def _arrows(spans: Sequence[Span], process: int) -> Iterator[tuple[int, Event]]:
    """Yield both ends of each arrow from a span to one that it has caused, or to its next attempt."""
    number = 0
    for span in spans:
        again = span.earlier >= 0
        origin = span.earlier if again else span.cause if span.record.attempt == 1 else -1
        if origin < 0:
            continue
        before = spans[origin]
        # What runs others inside its `emit` is noted with its own time alone, and may have emitted after that.
        left = max(before.started, min(before.ended - 1 if again else span.posted, before.ended - 1, span.started))
        if left > span.started:
            continue  # the clocks of two machines differ
        number += 1
        shared: Event = {"name": "retry" if again else "emit", "cat": "cause", "id": number, "pid": process}
        yield left, {"ph": "s", "ts": _micro(left), "tid": before.track + 1, **shared}
        yield span.started, {"ph": "f", "bp": "e", "ts": _micro(span.started), "tid": span.track + 1, **shared}


def _counters(timeline: Timeline, process: int) -> Iterator[tuple[int, Event]]:
    """Yield how many activations were pending, and how many of them were running."""
    changes: list[tuple[int, int, int]] = []
    for span in timeline.spans:
        last = span.record.outcome != "retried"
        changes.append((span.posted, 1 if span.earlier < 0 else 0, 0))
        changes += [(span.started, 0, 1), (span.ended, -1 if last else 0, -1)]
    changes.sort()
    step, pending, running = max(1, timeline.end // SAMPLES), 0, 0
    for number, (moment, more_pending, more_running) in enumerate(changes):
        pending, running = pending + more_pending, running + more_running
        following = changes[number + 1][0] if number + 1 < len(changes) else None
        if following is None or following // step > moment // step:
            counts = {"pending": pending, "running": running}
            yield moment, {"ph": "C", "name": "activations", "ts": _micro(moment), "pid": process, "args": counts}


def _micro(nanoseconds: int) -> float:
    return nanoseconds / 1000
