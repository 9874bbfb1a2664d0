"""The calls of W14 as a flow."""

from __future__ import annotations

from routilux_core import Flow, Routine, event, slot
from suite.dask_calls import call
from suite.flows import Source


class Call(Routine, stateless=True):
    """Makes the call, and sends its result home."""

    done = event("n")

    @slot
    def input(self, n: int) -> None:
        self.emit("done", n=call(n))


def calls(count: int, address: str) -> Flow:
    """One source, and the calls behind it; both run on the cluster."""
    flow = Flow(execution_strategy="dask", strategy_options={"address": address})
    flow.add_routine(Source(count=count), "source")
    flow.add_routine(Call(), "call")
    flow.connect("source", "out", "call", "input")
    flow.add_output("call", "done")
    return flow
