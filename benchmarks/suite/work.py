"""Proof that the work was done, shared by our rows and the limit rows, so that both pay the same for it."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable
from time import perf_counter

_seen: list[int] = []

note: Callable[[int], None] = _seen.append
"""Called by every last handler with the number that it was given (an append is atomic, with or without the GIL)."""


class WorkMissing(Exception):
    """A run lost work, did some of it twice, or did something else."""


def require(truth: bool, what: str) -> None:
    """Raise `WorkMissing` unless ``truth`` (an ``assert`` would vanish under ``python -O``)."""
    if not truth:
        raise WorkMissing(what)


def check_each_once(count: int) -> None:
    """Require that each of the numbers below ``count`` was noted exactly once, and forget them."""
    got = sorted(_seen)
    _seen.clear()
    require(
        got == list(range(count)), f"expected each of {count} numbers once, got {len(got)} ({len(set(got))} distinct)"
    )


def check_only(number: int) -> None:
    """Require that ``number``, and nothing else, was noted, and forget it."""
    got = list(_seen)
    _seen.clear()
    require(got == [number], f"expected [{number}], got {got[:5]} ({len(got)} in all)")


def timed(run: Callable[[], None], check: Callable[[], None]) -> float:
    """Seconds that ``run`` took; ``check`` looks at its work outside that time."""
    gc.collect()
    start = perf_counter()
    run()
    seconds = perf_counter() - start
    check()
    return seconds


def median_of(times: int, run: Callable[[], None], check: Callable[[], None]) -> float:
    """The median of several runs in this process."""
    return statistics.median(timed(run, check) for _ in range(times))


def best_of(times: int, run: Callable[[], None], check: Callable[[], None]) -> float:
    """The best of several runs in this process: for runs of a few milliseconds, which noise can only lengthen."""
    return min(timed(run, check) for _ in range(times))
