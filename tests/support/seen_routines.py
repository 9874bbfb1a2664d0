"""Routines for runs that are looked at; a module of its own, since worker processes import it, too."""

from __future__ import annotations

from time import sleep

from routilux_core import ErrorHandler, Flow, Routine, event, slot


class Numbers(Routine, stateless=True):
    number = event("n")

    @slot
    def start(self, count: int = 12) -> None:
        for n in range(count):
            self.emit("number", n=n)


class Squares(Routine, stateless=True):
    """Fails on every fifth."""

    square = event("n")

    @slot
    def of(self, n: int) -> None:
        sleep(0.001)
        if n % 5 == 4:
            raise ValueError(f"no square of {n}")
        self.emit("square", n=n * n)


class Flaky(Routine):
    """Refuses each first attempt of an even number."""

    last: int = -1
    passed = event("n")

    @slot
    def take(self, n: int) -> None:
        again, self.last = self.last == n, n
        if n % 2 == 0 and not again:
            raise OSError(f"not yet: {n}")
        self.emit("passed", n=n)


class Total(Routine):
    total: int = 0
    done = event("total")

    def __init__(self) -> None:
        super().__init__()
        self.define_slot("add", handler=self.add, merge_strategy="gather")

    def add(self, n: list[int]) -> None:
        self.total = sum(n)
        self.emit("done", total=self.total)


def wire(flow: Flow, *names: str) -> Flow:
    """Wire numbers, squares, flaky, total in a row, under these names where some are given; errors are skipped."""
    first, second, third, fourth = names or ("numbers", "squares", "flaky", "total")
    flow.set_error_handler("skip")
    flow.add_routine(Numbers(), first)
    flow.add_routine(Squares(), second)
    flow.add_routine(Flaky(), third)
    flow.add_routine(Total(), fourth)
    flow.routines[third].set_error_handler(ErrorHandler("retry", retry_delay=0.001))
    flow.connect(first, "number", second, "of")
    flow.connect(second, "square", third, "take")
    flow.connect(third, "passed", fourth, "add")
    flow.add_output(fourth, "done", "total")
    return flow


class Counts(Routine, stateless=True):
    @slot
    def add(self, n: int) -> None:
        pass


class Refuses(Routine):
    """Emits, and then raises what it is told to say."""

    text: str
    out = event("n")

    @slot
    def input(self, n: int = 0) -> None:
        self.emit("out", n=n)
        raise ValueError(self.text)


def wired() -> Flow:
    """Return a flow for the command line."""
    return wire(Flow("wired"))


def failing() -> Flow:
    """Return a flow that ends with an error."""
    flow = wired()
    flow.routines["squares"].set_error_handler(ErrorHandler("stop"))
    return flow
