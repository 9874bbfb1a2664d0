"""How long calls took: a histogram on a logarithmic scale, small whatever their number.

A bucket is the first 16 bits of a float: its exponent and four bits of its fraction, so that a value is known to 3 %.
`tracking.percentile` reads it.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence

Times = dict[int, int]  # bucket -> how many calls

STEP = 16  # neighbours in a long sorted list that count as their middle one
LAST = 16  # and the greatest, at least so many, count by themselves: a percentile is often looked for there
FIRST_BITS = 3 if array("H", [1]).tobytes()[0] else 0  # which quarter of a float they are, on this machine


def add(ordered: Sequence[float], times: Times) -> None:
    """Count run times, in ascending order. What this costs for a call of a long list is some 10 ns."""
    alone = 0
    if len(ordered) >= 2 * STEP + LAST:
        alone = (len(ordered) - LAST) // STEP * STEP
        for bucket in buckets(ordered[STEP // 2 : alone : STEP]):
            times[bucket] = times.get(bucket, 0) + STEP
    for bucket in buckets(ordered[alone:]):
        times[bucket] = times.get(bucket, 0) + 1


def merge(more: Mapping[int, int], times: Times) -> None:
    """Add the counts of another histogram."""
    for bucket, count in more.items():
        times[bucket] = times.get(bucket, 0) + count


def buckets(values: Sequence[float]) -> memoryview[int]:
    """Return the bucket of each run time, all at C's speed."""
    return memoryview(array("d", values)).cast("B").cast("H")[FIRST_BITS::4]
