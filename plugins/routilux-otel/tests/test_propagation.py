"""What handlers trace in worker processes belongs to the trace of their job."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler
from otel_routines import Traced
from routilux_otel import OpenTelemetry
from telemetry import STRATEGIES, Telemetry

from routilux_core import Flow

MakeFlow = Callable[..., Flow]
SECONDS = 60.0


def said(flow: Flow) -> set[tuple[int, int, bool]]:
    flow.add_routine(Traced(), "traced")
    flow.connect("source", "item", "traced", "n")
    flow.add_output("traced", "said")
    job = flow.run("source", {"count": 20}, timeout=SECONDS)
    assert job.status == "completed"
    return {(each["trace"], each["span"], each["sampled"]) for each in job.outputs["traced.said"]}


@pytest.mark.parametrize("sampler", [ALWAYS_ON, ALWAYS_OFF], ids=["sampled", "not sampled"])
def test_handlers_in_worker_processes_run_below_the_span_of_their_job(make_flow: MakeFlow, sampler: Sampler) -> None:
    telemetry = Telemetry(sampler=sampler)
    flow = make_flow(**STRATEGIES["process"], plugins=[telemetry.plugin])
    with telemetry.provider.get_tracer("program").start_as_current_span("request") as request:
        found = said(flow)
    ((trace, _, sampled),) = found
    assert trace == request.get_span_context().trace_id
    assert sampled is (sampler is ALWAYS_ON)
    if sampled:
        (of_job,) = [span for span in telemetry.spans if span.name == "job traced"]
        assert of_job.context
        assert found == {(trace, of_job.context.span_id, True)}


def test_without_an_sdk_nothing_travels(make_flow: MakeFlow) -> None:
    assert said(make_flow(**STRATEGIES["process"], plugins=[OpenTelemetry()])) == {(0, 0, False)}
