"""Routines that worker processes import."""

from __future__ import annotations

from opentelemetry.trace import get_current_span

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


class Gathers(Routine, stateless=True):
    @slot(merge_strategy="gather")
    def n(self, n: list[int]) -> None: ...


class Traced(Routine, stateless=True):
    """Says in which trace it runs."""

    said = event("trace", "span", "sampled")

    @slot
    def n(self, n: int) -> None:
        current = get_current_span().get_span_context()
        self.emit("said", trace=current.trace_id, span=current.span_id, sampled=current.trace_flags.sampled)


class Fails(Routine, stateless=True):
    """Raises for odd numbers."""

    @slot
    def n(self, n: int) -> None:
        if n % 2:
            raise ValueError(f"{n} is odd")
