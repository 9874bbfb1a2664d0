"""Routines with a stopwatch in their handlers, in a module that workers can import."""

from __future__ import annotations

from time import perf_counter, sleep

from routilux_core import Routine, event, field, slot

WORK = (0.002, 0.011, 0.005, 0.008)  # seconds that the calls take, in turn


class Source(Routine, stateless=True):
    item = event("n")

    @slot
    def trigger(self, count: int) -> None:
        for n in range(count):
            self.emit("item", n=n)


class Computes(Routine):
    """Computes for a known time, and keeps what its stopwatch says: its attributes come home from any worker.

    Every third number fails, after the same time. `wrong` seconds are what the stopwatch adds.
    """

    wrong: float = 0.0
    times: list[float] = field(factory=list)

    @slot
    def n(self, n: int) -> None:
        began = perf_counter()
        while perf_counter() - began < WORK[n % len(WORK)]:
            sum(range(100))
        self.times.append(perf_counter() - began + self.wrong)
        if n % 3 == 0:
            raise ValueError(n)


class Waits(Routine, stateless=True):
    """Waits for a known time. What its stopwatch says travels home in what it emits."""

    measured = event("seconds")

    @slot
    def n(self, n: int) -> None:
        began = perf_counter()
        sleep(WORK[n % len(WORK)])
        self.emit("measured", seconds=perf_counter() - began)


class Collects(Routine):
    times: list[float] = field(factory=list)

    @slot
    def seconds(self, seconds: float) -> None:
        self.times.append(seconds)
