"""Attempts are counted by how they ended, and their run time is measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from otel_routines import Fails
from telemetry import Telemetry

from routilux_core import Flow

MakeFlow = Callable[..., Flow]
SECONDS = 60.0


def test_attempts_are_counted_also_where_nothing_is_sampled(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    telemetry = Telemetry(sampler=ALWAYS_OFF)
    flow = make_flow(**strategy, plugins=[telemetry.plugin], error_handler="skip")
    flow.add_routine(Fails(), "fails")
    flow.connect("source", "item", "fails", "n")
    flow.run("source", {"count": 10}, timeout=SECONDS)
    counted = {
        (point.attributes["routilux.routine"], point.attributes["routilux.outcome"]): point.value
        for point in telemetry.points("routilux.attempts")
    }
    assert counted == {
        ("source", "completed"): 1,
        ("square", "completed"): 10,
        ("end", "completed"): 10,
        ("fails", "completed"): 5,
        ("fails", "skipped"): 5,
    }
    measured = {point.attributes["routilux.routine"]: point.count for point in telemetry.points("routilux.run_time")}
    assert measured == {"source": 1, "square": 10, "end": 10, "fails": 10}
