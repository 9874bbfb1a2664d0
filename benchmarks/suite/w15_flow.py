"""The calls of W15 as a flow with a journal."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, sleep

from routilux_core import Flow, Routine, event, slot
from suite.flows import Source, check_job


class Call(Routine, stateless=True):
    """Makes the call, and sends its result on."""

    seconds: float
    done = event("n")

    @slot
    def input(self, n: int) -> None:
        if self.seconds:
            sleep(self.seconds)
        self.emit("done", n=n)


class Keep(Routine, stateless=True):
    """Takes the results."""

    @slot
    def input(self, n: int) -> None: ...


def calls(count: int, strategy: str, workers: int | None, seconds: float, durability: str | None) -> float:
    """Return the seconds of a job of so many calls, without a journal where no durability is given."""
    with TemporaryDirectory() as folder:
        journal = {} if durability is None else {"journal": Path(folder, "w15.db"), "durability": durability}
        with Flow("w15", strategy, workers, **journal) as flow:
            flow.add_routine(Source(count=count), "source")
            flow.add_routine(Call(seconds=seconds), "call")
            flow.add_routine(Keep(), "keep")
            flow.connect("source", "out", "call", "input")
            flow.connect("call", "done", "keep", "input")
            flow.run("keep", {"n": 0})  # the pool, and the journal, are opened
            began = perf_counter()
            check_job(flow.run("source"), 2 * count + 1)
            return perf_counter() - began
