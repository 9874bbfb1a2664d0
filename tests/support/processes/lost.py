"""Routines that end their own workers, in a module that workers can import."""

from __future__ import annotations

import os
import signal
import time
from typing import ClassVar

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


class Deadly(Routine, stateless=True):
    """Notes each of its calls in a file, takes its time, and kills its worker for one number, whenever that comes."""

    SECONDS: ClassVar[float] = 0.001
    calls: str
    deadly: int

    @slot
    def n(self, n: int) -> None:
        with open(self.calls, "a") as file:
            print(n, file=file)
        if n == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.SECONDS)


class Counts(Routine):
    """Has state; says which worker it is in."""

    seen: int = 0
    done = event("pid")

    @slot
    def input(self, n: int) -> None:
        self.seen += 1
        self.emit("done", pid=os.getpid())
