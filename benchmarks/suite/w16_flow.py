"""The calls of W16 as a flow."""

from __future__ import annotations

import asyncio

from routilux_core import Flow, Routine, event, slot
from suite.work import median_of

RUNS = 5


class Source(Routine):
    item = event("n")

    async def __call__(self, count: int) -> None:
        for n in range(count):
            self.emit("item", n=n)


class Sleeps(Routine, stateless=True):
    seconds: float

    @slot
    async def n(self, n: int) -> None:
        await asyncio.sleep(self.seconds)


def calls(count: int, in_flight: int, seconds: float) -> float:
    """Return the time of a job with so many calls, in a loop that runs already: the median of a few."""
    with Flow(execution_strategy="asyncio", max_workers=in_flight) as flow:
        flow.add_routine(Source(), "source")
        flow.add_routine(Sleeps(seconds=seconds), "sleeps")
        flow.connect("source", "item", "sleeps", "n")

        def run() -> None:
            flow.run("source", {"count": count})

        def check() -> None:
            job = flow.job_state
            assert job is not None
            assert job.ledger.completed == count + 1, job

        run()
        return median_of(RUNS, run, check)
