"""Routines whose handlers fork, in a module that workers can import."""

from __future__ import annotations

import os
import sys
import warnings

from routilux_core import Routine, event, field, slot


class Many(Routine, stateless=True):
    item = event("n")

    @slot
    def trigger(self, count: int) -> None:
        for n in range(count):
            self.emit("item", n=n)


class Forks(Routine, stateless=True):
    """Forks at number 0, and leaves the child as it is told to; the parent waits for it, and says how it ended."""

    done = event("n", "pid", "ended")
    how: str

    @slot
    def input(self, n: int) -> None:
        self.emit("done", n=n, pid=os.getpid(), ended=fork(self, self.how) if n == 0 else None)


class Keeps(Routine):
    """The same, with state."""

    done = event("n", "pid", "ended")
    how: str
    seen: list[int] = field(factory=list)

    @slot
    def input(self, n: int) -> None:
        self.seen.append(n)
        self.emit("done", n=n, pid=os.getpid(), ended=fork(self, self.how) if n == 0 else None)


def fork(routine: Routine, how: str) -> int:
    """Return how the child has ended; in the child, 0."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of a fork beside threads
        child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for n in range(3000 if how == "emits" else 0):
        routine.emit("done", n=-n, pid=os.getpid(), ended=None)
    if how == "raises":
        os.close(2)  # it says so
        raise ValueError("in the child")
    if how == "exits":
        sys.exit(3)
    return 0
