"""What the death of a worker or of the scheduler costs."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dask_flows import appeared, build, finished
from dask_routines import TakesAll, Tally, TellsMuch, Waits, Work, WorkAgain

from routilux_core import ErrorHandler, Flow, StrategyError, WorkerLost

MakeFlow = Callable[..., Flow]
SECONDS = 60.0
COUNT = 20


def lose_one(flow: Flow) -> None:
    """All but the activation that killed its worker finish, and that one is handled by its policy."""
    job = finished(flow.execute("source", {"count": COUNT}))
    assert job.status == "completed"
    assert sorted(each["n"] for each in job.outputs["work.done"]) == [n for n in range(COUNT) if n != 7]
    (lost,) = job.errors
    assert isinstance(lost.exception, WorkerLost)
    assert (lost.routine_id, lost.decision) == ("work", "continue")
    assert (job.ledger.failed, job.ledger.completed, job.ledger.posted) == (1, COUNT, COUNT + 1)


@pytest.mark.parametrize("seconds", [0.05, 0.0], ids=["one by one", "in batches"])
@pytest.mark.parametrize("time", range(3))
def test_a_killed_worker_costs_one_activation(make_flow: MakeFlow, shipped: Any, time: int, seconds: float) -> None:
    lose_one(build(make_flow("f", **shipped, error_handler="continue"), Work(fatal=7, seconds=seconds)))


@pytest.mark.soak
@pytest.mark.parametrize("seconds", [0.05, 0.0], ids=["one by one", "in batches"])
@pytest.mark.parametrize("time", range(20))
def test_a_killed_worker_costs_one_activation_always(
    make_flow: MakeFlow, shipped: Any, time: int, seconds: float
) -> None:
    lose_one(build(make_flow("f", **shipped, error_handler="continue"), Work(fatal=7, seconds=seconds)))


@pytest.mark.parametrize("kind", [TakesAll, TellsMuch])
def test_it_costs_no_more_where_nobody_can_tell_which_one_ran(
    make_flow: MakeFlow, shipped: Any, kind: type[Work]
) -> None:
    flow = build(make_flow("f", **shipped, error_handler="continue"), kind(fatal=7, seconds=0.0))
    finished(flow.execute("source", {"count": 5}))  # from now on it is known to be quick, and travels in batches
    lose_one(flow)


def test_it_costs_none_where_the_call_may_run_again(make_flow: MakeFlow, shipped: Any, tmp_path: Path) -> None:
    flow = build(make_flow("f", **shipped), WorkAgain(fatal=7, once=str(tmp_path / "once")))
    job = finished(flow.execute("source", {"count": COUNT}))
    assert job.status == "completed"
    assert sorted(each["n"] for each in job.outputs["work.done"]) == list(range(COUNT))
    assert [each.decision for each in job.errors] == ["retry"]


def test_what_kills_its_workers_is_given_up(make_flow: MakeFlow, cluster: Any) -> None:
    flow = build(make_flow("f", **cluster.settings(max_worker_losses=2)), WorkAgain(fatal=1))
    flow.set_error_handler(ErrorHandler("skip"))
    job = finished(flow.execute("source", {"count": 4}))
    assert [each.decision for each in job.errors] == ["retry", "skip"]
    assert sorted(each["n"] for each in job.outputs["work.done"]) == [0, 2, 3]


def test_a_routine_keeps_the_state_that_it_had_before_the_loss(make_flow: MakeFlow, shipped: Any) -> None:
    tally = Tally(fatal=11)
    flow = build(make_flow("f", **shipped, error_handler="continue"), tally)
    job = finished(flow.execute("source", {"count": COUNT}))
    assert tally.seen == [n for n in range(COUNT) if n != 11]
    assert [type(each.exception) for each in job.errors] == [WorkerLost]


def test_a_worker_killed_from_outside_is_one_of_them(make_flow: MakeFlow, shipped: Any, tmp_path: Path) -> None:
    waits = Waits(began=str(tmp_path / "began"), go=str(tmp_path / "go"))
    flow = build(make_flow("f", **shipped, error_handler="continue"), waits)
    flow.add_output("work", "done")
    job = flow.execute("source", {"count": 6})
    pids = {int(appeared(tmp_path / f"began{n}")) for n in (0, 1)}
    assert len(pids) == 2
    os.kill(pids.pop(), signal.SIGKILL)
    (tmp_path / "go").touch()
    finished(job)
    assert len(job.outputs["work.done"]) == 5
    assert [type(each.exception) for each in job.errors] == [WorkerLost]


@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "silent"])
def test_a_lost_scheduler_fails_the_job(make_flow: MakeFlow, make_cluster: Any, tmp_path: Path, way: int) -> None:
    cluster = make_cluster(1)
    waits = Waits(began=str(tmp_path / "began"), go=str(tmp_path / "go"))
    flow = build(make_flow("f", **cluster.settings(silence_timeout=8.0, connect_timeout=8.0)), waits)
    job = flow.execute("source", {"count": 3})
    appeared(tmp_path / "began0")
    began = time.monotonic()
    cluster.scheduler.send_signal(way)
    finished(job)
    assert time.monotonic() - began < 30.0
    assert job.status == "failed"
    assert cluster.address in str(job.errors[0].exception)
    if way == signal.SIGKILL:
        with pytest.raises(StrategyError, match="no Dask scheduler could be reached"):
            flow.execute("source", {"count": 3})


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_connection_whose_own_thread_breaks_fails_the_job_and_the_next_one_gets_another(
    make_flow: MakeFlow, shipped: Any, tmp_path: Path
) -> None:
    waits = Waits(began=str(tmp_path / "began"), go=str(tmp_path / "go"))
    flow = build(make_flow("f", **shipped), waits)
    job = flow.execute("source", {"count": 3})
    appeared(tmp_path / "began0")
    (loop,) = (each for each in threading.enumerate() if each.name == "routilux-dask-loop")
    assert loop.ident is not None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(loop.ident), ctypes.py_object(SystemExit))
    finished(job)
    assert job.status == "failed"
    assert "the connection to the Dask scheduler ended with SystemExit" in str(job.errors[0].exception)
    (tmp_path / "go").touch()
    assert finished(flow.execute("source", {"count": 3})).status == "completed"
