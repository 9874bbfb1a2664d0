"""W3: one source sends 10,000 events to one trivial handler, per event; sequential and with 8 threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from suite.bare import CountingPool, QueuePool, drain
from suite.model import Comparison, Row, Workload, ratio
from suite.work import best_of, check_each_once, median_of, note

EVENTS = 10_000
THREADS = 8
RUNS = 10
# Threads differ from run to run by more than noise, so their rows take the median.
Pick = Callable[[int, Callable[[], None], Callable[[], None]], float]


def _handler(n: int) -> None:
    note(n)


def bare_deque(count: int, *, pick: Pick = best_of, runs: int = RUNS) -> float:
    """Seconds for each event, queued by a source and handled by a loop."""
    queue: deque[tuple[Callable[[Any], None], Any]] = deque()

    def source(total: int) -> None:
        for n in range(total):
            queue.append((_handler, n))

    def run() -> None:
        queue.append((source, count))
        drain(queue)

    return pick(runs, run, lambda: check_each_once(count)) / count


def bare_pool(count: int) -> float:
    """Seconds for each event through plain threads around a `SimpleQueue`."""

    def run() -> None:
        pool = QueuePool(THREADS)

        def source(total: int) -> None:
            post = pool.post
            for n in range(total):
                post((_handler, n))
            pool.finish()

        pool.post((source, count))
        pool.join()

    return median_of(RUNS, run, lambda: check_each_once(count)) / count


def counting_pool(count: int, *, hops: int = 1, runs: int = RUNS) -> float:
    """Seconds for each event through a pool that counts its calls; with two hops a handler in between sends it on."""

    def run() -> None:
        pool = CountingPool(THREADS)
        post = pool.post

        def send_on(n: int) -> None:
            post((_handler, n))

        first = _handler if hops == 1 else send_on

        def source(total: int) -> None:
            for n in range(total):
                post((first, n))

        post((source, count))
        pool.join()

    return median_of(runs, run, lambda: check_each_once(count)) / count


def executor(count: int) -> float:
    """Seconds for each event through `ThreadPoolExecutor.submit`."""

    def run() -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            for n in range(count):
                pool.submit(_handler, n)

    return median_of(RUNS, run, lambda: check_each_once(count)) / count


def ours(count: int, *, stateless: bool = True, pick: Pick = best_of, runs: int = RUNS, **settings: Any) -> float:
    """Seconds for each event of a sequential flow."""
    return _flow(count, "sequential", None, stateless, pick, runs, settings)


def ours_threaded(count: int, *, stateless: bool = True, runs: int = RUNS) -> float:
    """Seconds for each event of a flow with threads."""
    return _flow(count, "concurrent", THREADS, stateless, median_of, runs, {})


def _flow(
    count: int, strategy: str, workers: int | None, stateless: bool, pick: Pick, runs: int, settings: dict[str, Any]
) -> float:
    from suite.flows import OrderedSink, Sink, runner, stream, warm_up  # the limit rows must not load the engine

    warm_up(strategy, workers)
    flow = stream(count, Sink() if stateless else OrderedSink(), strategy, workers, **settings)
    return pick(runs, runner(flow, "source", count + 1), lambda: check_each_once(count)) / count


def _row(name: str, measure: Callable[[int], float], *, limit: bool = False) -> Row:
    return Row(name=name, measure=measure, size=EVENTS, quick_size=500, limit=limit)


WORKLOAD = Workload(
    name="W3",
    title="one source, 10,000 events, one trivial handler, per event; threads: 8",
    rows=(
        _row("bare deque", bare_deque, limit=True),
        _row("ours, sequential", ours),
        _row("ours, sequential, tracker off", partial(ours, history_size=0)),
        _row("ours, sequential, with state", partial(ours, stateless=False)),
        _row("SimpleQueue pool", bare_pool, limit=True),
        _row("counting pool", counting_pool, limit=True),
        _row("ThreadPoolExecutor", executor, limit=True),
        _row("ours, threads", ours_threaded),
        _row("ours, threads, with state", partial(ours_threaded, stateless=False)),
    ),
    comparisons=(
        Comparison(
            goal="G3",
            text="sequential / bare deque",
            compute=ratio("ours, sequential", "bare deque"),
            gate=9,
            ambition=5,
        ),
        Comparison(
            goal="G3",
            text="sequential, tracker off / bare deque",
            compute=ratio("ours, sequential, tracker off", "bare deque"),
            gate=6.5,
            ambition=4,
        ),
        Comparison(
            goal="",
            text="sequential, with state / bare deque",
            compute=ratio("ours, sequential, with state", "bare deque"),
        ),
        Comparison(
            goal="G4",
            text="threads / counting pool",
            compute=ratio("ours, threads", "counting pool"),
            gate=1.5,
            ambition=1.1,
        ),
        Comparison(
            goal="G4",
            text="threads, with state / counting pool",
            compute=ratio("ours, threads, with state", "counting pool"),
            gate=1.5,
            ambition=1.1,
        ),
        Comparison(
            goal="",
            text="threads / SimpleQueue pool",
            compute=ratio("ours, threads", "SimpleQueue pool"),
        ),
        Comparison(
            goal="G4",
            text="threads / ThreadPoolExecutor",
            compute=ratio("ours, threads", "ThreadPoolExecutor"),
            gate=0.2,
            ambition=0.08,
        ),
        Comparison(
            goal="",
            text="threads, with state / SimpleQueue pool",
            compute=ratio("ours, threads, with state", "SimpleQueue pool"),
        ),
    ),
)
