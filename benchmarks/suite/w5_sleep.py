"""W5: 200 calls that sleep 10 ms, 50 threads."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from suite.model import Comparison, Row, Workload, over_constant, ratio
from suite.work import check_each_once, median_of, note

CALLS = 200
THREADS = 50
SECONDS = 0.01
RUNS = 3


def _executor(calls: int) -> float:
    def handler(n: int) -> None:
        time.sleep(SECONDS)
        note(n)

    def run() -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            for n in range(calls):
                pool.submit(handler, n)

    return median_of(RUNS, run, lambda: check_each_once(calls))


def _ours(calls: int) -> float:
    from suite.flows import Sleeper, runner, stream, warm_up  # the limit rows must not load the engine

    warm_up("concurrent", THREADS)
    run = runner(stream(calls, Sleeper(seconds=SECONDS), "concurrent", THREADS), "source", calls + 1)
    return median_of(RUNS, run, lambda: check_each_once(calls))


WORKLOAD = Workload(
    name="W5",
    title="200 calls that sleep 10 ms in a stateless routine, 50 threads",
    rows=(
        Row(name="ThreadPoolExecutor", measure=_executor, size=CALLS, quick_size=50, limit=True),
        Row(name="ours", measure=_ours, size=CALLS, quick_size=50),
    ),
    comparisons=(
        Comparison(
            goal="G6",
            text="ours / ThreadPoolExecutor",
            compute=ratio("ours", "ThreadPoolExecutor"),
            gate=1.08,
            ambition=1.02,
        ),
        Comparison(
            goal="",
            text="ours / the sleeps alone (40 ms)",
            compute=over_constant("ours", SECONDS * CALLS / THREADS),
        ),
    ),
)
