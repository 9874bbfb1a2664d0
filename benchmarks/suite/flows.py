"""The routines and flows that our rows run; imported by those rows only, so a limit row never loads the engine."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter, sleep
from typing import Any, ClassVar

from routilux_core import Flow, JobState, Routine, event, slot
from suite.work import check_each_once, note, require


class Source(Routine, stateless=True):
    """Emits the numbers below ``count``."""

    count: int
    out = event("n")

    @slot
    def trigger(self) -> None:
        for n in range(self.count):
            self.emit("out", n=n)


class Sink(Routine, stateless=True):
    """Notes what it gets; its calls may run in parallel."""

    @slot
    def input(self, n: int) -> None:
        note(n)


class Pass(Routine, stateless=True):
    """Passes on what it gets; its calls may run in parallel."""

    out = event("n")

    @slot
    def input(self, n: int) -> None:
        self.emit("out", n=n)


class Blocks(Routine, stateless=True):
    """Is quick, but for one call, which sleeps. `clock` has when that began, and when the next call did."""

    at: int
    seconds: float
    clock: ClassVar[list[float]] = []

    @slot
    def input(self, n: int) -> None:
        if n == self.at:
            self.clock[:] = [perf_counter()]
            sleep(self.seconds)
        elif len(self.clock) == 1:
            self.clock.append(perf_counter())


class OrderedSink(Routine):
    """Notes what it gets, one call at a time: what a routine is by default."""

    @slot
    def input(self, n: int) -> None:
        note(n)


class Link(Routine):
    """One link of a chain: passes on one more than it got."""

    out = event("n")

    @slot
    def input(self, n: int) -> None:
        self.emit("out", n=n + 1)


class Sleeper(Routine, stateless=True):
    """Sleeps, then notes its number."""

    seconds: float

    @slot
    def input(self, n: int) -> None:
        sleep(self.seconds)
        note(n)


def stream(
    count: int,
    sink: Routine,
    strategy: str,
    workers: int | None = None,
    through: Routine | None = None,
    **settings: Any,
) -> Flow:
    """One source that sends ``count`` events to one sink, directly or ``through`` another routine."""
    flow = Flow(execution_strategy=strategy, max_workers=workers, **settings)
    flow.add_routine(Source(count=count), "source")
    flow.add_routine(sink, "sink")
    if through is None:
        flow.connect("source", "out", "sink", "input")
    else:
        flow.add_routine(through, "through")
        flow.connect("source", "out", "through", "input")
        flow.connect("through", "out", "sink", "input")
    return flow


def chain(length: int) -> Flow:
    """A sequential chain of ``length`` routines, the last of which notes what arrives."""
    flow = Flow()
    for number in range(length - 1):
        flow.add_routine(Link(), f"link{number}")
    flow.add_routine(OrderedSink(), f"link{length - 1}")
    for number in range(length - 1):
        flow.connect(f"link{number}", "out", f"link{number + 1}", "input")
    return flow


def runner(flow: Flow, entry: str, activations: int, params: dict[str, Any] | None = None) -> Callable[[], None]:
    """A run of ``flow`` from the start until everything is done and shut down, with its ledger checked."""

    def run() -> None:
        job = flow.execute(entry, params)
        flow.wait_for_completion()
        flow.shutdown()
        check_job(job, activations)

    return run


def check_job(job: JobState, activations: int) -> None:
    """Require that the job says the same as the handlers: completed, and so many activations."""
    ledger = job.ledger
    require(
        job.status == "completed" and ledger.posted == ledger.completed == activations,
        f"expected a completed job of {activations} activations, got {job.status!r} with {ledger}",
    )


def warm_up(strategy: str, workers: int | None = None) -> None:
    """Run a tiny flow, so that imports and the scan for plugins, which W8 measures, are over."""
    runner(stream(1, Sink(), strategy, workers), "source", 2)()
    check_each_once(1)
