"""What the golden files were made of. They are never made again: a new version of the format gets files of its own.

python -m saving.golden FILE      write the record of the job
"""

from __future__ import annotations

import sys
from typing import Any

from places import CHECKOUT
from routilux_core import ErrorHandler, Flow, JobState, Routine, event, serialization, slot
from saving.hostile import honest_flow

__all__ = ["ANYWHERE", "honest_flow", "job", "neutral"]

ANYWHERE = "/srv/app"


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


def neutral(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record of a job whose tracebacks don't tell on which machine it ran."""
    for each in record["errors"]:
        each["traceback"] = each["traceback"].replace(str(CHECKOUT), ANYWHERE)
    return record


if __name__ == "__main__":
    serialization.write_file(sys.argv[1], neutral(job().serialize()))
