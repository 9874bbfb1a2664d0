"""The tracker's numbers against a stopwatch inside the handlers, under each of the bundled strategies.

The counts have to be exact in every job. The times have to agree within 2 ms in one job of a few. Between the clock of
a handler and that of the engine there are some microseconds of work, but a thread may lose its processor just there, to
others or to a busy machine; then the two differ by what the machine did, and not by what the tracker measures. A
tracker that measures something else than the call is wrong in every job.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from processes.timed import WORK, Collects, Computes, Source, Waits
from quickest import keywords
from routilux_core import ErrorHandler, ExecutionTracker, Flow, JobState

MakeFlow = Callable[..., Flow]
SECONDS = 30.0
CLOSE = 0.002  # seconds
JOBS = 7  # after the first that agrees there is no other
COUNT = 12

BUNDLED = [
    {"execution_strategy": "sequential"},
    {"execution_strategy": "concurrent", "max_workers": 2},
    keywords("process", 2),
]
EACH = pytest.mark.parametrize("bundled", BUNDLED, ids=lambda each: each["execution_strategy"])


def build(flow: Flow, wrong: float = 0.0) -> None:
    """Wire one routine with state, some of whose calls fail and are tried again, and one without state."""
    flow.add_routine(Source(), "source")
    flow.add_routine(Computes(wrong=wrong), "computes")
    flow.add_routine(Waits(), "waits")
    flow.add_routine(Collects(), "collects")
    flow.connect("source", "item", "computes", "n")
    flow.connect("source", "item", "waits", "n")
    flow.connect("waits", "measured", "collects", "seconds")
    policy = ErrorHandler("retry", max_retries=1, retry_delay=0.0, after_retries="skip")
    flow.routines["computes"].set_error_handler(policy)


def run(flow: Flow) -> tuple[JobState, dict[str, list[float]]]:
    """Run one job, and return it with what the stopwatches said."""
    for name in ("computes", "collects"):
        flow.routines[name].times.clear()
    job = flow.execute("source", {"count": COUNT})
    assert job.wait(SECONDS), job.explain()
    times = {"computes": flow.routines["computes"].times, "waits": flow.routines["collects"].times}
    return job, {name: sorted(each) for name, each in times.items()}


def check_counts(tracker: ExecutionTracker, times: dict[str, list[float]]) -> None:
    names = ("total_executions", "completed", "failed", "skipped", "retried", "percentile_records")
    found = {name: tuple(each[key] for key in names) for name, each in tracker.get_all_performances().items()}
    failing = COUNT // 3
    assert found == {
        "source": (1, 1, 0, 0, 0, 1),
        "computes": (COUNT + failing, COUNT - failing, 0, failing, failing, COUNT + failing),
        "waits": (COUNT, COUNT, 0, 0, 0, COUNT),
        "collects": (COUNT, COUNT, 0, 0, 0, COUNT),
    }
    assert {name: len(each) for name, each in times.items()} == {"computes": COUNT + failing, "waits": COUNT}


def difference(tracker: ExecutionTracker, times: dict[str, list[float]]) -> float:
    """Return the largest difference in seconds between a number of the tracker and what stopwatches make of it."""
    return max(
        abs(own - figures[key])  # type: ignore[literal-required]
        for name, ordered in times.items()
        for figures in (tracker.get_routine_performance(name),)
        for key, own in stopwatch_figures(ordered).items()
    )


def stopwatch_figures(ordered: list[float]) -> dict[str, float]:
    calls = len(ordered)
    return {
        "avg_execution_time": sum(ordered) / calls,
        "min_execution_time": ordered[0],
        "max_execution_time": ordered[-1],
        "p50_execution_time": ordered[-(-calls * 50 // 100) - 1],
        "p95_execution_time": ordered[-(-calls * 95 // 100) - 1],
    }


@EACH
def test_the_tracker_agrees_with_a_stopwatch_in_the_handlers(make_flow: MakeFlow, bundled: dict[str, Any]) -> None:
    flow, differences = make_flow(**bundled), []
    build(flow)
    for _ in range(JOBS):
        flow.execution_tracker.reset()
        job, times = run(flow)
        for tracker in (job.tracker, flow.execution_tracker):
            check_counts(tracker, times)
        assert times["waits"][0] >= WORK[0]
        assert job.tracker.get_all_performances() == flow.execution_tracker.get_all_performances()
        differences.append(difference(job.tracker, times))
        if differences[-1] <= CLOSE:
            return
    pytest.fail(f"the tracker and the stopwatches differ by {differences} seconds, which is more than {CLOSE}")


@EACH
def test_the_work_of_a_flow_is_that_of_its_routines(make_flow: MakeFlow, bundled: dict[str, Any]) -> None:
    flow = make_flow(**bundled)
    build(flow)
    job, times = run(flow)
    total, each = job.tracker.get_flow_performance(), job.tracker.get_all_performances()
    assert total["work_time"] == pytest.approx(sum(figures["total_execution_time"] for figures in each.values()))
    assert total["work_time"] >= sum(map(sum, times.values()))
    assert total["total_executions"] == sum(figures["total_executions"] for figures in each.values())
    assert (total["completed"], total["retried"], total["skipped"]) == (
        job.ledger.completed,
        job.ledger.retried,
        job.ledger.skipped,
    )
    assert total["events"] == job.ledger.emitted == 2 * COUNT


def test_a_wrong_stopwatch_would_be_noticed(make_flow: MakeFlow) -> None:
    flow = make_flow()
    build(flow, wrong=2 * CLOSE)
    job, times = run(flow)
    assert difference(job.tracker, times) > CLOSE
