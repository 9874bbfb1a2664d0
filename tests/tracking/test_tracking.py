"""The tracker's figures: what they count, over which jobs. `test_stopwatch.py` compares the times."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import perf_counter, sleep
from typing import Any

import pytest

from routilux_core import (
    ErrorHandler,
    ExecutionTracker,
    Flow,
    FlowStateError,
    JobState,
    Routine,
    UnknownNameError,
    event,
    field,
    hookimpl,
    slot,
)
from routilux_core._tracking.history import FRESH

MakeFlow = Callable[..., Flow]
SECONDS = 20.0


class Source(Routine):
    item = event("n")

    def __call__(self, count: int) -> None:
        for n in range(count):
            self.emit("item", n=n)


class Timed(Routine):
    """Works for some milliseconds, and keeps how long by its own clock. Its attributes come home from any worker."""

    milliseconds: list = field(factory=list)
    times: list = field(factory=list)
    odd_raise: bool = False
    out = event("n")

    @slot
    def n(self, n: int) -> None:
        began = perf_counter()
        try:
            sleep(self.milliseconds[n % len(self.milliseconds)] / 1000)
            if self.odd_raise and n % 2:
                raise ValueError(n)
        finally:
            self.times.append(perf_counter() - began)


class Quick(Routine, stateless=True):
    @slot
    def n(self, n: int) -> None:
        pass


def build(flow: Flow, *targets: Routine) -> None:
    flow.add_routine(Source(), "source")
    for number, target in enumerate(targets):
        flow.add_routine(target, f"target{number}")
        flow.connect("source", "item", f"target{number}", "n")


def run(flow: Flow, **params: Any) -> JobState:
    job = flow.execute("source", params)
    assert job.wait(SECONDS), job.explain()
    return job


def test_counts_are_exact(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow = make_flow(**strategy, error_handler="continue")
    retried, skipped = (Timed(milliseconds=[0], odd_raise=True) for _ in range(2))
    build(flow, retried, skipped, Timed(milliseconds=[0], odd_raise=True), Quick())
    retried.set_error_handler(ErrorHandler("retry", max_retries=2, retry_delay=0.0, after_retries="continue"))
    skipped.set_error_handler("skip")
    job = run(flow, count=20)
    found = job.tracker.get_all_performances()
    names = ("total_executions", "completed", "failed", "skipped", "retried", "success_rate")
    assert {name: tuple(figures[key] for key in names) for name, figures in found.items()} == {
        "source": (1, 1, 0, 0, 0, 1.0),
        "target0": (40, 10, 10, 0, 20, 0.5),
        "target1": (20, 10, 0, 10, 0, 0.5),
        "target2": (20, 10, 10, 0, 0, 0.5),
        "target3": (20, 20, 0, 0, 0, 1.0),
    }
    for number in range(3):
        assert len(job.routines[f"target{number}"].times) == found[f"target{number}"]["total_executions"]
    total, ledger = job.tracker.get_flow_performance(), job.ledger
    for name in ("completed", "failed", "skipped", "retried"):
        assert total[name] == getattr(ledger, name)
    assert total["events"] == ledger.emitted == 20
    assert len(job.get_execution_history("target0")) == 40


def test_wall_time_work_time_and_parallelism(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow = make_flow(**strategy)
    build(flow, *[Timed(milliseconds=[40]) for _ in range(4)])
    began = perf_counter()
    job = run(flow, count=2)
    wall = perf_counter() - began
    figures = job.tracker.get_flow_performance()
    assert figures["jobs"] == 1
    assert figures["wall_time"] == pytest.approx(wall, abs=0.02)
    assert figures["wall_time"] <= wall
    assert figures["parallelism"] == figures["work_time"] / figures["wall_time"]
    assert figures["throughput"] == 9 / figures["wall_time"]
    if strategy["execution_strategy"] == "sequential":
        assert 0.9 < figures["parallelism"] <= 1.0
    else:
        assert 2.0 < figures["parallelism"] <= 4.0
    sleep(0.03)
    assert job.tracker.get_flow_performance() == figures  # the job is over, and so is its time


def test_queue_wait_is_the_time_behind_others(make_flow: MakeFlow) -> None:
    flow = make_flow(execution_strategy="concurrent", max_workers=4)
    build(flow, Timed(milliseconds=[20]))
    job = run(flow, count=5)
    figures = job.tracker.get_routine_performance("target0")
    times = flow.routines["target0"].times  # by the handlers' own clock: a sleep on a busy machine is a longer one
    behind = sum(left * spent for left, spent in zip((4, 3, 2, 1), times, strict=False))
    assert figures["total_queue_wait"] == pytest.approx(behind, abs=0.03)
    assert figures["avg_queue_wait"] == figures["total_queue_wait"] / 5


def test_the_flows_tracker_covers_all_jobs_since_its_reset(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow = make_flow(**strategy)
    build(flow, Quick(), Timed(milliseconds=[1]))
    tracker = flow.execution_tracker
    assert isinstance(tracker, ExecutionTracker)
    assert tracker.get_flow_performance()["jobs"] == 0
    for number in range(1, 6):
        job = run(flow, count=number)
        assert tracker.get_routine_performance("target0")["completed"] == number * (number + 1) // 2
    figures = tracker.get_flow_performance()
    assert (figures["jobs"], figures["events"], figures["total_executions"]) == (5, 15, 35)
    assert job.tracker.get_flow_performance()["total_executions"] == 11
    tracker.reset()
    assert tracker.get_flow_performance()["total_executions"] == 0
    assert tracker.get_routine_performance("target0")["avg_execution_time"] is None
    run(flow, count=2)
    assert tracker.get_flow_performance()["jobs"] == 1
    assert tracker.get_routine_performance("target1")["percentile_records"] == 2


def test_a_running_job_is_counted_while_it_runs_and_not_after_a_reset(make_flow: MakeFlow) -> None:
    entered, go_on = threading.Event(), threading.Event()

    class Waits(Routine):
        @slot
        def n(self, n: int) -> None:
            if n == 1:
                entered.set()
                assert go_on.wait(SECONDS)

    flow = make_flow(execution_strategy="concurrent")
    build(flow, Waits())
    job = flow.execute("source", {"count": 3})
    assert entered.wait(SECONDS)
    tracker = flow.execution_tracker
    assert tracker.get_routine_performance("target0")["completed"] == 1
    assert tracker.get_flow_performance()["wall_time"] > 0
    tracker.reset()
    go_on.set()
    assert job.wait(SECONDS)
    assert tracker.get_flow_performance()["jobs"] == 0
    assert tracker.get_routine_performance("target0")["completed"] == 0
    assert job.tracker.get_routine_performance("target0")["completed"] == 3


def test_jobs_that_overlap_share_their_wall_time(make_flow: MakeFlow) -> None:
    flow = make_flow(execution_strategy="concurrent", max_workers=8)
    build(flow, *[Timed(milliseconds=[30]) for _ in range(3)])
    began = perf_counter()
    jobs = [flow.execute("source", {"count": 1}) for _ in range(3)]
    assert flow.wait_for_completion(SECONDS)
    wall = perf_counter() - began
    figures = flow.execution_tracker.get_flow_performance()
    assert figures["wall_time"] <= wall
    assert figures["wall_time"] < sum(job.tracker.get_flow_performance()["wall_time"] for job in jobs)
    targets = [flow.routines[f"target{number}"] for number in range(3)]
    assert figures["work_time"] == pytest.approx(sum(sum(target.times) for target in targets), abs=0.03)


@pytest.mark.parametrize(("size", "known"), [(0, 0), (10, 60), (1000, 60)])
def test_percentiles_are_those_of_all_calls_and_say_how_many(
    make_flow: MakeFlow, strategy: dict[str, Any], size: int, known: int
) -> None:
    flow = make_flow(**strategy, history_size=size)
    build(flow, Quick())
    for _ in range(3):
        job = run(flow, count=20)
    figures = flow.execution_tracker.get_routine_performance("target0")
    assert figures["total_executions"] == 60
    assert figures["percentile_records"] == known
    assert (figures["p50_execution_time"] is None) is (size == 0)
    assert job.tracker.get_routine_performance("target0")["percentile_records"] == known // 3


def test_what_the_ring_has_forgotten_counts_for_percentiles(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow = make_flow(**strategy, history_size=20)
    build(flow, Timed(milliseconds=[2] * 200 + [0] * 3800))
    job = run(flow, count=4000)
    assert len(job.get_execution_history("target0")) <= 20
    for tracker in (job.tracker, flow.execution_tracker):
        figures = tracker.get_routine_performance("target0")
        assert figures["percentile_records"] == 4000
        middle, rare, longest = (figures[f"{name}_execution_time"] for name in ("p50", "p99", "max"))
        assert middle is not None
        assert rare is not None
        assert longest is not None
        assert middle < 0.002 * 0.97 <= rare <= longest


def test_what_many_jobs_leave_behind_does_not_grow(make_flow: MakeFlow) -> None:
    flow = make_flow(history_size=50)
    build(flow, Quick())
    for _ in range(200):
        run(flow, count=7)
    measures = flow._runtime.engine.measures
    assert len(measures.history) < 50 + 2 * FRESH
    assert len(measures.totals()) == 2
    assert flow.execution_tracker.get_flow_performance()["total_executions"] == 200 * 8


def test_a_routine_with_a_copy_for_each_job_is_counted_as_one(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    class Own(Routine, scope="job"):
        @slot
        def n(self, n: int) -> None:
            pass

    flow = make_flow(**strategy)
    build(flow, Own())
    for _ in range(4):
        run(flow, count=3)
    assert flow.execution_tracker.get_routine_performance("target0")["completed"] == 12
    assert len(flow._runtime.engine.measures.totals()) == 2


def test_an_unknown_routine_is_named_and_a_jobs_tracker_is_not_reset(make_flow: MakeFlow) -> None:
    flow = make_flow()
    build(flow, Quick())
    job = run(flow, count=1)
    with pytest.raises(UnknownNameError, match="did you mean 'target0'"):
        flow.execution_tracker.get_routine_performance("target")
    with pytest.raises(FlowStateError, match=r"reset flow\.execution_tracker"):
        job.tracker.reset()


def test_hints_name_the_routine_that_others_wait_for(make_flow: MakeFlow) -> None:
    flow = make_flow(execution_strategy="concurrent", max_workers=4)
    build(flow, Timed(milliseconds=[2]), Quick())
    job = run(flow, count=30)
    for tracker in (job.tracker, flow.execution_tracker):
        (hint,) = tracker.hints()
        assert "'target0': 30 activations one at a time" in hint
        assert "stateless=True" in hint


def test_without_records_there_are_counts_and_no_times(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow = make_flow(**strategy, history_size=0)
    build(flow, Timed(milliseconds=[20]))
    job = run(flow, count=2)
    for tracker in (job.tracker, flow.execution_tracker):
        figures = tracker.get_routine_performance("target0")
        assert {figures[name] for name in figures if "time" in name or "wait" in name} == {None}
        assert (figures["total_executions"], figures["success_rate"], figures["percentile_records"]) == (2, 1.0, 0)
        total = tracker.get_flow_performance()
        assert (total["work_time"], total["parallelism"], total["total_executions"]) == (None, None, 3)
        assert total["wall_time"] >= 0.04 / 4


def test_without_records_a_listener_still_has_the_times_of_its_job(make_flow: MakeFlow) -> None:
    class Listens:
        @hookimpl
        def routilux_activations_finished(self, records: Any) -> None:
            pass

    flow = make_flow(history_size=0, plugins=[Listens()])
    build(flow, Timed(milliseconds=[20]))
    figures = run(flow, count=2).tracker.get_routine_performance("target0")
    assert figures["total_execution_time"] is not None
    assert figures["total_execution_time"] >= 0.04
    assert flow.execution_tracker.get_routine_performance("target0")["total_execution_time"] is None
