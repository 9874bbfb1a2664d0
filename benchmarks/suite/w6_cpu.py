"""W6: 32 calls of some 50 ms of pure Python on 2 processes, warm and with the start of the workers."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from suite.calls import long_call
from suite.model import Comparison, Row, Workload, ratio
from suite.work import best_of, check_each_once, note, timed

CALLS = 32
WORKERS = 2
RUNS = 2
START_METHOD = "spawn"  # on both sides


def _alone(calls: int) -> float:
    def run() -> None:
        for n in range(calls):
            note(long_call(n))

    return timed(run, lambda: check_each_once(calls))


def _note_all(pool: ProcessPoolExecutor, calls: int) -> None:
    for n in pool.map(long_call, range(calls)):
        note(n)


def _executor_warm(calls: int) -> float:
    with ProcessPoolExecutor(WORKERS, mp_context=get_context(START_METHOD)) as pool:
        list(pool.map(abs, range(100)))
        return best_of(RUNS, lambda: _note_all(pool, calls), lambda: check_each_once(calls))


def _executor_cold(calls: int) -> float:
    def run() -> None:
        with ProcessPoolExecutor(WORKERS, mp_context=get_context(START_METHOD)) as pool:
            _note_all(pool, calls)

    with ProcessPoolExecutor(1, mp_context=get_context(START_METHOD)) as pool:
        list(pool.map(abs, range(1)))  # the imports of this process are W8's
    return timed(run, lambda: check_each_once(calls))


def _ours_warm(calls: int) -> float:
    from suite.process_flow import Long, busy_flow, runner  # the limit rows must not load the engine

    with busy_flow(Long(), WORKERS) as flow:
        runner(flow, 4, shut_down=False)()
        check_each_once(4)
        return best_of(RUNS, runner(flow, calls, shut_down=False), lambda: check_each_once(calls))


def _ours_cold(calls: int) -> float:
    from suite.process_flow import Long, busy_flow, runner

    runner(busy_flow(Long(), 1), 1, shut_down=True)()
    check_each_once(1)
    return timed(runner(busy_flow(Long(), WORKERS), calls, shut_down=True), lambda: check_each_once(calls))


def _row(name: str, measure: Callable[[int], float], limit: bool = True) -> Row:
    return Row(name=name, measure=measure, size=CALLS, quick_size=4, limit=limit)


WORKLOAD = Workload(
    name="W6",
    title="32 calls of some 50 ms of pure Python, 2 processes",
    rows=(
        _row("one after the other", _alone),
        _row("ProcessPoolExecutor.map, warm", _executor_warm),
        _row("ProcessPoolExecutor.map, cold", _executor_cold),
        _row("ours, warm", _ours_warm, False),
        _row("ours, cold", _ours_cold, False),
    ),
    comparisons=(
        Comparison(
            goal="G7",
            text="warm: our speed-up / the executor's",
            compute=ratio("ProcessPoolExecutor.map, warm", "ours, warm"),
            gate=0.95,
            ambition=1.0,
            at_least=True,
        ),
        Comparison(
            goal="G7",
            text="cold: our speed-up / the executor's",
            compute=ratio("ProcessPoolExecutor.map, cold", "ours, cold"),
            gate=0.95,
            ambition=1.0,
            at_least=True,
        ),
        Comparison(
            goal="", text="our speed-up, warm", compute=ratio("one after the other", "ours, warm"), at_least=True
        ),
        Comparison(
            goal="",
            text="the executor's speed-up, warm",
            compute=ratio("one after the other", "ProcessPoolExecutor.map, warm"),
            at_least=True,
        ),
    ),
)
