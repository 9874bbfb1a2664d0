"""The fan as a flow."""

from __future__ import annotations

from routilux_core import Flow, Routine, event, slot
from suite.flows import OrderedSink, Sink


class Start(Routine, stateless=True):
    """One emission that reaches everybody."""

    out = event()

    @slot
    def trigger(self) -> None:
        self.emit("out")


class Middle(Routine, stateless=True):
    """Sends its number on."""

    number: int
    out = event("n")

    @slot
    def input(self) -> None:
        self.emit("out", n=self.number)


class OrderedMiddle(Routine):
    """The same, as a routine with state."""

    number: int
    out = event("n")

    @slot
    def input(self) -> None:
        self.emit("out", n=self.number)


def fan(width: int, threads: int, *, stateless: bool) -> Flow:
    """One source, ``width`` routines that it reaches with one emission, and one sink for all of them."""
    flow = Flow(execution_strategy="concurrent", max_workers=threads)
    flow.add_routine(Start(), "source")
    flow.add_routine(Sink() if stateless else OrderedSink(), "sink")
    for number in range(width):
        middle = Middle(number=number) if stateless else OrderedMiddle(number=number)
        flow.add_routine(middle, f"middle{number}")
        flow.connect("source", "out", f"middle{number}", "input")
        flow.connect(f"middle{number}", "out", "sink", "input")
    return flow
