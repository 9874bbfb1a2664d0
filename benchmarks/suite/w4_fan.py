"""W4: 1 -> 1,000 -> 1 trivial routines with 8 threads, per routine in the middle."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from suite.bare import QueuePool
from suite.model import Comparison, Row, Workload, ratio
from suite.w3_stream import counting_pool
from suite.work import check_each_once, median_of, note

WIDTH = 1_000
THREADS = 8
RUNS = 5


def _per_task(width: int, run: Callable[[], None]) -> float:
    return median_of(RUNS, run, lambda: check_each_once(width)) / width


def _pool(width: int) -> float:
    def run() -> None:
        pool = QueuePool(THREADS)
        arrived: list[int] = []

        def last(n: int) -> None:
            note(n)
            arrived.append(n)
            if len(arrived) == width:
                pool.finish()

        def middle(n: int) -> None:
            pool.post((last, n))

        def source(total: int) -> None:
            for n in range(total):
                pool.post((middle, n))

        pool.post((source, width))
        pool.join()

    return _per_task(width, run)


def _executor(width: int) -> float:
    def middle(n: int) -> int:
        return n

    def run() -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            for future in [pool.submit(middle, n) for n in range(width)]:
                note(future.result())

    return _per_task(width, run)


def _ours(width: int, *, stateless: bool) -> float:
    from suite.flows import runner, warm_up  # the limit rows must not load the engine
    from suite.w4_flow import fan

    warm_up("concurrent", THREADS)
    return _per_task(width, runner(fan(width, THREADS, stateless=stateless), "source", 1 + 2 * width))


def _row(name: str, measure: Callable[[int], float], *, limit: bool = False) -> Row:
    return Row(name=name, measure=measure, size=WIDTH, quick_size=50, limit=limit)


WORKLOAD = Workload(
    name="W4",
    title="1 -> 1,000 -> 1 trivial routines, 8 threads, per routine in the middle",
    rows=(
        _row("SimpleQueue pool", _pool, limit=True),
        _row("counting pool", partial(counting_pool, hops=2, runs=RUNS), limit=True),
        _row("ThreadPoolExecutor", _executor, limit=True),
        _row("ours", partial(_ours, stateless=True)),
        _row("ours, with state", partial(_ours, stateless=False)),
    ),
    comparisons=(
        Comparison(
            goal="G5",
            text="fan / counting pool",
            compute=ratio("ours", "counting pool"),
            gate=2.0,
            ambition=1.3,
        ),
        Comparison(
            goal="G5",
            text="fan / ThreadPoolExecutor",
            compute=ratio("ours", "ThreadPoolExecutor"),
            gate=0.5,
            ambition=0.3,
        ),
        Comparison(
            goal="",
            text="fan / SimpleQueue pool",
            compute=ratio("ours", "SimpleQueue pool"),
        ),
        Comparison(
            goal="",
            text="fan of routines with state / SimpleQueue pool",
            compute=ratio("ours, with state", "SimpleQueue pool"),
        ),
    ),
)
