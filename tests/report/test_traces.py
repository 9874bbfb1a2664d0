"""A run as Chrome's trace events: slices nest, time ascends, every arrow has both ends, and nothing is missing."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pytest

from routilux_core import ActivationRecord, Flow, JobState
from routilux_core._report.timeline import arranged, critical_path
from routilux_core._report.trace import events_of

pytestmark = pytest.mark.once

Event = dict[str, Any]


def nano(micro: float) -> int:
    return round(micro * 1000)


def problems_of(events: list[Event]) -> list[str]:
    """Return what a viewer would get wrong in these events, in words."""
    timed = [event for event in events if event["ph"] != "M"]
    problems = [f"unknown kind {event['ph']}" for event in timed if event["ph"] not in "XsfC"]
    stamps = [event["ts"] for event in timed]
    problems += ["time does not ascend"] * (stamps != sorted(stamps))
    problems += [f"{event['name']} lies before 0" for event in timed if event["ts"] < 0 or event.get("dur", 0) < 0]
    named = {(event["pid"], event["tid"]) for event in events if event["name"] == "thread_name"}
    slices: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for event in timed:
        if event["ph"] != "C" and (event["pid"], event["tid"]) not in named:
            problems.append(f"a track without a name: {event['tid']}")
        if event["ph"] == "X":
            start = nano(event["ts"])
            slices[event["pid"], event["tid"]].append((start, start + nano(event["dur"])))
    for track, spans in slices.items():
        open_: list[int] = []
        for start, end in spans:
            while open_ and open_[-1] <= start:
                open_.pop()
            if open_ and open_[-1] < end:
                problems.append(f"{start} to {end} of track {track} overlaps, and does not nest")
            open_.append(end)
    return problems + arrow_problems(timed, slices)


def arrow_problems(timed: list[Event], slices: dict[tuple[int, int], list[tuple[int, int]]]) -> list[str]:
    ends: dict[tuple[int, int], dict[str, Event]] = defaultdict(dict)
    problems = []
    for event in timed:
        if event["ph"] in "sf":
            both = ends[event["pid"], event["id"]]
            problems += [f"arrow {event['id']} has one end twice"] * (event["ph"] in both)
            both[event["ph"]] = event
            at, spans = nano(event["ts"]), slices[event["pid"], event["tid"]]
            if not any(start <= at <= end for start, end in spans):
                problems.append(f"arrow {event['id']} hangs in the air")
    for (_, number), both in ends.items():
        if len(both) < 2:
            problems.append(f"arrow {number} has one end")
        elif both["s"]["ts"] > both["f"]["ts"]:
            problems.append(f"arrow {number} goes back in time")
    return problems


def read(path: Path) -> dict[str, Any]:
    raw = path.read_bytes()
    found: dict[str, Any] = json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)
    return found


def run(seen: ModuleType, settings: dict[str, Any], **more: Any) -> JobState:
    with seen.wire(Flow("seen", **settings, **more)) as flow:
        return flow.run("numbers")


def record(number: int, worker: int, started: float, ended: float, **more: Any) -> ActivationRecord:
    told = {"cause": None, "routine_id": "r", "slot": "s", "attempt": 1, "outcome": "completed", "posted": started}
    return ActivationRecord(**{**told, "id": number, "worker": worker, "started": started, "ended": ended, **more})


def test_a_trace_is_sound_and_holds_every_record(
    seen: ModuleType, each_strategy: dict[str, Any], tmp_path: Path
) -> None:
    job = run(seen, each_strategy)
    job.trace(tmp_path / "run.json.gz")
    document = read(tmp_path / "run.json.gz")
    events = document["traceEvents"]
    assert problems_of(events) == []
    slices = [event for event in events if event["ph"] == "X"]
    history = job.get_execution_history()
    outcomes = [event["args"]["outcome"] for event in slices]
    ledger = job.ledger
    for name in ("completed", "failed", "skipped", "retried"):
        assert outcomes.count(name) == getattr(ledger, name)
    assert sorted((event["name"], event["args"]["activation"], event["args"]["attempt"]) for event in slices) == sorted(
        (each.routine_id, each.id, each.attempt) for each in history
    )
    assert len({each.worker for each in history}) <= len({event["tid"] for event in slices})
    assert document["otherData"]["jobs"] == [{"job": job.job_id, "status": "completed", "records left out": 0}]


def test_arrows_lead_from_a_cause_and_from_an_earlier_attempt(
    seen: ModuleType, each_strategy: dict[str, Any], tmp_path: Path
) -> None:
    job = run(seen, each_strategy)
    job.trace(tmp_path / "run.json")
    arrows = [event for event in read(tmp_path / "run.json")["traceEvents"] if event["ph"] == "s"]
    history = job.get_execution_history()
    assert sum(event["name"] == "emit" for event in arrows) == sum(
        each.cause is not None and each.attempt == 1 for each in history
    )
    assert sum(event["name"] == "retry" for event in arrows) == job.ledger.retried > 0


def test_counters_say_what_is_pending_and_running_and_end_at_nothing(
    seen: ModuleType, each_strategy: dict[str, Any], tmp_path: Path
) -> None:
    job = run(seen, each_strategy)
    job.trace(tmp_path / "run.json")
    counts = [event["args"] for event in read(tmp_path / "run.json")["traceEvents"] if event["ph"] == "C"]
    assert all(each["pending"] >= each["running"] >= 0 for each in counts)
    assert counts[-1] == {"pending": 0, "running": 0}
    assert max(each["running"] for each in counts) >= 1


def test_a_ring_that_is_full_is_what_the_trace_has(seen: ModuleType, tmp_path: Path) -> None:
    job = run(seen, {}, history_size=10)
    job.trace(tmp_path / "run.json")
    document = read(tmp_path / "run.json")
    ledger = job.ledger
    assert problems_of(document["traceEvents"]) == []
    assert sum(event["ph"] == "X" for event in document["traceEvents"]) == 10
    [about] = document["otherData"]["jobs"]
    assert about["records left out"] == ledger.completed + ledger.skipped + ledger.retried - 10


def test_a_job_without_records_and_one_from_a_file_have_traces(seen: ModuleType, tmp_path: Path) -> None:
    job = run(seen, {}, history_size=0)
    job.trace(tmp_path / "none.json")
    assert problems_of(read(tmp_path / "none.json")["traceEvents"]) == []
    whole = run(seen, {})
    JobState.deserialize(whole.serialize()).trace(tmp_path / "saved.json")
    events = read(tmp_path / "saved.json")["traceEvents"]
    assert problems_of(events) == []
    assert sum(event["ph"] == "X" for event in events) == len(whole.get_execution_history())


@pytest.mark.parametrize("seed", range(30))
def test_any_records_make_a_sound_trace(seed: int) -> None:
    """Coroutines overlap, clocks differ, and a handler may run others inside its own time."""
    draw = Random(seed)
    records = []
    for number in range(1, draw.randint(2, 60)):
        started = draw.choice([draw.random(), draw.randint(0, 4) / 4])
        ended = started + draw.choice([0.0, draw.random() / 3, 0.25])
        cause = draw.choice([None, draw.randint(1, 60)])
        records.append(record(number, draw.randint(1, 3), started, ended, cause=cause, posted=draw.random()))
    records = [each for each in records if each.posted <= each.started]
    assert problems_of(events_of(arranged(records, 0.0, 0), "job", 1)) == []


def test_a_second_lane_is_opened_only_where_calls_overlap() -> None:
    nested = [record(1, 7, 0.0, 1.0), record(2, 7, 0.1, 0.2), record(3, 7, 1.0, 2.0)]
    assert [track.name for track in arranged(nested, 0.0, 0).tracks] == ["worker 1"]
    overlapping = [*nested, record(4, 7, 0.5, 1.5), record(5, 8, 0.0, 1.0)]
    assert [track.name for track in arranged(overlapping, 0.0, 0).tracks] == ["worker 1", "worker 2", "worker 1 (2)"]


def test_hostile_names_are_short_and_harmless_in_a_trace(hostile_names: list[str]) -> None:
    records = [record(n, 1, n, n + 0.5, routine_id=name, slot=name) for n, name in enumerate(hostile_names, start=1)]
    for event in events_of(arranged(records, 0.0, 0), hostile_names[0], 1):
        texts = [event["name"], event["args"].get("slot", ""), str(event["args"].get("name", ""))]
        assert all(text.isprintable() and len(text) < 600 for text in texts if event["ph"] in "MX")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda events: events[-1].update(ts=0.0), "ascend"),
        (lambda events: next(each for each in events if each["ph"] == "X").update(dur=1.5e6), "does not nest"),
        (lambda events: events.remove(next(each for each in events if each["ph"] == "f")), "has one end"),
        (lambda events: next(each for each in events if each["ph"] == "s").update(tid=2), "in the air"),
        (lambda events: events.remove(next(each for each in events if each["ph"] == "M" and each["tid"] == 1)), "name"),
    ],
)
def test_the_checker_finds(change: Any, problem: str) -> None:
    records = [record(1, 1, 0.0, 1.0), record(2, 1, 1.0, 2.0, cause=1, posted=0.5), record(3, 2, 3.0, 4.0)]
    events = events_of(arranged(records, 0.0, 0), "job", 1)
    assert problems_of(events) == []
    change(events)
    assert any(problem in each for each in problems_of(events))


def test_the_critical_path_follows_causes_and_retries_back_from_what_ended_last() -> None:
    spans = arranged(
        [
            record(1, 1, 0.0, 1.0),
            record(2, 1, 1.0, 2.0, cause=1, posted=0.5, outcome="retried"),
            record(3, 2, 1.0, 1.5, cause=1, posted=0.5),
            record(2, 1, 3.0, 4.0, cause=1, posted=0.5, attempt=2),
            record(4, 2, 4.5, 5.0, posted=4.0),  # a gather slot's, which nobody emitted
        ],
        0.0,
        0,
    ).spans
    path = [(spans[place].record.id, spans[place].record.attempt) for place in critical_path(spans)]
    assert path == [(1, 1), (2, 1), (2, 2), (4, 1)]
    assert critical_path([]) == []
