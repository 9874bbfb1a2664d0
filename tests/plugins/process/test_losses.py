"""What a lost worker costs a job, with real workers and a real signal: tried again, how often, and what then."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from processes.lost import Counts, Dies, DiesAgain
from quickest import keywords
from routilux_core import ErrorHandler, Flow, JobState, Routine, WorkerLost

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")

SECONDS = 30.0

MakeFlow = Callable[..., Flow]


def run(
    make_flow: MakeFlow, routine: Routine, options: dict[str, object] | None = None, **settings: object
) -> JobState:
    flow = make_flow(**keywords("process", 2, **(options or {})), **settings)
    flow.add_routine(routine, "only")
    flow.add_output("only", "done")
    job = flow.execute("only")
    assert job.wait(SECONDS), job.explain()
    assert job.ledger.balanced
    assert all(isinstance(each.exception, WorkerLost) for each in job.errors)
    assert all("signal 9" in each.exception.reason for each in job.errors)
    return job


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    return tmp_path / "calls"


def pids_in(calls: Path) -> list[str]:
    return calls.read_text().split()


def test_without_a_word_the_loss_of_its_worker_fails_the_activation(make_flow: MakeFlow, calls: Path) -> None:
    job = run(make_flow, Dies(calls=str(calls), deaths=1))
    assert (job.status, job.ledger.failed, len(pids_in(calls))) == ("failed", 1, 1)


def test_a_routine_may_say_that_it_is_run_again_in_another_worker(make_flow: MakeFlow, calls: Path) -> None:
    job = run(make_flow, DiesAgain(calls=str(calls), deaths=2))
    assert (job.status, job.ledger.completed, job.ledger.retried) == ("completed", 1, 2)
    assert [each.decision for each in job.errors] == ["retry", "retry"]
    assert len(set(pids_in(calls))) == 3
    assert [str(each["pid"]) for each in job.outputs["only.done"]] == pids_in(calls)[-1:]


@pytest.mark.parametrize("most", [1, 2])
def test_an_activation_that_has_killed_so_many_workers_is_not_tried_again(
    make_flow: MakeFlow, calls: Path, most: int
) -> None:
    job = run(make_flow, DiesAgain(calls=str(calls), deaths=99), {"max_worker_losses": most})
    assert (job.status, job.ledger.failed) == ("failed", 1)
    assert len(set(pids_in(calls))) == len(pids_in(calls)) == most


def test_it_is_three_workers_where_nothing_is_said(make_flow: MakeFlow, calls: Path) -> None:
    run(make_flow, DiesAgain(calls=str(calls), deaths=99))
    assert len(pids_in(calls)) == 3


def test_a_retry_policy_applies_to_a_lost_worker_up_to_the_same_number(make_flow: MakeFlow, calls: Path) -> None:
    policy = ErrorHandler("retry", max_retries=9, retry_delay=0.0, after_retries="skip")
    job = run(make_flow, Dies(calls=str(calls), deaths=1), error_handler=policy)
    assert (job.status, job.ledger.completed, job.ledger.retried) == ("completed", 1, 1)
    calls.unlink()
    job = run(make_flow, Dies(calls=str(calls), deaths=99), {"max_worker_losses": 2}, error_handler=policy)
    assert (job.status, job.ledger.skipped, len(pids_in(calls))) == ("completed", 1, 2)


def test_workers_are_replaced_when_they_have_done_their_number_of_activations(make_flow: MakeFlow) -> None:
    flow = make_flow(**keywords("process", 1, max_tasks_per_worker=3))
    counts = Counts()
    flow.add_routine(counts, "counts")
    flow.add_output("counts", "done")
    pids = []
    for n in range(9):
        job = flow.run("counts", {"n": n})
        job.raise_for_errors()
        pids += [each["pid"] for each in job.outputs["counts.done"]]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 3]
    assert counts.seen == 9
