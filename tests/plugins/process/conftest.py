"""A pool of real processes for each test that asks for one, and a look at what is left behind."""

from __future__ import annotations

import gc
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from processes.pools import PROGRAMS, SECONDS, RecordingHost, descriptors, is_alive
from routilux_core_plugins.process import ProcessPool
from routilux_core_plugins.process.launcher import Settings
from waiting import comes_true


@pytest.fixture(scope="session")
def warm() -> None:
    """Start once what `multiprocessing` keeps for the life of the program."""
    pool = ProcessPool(Settings(workers=1, runner=PROGRAMS), RecordingHost())
    pool.close()


@pytest.fixture(scope="session")
def fork_server() -> None:
    """The same for the fork server."""
    pool = ProcessPool(Settings(workers=1, runner=PROGRAMS, start_method="forkserver"), RecordingHost())
    pool.close()


STANDING: list[ProcessPool] = []  # pools that several tests share


def stays(worker: Any) -> bool:
    """Whether a worker is neither gone nor about to go, also where its pool has not noticed yet."""
    return worker.is_open and worker.reason is None and is_alive(worker.process.pid)


def settle(pool: ProcessPool) -> None:
    """Wait until a shared pool is whole: a worker that an earlier test has ended is replaced a little later."""
    roster, end = pool._supervisor.roster, time.monotonic() + SECONDS
    while time.monotonic() < end:
        with roster.lock:
            workers = list(roster.workers)
            if len(workers) == pool.workers and all(map(stays, workers)):
                return
        time.sleep(0.01)
    raise AssertionError(f"the shared pool did not become whole: {workers}")


def standing(workers: int) -> Iterator[ProcessPool]:
    """Share a pool, which `nothing_left` knows of."""
    pool = ProcessPool(Settings(workers=workers, runner=PROGRAMS), RecordingHost())
    STANDING.append(pool)
    yield pool
    STANDING.remove(pool)
    pool.close(timeout=10)


@pytest.fixture
def nothing_left(warm: None) -> Iterator[None]:
    """Fail a test that leaves a process or a descriptor; threads are looked after elsewhere."""
    for pool in STANDING:
        settle(pool)
    gc.collect()
    processes, before = set(multiprocessing.active_children()), descriptors()
    yield
    gc.collect()
    # The thread of a pool that was closed, and a fork server, let go of what they have a moment later.
    assert comes_true(lambda: not set(multiprocessing.active_children()) - processes), multiprocessing.active_children()
    assert comes_true(lambda: not descriptors() - before), f"left open: {sorted(descriptors() - before)}"


@pytest.fixture
def host() -> RecordingHost:
    return RecordingHost()


@pytest.fixture
def make_pool(nothing_left: None, host: RecordingHost) -> Iterator[Callable[..., ProcessPool]]:
    """A factory of pools of two workers that run the programs; they are closed after the test."""
    pools: list[ProcessPool] = []

    def make(**settings: Any) -> ProcessPool:
        pool = ProcessPool(Settings(**{"workers": 2, "runner": PROGRAMS, **settings}), host)
        pools.append(pool)
        return pool

    yield make
    while pools:
        pools.pop().close(cancel=True, timeout=10)


@pytest.fixture(scope="module")
def pool(warm: None) -> Iterator[ProcessPool]:
    """One pool of two workers for all the tests: whatever they do to its workers, it has to stay whole."""
    yield from standing(2)


@pytest.fixture(scope="module")
def single(warm: None) -> Iterator[ProcessPool]:
    """The same, of one worker."""
    yield from standing(1)


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """A file in which programs note their calls."""
    path = tmp_path / "calls"
    path.touch()
    return path


@pytest.fixture
def gate(tmp_path: Path) -> str:
    """A named pipe: `wait_for` waits in a worker until somebody opens it for writing and closes it."""
    path = str(tmp_path / "gate")
    os.mkfifo(path)
    return path
