"""W16: 10,000 calls that await a sleep of 10 ms, with 1,000 or 5,000 of them under way at a time."""

from __future__ import annotations

import asyncio
from functools import partial

from suite.model import Comparison, Row, Workload, ratio
from suite.work import median_of

CALLS = 10_000
SECONDS = 0.01
RUNS = 5


async def _in_group(count: int, in_flight: int) -> None:
    limit = asyncio.Semaphore(in_flight)

    async def call(n: int) -> None:
        async with limit:
            await asyncio.sleep(SECONDS)

    async with asyncio.TaskGroup() as group:
        for n in range(count):
            group.create_task(call(n))


def _bare(count: int, *, in_flight: int) -> float:
    def run() -> None:
        asyncio.run(_in_group(count, in_flight))

    run()
    return median_of(RUNS, run, lambda: None)


def _ours(count: int, *, in_flight: int) -> float:
    from suite.w16_flow import calls  # the limit rows must not load the engine

    return calls(count, in_flight, SECONDS)


def _pair(in_flight: int) -> tuple[Row, Row]:
    return (
        Row(
            name=f"TaskGroup and Semaphore({in_flight:,})",
            measure=partial(_bare, in_flight=in_flight),
            size=CALLS,
            quick_size=CALLS // 10,
            limit=True,
        ),
        Row(
            name=f"ours, max_workers={in_flight:,}",
            measure=partial(_ours, in_flight=in_flight),
            size=CALLS,
            quick_size=CALLS // 10,
        ),
    )


def _compared(in_flight: int, gate: float, ambition: float) -> Comparison:
    bare, ours = _pair(in_flight)
    return Comparison(
        goal="G16",
        text=f"ours / bare, {in_flight:,} under way",
        compute=ratio(ours.name, bare.name),
        gate=gate,
        ambition=ambition,
    )


WORKLOAD = Workload(
    name="W16",
    title="10,000 calls that await a sleep of 10 ms",
    rows=(*_pair(1_000), *_pair(5_000)),
    comparisons=(_compared(1_000, 1.15, 1.1), _compared(5_000, 1.6, 1.3)),
)
