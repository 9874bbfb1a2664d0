"""W10: does the cost of one routine or one event grow with their number?"""

from __future__ import annotations

from collections.abc import Callable

from suite.model import Comparison, Row, Workload, ratio
from suite.w2_chain import bare_chain, our_chain
from suite.w3_stream import bare_deque, ours, ours_threaded
from suite.work import median_of

_CHAINS = (100, 1_000, 10_000)
_STREAMS = (1_000, 10_000, 100_000, 1_000_000)
_CALLS_IN_ONE_MEASUREMENT = 200_000


def _runs(size: int) -> int:
    """More runs of the short ones, at most ten."""
    return max(1, min(10, _CALLS_IN_ONE_MEASUREMENT // size))


# The median for every size: the best of ten short runs beside a single long one would look like growth.
def _stream(size: int) -> float:
    return ours(size, pick=median_of, runs=_runs(size))


def _stream_threaded(size: int) -> float:
    return ours_threaded(size, runs=_runs(size))


def _bare_stream(size: int) -> float:
    return bare_deque(size, pick=median_of, runs=_runs(size))


def _row(kind: str, measure: Callable[[int], float], size: int, *, limit: bool = False) -> Row:
    return Row(name=f"{kind} {size:,}", measure=measure, size=size, quick_size=max(size // 100, 10), limit=limit)


def _growth(goal: str, kind: str, large: int, small: int, gate: float | None, ambition: float | None) -> Comparison:
    large_row, small_row = f"{kind} {large:,}", f"{kind} {small:,}"
    return Comparison(
        goal=goal,
        text=f"{large_row} / {small:,}",
        compute=ratio(large_row, small_row),
        gate=gate,
        ambition=ambition,
    )


WORKLOAD = Workload(
    name="W10",
    title="growth, per event of a stream and per routine of a chain",
    rows=(
        *(_row("stream of", _stream, size) for size in _STREAMS),
        *(_row("stream on 8 threads of", _stream_threaded, size) for size in (10_000, 1_000_000)),
        *(_row("bare stream of", _bare_stream, size, limit=True) for size in (10_000, 1_000_000)),
        *(_row("chain of", our_chain, size) for size in _CHAINS),
        *(_row("bare chain of", bare_chain, size, limit=True) for size in (1_000, 10_000)),
    ),
    comparisons=(
        _growth("G11", "stream of", 1_000_000, 10_000, 1.25, 1.05),
        _growth("G11", "stream on 8 threads of", 1_000_000, 10_000, 1.25, 1.05),
        _growth("", "bare stream of", 1_000_000, 10_000, None, None),
        _growth("G11", "chain of", 10_000, 1_000, 1.25, 1.10),
        _growth("", "bare chain of", 10_000, 1_000, None, None),
    ),
)
