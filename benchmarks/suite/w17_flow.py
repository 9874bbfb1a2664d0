"""The flow of W17: a source in a thread of this process, and a routine in worker processes that is given its arrays."""

from __future__ import annotations

from typing import Any

from routilux_core import Flow, Routine, event, slot
from suite.arrays import Array, doubled, number_of, number_of_doubled
from suite.flows import check_job
from suite.work import note

at_home: list[Array] = []
"""What the source emits. It is in the parent's memory, as the arguments of an executor's `map` are."""


class Arrays(Routine, stateless=True):
    """Emits the arrays that are at home."""

    out = event("array")

    @slot
    def trigger(self) -> None:
        for array in at_home:
            self.emit("out", array=array)


class Number(Routine, stateless=True):
    """Reads an array, and emits its number."""

    done = event("n")

    @slot
    def input(self, array: Array) -> None:
        self.emit("done", n=number_of(array))


class Doubled(Routine, stateless=True):
    """Emits another array of the same size."""

    done = event("array")

    @slot
    def input(self, array: Array) -> None:
        self.emit("done", array=doubled(array))


def array_flow(worker: Routine, workers: int, **settings: Any) -> Flow:
    """Return a flow that has run nothing yet, so that its workers are not started."""
    flow = Flow(execution_strategy="process", max_workers=workers, **settings)
    flow.add_routine(Arrays(), "source", execution_strategy="concurrent")
    flow.add_routine(worker, "work")
    flow.connect("source", "out", "work", "input")
    flow.add_output("work", "done")
    return flow


def run(flow: Flow, arrays: list[Array]) -> None:
    """Run the flow until all the results are here."""
    at_home[:] = arrays
    job = flow.execute("source")
    flow.wait_for_completion()
    check_job(job, len(arrays) + 1)
    for payload in job.outputs["work.done"]:
        note(payload["n"] if "n" in payload else number_of_doubled(payload["array"]))
    at_home.clear()
