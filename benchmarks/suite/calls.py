"""The work of W6 and W7: plain functions, which both sides ship to their worker processes."""

from __future__ import annotations

LONG_LOOPS = 700_000  # about 50 ms of pure Python on a machine with time for us
SHORT_LOOPS = 280  # about 20 µs


def spin(n: int, loops: int) -> int:
    """Be busy in pure Python, then return the number that came in."""
    x = n
    for _ in range(loops):
        x = (x * 1103515245 + 12345) & 0x7FFFFFFF
    return n if x >= 0 else -1


def long_call(n: int) -> int:
    """About 50 ms."""
    return spin(n, LONG_LOOPS)


def short_call(n: int) -> int:
    """About 20 µs."""
    return spin(n, SHORT_LOOPS)
