"""A real scheduler and two real workers on this machine; they import the routines of the core's tests by name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
SUPPORT = HERE.parents[2] / "tests" / "support"
sys.path[:0] = [str(HERE), str(SUPPORT)]
pytest.register_assert_rewrite("shipped.same_answers")

from dask.distributed import Client  # noqa: E402

from routilux_core import Flow  # noqa: E402

SECONDS = 60.0


class Cluster:
    """Processes: one scheduler, and workers, each under a nanny that starts it again."""

    def __init__(self, folder: Path, workers: int = 2) -> None:
        self._file = folder / "scheduler.json"
        self._stack = ExitStack()
        self.scheduler = self._start(
            "dask_scheduler", "--port", "0", "--scheduler-file", str(self._file), "--no-dashboard"
        )
        with Client(scheduler_file=str(self._file), set_as_default=False, timeout=SECONDS) as client:
            self.address = client.scheduler.address
            for _ in range(workers):
                self.add_worker()
            if workers:
                client.wait_for_workers(workers, timeout=SECONDS)

    def add_worker(self, *arguments: str, program: tuple[str, ...] = (), **variables: str) -> subprocess.Popen[bytes]:
        return self._start("dask_worker", self.address, "--nthreads", "1", *arguments, program=program, **variables)

    def _start(
        self, module: str, *arguments: str, program: tuple[str, ...] = (), **variables: str
    ) -> subprocess.Popen[bytes]:
        first = variables.pop("first", "")
        paths = os.pathsep.join(each for each in (first, os.environ.get("PYTHONPATH"), str(HERE), str(SUPPORT)) if each)
        environment = {**os.environ, "PYTHONPATH": paths, **variables}
        program = program or ("-m", f"distributed.cli.{module}")
        command = [sys.executable, *program, *arguments, "--host", "127.0.0.1"]
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=self._file.parent,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._stack.callback(self._end, process)
        return process

    def settings(self, **options: Any) -> dict[str, Any]:
        """The keywords of a flow that runs here."""
        return {"execution_strategy": "dask", "strategy_options": {"address": self.address, **options}}

    def close(self) -> None:
        self._stack.close()

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):  # a nanny without a scheduler takes its time
            process.wait(2)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One for all tests that leave it as it is, or only kill workers."""
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def wide_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One with room for two flows of two workers."""
    made = Cluster(tmp_path_factory.mktemp("wide"), 4)
    yield made
    made.close()


@pytest.fixture
def make_cluster(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """For tests that do something to a scheduler."""
    with ExitStack() as stack:

        def make(workers: int) -> Cluster:
            made = Cluster(tmp_path, workers)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def shipped(cluster: Cluster) -> dict[str, Any]:
    return cluster.settings()


@pytest.fixture
def no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = [each for each in threading.enumerate() if each not in before and each.name.startswith("routilux")]
    for thread in left:
        thread.join(10.0)
    assert not [thread.name for thread in left if thread.is_alive()]


@pytest.fixture
def make_flow(no_thread_left: None) -> Iterator[Callable[..., Flow]]:
    """A `Flow` factory; what it made is shut down after the test, before the threads are counted."""
    with ExitStack() as stack:

        def make(*args: Any, **settings: Any) -> Flow:
            flow = Flow(*args, **settings)
            stack.callback(flow.shutdown, timeout=10.0)
            return flow

        yield make
