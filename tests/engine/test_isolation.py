"""Many jobs and many threads: nothing is lost, nothing doubled, and no job sees anything of another."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from routilux_core import Flow, JobState, Routine, event, field, slot

MakeFlow = Callable[..., Flow]
SECONDS = 20.0
RUNS, EVENTS, RELAYS = 200, 100, 10
WAVES, MANY_WAVES = 2, 20  # of jobs side by side


class Source(Routine, stateless=True):
    item = event("tag", "n")

    def __call__(self, tag: str, count: int) -> None:
        for n in range(count):
            self.emit("item", tag=tag, n=n)


class Relay(Routine, stateless=True):
    passed = event("tag", "n")

    @slot
    def n(self, tag: str, n: int) -> None:
        self.emit("passed", tag=tag, n=n)


class Appends(Routine):
    """An aggregator that the engine keeps the list for."""

    complete = event("tag", "n")

    @slot(merge_strategy="append")
    def n(self, tag: list[str], n: list[int]) -> None:
        if len(n) == EVENTS:
            self.emit("complete", tag=tag, n=n)


class Keeps(Routine):
    """An aggregator with a list of its own."""

    complete = event("tag", "n")
    tags: list[str] = field(factory=list)
    numbers: list[int] = field(factory=list)

    @slot
    def n(self, tag: str, n: int) -> None:
        self.tags.append(tag)
        self.numbers.append(n)
        if len(self.numbers) == EVENTS:
            self.emit("complete", tag=list(self.tags), n=list(self.numbers))
            self.tags.clear()
            self.numbers.clear()


class KeepsForItsJob(Keeps, scope="job"):
    """The same for each job alone."""

    complete = event("tag", "n")


class Gathers(Routine):
    complete = event("tag", "n")

    @slot(merge_strategy="gather")
    def n(self, tag: list[str], n: list[int]) -> None:
        self.emit("complete", tag=tag, n=n)


class Merges(Routine):
    """Counts and adds up, in the slot."""

    merged = event("tags", "count", "total")

    def __init__(self) -> None:
        super().__init__()
        self.define_slot("n", self.take, self.add)

    def add(self, old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
        return {
            "tags": old.get("tags", frozenset()) | {new["tag"]},
            "count": old.get("count", 0) + 1,
            "total": old.get("total", 0) + new["n"],
        }

    def take(self, tags: frozenset[str], count: int, total: int) -> None:
        self.emit("merged", tags=tags, count=count, total=total)


class Fails(Routine):
    @slot
    def n(self, tag: str, n: int) -> None:
        if n % 10 == 0:
            raise ValueError(f"{tag} {n}")


def fan(flow: Flow, *ends: tuple[str, Routine], each: int = EVENTS // RELAYS) -> None:
    """Build source -> ten relays that run in parallel -> each of the ends."""
    flow.add_routine(Source(), "source")
    for name, routine in ends:
        flow.add_routine(routine, name)
    for number in range(RELAYS):
        relay = flow.add_routine(Relay(), f"relay{number}")
        flow.connect("source", "item", relay, "n")
        for name, _ in ends:
            flow.connect(relay, "passed", name, "n")
    for name, routine in ends:
        for made in routine._routilux.events:
            flow.add_output(name, made, name)


@pytest.mark.stress
@pytest.mark.parametrize("workers", [2, 8, 16])
def test_200_runs_of_100_events_lose_and_double_nothing(make_flow: MakeFlow, workers: int) -> None:
    flow = make_flow(execution_strategy="concurrent", max_workers=workers)
    fan(flow, ("appends", Appends()), ("keeps", Keeps()))
    expected = Counter(dict.fromkeys(range(EVENTS // RELAYS), RELAYS))
    for number in range(RUNS):
        job = flow.run("source", {"tag": f"run {number}", "count": EVENTS // RELAYS})
        for name in ("appends", "keeps"):
            (complete,) = job.outputs[name]  # fired once
            assert Counter(complete["n"]) == expected
            assert complete["tag"] == [f"run {number}"] * EVENTS
        assert job.ledger.completed == job.ledger.posted == 1 + EVENTS + 2 * EVENTS


@pytest.mark.parametrize("waves", [WAVES, pytest.param(MANY_WAVES, marks=pytest.mark.soak)])
@pytest.mark.parametrize("jobs", [2, 12])
def test_no_job_sees_anything_of_another(make_flow: MakeFlow, jobs: int, waves: int) -> None:
    """Slot data, gathered lists, copies, outputs, errors, history and ledger carry the tag of their own job alone."""
    flow = make_flow(
        execution_strategy="concurrent", max_workers=8, error_handler="continue", history_size=2_000, max_pending=64
    )
    ends = {"appends": Appends(), "own": KeepsForItsJob(), "gathers": Gathers(), "merges": Merges(), "fails": Fails()}
    fan(flow, *ends.items())
    together = threading.Barrier(jobs, timeout=SECONDS)
    states: dict[str, JobState] = {}

    def begin(tag: str) -> None:
        together.wait()
        states[tag] = flow.execute("source", {"tag": tag, "count": EVENTS // RELAYS})

    for _ in range(waves):
        threads = [threading.Thread(target=begin, args=(f"job {number}",)) for number in range(jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert flow.wait_for_completion(SECONDS)
        ids = {state.job_id for state in states.values()}
        assert len(states) == len(ids) == jobs
        for tag, state in states.items():
            check_is_its_own(tag, state)
        states.clear()


def check_is_its_own(tag: str, state: JobState) -> None:
    outputs, numbers = state.outputs, range(EVENTS // RELAYS)
    for name in ("appends", "own", "gathers"):
        (complete,) = outputs[name]
        assert complete["tag"] == [tag] * EVENTS
        assert Counter(complete["n"]) == Counter(dict.fromkeys(numbers, RELAYS))
    assert [each["tags"] for each in outputs["merges"]] == [{tag}] * EVENTS
    assert [each["count"] for each in outputs["merges"]] == list(range(1, EVENTS + 1))
    assert outputs["merges"][-1]["total"] == sum(numbers) * RELAYS
    assert [(str(failure.exception), failure.job_id) for failure in state.errors] == [
        (f"{tag} 0", state.job_id)
    ] * RELAYS
    assert state.routines["own"].numbers == []
    # The history: every record is this job's, and was caused by one of this job's.
    records, ledger = state.get_execution_history(), state.ledger
    assert sorted(record.id for record in records) == list(range(1, ledger.posted + 1))
    assert Counter(record.routine_id for record in records)["source"] == 1
    causes = {record.id: record.routine_id for record in records}
    for record in records:
        came_from = causes.get(record.cause, "")
        assert came_from == ("source" if record.routine_id.startswith("relay") else came_from)
        assert came_from.startswith("relay") == (record.routine_id in ("appends", "own", "merges", "fails"))
    assert (ledger.posted, ledger.gathered) == (1 + EVENTS + 4 * EVENTS + 1, EVENTS)
    assert (ledger.failed, ledger.completed) == (RELAYS, ledger.posted - RELAYS)
    assert ledger.unconnected == 0


@pytest.mark.stress
def test_16_threads_that_count_lose_nothing(make_flow: MakeFlow) -> None:
    """From handlers of a stateless routine, and from threads that are none of the engine's."""
    handlers, calls, times = 16, 32, 500

    class Counts(Routine, stateless=True):
        together = threading.Barrier(handlers, timeout=SECONDS)

        @slot
        def n(self, tag: str, n: int) -> None:
            self.together.wait()
            count(self)

    def count(routine: Routine) -> None:
        for _ in range(times):
            routine.increment_stat("ones")
            routine.increment_stat("halves", 0.5)

    flow = make_flow(execution_strategy="concurrent", max_workers=handlers)
    counts = Counts()
    flow.add_routine(Source(), "source")
    flow.add_routine(counts, "counts")
    flow.connect("source", "item", "counts", "n")
    assert flow.run("source", {"tag": "", "count": calls}).status == "completed"
    assert counts.stats() == {"ones": calls * times, "halves": calls * times / 2}
    threads = [threading.Thread(target=count, args=(counts,)) for _ in range(handlers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts.stats() == {"ones": (calls + handlers) * times, "halves": (calls + handlers) * times / 2}
