"""Routines that don't end by themselves, in a module that workers can import."""

from __future__ import annotations

import itertools
import time

from routilux_core import Routine, event, slot


class Blocks(Routine, stateless=True, timeout=0.5):
    """Blocks for a minute, unless it is told not to."""

    done = event("n")

    @slot
    def input(self, n: int, seconds: float) -> None:
        time.sleep(seconds)
        self.emit("done", n=n)


class BlocksWithState(Routine, timeout=0.5):
    calls: int = 0

    @slot
    def input(self, n: int, seconds: float) -> None:
        self.calls += 1
        time.sleep(seconds)


class Loops(Routine, stateless=True):
    """Holds the interpreter for hours inside one call of C code; says so before by opening a named pipe."""

    gate: str

    @slot
    def input(self) -> None:
        open(self.gate, "wb").close()
        sum(itertools.repeat(0, 10**13))
