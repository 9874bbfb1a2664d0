"""The work of W17: arrays that lie at home, and functions of them, which both sides ship to their worker processes."""

from __future__ import annotations

from typing import Any

import numpy

LARGE = 8 << 20  # bytes
MIDDLE = 64 << 10
HUGE = 512 << 20

Array = numpy.ndarray[Any, Any]


def make(count: int, size: int) -> list[Array]:
    """Return arrays of so many bytes, each filled with its number."""
    return [numpy.full(size // 8, float(n)) for n in range(count)]


def number_of(array: Array) -> int:
    """Read all of an array, and return its number."""
    return int(array.sum() / array.size)


def doubled(array: Array) -> Array:
    """Return another array of the same size."""
    return array * 2


def number_of_doubled(array: Array) -> int:
    """Return the number of an array that came home: its ends have to be there, which costs no time."""
    first, last = float(array[0]), float(array[-1])
    return int(first / 2) if first == last else -1
