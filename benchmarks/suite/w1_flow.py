"""The demo's shape as a flow."""

from __future__ import annotations

import time
from time import perf_counter

from routilux_core import Flow, Routine, event, field, slot
from suite.flows import check_job, warm_up
from suite.work import require


class Trigger(Routine, stateless=True):
    """Starts the fetchers."""

    out = event()

    @slot
    def trigger(self) -> None:
        self.emit("out")


class Fetch(Routine, stateless=True):
    """Waits as long as its API would take."""

    wait: float
    fetched = event("value")

    @slot
    def trigger(self) -> None:
        time.sleep(self.wait)
        self.emit("fetched", value=self.wait)


class Process(Routine, stateless=True):
    """Doubles what was fetched."""

    processed = event("value")

    @slot
    def input(self, value: float) -> None:
        self.emit("processed", value=value * 2)


class Aggregate(Routine):
    """Sends on what it has collected when all of it is there."""

    expected: int
    values: list[float] = field(factory=list)
    complete = event("values")

    @slot
    def input(self, value: float) -> None:
        self.values.append(value)
        if len(self.values) == self.expected:
            self.emit("complete", values=sorted(self.values))


class Format(Routine):
    """Keeps the text of what arrives."""

    texts: list[str] = field(factory=list)

    @slot
    def input(self, values: list[float]) -> None:
        self.texts.append(str(values))


def _build(strategy: str, waits: tuple[float, ...], formatter: Format) -> Flow:
    flow = Flow(execution_strategy=strategy, max_workers=5)
    flow.add_routine(Trigger(), "trigger")
    flow.add_routine(Aggregate(expected=len(waits)), "aggregate")
    flow.add_routine(formatter, "format")
    flow.connect("aggregate", "complete", "format", "input")
    for number, wait in enumerate(waits):
        flow.add_routine(Fetch(wait=wait), f"fetch{number}")
        flow.add_routine(Process(), f"process{number}")
        flow.connect("trigger", "out", f"fetch{number}", "trigger")
        flow.connect(f"fetch{number}", "fetched", f"process{number}", "input")
        flow.connect(f"process{number}", "processed", "aggregate", "input")
    return flow


def run_demo_shape(strategy: str, waits: tuple[float, ...], *, warm: bool) -> float:
    """Seconds from the start until the text is there and the flow is shut down."""
    if warm:
        warm_up(strategy, 5)
    formatter = Format()
    flow = _build(strategy, waits, formatter)
    start = perf_counter()
    job = flow.execute("trigger")
    flow.wait_for_completion()
    flow.shutdown()
    seconds = perf_counter() - start
    check_job(job, 2 + 3 * len(waits))
    require(formatter.texts == [str(sorted(wait * 2 for wait in waits))], f"formatted {formatter.texts}")
    return seconds
