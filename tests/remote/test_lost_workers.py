"""What a dead worker costs: the activation that it ran, and no other is lost or counted twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from processes.lost import Deadly
from routilux_core import ErrorHandler, Flow, JobState, WorkerLost
from shipped.routines import FailsWithout, SlowSource, Source, Square, Sum
from shipped.strategies import Mortal
from strategies.dear_marks import MARK_EVERY_S, DearMarks

MakeFlow = Callable[..., Flow]
SECONDS = 30.0


class Again(Square, stateless=True, on_worker_lost="retry"):
    """Made again when its worker dies."""


class SumAgain(Sum, on_worker_lost="retry"):
    """Made again when its worker dies."""


class SourceAgain(Source, stateless=True, on_worker_lost="retry"):
    """Made again when its worker dies."""


def build(flow: Flow, source: Any, square: Any, total: Any) -> None:
    flow.add_routine(source, "source")
    flow.add_routine(square, "square")
    flow.add_routine(total, "sum")
    flow.connect("source", "item", "square", "n")
    flow.connect("square", "done", "sum", "n")


def finished(job: JobState) -> JobState:
    assert job.wait(SECONDS), job.explain()
    assert job.ledger.balanced
    return job


says_which = pytest.mark.parametrize("says_which", [True, False], ids=["says which", "does not know which"])


@says_which
@pytest.mark.parametrize("seed", range(3))
def test_calls_that_are_made_again_lose_and_double_nothing(make_flow: MakeFlow, seed: int, says_which: bool) -> None:
    strategy = Mortal(max_workers=3, deaths=0.02, seed=seed, max_worker_losses=100, says_which=says_which)
    flow = make_flow("f", strategy, history_size=10_000)
    build(flow, SourceAgain(), Again(), SumAgain())
    job = finished(flow.execute("source", {"count": 300}))
    total = flow.routines["sum"]
    assert job.status == "completed"
    assert total.seen.count(0) == 1
    assert sorted(total.seen) == [n * n for n in range(300)]
    assert total.total == sum(total.seen)
    assert total.stats() == {"calls": 300}
    assert (job.ledger.completed, job.ledger.failed) == (601, 0)
    assert job.ledger.retried == len(job.errors)
    assert job.errors
    assert all(isinstance(each.exception, WorkerLost) for each in job.errors)


@says_which
@pytest.mark.parametrize("seed", range(3))
def test_each_activation_is_handled_or_failed_once(make_flow: MakeFlow, seed: int, says_which: bool) -> None:
    strategy = Mortal(max_workers=3, deaths=0.03, seed=seed, says_which=says_which)
    flow = make_flow("f", strategy, error_handler="continue", history_size=10_000)
    build(flow, SourceAgain(), Square(), Sum())
    job = finished(flow.execute("source", {"count": 300}))
    total = flow.routines["sum"]
    failed = Counter(each.routine_id for each in job.errors if each.decision == "continue")
    assert max(Counter(total.seen).values()) == 1
    assert len(total.seen) == 300 - failed["square"] - failed["sum"]
    assert job.ledger.failed == failed["square"] + failed["sum"]
    assert failed.total() > 0 or not says_which  # else a call that is made again may live on
    assert job.ledger.posted == 1 + 300 + 300 - failed["square"]
    # The counters of `square` say nothing here: these workers share a process, and a dead one leaves its part behind.
    records = Counter((each.routine_id, each.outcome) for each in job.get_execution_history())
    assert records["sum", "completed"] == len(total.seen)
    assert records["square", "failed"] == failed["square"]


@says_which
@pytest.mark.parametrize("total", [Sum, SumAgain])
def test_order_holds_behind_a_routine_with_state_also_when_its_worker_dies(
    make_flow: MakeFlow, total: Any, says_which: bool
) -> None:
    strategy = Mortal(max_workers=3, deaths=0.05, seed=1, max_worker_losses=100, says_which=says_which)
    flow = make_flow("f", strategy, error_handler=ErrorHandler("retry", 100, 0.0))
    flow.add_routine(SourceAgain(), "source")
    flow.add_routine(total(), "sum")
    flow.connect("source", "item", "sum", "n")
    job = finished(flow.execute("source", {"count": 400}))
    assert job.errors
    assert flow.routines["sum"].seen == list(range(400))


@pytest.mark.parametrize("chunks", [1, 3, 6])
def test_what_was_told_before_stands_and_a_ghost_is_not_heard(
    make_flow: MakeFlow, chunks: int, caplog: pytest.LogCaptureFixture
) -> None:
    flow = make_flow("f", Mortal(max_workers=1, chunks=chunks), error_handler="continue")
    flow.add_routine(SlowSource(), "source")
    flow.add_routine(Sum(), "sum", execution_strategy="concurrent")
    flow.connect("source", "item", "sum", "n")
    job = finished(flow.execute("source", {"count": 60}))
    (failure,) = job.errors
    seen = flow.routines["sum"].seen
    assert seen == list(range(failure.emitted))
    assert 0 < len(seen) < 60
    assert (job.ledger.emitted, job.ledger.failed) == (2 * len(seen), 1)  # the sum emits, too
    flow.shutdown()
    assert "was ended twice by its pool" in caplog.text
    assert flow.routines["sum"].seen == seen


def test_a_slow_source_is_heard_while_it_runs(make_flow: MakeFlow) -> None:
    flow = make_flow("f", Mortal(max_workers=1))
    flow.add_routine(SlowSource(), "source")
    flow.add_routine(Sum(), "sum", execution_strategy="concurrent")
    flow.connect("source", "item", "sum", "n")
    job = finished(flow.execute("source", {"count": 40}))
    records = job.get_execution_history()
    (source,) = job.get_execution_history("source")
    assert sum(record.started < source.ended for record in records if record.routine_id == "sum") > 20


def test_what_kills_its_workers_is_given_up(make_flow: MakeFlow) -> None:
    flow = make_flow("f", Mortal(max_workers=2, deaths=1.0, max_worker_losses=3))
    flow.add_routine(SourceAgain(), "source")
    job = finished(flow.execute("source", {"count": 1}))
    assert job.status == "failed"
    assert [each.decision for each in job.errors] == ["retry", "retry", "stop"]
    assert job.errors[-1].exception.reason == "drawn by lot"


def test_a_retry_policy_ends_there_too(make_flow: MakeFlow) -> None:
    handler = ErrorHandler("retry", 10, 0.0, after_retries="skip")
    flow = make_flow("f", Mortal(max_workers=2, deaths=1.0, max_worker_losses=2), error_handler=handler)
    flow.add_routine(Source(), "source")
    job = finished(flow.execute("source", {"count": 1}))
    assert (job.status, [each.decision for each in job.errors]) == ("completed", ["retry", "skip"])


def test_without_a_word_a_lost_worker_fails_the_call_and_stops_the_job(make_flow: MakeFlow) -> None:
    flow = make_flow("f", Mortal(max_workers=2, deaths=1.0))
    flow.add_routine(FailsWithout(), "any")
    job = finished(flow.execute("any", {"n": 1}))
    assert (job.status, len(job.errors), job.ledger.failed) == ("failed", 1, 1)


@pytest.mark.once
def test_a_death_costs_one_call_also_where_marks_are_dear(make_flow: MakeFlow, tmp_path: Path) -> None:
    flow = make_flow("f", DearMarks(max_workers=1), error_handler="continue")
    flow.add_routine(Source(), "source")
    flow.add_routine(Deadly(calls=str(tmp_path / "calls"), deadly=200), "deadly")
    flow.connect("source", "item", "deadly", "n")
    job = finished(flow.execute("source", {"count": 300}))
    assert [(type(each.exception), each.routine_id) for each in job.errors] == [(WorkerLost, "deadly")]
    assert (job.status, job.ledger.failed, job.ledger.completed) == ("completed", 1, 300)
    calls = Counter(int(line) for line in (tmp_path / "calls").read_text().split())
    again = [n for n in range(300) if calls[n] == 2]
    assert calls.keys() == set(range(300))
    assert calls.total() == 300 + len(again)
    assert 200 in again
    # They emit nothing; but all were told of that had ended before the last mark.
    assert len(again) <= 1 + MARK_EVERY_S / Deadly.SECONDS
