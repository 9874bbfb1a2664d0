"""W9: memory for each of 100,000 events: what stays, and the peak while one handler emits them all."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections import deque
from collections.abc import Callable
from functools import partial

from suite.bare import drain
from suite.model import Comparison, Row, Workload, value
from suite.work import require

EVENTS = 100_000
THREADS = 8


def _burst_bare(count: int) -> float:
    marks = bytearray(count)

    def handler(n: int) -> None:
        marks[n] += 1

    def run() -> None:
        drain(deque((handler, n) for n in range(count)))

    return _peak_bytes(count, run, marks)


def _burst_ours(count: int, *, strategy: str, stateless: bool) -> float:
    from suite.w9_flow import marked_stream  # the limit rows must not load the engine

    run, marks, _ = marked_stream(count, strategy, THREADS, stateless=stateless)
    return _peak_bytes(count, run, marks)


def _peak_bytes(count: int, run: Callable[[], None], marks: bytearray) -> float:
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    _check(marks)
    return (peak - before) / count


def _check(marks: bytearray) -> None:
    once = marks.count(1)
    require(once == len(marks), f"{once} of {len(marks)} events were handled exactly once")


def _retained(count: int, *, strategy: str, stateless: bool) -> float:
    """Blocks for each event between a job of ``count`` and one of twice as many, each kept with its flow."""
    small = _blocks_after(count, strategy, stateless)
    large = _blocks_after(2 * count, strategy, stateless)
    return (large - small) / count


def _blocks_after(count: int, strategy: str, stateless: bool) -> int:
    from suite.w9_flow import marked_stream  # the limit rows must not load the engine

    run, marks, kept = marked_stream(count, strategy, THREADS, stateless=stateless)
    gc.collect()
    before = sys.getallocatedblocks()
    run()
    gc.collect()
    blocks = sys.getallocatedblocks() - before
    _check(marks)
    require(bool(kept), "the job was not kept")
    return blocks


def _row(name: str, measure: Callable[[int], float], unit: str, *, limit: bool = False) -> Row:
    return Row(name=name, measure=measure, size=EVENTS, quick_size=3_000, unit=unit, limit=limit)


def _gated(goal: str, text: str, row: str, gate: float, ambition: float, unit: str) -> Comparison:
    return Comparison(goal=goal, text=text, compute=value(row), gate=gate, ambition=ambition, unit=unit)


_SEQUENTIAL = {"strategy": "sequential", "stateless": True}
_THREADS = {"strategy": "concurrent", "stateless": True}
_WITH_STATE = {"strategy": "concurrent", "stateless": False}

WORKLOAD = Workload(
    name="W9",
    title="memory for each of 100,000 events: what stays, and the peak of a burst",
    rows=(
        _row("retained, sequential", partial(_retained, **_SEQUENTIAL), "blocks"),
        _row("retained, threads", partial(_retained, **_THREADS), "blocks"),
        _row("retained, threads, with state", partial(_retained, **_WITH_STATE), "blocks"),
        _row("peak, bare deque", _burst_bare, "B", limit=True),
        _row("peak, sequential", partial(_burst_ours, **_SEQUENTIAL), "B"),
        _row("peak, threads", partial(_burst_ours, **_THREADS), "B"),
        _row("peak, threads, with state", partial(_burst_ours, **_WITH_STATE), "B"),
    ),
    comparisons=(
        _gated("G10", "retained, sequential", "retained, sequential", 0.01, 0.004, " blocks"),
        _gated("G10", "retained, threads", "retained, threads", 0.01, 0.004, " blocks"),
        _gated("G10", "retained, threads, with state", "retained, threads, with state", 0.01, 0.004, " blocks"),
        _gated("G10", "peak of a burst, sequential", "peak, sequential", 400, 10, " B"),
        _gated("G10", "peak of a burst, threads", "peak, threads", 400, 10, " B"),
        _gated("G10", "peak of a burst, threads, with state", "peak, threads, with state", 400, 10, " B"),
    ),
)
