"""What a report shows, as plain JSON: numbers from the ledger and the tracker, texts of others made harmless."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from attrs import asdict

from routilux_core._report.columns import Packed, packed
from routilux_core._report.notebook import brief
from routilux_core._report.picture import Picture, picture_of, picture_of_records, shortened
from routilux_core._report.svg import box_of, label_of, layout_of
from routilux_core._report.timeline import critical_path, timeline_of
from routilux_core._text.printable import Lines, printable
from routilux_core.error_handling import Failure
from routilux_core.errors import FlowStateError
from routilux_core.job import JobState
from routilux_core.records import ActivationRecord, Ledger
from routilux_core.tracking import Counted, Counts, ExecutionTracker

NAME = 200  # letters of a name
ERRORS, TRACEBACK = 200, 8_000  # errors that are shown, and letters of a traceback
BELOW = 22.0  # pixels under a node for its figures
STEPS = 400  # of a critical path


def facts_of(jobs: Sequence[JobState], title: str) -> tuple[dict[str, Any], list[str]]:
    """Return what is said about jobs, and the spans of each of them, packed."""
    pictures: list[Picture] = []
    told, rows = [], []
    for job in jobs:
        facts, text = _job(job, pictures)
        told.append(facts)
        rows.append(text)
    facts = {
        "title": _name(title),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": _environment(),
        "jobs": told,
        "pictures": [_drawn(picture) for picture in pictures],
    }
    return facts, rows


def _job(job: JobState, pictures: list[Picture]) -> tuple[dict[str, Any], str]:
    ledger, history, timeline = job.ledger, job.get_execution_history(), timeline_of(job)
    try:
        tracker = job.tracker
    except FlowStateError:  # it was read from its record
        tracker = ExecutionTracker(RecordedSource(history, ledger))
    rows = packed(timeline.spans)
    path = critical_path(timeline.spans)
    explained = job.explain().splitlines()
    facts = {
        "id": _name(job.job_id),
        "flow": _name(job.flow_id),
        "status": job.status,
        **_origin(job),
        "ledger": asdict(ledger),
        "figures": tracker.get_flow_performance(),
        "routines": [
            {**figures, "routine_id": _name(name)} for name, figures in tracker.get_all_performances().items()
        ],
        "errors": _errors(job.errors, history),
        "errors_left_out": {**job.errors_left_out._asdict(), "shown": max(0, len(job.errors) - ERRORS)},
        "late_emissions": job.late_emissions,
        "explained": [printable(line) for line in explained if not line.startswith("hint: ")],
        "hints": [printable(line.removeprefix("hint: ")) for line in explained if line.startswith("hint: ")],
        "left_out": timeline.left_out,
        "tracks": [track.name for track in timeline.tracks],
        "path": path[-STEPS:],
        "path_left_out": max(0, len(path) - STEPS),
        "slots": _slots(rows),
        "rows": rows.about(),
        "picture": _picture(job, history, pictures),
    }
    return facts, rows.text


def _origin(job: JobState) -> dict[str, Any]:
    origin = job._origin
    if origin is None:
        return {"strategy": None, "workers": None, "named": {}, "at": None}
    return {
        "strategy": _name(origin.strategy.name),
        "workers": origin.strategy.max_workers if origin.strategy.capabilities.parallel else None,
        "named": {_name(routine_id): _name(name) for routine_id, name in origin.named.items()},
        "at": datetime.fromtimestamp(origin.at, UTC).isoformat(timespec="milliseconds"),
    }


def _slots(rows: Packed) -> list[list[str]]:
    return [[_name(routine_id), _name(slot)] for routine_id, slot in rows.slots]


def _errors(errors: Sequence[Failure], history: Sequence[ActivationRecord]) -> list[dict[str, Any]]:
    payloads = {record.id: record.payload for record in history if record.payload is not None}
    return [
        {
            "routine": _name(each.routine_id),
            "slot": _name(each.slot),
            "attempt": each.attempt,
            "error": printable(brief(each.exception)[:2000]),
            "traceback": Lines(each.traceback[-TRACEBACK:])[-TRACEBACK:],
            "keys": [_name(text) for text in _arrived(each, payloads.get(each.activation))],
            "decision": None if each.decision is None else each.decision.value,
        }
        for each in errors[:ERRORS]
    ]


def _arrived(failure: Failure, payload: Mapping[str, Any] | None) -> list[str]:
    """Return the names of what a call was given, with the values where the flow has kept them."""
    if payload is None:
        return [str(key) for key in failure.payload_keys[:50]]
    return [f"{name}={value!r}" for name, value in payload.items()]


def _picture(job: JobState, history: Sequence[ActivationRecord], pictures: list[Picture]) -> int:
    """Return the number of the job's picture: jobs of the same graph share one."""
    origin = job._origin
    made = picture_of_records(job.flow_id, history) if origin is None else picture_of(origin.graph)
    for number, each in enumerate(pictures):
        if each == made:
            return number
    pictures.append(made)
    return len(pictures) - 1


def _drawn(picture: Picture) -> dict[str, Any]:
    """Return a picture with its layout, in tenths of a pixel."""
    layout = layout_of(picture, below=BELOW)
    nodes = []
    for shape, (x, y) in zip(picture.shapes, layout.centres, strict=True):
        box = box_of(shape)
        place = [round(number) for number in (x, y, box.width, box.height)]
        nodes.append([shape.what, _name(shape.name), shortened(shape.kind, 30), shape.stateless, *place])
    arrows = [
        [arrow.source, arrow.target, label_of(arrow), [round(number) for point in route for number in point]]
        for arrow, route in zip(picture.arrows, layout.routes, strict=True)
    ]
    return {"width": round(layout.width), "height": round(layout.height), "nodes": nodes, "arrows": arrows}


def _environment() -> dict[str, str]:
    built = "free-threaded" if not getattr(sys, "_is_gil_enabled", lambda: True)() else "with the GIL"
    return {
        "routilux-core": version("routilux-core"),
        "Python": f"{platform.python_implementation()} {platform.python_version()}, {built}",
        "System": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "Processors": str(os.cpu_count()),
    }


def _name(text: str) -> str:
    told = printable(text[: NAME + 1])
    return told if len(told) <= NAME else f"{told[:NAME]}…"


class RecordedSource:
    """The counts of a job that was read from a file: what its records and its ledger say."""

    def __init__(self, records: Sequence[ActivationRecord], ledger: Ledger) -> None:
        self.records, self.ledger = records, ledger

    def counts(self) -> Counts:
        """Return the counts over the records that were kept."""
        routines: dict[str, Counted] = {}
        for each in self.records:
            counted = routines.setdefault(each.routine_id, Counted())
            setattr(counted, each.outcome, getattr(counted, each.outcome) + 1)
            counted.run_time += each.run_time
            counted.queue_wait += each.queue_wait
            counted.longest = max(counted.longest, each.run_time)
            counted.shortest = min(counted.shortest, each.run_time)
            counted.newest.append(each.run_time)
        began = min((each.posted for each in self.records), default=0.0)
        wall = max((each.ended for each in self.records), default=0.0) - began
        return Counts(routines=routines, jobs=1, wall=wall, emitted=self.ledger.emitted)

    def hints(self) -> list[str]:
        """Return nothing: hints are about routines, which are not here."""
        return []

    def reset(self) -> None:
        """Do nothing: a record stays as it is."""
