"""Random workers are killed under a load of tiny and long activations, again and again, and the books balance."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable

import pytest
from kill_routines import Source, Sum, Work

from routilux_core import ErrorStrategy, Flow, JobState, WorkerLost

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the age of processes in /proc")

SECONDS = 60.0
SHORT, LONG = 20, 500
TINY, MANY = 400, 20  # tiny and long activations of one job
OLD_ENOUGH = 0.3  # seconds; most younger ones are still starting, and a kill of those is no loss of work

MakeFlow = Callable[..., Flow]


def age(pid: int) -> float:
    """Return the seconds that a process has lived."""
    with open(f"/proc/{pid}/stat") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


class Killer:
    """A thread that kills so many workers, at random moments, whoever is there."""

    def __init__(self, kills: int, seed: int) -> None:
        self.left = kills
        self._random = random.Random(seed)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="killer")

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        while self.left and not self._over.wait(self._random.uniform(0.0, 0.1)):
            victims = [pid for child in multiprocessing.active_children() if (pid := child.pid) and self._is_old(pid)]
            if victims:
                os.kill(self._random.choice(victims), signal.SIGKILL)
                self.left -= 1

    def _is_old(self, pid: int) -> bool:
        try:
            return age(pid) > OLD_ENOUGH
        except FileNotFoundError:
            return False


def check(job: JobState, flow: Flow) -> int:
    """Every activation was handled or failed once, and nothing was emitted twice; return how many failed."""
    ledger = job.ledger
    assert ledger.posted == ledger.completed + ledger.failed, ledger
    assert len(job.errors) == ledger.failed
    assert all(isinstance(failure.exception, WorkerLost) for failure in job.errors)
    begun, done, summed = (
        [payload["n"] for payload in job.outputs.get(name, ())] for name in ("work.begun", "work.done", "sum.summed")
    )
    for numbers in (begun, done, summed):
        assert len(numbers) == len(set(numbers)), "something was emitted twice"
    failed = {name: sum(each.routine_id == name for each in job.errors) for name in ("source", "work", "sum")}
    work = ledger.posted - 1 - len(done)  # the source and the activations of `sum` taken off
    assert work - failed["work"] <= len(done) <= work
    assert len(summed) == len(done) - failed["sum"]
    if not failed["source"]:
        assert work == TINY + MANY
    assert set(done) <= set(begun)
    return ledger.failed


def run_under_kills(make_flow: MakeFlow, kills: int, seed: int) -> int:
    flow = make_flow(execution_strategy="process", max_workers=3, error_handler=ErrorStrategy.CONTINUE)
    total = Sum()
    flow.add_routine(Source(), "source")
    flow.add_routine(Work(), "work")
    flow.add_routine(total, "sum")
    flow.connect("source", "item", "work", "input")
    flow.connect("work", "done", "sum", "input")
    for routine_id, name in (("work", "begun"), ("work", "done"), ("sum", "summed")):
        flow.add_output(routine_id, name)
    failed, summed = 0, 0
    with Killer(kills, seed) as killer:
        while killer.left:
            job = flow.execute("source", {"tiny": TINY, "long": MANY})
            assert job.wait(SECONDS), f"hangs; {job.ledger}; {job.explain()}"
            failed += check(job, flow)
            summed += len(job.outputs.get("sum.summed", ()))
    assert total.seen == summed
    return failed


@pytest.mark.stress
def test_20_kills_cost_an_activation_each_at_most(make_flow: MakeFlow) -> None:
    assert run_under_kills(make_flow, SHORT, seed=1) <= SHORT


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_500_kills_cost_an_activation_each_at_most(make_flow: MakeFlow) -> None:
    assert run_under_kills(make_flow, LONG, seed=2) <= LONG
