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


class Work(Routine, stateless=True):
    """Is busy for so long, and emits before and after. It signs where the killer looks for its victims."""

    folder: str
    pid = per_worker(os.getpid)
    begun = event("n")
    done = event("n")

    @slot
    def input(self, n: int, seconds: float) -> None:
        assert self.pid == os.getpid()
        Path(self.folder, str(self.pid)).touch()
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
