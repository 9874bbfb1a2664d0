"""Measure the engine beside other tools of its field: those of them that are installed.

    pip install joblib dask pipefunc prefect
    python benchmarks/field.py [--rounds N] [--only NAME,...]

Each measurement is a fresh process; a round measures all rows in random order; the table has the medians, and the
least and the most. A row that does not do all of its work has no figure. Versions and date stand above the table.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version

Call = Callable[[int], int]
Way = Callable[[Call, int, int], list[int]]

SECONDS_FOR_ONE = 180
TOO_LONG = {("short", "prefect")}  # some 20 ms for each call


def wait(n: int) -> int:
    """A call that waits, as for a server."""
    time.sleep(0.01)
    return n + 1


def count(n: int) -> int:
    """A call that is over at once."""
    return n + 1


def compute(n: int) -> int:
    """A call of some 50 ms in pure Python."""
    total = 0
    for each in range(700_000):
        total += each & 3
    return n + 1 + total * 0


# What is called, how often, by how many workers, and whether in processes.
WORK: dict[str, tuple[Call, int, int, bool]] = {
    "waits": (wait, 200, 50, False),
    "short": (count, 2_000, 4, False),
    "computes": (compute, 32, 2, True),
    "first": (count, 3, 2, False),
}


def bare(call: Call, calls: int, workers: int) -> list[int]:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(workers) as pool:
        return [each.result() for each in [pool.submit(call, n) for n in range(calls)]]


def bare_processes(call: Call, calls: int, workers: int) -> list[int]:
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return list(pool.map(call, range(calls)))


def routilux(call: Call, calls: int, workers: int) -> list[int]:
    import routilux_core

    return routilux_core.map(call, range(calls), strategy="concurrent", max_workers=workers)


def routilux_processes(call: Call, calls: int, workers: int) -> list[int]:
    import routilux_core

    return routilux_core.map(call, range(calls), strategy="process", max_workers=workers)


def joblib_threads(call: Call, calls: int, workers: int) -> list[int]:
    from joblib import Parallel, delayed

    return list(Parallel(n_jobs=workers, backend="threading")(delayed(call)(n) for n in range(calls)))


def joblib_processes(call: Call, calls: int, workers: int) -> list[int]:
    from joblib import Parallel, delayed

    return list(Parallel(n_jobs=workers)(delayed(call)(n) for n in range(calls)))


def dask_threads(call: Call, calls: int, workers: int) -> list[int]:
    import dask

    return list(dask.compute(*[dask.delayed(call)(n) for n in range(calls)], scheduler="threads", num_workers=workers))


def dask_processes(call: Call, calls: int, workers: int) -> list[int]:
    import dask

    made = [dask.delayed(call)(n) for n in range(calls)]
    return list(dask.compute(*made, scheduler="processes", num_workers=workers))


def pipefunc_threads(call: Call, calls: int, workers: int) -> list[int]:
    from concurrent.futures import ThreadPoolExecutor

    return _pipefunc(call, calls, ThreadPoolExecutor(workers))


def pipefunc_processes(call: Call, calls: int, workers: int) -> list[int]:
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    return _pipefunc(call, calls, ProcessPoolExecutor(workers, mp_context=get_context("spawn")))


def _pipefunc(call: Call, calls: int, pool: object) -> list[int]:
    from pipefunc import PipeFunc, Pipeline

    pipeline = Pipeline([PipeFunc(call, "y", mapspec="n[i] -> y[i]")])
    made = pipeline.map({"n": list(range(calls))}, executor=pool, storage="dict", show_progress=False)
    return [int(each) for each in made["y"].output]


def prefect_threads(call: Call, calls: int, workers: int) -> list[int]:
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    from prefect import flow, task
    from prefect.task_runners import ThreadPoolTaskRunner

    made = task(call)

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=workers))
    def work() -> list[int]:
        return [each.result() for each in [made.submit(n) for n in range(calls)]]

    return list(work())


TOOLS: dict[str, tuple[str, Way | None, Way | None]] = {
    "executor": ("", bare, bare_processes),
    "routilux": ("routilux-core", routilux, routilux_processes),
    "joblib": ("joblib", joblib_threads, joblib_processes),
    "dask": ("dask", dask_threads, dask_processes),
    "pipefunc": ("pipefunc", pipefunc_threads, pipefunc_processes),
    "prefect": ("prefect", prefect_threads, None),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=",".join(WORK))
    parser.add_argument("--measure", nargs=2, metavar=("WORK", "TOOL"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(_measure(*options.measure)))
        return 0
    found = {name: seen for name, (package, *_) in TOOLS.items() if (seen := _version(package)) is not None}
    said = ", ".join(f"{name} {seen}".strip() for name, seen in found.items() if name != "executor")
    print(f"{datetime.date.today()}, Python {platform.python_version()}, {os.cpu_count()} cpus; {said}\n")
    for work in options.only.split(","):
        _show(work, _rounds(work, found, options.rounds))
    return 0


def _rounds(work: str, tools: Iterable[str], rounds: int) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {}
    for _ in range(rounds):
        for tool in random.sample(list(tools), len(list(tools))):
            if TOOLS[tool][2 if WORK[work][3] else 1] is not None and (work, tool) not in TOO_LONG:
                taken.setdefault(tool, []).append(_seconds(work, tool))
    return taken


def _show(work: str, taken: dict[str, list[float]]) -> None:
    call, calls, workers, _ = WORK[work]
    print(f"{work}: {calls} calls of {call.__name__}, {workers} workers; seconds, and times the bare executor")
    least = statistics.median(taken["executor"])
    for tool in TOOLS:
        if tool in taken:
            times = taken[tool]
            middle = statistics.median(times)
            spread = f"[{min(times):.3f} .. {max(times):.3f}]"
            print(f"  {tool:10} {middle:8.3f} {spread:22} {middle / least:6.2f}x")
    print()


def _measure(work: str, tool: str) -> float:
    call, calls, workers, in_processes = WORK[work]
    way = TOOLS[tool][2 if in_processes else 1]
    assert way is not None
    if work != "first":  # imports, and what is made once, are measured there
        way(call, 2, workers)
    began = time.perf_counter()
    made = way(call, calls, workers)
    taken = time.perf_counter() - began
    assert sorted(made) == [n + 1 for n in range(calls)], f"{tool} has not done all of {work}"
    return taken


def _seconds(work: str, tool: str) -> float:
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, "--measure", work, tool], capture_output=True, text=True, timeout=SECONDS_FOR_ONE
    )
    taken = time.perf_counter() - began
    if done.returncode:
        print(f"{tool} failed at {work}: {done.stderr.splitlines()[-1]}", file=sys.stderr)
        return float("nan")
    # Of a first run all of it counts: the interpreter, the imports, and the end.
    return taken if work == "first" else float(json.loads(done.stdout.splitlines()[-1]))


def _version(package: str) -> str | None:
    try:
        return version(package) if package else ""
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main())
