"""The flow of W6 and W7: one source, one busy stateless routine, under the strategy `process`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from routilux_core import Flow, Routine, event, slot
from suite.calls import long_call, short_call
from suite.work import note, require


class Numbers(Routine, stateless=True):
    """Emits the numbers below ``count``."""

    out = event("n")

    @slot
    def trigger(self, count: int) -> None:
        for n in range(count):
            self.emit("out", n=n)


class Long(Routine, stateless=True):
    """Is busy for some 50 ms, then emits its number."""

    done = event("n")

    @slot
    def input(self, n: int) -> None:
        self.emit("done", n=long_call(n))


class Short(Routine, stateless=True):
    """Is busy for some 20 µs, then emits its number."""

    done = event("n")

    @slot
    def input(self, n: int) -> None:
        self.emit("done", n=short_call(n))


def busy_flow(worker: Routine, workers: int, **settings: Any) -> Flow:
    """Return a flow that has run nothing yet, so that its workers are not started."""
    flow = Flow(execution_strategy="process", max_workers=workers, **settings)
    flow.add_routine(Numbers(), "source")
    flow.add_routine(worker, "busy")
    flow.connect("source", "out", "busy", "input")
    flow.add_output("busy", "done")
    return flow


def runner(flow: Flow, count: int, *, shut_down: bool) -> Callable[[], None]:
    """A run from the start until all the results are here, with its ledger checked."""

    def run() -> None:
        job = flow.execute("source", {"count": count})
        flow.wait_for_completion()
        if shut_down:
            flow.shutdown()
        ledger = job.ledger
        require(
            job.status == "completed" and ledger.posted == ledger.completed == count + 1,
            f"expected a completed job of {count + 1} activations, got {job.status!r} with {ledger}",
        )
        for payload in job.outputs["busy.done"]:
            note(payload["n"])

    return run
