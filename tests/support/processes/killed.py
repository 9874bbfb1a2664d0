"""Routines for a load that workers are killed under, in a module that workers can import."""

from __future__ import annotations

import os
from pathlib import Path
from time import perf_counter

from routilux_core import Routine, event, per_worker, slot

LONG_SECONDS = 0.03


class Source(Routine, stateless=True):
    """Emits tiny and long work, mixed."""

    item = event("n", "seconds")

    @slot
    def trigger(self, tiny: int, long: int) -> None:
        for n in range(tiny + long):
            self.emit("item", n=n, seconds=LONG_SECONDS if n % ((tiny + long) // long) == 0 else 0.00002)


def sign() -> int:
    """Leave a file with the number of this process where the killer looks for its victims."""
    Path(os.environ["KILLER"], str(os.getpid())).touch()
    return os.getpid()


class Work(Routine, stateless=True):
    """Is busy for so long, and emits before and after."""

    pid = per_worker(sign)
    begun = event("n")
    done = event("n")

    @slot
    def input(self, n: int, seconds: float) -> None:
        assert self.pid == os.getpid()
        self.emit("begun", n=n)
        until = perf_counter() + seconds
        while perf_counter() < until:
            pass
        self.emit("done", n=n)


class Sum(Routine):
    """Has state: travels with its batches, and comes home with them."""

    total: int = 0
    seen: int = 0
    summed = event("n")

    @slot
    def input(self, n: int) -> None:
        self.total += n
        self.seen += 1
        self.emit("summed", n=n)
