"""Every way in which one activation can go wrong in a worker process costs that activation, and nothing else.

A handler notes each of its calls in a file, before anything else: the calls have to be those of the job's ledger.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from processes.faults import BAD, OTHERS, Keeps, Many, Source, Work
from routilux_core import ErrorStrategy, Flow, JobState, ShippingError, WorkerLost

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")

SECONDS = 30.0
UNTIL_THE_NEXT = 2.0  # what is promised of a machine that has time for us
SHORT, LONG = 2, 50

MakeFlow = Callable[..., Flow]


class Case:
    """A flow on two worker processes, and the file in which its handlers note their calls."""

    def __init__(self, flow: Flow, calls: Path) -> None:
        self.flow = flow
        self.calls = calls

    def run(self, fault: str, seconds: float = 0.0) -> JobState:
        """Run one job; its calls are those of its ledger, and each number came out at most once."""
        self.calls.write_text("")
        job = self.flow.execute("source", {"fault": fault, "seconds": seconds})
        assert job.wait(SECONDS), f"hangs; {job.ledger}"
        ledger = job.ledger
        assert ledger.posted == ledger.completed + ledger.failed == OTHERS + 1
        called = Counter(map(int, self.calls.read_text().split()))
        assert called == dict.fromkeys(set(range(OTHERS)) - ({BAD} if fault == "argument" else set()), 1)
        numbers = [payload["n"] for payload in job.outputs["work.done"]]
        assert len(numbers) == len(set(numbers))
        assert set(range(OTHERS)) - {BAD} <= set(numbers)
        assert len(job.errors) == ledger.failed <= 1
        return job

    def is_whole(self) -> None:
        """The next job runs, soon."""
        begun = time.monotonic()
        assert self.run("").ledger.failed == 0
        patience = UNTIL_THE_NEXT * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
        assert time.monotonic() - begun < patience


@pytest.fixture
def case(make_flow: MakeFlow, tmp_path: Path) -> Case:
    return _case(make_flow, tmp_path, "process")


@pytest.fixture
def source_at_home(make_flow: MakeFlow, tmp_path: Path) -> Case:
    """The same, but what is worked on is emitted in this process."""
    return _case(make_flow, tmp_path, "concurrent")


def _case(make_flow: MakeFlow, tmp_path: Path, source: str) -> Case:
    calls = tmp_path / "calls"
    flow = make_flow(execution_strategy="process", max_workers=2, error_handler=ErrorStrategy.CONTINUE)
    flow.add_routine(Source(), "source", execution_strategy=source)
    flow.add_routine(Work(calls=str(calls)), "work")
    flow.connect("source", "item", "work", "input")
    flow.add_output("work", "done")
    case = Case(flow, calls)
    case.run("")
    return case


def workers() -> list[int]:
    return [child.pid or 0 for child in multiprocessing.active_children() if child.name.startswith("routilux")]


LOST = {"exit": "exit code 3", "segfault": "signal 11", "kill": "signal 9"}
RAISED = {
    "memory": "MemoryError",
    "result": "lock",
    "exception": "Unpicklable",
    "two arguments": "this and that",
    "never back": "NeverBack",
}


def check_lost(case: Case, fault: str) -> None:
    (failure,) = case.run(fault).errors
    assert isinstance(failure.exception, WorkerLost)
    assert LOST[fault] in failure.exception.reason
    assert failure.routine_id == "work"
    case.is_whole()


def check_raised(case: Case, fault: str) -> None:
    (failure,) = case.run(fault).errors
    assert not isinstance(failure.exception, WorkerLost)
    assert RAISED[fault] in f"{failure.exception!r} {failure.exception}"
    assert "in input" in failure.traceback
    case.is_whole()


def check_unsendable_argument(case: Case) -> None:
    (failure,) = case.run("argument").errors
    assert isinstance(failure.exception, ShippingError)
    assert "routine 'work', slot 'input': key 'fault'" in str(failure.exception)
    assert "lock" in str(failure.exception)
    case.is_whole()


def check_killed_while_it_returns(case: Case, seed: int) -> None:
    job = case.run("killed while it returns", random.Random(seed).uniform(0.0, 0.1))
    assert all(isinstance(failure.exception, WorkerLost) for failure in job.errors)
    case.is_whole()


def check_killed_idle(case: Case, seed: int) -> None:
    for pid in random.Random(seed).sample(workers(), 1 + seed % 2):
        os.kill(pid, signal.SIGKILL)
    case.is_whole()


def check_killed_at_shutdown(case: Case, seed: int) -> None:
    case.run("")
    pids = workers()
    closer = threading.Thread(target=case.flow.shutdown)
    delay = threading.Event()
    closer.start()
    delay.wait(random.Random(seed).uniform(0.0, 0.02))
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:  # it was quicker
            continue
    closer.join(SECONDS)
    assert not closer.is_alive()
    case.run("")


@pytest.mark.once
@pytest.mark.parametrize("fault", LOST)
def test_a_worker_that_dies_in_a_call_costs_that_call(case: Case, fault: str) -> None:
    for _ in range(SHORT):
        check_lost(case, fault)


@pytest.mark.once
@pytest.mark.parametrize("fault", RAISED)
def test_what_cant_be_sent_back_fails_readably(case: Case, fault: str) -> None:
    for _ in range(SHORT):
        check_raised(case, fault)


@pytest.mark.once
def test_an_argument_that_cant_be_sent_fails_the_call_that_it_is_for(source_at_home: Case) -> None:
    for _ in range(SHORT):
        check_unsendable_argument(source_at_home)


@pytest.mark.once
def test_what_a_routine_with_state_emits_and_cant_be_read_at_home_costs_that_call_and_doubles_none(
    make_flow: MakeFlow,
) -> None:
    flow = make_flow(execution_strategy="process", max_workers=2, error_handler=ErrorStrategy.CONTINUE)
    keeps = Keeps()
    flow.add_routine(Many(), "many", execution_strategy="concurrent")
    flow.add_routine(keeps, "keeps")
    flow.connect("many", "item", "keeps", "input")
    flow.add_output("keeps", "done")
    for first, last in ((100, 110), (0, 50)):  # the second time they travel together
        job = flow.run("many", {"first": first, "last": last})
    assert keeps.seen == [*range(100, 110), *range(50)]
    assert (job.ledger.posted, job.ledger.completed, job.ledger.failed) == (51, 50, 1)
    assert [payload["n"] for payload in job.outputs["keeps.done"]] == [n for n in range(50) if n != BAD]
    (failure,) = job.errors
    assert "routine 'keeps', event 'done': what it emitted can't be unpickled" in str(failure.exception)


@pytest.mark.once
def test_a_worker_killed_while_it_returns_a_large_result_costs_that_call_at_most(case: Case) -> None:
    for seed in range(SHORT):
        check_killed_while_it_returns(case, seed)


@pytest.mark.once
def test_a_worker_killed_while_it_is_idle_costs_nothing(case: Case) -> None:
    for seed in range(SHORT):
        check_killed_idle(case, seed)


def test_a_worker_killed_at_shutdown_costs_nothing(case: Case) -> None:
    for seed in range(SHORT):
        check_killed_at_shutdown(case, seed)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("fault", [*LOST, *RAISED])
def test_50_times_each_fault_in_a_call(case: Case, fault: str) -> None:
    for _ in range(LONG):
        (check_lost if fault in LOST else check_raised)(case, fault)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_50_times_an_argument_that_cant_be_sent(source_at_home: Case) -> None:
    for _ in range(LONG):
        check_unsendable_argument(source_at_home)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("check", [check_killed_while_it_returns, check_killed_idle, check_killed_at_shutdown])
def test_50_times_a_worker_is_killed_from_outside(case: Case, check: Callable[[Case, int], None]) -> None:
    for seed in range(LONG):
        check(case, seed)
