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
from pathlib import Path

import pytest

from processes.pools import descriptors
from processes.programs import PRELUDE, left_after, running
from routilux_core import Flow, WorkerLost
from shipped.large import Here, Spoils, blob

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")

MakeFlow = Callable[..., Flow]
SECONDS = 60.0
SIZE = 64 << 20
HUGE = 5 << 20  # of pages of its own
NO_LONGER = 5.0  # seconds that what belongs to a killed program may be there
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


BUSY = f"""{PRELUDE}
from pickle import PickleBuffer

class Blob:
    def __init__(self, data):
        self.data = data

    def __reduce_ex__(self, protocol):
        return Blob, (PickleBuffer(self.data),)

class Here(Routine, stateless=True):
    out = event("value")

    @slot
    def trigger(self, values):
        for value in values:
            self.emit("out", value=value)

class There(Routine, stateless=True):
    out = event("value")

    @slot
    def input(self, value):
        value.data[0] = 7
        self.emit("out", value=value)

if __name__ == "__main__":
    flow = Flow(execution_strategy="process", max_workers=2)
    flow.add_routine(Here(), "here", execution_strategy="concurrent")
    flow.add_routine(There(), "there")
    flow.connect("here", "out", "there", "input")
    flow.add_output("there", "out")
    while True:
        job = flow.run("here", {{"values": [Blob(bytearray({SIZE}))] * 2}}, raise_for_errors=True)
        print(len(job.outputs["there.out"]), flush=True)
"""


def named_memory() -> set[str]:
    """Return the names of shared memory that Python gives."""
    folder = Path("/dev/shm")
    return {each.name for pattern in ("pym*", "psm*") for each in folder.glob(pattern)} if folder.exists() else set()


def check_killed_programs(script: Path, seeds: range) -> None:
    """Kill programs amid large payloads in both directions; nothing of them is left."""
    script.write_text(BUSY)
    before = named_memory()
    for seed in seeds:
        with running(script) as program:
            assert program.stdout is not None
            assert program.stdout.readline() == "2\n"
            threading.Event().wait(random.Random(seed).uniform(0.0, LATEST))
            program.kill()
        assert not left_after(program.pid, NO_LONGER), "processes left behind"
    assert named_memory() <= before


@pytest.mark.once
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_nothing_outlives_a_program_that_is_killed_amid_large_payloads(tmp_path: Path) -> None:
    check_killed_programs(tmp_path / "program.py", range(1))


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_nothing_outlives_any_of_50_programs_that_are_killed_amid_large_payloads(tmp_path: Path) -> None:
    check_killed_programs(tmp_path / "program.py", range(50))


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_memory_descriptors_and_maps_are_flat_over_200_jobs_of_large_payloads(make_flow: MakeFlow) -> None:
    flow = make(make_flow)
    values = [blob(HUGE if n % 20 == 0 else 1 << 18, n + 1) for n in range(100)]

    def run(jobs: int) -> tuple[int, int, int]:
        for _ in range(jobs):
            job = flow.run("here", {"values": values})
            assert len(job.outputs["there.out"]) == 100
        del job
        gc.collect()
        pids = [os.getpid(), *workers()]
        return max(map(resident, pids)), len(descriptors()), max(map(maps, pids))

    memory, files, mapped = run(50)
    later, files_later, mapped_later = run(200)
    assert later - memory < 16 << 20
    assert files_later == files
    assert mapped_later - mapped < 20  # not one for each of 1,000 such values


def resident(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def maps(pid: int) -> int:
    with open(f"/proc/{pid}/maps") as file:
        return len(file.readlines())
