"""Routines that worker processes import."""

from __future__ import annotations

from routilux_core import Routine, event, slot


class Source(Routine, stateless=True):
    item = event("n")

    def __call__(self, count: int) -> None:
        for n in range(count):
            self.emit("item", n=n)


class Square(Routine, stateless=True):
    done = event("n")

    @slot
    def n(self, n: int) -> None:
        self.emit("done", n=n * n)


class End(Routine, stateless=True):
    @slot
    def n(self, n: int) -> None: ...


class Fails(Routine, stateless=True):
    """Raises for odd numbers."""

    @slot
    def n(self, n: int) -> None:
        if n % 2:
            raise ValueError(f"{n} is odd")
