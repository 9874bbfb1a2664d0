"""What the golden files were made of. They are never made again: a new version of the format gets files of its own."""

from __future__ import annotations

from routilux_core import ErrorHandler, Flow, JobState, Routine, event, slot
from saving.hostile import honest_flow

__all__ = ["honest_flow", "job"]


class Divides(Routine):
    output = event("quotient")

    @slot
    def input(self, number: int) -> None:
        self.emit("output", quotient=(12 / number, number))


def job() -> JobState:
    """Return a job with an error that it went on after."""
    flow = Flow("golden", error_handler=ErrorHandler("continue"))
    flow.add_routine(Splits(), "splits")
    flow.add_routine(Divides(), "divides")
    flow.connect("splits", "output", "divides", "input")
    flow.add_output("divides", "output")
    return flow.run("splits", {"numbers": [3, 0, 4]})


class Splits(Routine):
    output = event("number")

    @slot
    def input(self, numbers: list[int]) -> None:
        for number in numbers:
            self.emit("output", number=number)
