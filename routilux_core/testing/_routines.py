"""The routines of the kit. At module level, so that every strategy can ship them to its workers."""

from __future__ import annotations

import os
import signal
import threading
from functools import partial
from pickle import PickleBuffer
from time import sleep
from typing import Any

from attrs import field

from routilux_core.ports import event, per_worker, slot
from routilux_core.routine import Routine
from routilux_core.testing._board import gate_is_open, note, notes, open_gate, until


class Planted(Exception):
    """An error that a case asks for."""


class Freight:
    """A large value, pickled as arrays are: its bytes can travel beside the rest."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Freight, (PickleBuffer(self.data),)


class Stamps(Routine, stateless=True):
    """Writes to what it is given, and sends it on with what it was before."""

    out = event("freight", "was")

    @slot
    def freight(self, freight: Freight, plain: bytes) -> None:
        data = freight.data
        was = (len(data), data[0], data[-1], len(plain), not memoryview(data).readonly)
        if was[-1]:
            data[0] = 2
        self.emit("out", freight=freight, was=was)


class Source(Routine, stateless=True):
    """Emits `count` numbers, from `first` on."""

    out = event("n")

    def __call__(self, count: int, first: int = 0) -> None:
        for n in range(first, first + count):
            self.emit("out", n=n)


class Forward(Routine, stateless=True):
    """Passes a number on, and notes that it was called where it is given a folder."""

    folder: str = ""
    out = event("n")

    @slot
    def n(self, n: Any) -> None:
        if self.folder:
            note(self.folder, "calls", n)
        self.emit("out", n=n)


class Record(Routine):
    """Has state: what it was called with, in order."""

    folder: str = ""
    seen: list[int] = field(factory=list)
    out = event("n")

    @slot
    def n(self, n: int) -> None:
        if self.folder:
            note(self.folder, "records", "comes")
        self.seen.append(n)
        self.increment_stat("calls")
        self.emit("out", n=n)
        if self.folder:
            note(self.folder, "records", "goes")


class Total(Routine):
    """Has state that does not grow: a count and a sum."""

    count: int = 0
    total: int = 0

    @slot
    def n(self, n: int) -> None:
        self.count += 1
        self.total += n


class Fails(Routine, stateless=True):
    """Fails for every number that `every` divides, on its first `times` attempts."""

    folder: str
    every: int
    times: int
    out = event("n")

    @slot
    def n(self, n: int) -> None:
        note(self.folder, "tried", n)
        self.emit("out", n=n)
        if n % self.every == 0:
            tries = sum(each.text == str(n) for each in notes(self.folder, "tried"))
            if tries <= self.times:
                planted_deep_inside(n)


def planted_deep_inside(n: int) -> None:
    """Be a name that a traceback has to show."""
    raise Planted(f"planted for {n}")


class Opener(Routine, stateless=True):
    """Opens the gate."""

    folder: str

    @slot
    def n(self, n: int) -> None:
        open_gate(self.folder)


class Awaits(Routine, stateless=True):
    """Has a handler that has to be awaited."""

    out = event("n")

    @slot
    async def n(self, n: int) -> None:
        import asyncio

        await asyncio.sleep(0)
        self.emit("out", n=n)


class Dies(Routine, stateless=True):
    """Kills the worker that it runs in for number 0, unless that is the process of the test."""

    folder: str
    spared: int
    out = event("n")

    @slot
    def n(self, n: int) -> None:
        note(self.folder, "calls", n)
        if n == 0 and os.getpid() != self.spared:
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
        self.emit("out", n=n)


class DiesOnce(Routine, stateless=True):
    """Kills the worker that it runs in for some numbers, the first time that each of them comes, or `always`."""

    folder: str
    deadly: tuple[int, ...]
    always: bool = False
    out = event("n")

    @slot
    def n(self, n: int) -> None:
        if n in self.deadly:
            if self.always or n not in [int(each.text) for each in notes(self.folder, "died")]:
                note(self.folder, "died", n)
                os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
            note(self.folder, "again", n)
        self.emit("out", n=n)


class Lingers(Routine, stateless=True):
    """Notes its worker, and takes its time."""

    folder: str
    seconds: float
    out = event("n")

    @slot
    def n(self, n: int) -> None:
        note(self.folder, "calls", n)
        sleep(self.seconds)
        self.emit("out", n=n)


class TellsAndDies(Routine, stateless=True):
    """Emits, waits until that has arrived, and kills the worker that it runs in, the first time."""

    folder: str
    patience: float
    spared: int
    out = event("n")

    @slot
    def n(self, n: int) -> None:
        is_first = not notes(self.folder, "told")
        note(self.folder, "told", n)
        self.emit("out", n=n)
        until(partial(gate_is_open, self.folder), self.patience)
        if is_first and os.getpid() != self.spared:
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


class Prints(Routine, stateless=True):
    """Writes to standard output in every way: by Python, to the descriptor, and from a process below."""

    out = event("n")

    @slot
    def n(self, n: int) -> None:
        print("the kit prints", n, "x" * 1000, flush=True)  # noqa: T201
        os.write(1, b"the kit writes to descriptor 1\n")
        if n == 0:
            os.system("echo the kit runs echo")
        self.emit("out", n=n)


class Thing:
    """What a worker makes for itself; notes when it is first used, and when it is closed."""

    folder = ""

    def use(self, folder: str) -> None:
        if not self.folder:
            self.folder = folder
            note(folder, "made")

    def close(self) -> None:
        if self.folder:
            note(self.folder, "closed")


class Uses(Routine, stateless=True):
    """Uses what its worker made for it."""

    folder: str
    thing = per_worker(Thing)

    @slot
    def n(self, n: int) -> None:
        self.thing.use(self.folder)


class HoldsLock(Routine, stateless=True):
    """Has an attribute that can't be pickled."""

    lock_that_can_not_travel: Any = field(factory=threading.Lock)
    out = event("held")

    @slot
    def n(self, n: int) -> None:
        self.emit("out", held=hasattr(self.lock_that_can_not_travel, "acquire"))


class EmitsLock(Routine, stateless=True):
    """Emits what can't be pickled."""

    out = event("cargo")

    @slot
    def n(self, n: int) -> None:
        self.emit("out", cargo=threading.Lock())


class Carries(Routine, stateless=True):
    """Takes anything, and says what kind of thing it was."""

    out = event("kind")

    @slot
    def cargo(self, cargo: Any) -> None:
        self.emit("out", kind=type(cargo).__name__)
