"""W14: 32 calls that sleep 50 ms, on a Dask cluster of two worker processes that both rows have alike."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from suite.model import Comparison, Row, Workload, over_constant, ratio
from suite.work import check_each_once, median_of, note

CALLS = 32
WORKERS = 2
SECONDS = 0.05
RUNS = 5
PATIENCE = 60.0


@contextmanager
def _cluster() -> Iterator[Any]:
    """A client of a scheduler and its workers, each a process; none is busy with the start of another."""
    from distributed import Client

    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    with TemporaryDirectory() as folder:
        file = Path(folder, "scheduler.json")
        at = ("--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(file))
        commands = [("dask_scheduler", "--port", "0"), *[("dask_worker", "--nthreads", "1", "--no-nanny")] * WORKERS]
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.{module}", *arguments, *at],
                env={**os.environ, "PYTHONPATH": paths},
                cwd=folder,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for module, *arguments in commands
        ]
        try:
            with Client(scheduler_file=str(file), timeout=PATIENCE, set_as_default=False) as client:
                client.wait_for_workers(WORKERS, timeout=PATIENCE)
                yield client
        finally:
            for process in reversed(processes):
                process.kill()
                process.wait()


def _bare(count: int) -> float:
    from suite.dask_calls import call

    with _cluster() as client:

        def run() -> None:
            for n in client.gather([client.submit(call, n, pure=False) for n in range(count)]):
                note(n)

        run()
        check_each_once(count)
        return median_of(RUNS, run, lambda: check_each_once(count))


def _ours(count: int) -> float:
    from suite.flows import check_job  # the limit rows must not load the engine
    from suite.w14_flow import calls

    with _cluster() as client, calls(count, client.scheduler.address) as flow:

        def run() -> None:
            job = flow.execute("source")
            flow.wait_for_completion()
            check_job(job, count + 1)
            for each in job.outputs["call.done"]:
                note(each["n"])

        run()
        check_each_once(count)
        return median_of(RUNS, run, lambda: check_each_once(count))


WORKLOAD = Workload(
    name="W14",
    title="32 calls that sleep 50 ms on Dask, two worker processes, connected and warm",
    needs="routilux_dask",
    rows=(
        Row(name="bare Client.submit", measure=_bare, size=CALLS, quick_size=4, limit=True),
        Row(name="ours", measure=_ours, size=CALLS, quick_size=4),
    ),
    comparisons=(
        Comparison(
            goal="G14",
            text="ours / bare Client.submit",
            compute=ratio("ours", "bare Client.submit"),
            gate=1.10,
            ambition=1.03,
        ),
        Comparison(
            goal="",
            text="ours / the sleeps alone (800 ms)",
            compute=over_constant("ours", SECONDS * CALLS / WORKERS),
        ),
    ),
)
