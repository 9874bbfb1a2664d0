"""Workers that are killed while large payloads are sent to them, or come back: it costs calls, and leaves nothing."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import random
import signal
import sys
import threading
from collections.abc import Callable

import pytest

from processes.pools import descriptors
from routilux_core import Flow, WorkerLost
from shipped.large import Here, Spoils, blob

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")

MakeFlow = Callable[..., Flow]
SECONDS = 60.0
SIZE = 64 << 20
LATEST = 0.3  # seconds until somebody kills: both ways are over by then on a machine that has time for us


def workers() -> list[int]:
    return [child.pid or 0 for child in multiprocessing.active_children() if child.name.startswith("routilux")]


def make(make_flow: MakeFlow) -> Flow:
    flow = make_flow(execution_strategy="process", max_workers=2, error_handler="continue")
    flow.add_routine(Here(), "here", execution_strategy="concurrent")
    flow.add_routine(Spoils(), "there")
    flow.connect("here", "out", "there", "input")
    flow.add_output("there", "out")
    return flow


def kill_one(draw: random.Random) -> None:
    with contextlib.suppress(ProcessLookupError):  # it was one whose end was just seen
        os.kill(draw.choice(workers()), signal.SIGKILL)


def check_killed(flow: Flow, seed: int) -> None:
    """Run a job of two large calls, of which one worker is killed at some time; then one that is whole."""
    draw = random.Random(seed)
    values = [blob(SIZE, 1), blob(SIZE, 2)]
    job = flow.execute("here", {"values": values})
    kill = threading.Timer(draw.uniform(0.0, LATEST), kill_one, (draw,))
    kill.start()
    assert job.wait(SECONDS), job.explain()
    kill.join()
    assert all(isinstance(failure.exception, WorkerLost) for failure in job.errors)
    ledger = job.ledger
    assert ledger.balanced
    assert ledger.completed + ledger.failed == ledger.posted == 3
    assert [each.data[0] for each in values] == [1, 2]
    for output in job.outputs["there.out"]:
        assert output["seen"] == (SIZE, output["n"] + 1, output["n"] + 1)
    small = flow.execute("here", {"values": [blob(1 << 17, 3)] * 4})
    assert small.wait(SECONDS), small.explain()
    assert small.ledger.completed + small.ledger.failed == 5


def check_many(make_flow: MakeFlow, seeds: range) -> None:
    flow = make(make_flow)
    assert flow.run("here", {"values": []}).status == "completed"
    flow.shutdown()
    before = len(descriptors())  # after the first pool: what multiprocessing keeps for good is there
    for seed in seeds:
        check_killed(flow, seed)
    flow.shutdown()
    assert len(descriptors()) == before
    assert not workers()


@pytest.mark.once
def test_a_worker_killed_amid_large_payloads_costs_its_calls_at_most(make_flow: MakeFlow) -> None:
    check_many(make_flow, range(3))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_50_times_a_worker_is_killed_amid_large_payloads(make_flow: MakeFlow) -> None:
    check_many(make_flow, range(50))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_memory_and_descriptors_are_flat_over_200_jobs_of_large_payloads(make_flow: MakeFlow) -> None:
    flow = make(make_flow)
    values = [blob(1 << 18, n % 200) for n in range(100)]

    def run(jobs: int) -> tuple[int, int]:
        for _ in range(jobs):
            job = flow.run("here", {"values": values})
            assert len(job.outputs["there.out"]) == 100
        del job
        gc.collect()
        return max(map(resident, [os.getpid(), *workers()])), len(descriptors())

    memory, files = run(50)
    later, files_later = run(200)
    assert later - memory < 16 << 20
    assert files_later == files


def resident(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
