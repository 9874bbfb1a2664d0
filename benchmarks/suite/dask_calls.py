"""What the workers of W14's cluster import."""

from __future__ import annotations

from time import sleep

SECONDS = 0.05


def call(n: int) -> int:
    """Sleep, and return the number."""
    sleep(SECONDS)
    return n
