"""W7: 5,000 calls of some 20 µs on 2 processes, per call; the executor with its best chunk size, ours untuned."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from suite.calls import short_call
from suite.model import Comparison, Row, Workload, ratio
from suite.work import check_each_once, median_of, note

CALLS = 5_000
WORKERS = 2
RUNS = 15
TUNING_RUNS = 3  # of each chunk size
CHUNK_SIZES = (50, 125, 250, 500, 1_250, 2_500)


def _alone(calls: int) -> float:
    def run() -> None:
        for n in range(calls):
            note(short_call(n))

    return median_of(RUNS, run, lambda: check_each_once(calls)) / calls


def _executor(calls: int) -> float:
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
        list(pool.map(abs, range(100)))

        def seconds(chunk_size: int, runs: int) -> float:
            def run() -> None:
                for n in pool.map(short_call, range(calls), chunksize=chunk_size):
                    note(n)

            return median_of(runs, run, lambda: check_each_once(calls))

        # The best of several noisy figures is better than any of them deserves: it is chosen first, then measured.
        best = min(CHUNK_SIZES, key=lambda chunk_size: seconds(chunk_size, TUNING_RUNS))
        return seconds(best, RUNS) / calls


def _ours(calls: int) -> float:
    from suite.process_flow import Short, busy_flow, runner  # the limit rows must not load the engine

    with busy_flow(Short(), WORKERS) as flow:
        runner(flow, 100, shut_down=False)()
        check_each_once(100)
        return median_of(RUNS, runner(flow, calls, shut_down=False), lambda: check_each_once(calls)) / calls


WORKLOAD = Workload(
    name="W7",
    title="5,000 calls of some 20 us, 2 processes, per call",
    rows=(
        Row(name="one after the other", measure=_alone, size=CALLS, quick_size=500, limit=True),
        Row(name="ProcessPoolExecutor.map, best", measure=_executor, size=CALLS, quick_size=500, limit=True),
        Row(name="ours", measure=_ours, size=CALLS, quick_size=500),
    ),
    comparisons=(
        Comparison(
            goal="G8",
            text="ours / ProcessPoolExecutor.map with its best chunks",
            compute=ratio("ours", "ProcessPoolExecutor.map, best"),
            gate=1.15,
            ambition=1.0,
        ),
    ),
)
