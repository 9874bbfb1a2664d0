"""W1: the demo's shape, with sleeps in place of network calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

from suite.model import Comparison, Row, Workload, over_constant, ratio
from suite.work import require

WAITS = (0.2, 0.2, 0.25)
QUICK_DIVISOR = 10
# `size` is the divisor of the waits; a quick run sleeps a tenth.


def _waits(divisor: int) -> tuple[float, ...]:
    return tuple(wait / divisor for wait in WAITS)


def _fetch_and_process(wait: float) -> float:
    time.sleep(wait)
    return wait * 2


def _executor(divisor: int) -> float:
    waits = _waits(divisor)
    start = perf_counter()
    with ThreadPoolExecutor(5) as pool:
        text = str(sorted(pool.map(_fetch_and_process, waits)))
    seconds = perf_counter() - start
    require(text == str(sorted(wait * 2 for wait in waits)), text)
    return seconds * divisor


def _ours(strategy: str, *, warm: bool = True) -> Callable[[int], float]:
    def measure(divisor: int) -> float:
        from suite.w1_flow import run_demo_shape  # the limit rows must not load the engine

        return run_demo_shape(strategy, _waits(divisor), warm=warm) * divisor

    return measure


def _row(name: str, measure: Callable[[int], float], *, limit: bool = False) -> Row:
    return Row(name=name, measure=measure, size=1, quick_size=QUICK_DIVISOR, limit=limit)


WORKLOAD = Workload(
    name="W1",
    title="trigger -> 3 fetchers (0.2, 0.2, 0.25 s) -> 3 processors -> aggregator -> formatter",
    rows=(
        _row("ThreadPoolExecutor", _executor, limit=True),
        _row("ours, concurrent", _ours("concurrent")),
        _row("ours, concurrent, first flow of the process", _ours("concurrent", warm=False)),
        _row("ours, sequential", _ours("sequential")),
    ),
    comparisons=(
        Comparison(
            goal="G1",
            text="concurrent / longest chain of sleeps",
            compute=over_constant("ours, concurrent", max(WAITS)),
            gate=1.04,
            ambition=1.01,
        ),
        Comparison(
            goal="G1",
            text="sequential / sum of sleeps",
            compute=over_constant("ours, sequential", sum(WAITS)),
            gate=1.01,
            ambition=1.003,
        ),
        Comparison(
            goal="G1",
            text="speed-up",
            compute=ratio("ours, sequential", "ours, concurrent"),
            gate=2.5,
            ambition=2.57,
            at_least=True,
        ),
        Comparison(
            goal="",
            text="first flow of the process / longest chain",
            compute=over_constant("ours, concurrent, first flow of the process", max(WAITS)),
        ),
    ),
)
