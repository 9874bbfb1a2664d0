"""W17: arrays to two worker processes: 48 of 8 MB, 2,000 of 64 KB, and what four of 512 MB take at home."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from typing import Any

from suite.memory import resident
from suite.model import Comparison, Medians, Row, Workload, ratio, value
from suite.work import check_each_once, median_of, note, timed

LARGE_ONES, MIDDLE_ONES, HUGE_ONES = 48, 2_000, 4
WORKERS = 2
RUNS = 5
CHUNK_SIZES = (1, 4, 16, 64, 250)
LOOK_S = 0.002  # between two looks at the memory of this process

HAS_JOBLIB = find_spec("joblib") is not None


def _median_of_new(runs: int, count: int, size: int, run: Callable[[list[Any]], None]) -> float:
    """The median of runs with new arrays each: joblib writes an array once, and maps it where it comes again."""
    from suite.arrays import make

    seconds = list[float]()
    for _ in range(runs):
        arrays = make(count, size)
        seconds.append(timed(partial(run, arrays), lambda: check_each_once(count)))
        del arrays
    return statistics.median(seconds)


def _copied(count: int) -> float:
    """One copy of all the bytes, into memory that the system gives for it: what nobody can do without."""
    from suite.arrays import LARGE

    def run(arrays: list[Any]) -> None:
        for n, array in enumerate(arrays):
            array.copy()
            note(n)

    return _median_of_new(RUNS, count, LARGE, run)


@contextmanager
def _executor() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
        list(pool.map(abs, range(100)))
        yield pool


def _mapped(pool: ProcessPoolExecutor, arrays: list[Any], back: bool, chunk_size: int) -> None:
    from suite.arrays import doubled, number_of, number_of_doubled

    if back:
        for array in list(pool.map(doubled, arrays, chunksize=chunk_size)):
            note(number_of_doubled(array))
    else:
        for n in pool.map(number_of, arrays, chunksize=chunk_size):
            note(n)


def _executor_large(count: int, *, back: bool) -> float:
    from suite.arrays import LARGE, make

    with _executor() as pool:
        _mapped(pool, make(min(count, WORKERS), LARGE), back, 1)
        check_each_once(min(count, WORKERS))
        return _median_of_new(RUNS, count, LARGE, lambda arrays: _mapped(pool, arrays, back, 1))


def _executor_middle(count: int) -> float:
    from suite.arrays import MIDDLE

    with _executor() as pool:

        def seconds(chunk_size: int, runs: int) -> float:
            return _median_of_new(runs, count, MIDDLE, lambda arrays: _mapped(pool, arrays, False, chunk_size))

        seconds(1, 1)
        best = min(CHUNK_SIZES, key=lambda chunk_size: seconds(chunk_size, 2))
        return seconds(best, RUNS)


def _joblib_large(count: int, *, back: bool, again: bool = False) -> float:
    from joblib import Parallel, delayed

    from suite.arrays import LARGE, doubled, make, number_of, number_of_doubled

    function = doubled if back else number_of
    with Parallel(n_jobs=WORKERS) as parallel:

        def run(arrays: list[Any]) -> None:
            for each in parallel(delayed(function)(array) for array in arrays):
                note(number_of_doubled(each) if back else each)

        run(make(min(count, WORKERS), LARGE))
        check_each_once(min(count, WORKERS))
        if not again:
            return _median_of_new(RUNS, count, LARGE, run)
        arrays = make(count, LARGE)
        run(arrays)
        check_each_once(count)
        return median_of(RUNS, partial(run, arrays), lambda: check_each_once(count))


def _ours(count: int, *, large: bool, back: bool) -> float:
    from suite.arrays import LARGE, MIDDLE, make
    from suite.w17_flow import Doubled, Number, array_flow, run  # the limit rows must not load the engine

    size = LARGE if large else MIDDLE
    with array_flow(Doubled() if back else Number(), WORKERS) as flow:
        run(flow, make(min(count, WORKERS), size))
        check_each_once(min(count, WORKERS))
        return _median_of_new(RUNS, count, size, partial(run, flow))


def _huge_executor(count: int) -> float:
    from suite.arrays import HUGE, make

    arrays = make(count, HUGE)
    with _executor() as pool:
        return _peak_megabytes(lambda: _mapped(pool, arrays, False, 1), lambda: check_each_once(count))


def _huge_ours(count: int) -> float:
    from suite.arrays import HUGE, make
    from suite.w17_flow import Number, array_flow, run

    arrays = make(count, HUGE)
    with array_flow(Number(), WORKERS) as flow:
        run(flow, [array[:8] for array in arrays])
        check_each_once(count)
        return _peak_megabytes(partial(run, flow, arrays), lambda: check_each_once(count))


def _peak_megabytes(run: Callable[[], None], check: Callable[[], None]) -> float:
    """Megabytes that this process holds at most while it runs, beyond what it held before."""
    before, peak, over = resident(), 0, threading.Event()

    def look() -> None:
        nonlocal peak
        while not over.wait(LOOK_S):
            peak = max(peak, resident())

    looking = threading.Thread(target=look)
    looking.start()
    try:
        run()
    finally:
        over.set()
        looking.join()
    check()
    return max(0, peak - before) / (1 << 20)


def _of_better(row: str, *others: str) -> Callable[[Medians], float]:
    """`row` divided by the least of others, of those that were measured."""
    return lambda measured: measured[row] / min(measured[each] for each in others if each in measured)


def _large(name: str, measure: Callable[[int], float], limit: bool = True) -> Row:
    return Row(name=name, measure=measure, size=LARGE_ONES, quick_size=4, limit=limit)


_JOBLIB_ROWS = (
    _large("joblib, in", partial(_joblib_large, back=False)),
    _large("joblib, in and out", partial(_joblib_large, back=True)),
    _large("joblib, in, the same arrays again", partial(_joblib_large, back=False, again=True)),
)

_JOBLIB_COMPARISONS = (
    Comparison(
        goal="G17", text="8 MB in: ours / joblib", compute=ratio("ours, in", "joblib, in"), gate=1.1, ambition=0.9
    ),
    Comparison(
        goal="",
        text="8 MB in: ours / joblib, to which the same arrays come again",
        compute=ratio("ours, in", "joblib, in, the same arrays again"),
    ),
)

WORKLOAD = Workload(
    name="W17",
    title="48 arrays of 8 MB, 2,000 of 64 KB, 4 of 512 MB to 2 processes",
    needs="numpy",
    rows=(
        _large("one copy", _copied),
        _large("ProcessPoolExecutor.map, in", partial(_executor_large, back=False)),
        _large("ProcessPoolExecutor.map, in and out", partial(_executor_large, back=True)),
        *(_JOBLIB_ROWS if HAS_JOBLIB else ()),
        _large("ours, in", partial(_ours, large=True, back=False), False),
        _large("ours, in and out", partial(_ours, large=True, back=True), False),
        Row(
            name="ProcessPoolExecutor.map, best, 64 KB",
            measure=_executor_middle,
            size=MIDDLE_ONES,
            quick_size=50,
            limit=True,
        ),
        Row(name="ours, 64 KB", measure=partial(_ours, large=False, back=False), size=MIDDLE_ONES, quick_size=50),
        Row(
            name="ProcessPoolExecutor, memory",
            measure=_huge_executor,
            size=HUGE_ONES,
            quick_size=1,
            unit="MB",
            limit=True,
        ),
        Row(name="ours, memory", measure=_huge_ours, size=HUGE_ONES, quick_size=1, unit="MB"),
    ),
    comparisons=(
        Comparison(
            goal="G17",
            text="8 MB in: ours / ProcessPoolExecutor.map",
            compute=ratio("ours, in", "ProcessPoolExecutor.map, in"),
            gate=0.5,
            ambition=0.4,
        ),
        *(_JOBLIB_COMPARISONS if HAS_JOBLIB else ()),
        Comparison(
            goal="G17",
            text="8 MB in and out: ours / the better of others",
            compute=_of_better("ours, in and out", "ProcessPoolExecutor.map, in and out", "joblib, in and out"),
            gate=0.7,
            ambition=0.5,
        ),
        Comparison(
            goal="G17",
            text="64 KB: ours / ProcessPoolExecutor.map, best",
            compute=ratio("ours, 64 KB", "ProcessPoolExecutor.map, best, 64 KB"),
            gate=1.0,
            ambition=0.8,
        ),
        Comparison(
            goal="G17",
            text="4 x 512 MB: memory beyond the arrays",
            compute=value("ours, memory"),
            gate=1300.0,
            ambition=100.0,
            unit="MB",
        ),
        Comparison(goal="", text="8 MB in: ours / one copy", compute=ratio("ours, in", "one copy")),
    ),
)
