"""Routines that end their own workers, in a module that workers can import."""

from __future__ import annotations

import os
import signal

from routilux_core import Routine, event, slot


class Dies(Routine, stateless=True):
    """Notes each of its calls in a file, and kills its worker in the first so many of them."""

    calls: str
    deaths: int
    done = event("pid")

    @slot
    def input(self) -> None:
        with open(self.calls, "a") as file:
            print(os.getpid(), file=file)
        with open(self.calls) as file:
            if len(file.readlines()) <= self.deaths:
                os.kill(os.getpid(), signal.SIGKILL)
        self.emit("done", pid=os.getpid())


class DiesAgain(Dies, stateless=True, on_worker_lost="retry"):
    """The same, run again in another worker."""


class Counts(Routine):
    """Has state; says which worker it is in."""

    seen: int = 0
    done = event("pid")

    @slot
    def input(self, n: int) -> None:
        self.seen += 1
        self.emit("done", pid=os.getpid())
