"""Random workers are killed under a load of tiny and long activations, again and again, and the books balance."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from processes.killed import Source, Sum, Work
from quickest import keywords
from routilux_core import ErrorStrategy, Flow, JobState, WorkerLost

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kill -9")

SECONDS = 60.0
SHORT, LONG = 20, 500
TINY, MANY = 400, 20  # tiny and long activations of one job
STARTING = 10  # one of so many kills may hit a worker that has not worked yet

MakeFlow = Callable[..., Flow]


class Killer:
    """A thread that kills so many workers: those that have signed a list, and a few others.

    It does so at random moments, each after some more activations have ended: a slow machine is not killed to a halt.
    """

    def __init__(self, kills: int, seed: int, signed: Path) -> None:
        self.left = kills
        self.job: JobState | None = None
        self._signed = signed
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
        seen, wanted = None, 0
        while self.left and not self._over.wait(self._random.uniform(0.0, 0.05)):
            job = self.job
            if job is not seen:
                seen, wanted = job, 0
            if job is None or job.ledger.completed < wanted:
                continue
            workers = [each for each in multiprocessing.active_children() if each.name.startswith("routilux")]
            present = {str(each.pid) for each in workers}  # not those of the executor that all tests share
            if self.left % STARTING:
                present &= set(os.listdir(self._signed))
            if present:
                with suppress(ProcessLookupError):
                    os.kill(int(self._random.choice(sorted(present))), signal.SIGKILL)
                    self.left -= 1
                    wanted = job.ledger.completed + self._random.randint(1, 60)


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


def run_under_kills(make_flow: MakeFlow, kills: int, seed: int, signed: Path, **options: str) -> int:
    flow = make_flow(**keywords("process", 3, **options), error_handler=ErrorStrategy.CONTINUE)
    total = Sum()
    flow.add_routine(Source(), "source")
    flow.add_routine(Work(folder=str(signed)), "work")
    flow.add_routine(total, "sum")
    flow.connect("source", "item", "work", "input")
    flow.connect("work", "done", "sum", "input")
    for routine_id, name in (("work", "begun"), ("work", "done"), ("sum", "summed")):
        flow.add_output(routine_id, name)
    failed, summed = 0, 0
    with Killer(kills, seed, signed) as killer:
        while killer.left:
            job = killer.job = flow.execute("source", {"tiny": TINY, "long": MANY})
            assert job.wait(SECONDS), f"hangs; {job.ledger}; {job.explain()}"
            failed += check(job, flow)
            summed += len(job.outputs.get("sum.summed", ()))
    assert total.seen == summed
    return failed


@pytest.mark.stress
def test_20_kills_cost_an_activation_each_at_most(make_flow: MakeFlow, tmp_path: Path) -> None:
    assert run_under_kills(make_flow, SHORT, 1, tmp_path) <= SHORT


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_500_kills_cost_an_activation_each_at_most(make_flow: MakeFlow, tmp_path: Path) -> None:
    # A spawned worker takes its time to start, so that it is killed in that as well.
    assert run_under_kills(make_flow, LONG, 2, tmp_path, start_method="spawn") <= LONG
