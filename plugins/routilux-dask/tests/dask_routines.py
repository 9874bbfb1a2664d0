"""What the workers import, and the scheduler."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from typing import Any

from routilux_core import Routine, event, field, slot


class Work(Routine, stateless=True):
    """Kills its worker process with the number `fatal`: each time, or as long as the file `once` is not there."""

    fatal: int = -1
    once: str = ""
    seconds: float = 0.05
    done = event("n")

    @slot
    def n(self, n: int) -> None:
        if n == self.fatal and not (self.once and os.path.exists(self.once)):
            if self.once:
                open(self.once, "x").close()
            os.kill(os.getpid(), signal.SIGKILL)
        threading.Event().wait(self.seconds)
        self.emit("done", n=n)


class TakesAll(Work, stateless=True):
    """Kills its worker as a machine does that is gone: what the process had noted in files is gone with it."""

    @slot
    def n(self, n: int) -> None:
        if n == self.fatal:
            forget_what_was_noted()
        super().n(n)


class TellsMuch(Work, stateless=True):
    """Emits more than a worker notes just before the fatal number, and leaves it the time to be told."""

    more = event("data")

    @slot
    def n(self, n: int) -> None:
        if n == self.fatal - 1:
            self.emit("more", data=bytes(2_000_000))
            threading.Event().wait(0.2)
        super().n(n)


def forget_what_was_noted() -> None:
    from routilux_dask import _remote

    for desk in _remote._desks.values():
        shutil.rmtree(desk.journal.directory)


class WorkAgain(Work, stateless=True, on_worker_lost="retry"):
    """Is run again when its worker dies."""


class Tally(Routine):
    """Has state; kills its worker with the number `fatal`, and keeps what it sees."""

    fatal: int = -1
    seen: list = field(factory=list)

    @slot
    def n(self, n: int) -> None:
        self.seen.append(n)
        if n == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)


class Waits(Routine, stateless=True):
    """Says that it runs by making a file, and goes on when another is there, or when it is cancelled."""

    began: str
    go: str
    done = event("pid", "cancelled")

    @slot
    def n(self, n: int = 0) -> None:
        with open(f"{self.began}-{n}", "w") as file:
            file.write(str(os.getpid()))
        os.rename(f"{self.began}-{n}", f"{self.began}{n}")
        while not os.path.exists(self.go) and not self.cancelled:
            threading.Event().wait(0.005)
        self.emit("done", pid=os.getpid(), cancelled=self.cancelled)


class Loose(Routine, stateless=True):
    """Emits what can't be sent home."""

    out = event("value")

    @slot
    def n(self, n: int) -> None:
        value: Any = threading.Lock() if n == 1 else n
        self.emit("out", value=value)


class Keeps(Routine):
    values: list = field(factory=list)

    @slot
    def value(self, value: Any) -> None:
        self.values.append(value)


class WhoAmI(Routine, stateless=True):
    """Meets the others: `together` calls have to run at the same time."""

    folder: str
    together: int
    done = event("pid")

    @slot
    def n(self, n: int) -> None:
        open(os.path.join(self.folder, str(n)), "x").close()
        while len(os.listdir(self.folder)) < self.together:
            threading.Event().wait(0.005)
        self.emit("done", pid=os.getpid())


def kept_keys(dask_scheduler: Any) -> list[str]:
    """Return what a scheduler keeps of ours."""
    return [str(key) for key in dask_scheduler.tasks if str(key).startswith("routilux")]


def kept_pools() -> list[str]:
    """Return the pools for which a worker keeps something."""
    from routilux_dask import _remote

    return list(_remote._desks)
