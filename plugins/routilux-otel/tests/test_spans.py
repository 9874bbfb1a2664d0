"""Each job is a span, and each attempt is one below it, linked to the call that caused it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from time import time_ns
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import StatusCode
from otel_routines import Fails, Gathers
from routilux_otel import OpenTelemetry, _spans
from telemetry import STRATEGIES, Telemetry

from routilux_core import ErrorHandler, Flow

MakeFlow = Callable[..., Flow]
SECONDS = 60.0
COUNT = 500  # and so 1,001 calls


def attribute(span: ReadableSpan, name: str) -> Any:
    return (span.attributes or {})[f"routilux.{name}"]


def of_attempts(spans: list[ReadableSpan]) -> list[ReadableSpan]:
    return [span for span in spans if "routilux.activation" in (span.attributes or {})]


ONE_CALL_EACH = {
    "execution_strategy": "process",
    "max_workers": 2,
    "strategy_options": {"max_tasks_per_worker": 1},
}
CASES = [
    *(pytest.param(strategy, COUNT, id=name) for name, strategy in STRATEGIES.items()),
    pytest.param(ONE_CALL_EACH, 10, id="a process for each call"),
    pytest.param(ONE_CALL_EACH, COUNT, id="a thousand processes", marks=pytest.mark.soak),
]


@pytest.mark.parametrize(("strategy", "count"), CASES)
def test_each_call_is_a_span_below_its_job_and_linked_to_its_cause(
    make_flow: MakeFlow, strategy: dict[str, Any], count: int
) -> None:
    telemetry, before = Telemetry(), time_ns()
    job = make_flow(**strategy, plugins=[telemetry.plugin]).run("source", {"count": count}, timeout=30 * SECONDS)
    assert job.status == "completed"
    attempts = of_attempts(telemetry.spans)
    (of_job,) = [span for span in telemetry.spans if span not in attempts]
    names = Counter(span.name for span in attempts)
    assert names == {"source.__call__": 1, "square.n": count, "end.n": count}
    assert of_job.name == "job traced"
    assert of_job.parent is None
    assert attribute(of_job, "job.status") == "completed"
    ids = {attribute(span, "activation"): span for span in attempts}
    assert len(ids) == len(attempts) == 2 * count + 1
    assert before <= (of_job.start_time or 0)
    for span in attempts:
        assert span.parent == of_job.context
        assert (of_job.start_time or 0) <= (span.start_time or 0) <= (span.end_time or 0) <= (of_job.end_time or 0)
        if span.name == "source.__call__":
            assert not span.links
        else:
            (link,) = span.links
            cause = ids[attribute(span, "cause")]
            assert link.context == cause.context
            assert cause.name == {"square.n": "source.__call__", "end.n": "square.n"}[span.name]


def test_a_call_of_a_gather_slot_is_linked_to_all_that_caused_it(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    telemetry = Telemetry()
    flow = make_flow(**strategy, plugins=[telemetry.plugin])
    flow.add_routine(Gathers(), "gathers")
    flow.connect("square", "done", "gathers", "n")
    flow.run("source", {"count": 10}, timeout=SECONDS)
    attempts = of_attempts(telemetry.spans)
    (gathered,) = [span for span in attempts if span.name == "gathers.n"]
    causes = {link.context.span_id for link in gathered.links}
    assert causes == {span.context.span_id for span in attempts if span.context and span.name == "square.n"}


@pytest.mark.parametrize("name", ["HELD", "REMEMBERED"])
def test_what_can_be_linked_is_bounded_and_each_call_has_its_span_all_the_same(
    make_flow: MakeFlow, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_spans, name, 20)
    telemetry = Telemetry()
    flow = make_flow(execution_strategy="concurrent", max_workers=4, plugins=[telemetry.plugin])
    flow.run("source", {"count": COUNT}, timeout=SECONDS)
    attempts = of_attempts(telemetry.spans)
    assert len({attribute(span, "activation") for span in attempts}) == len(attempts) == 2 * COUNT + 1
    assert all("routilux.cause" in (span.attributes or {}) for span in attempts if span.name != "source.__call__")


def test_a_failed_attempt_says_why_and_the_next_one_has_a_span_of_its_own(
    make_flow: MakeFlow, strategy: dict[str, Any]
) -> None:
    telemetry = Telemetry()
    flow = make_flow(**strategy, plugins=[telemetry.plugin])
    flow.add_routine(Fails(), "fails")
    flow.connect("source", "item", "fails", "n")
    flow.set_error_handler(ErrorHandler("retry", max_retries=1, retry_delay=0.0, after_retries="skip"))
    flow.run("source", {"count": 4}, timeout=SECONDS)
    spans = [span for span in of_attempts(telemetry.spans) if span.name == "fails.n"]
    outcomes = Counter((attribute(span, "attempt"), attribute(span, "outcome")) for span in spans)
    assert outcomes == {(1, "completed"): 2, (1, "retried"): 2, (2, "skipped"): 2}
    for span in spans:
        failed = attribute(span, "outcome") != "completed"
        assert span.status.status_code is (StatusCode.ERROR if failed else StatusCode.UNSET)
        assert len(span.events) == failed
        for event in span.events:
            attributes = event.attributes or {}
            assert attributes["exception.type"] == "ValueError"
            assert "is odd" in str(attributes["exception.message"])
            assert "otel_routines.py" in str(attributes["exception.stacktrace"])
            assert event.timestamp == span.end_time


def test_a_job_is_below_the_span_in_which_it_was_executed(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    telemetry = Telemetry()
    flow = make_flow(**strategy, plugins=[telemetry.plugin])
    with telemetry.provider.get_tracer("program").start_as_current_span("request") as request:
        flow.run("source", {"count": 1}, timeout=SECONDS)
    (of_job,) = [span for span in telemetry.spans if span.name == "job traced"]
    assert of_job.parent == request.get_span_context()
    assert {span.context.trace_id for span in telemetry.spans if span.context} == {request.get_span_context().trace_id}


def test_two_flows_of_one_name_have_jobs_of_their_own(make_flow: MakeFlow) -> None:
    telemetry = Telemetry()
    for count in (1, 2):
        make_flow(plugins=[telemetry.plugin]).run("source", {"count": count}, timeout=SECONDS)
    below = Counter(span.parent.span_id for span in of_attempts(telemetry.spans) if span.parent)
    assert sorted(below.values()) == [3, 5]


def test_a_job_that_fails_has_a_span_that_says_so(make_flow: MakeFlow) -> None:
    telemetry = Telemetry()
    flow = make_flow(plugins=[telemetry.plugin])
    flow.add_routine(Fails(), "fails")
    flow.connect("source", "item", "fails", "n")
    flow.run("source", {"count": 2}, timeout=SECONDS)
    (of_job,) = [span for span in telemetry.spans if span.name == "job traced"]
    assert of_job.status.status_code is StatusCode.ERROR
    assert of_job.status.description == "the job ended as failed"


def test_what_is_not_sampled_costs_no_span(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    telemetry = Telemetry(sampler=ALWAYS_OFF)
    job = make_flow(**strategy, plugins=[telemetry.plugin]).run("source", {"count": 5}, timeout=SECONDS)
    assert job.status == "completed"
    assert telemetry.spans == []


def test_without_an_sdk_nothing_is_recorded_and_the_job_completes(
    make_flow: MakeFlow, strategy: dict[str, Any]
) -> None:
    plugin = OpenTelemetry()
    job = make_flow(**strategy, plugins=[plugin]).run("source", {"count": 5}, timeout=SECONDS)
    assert job.status == "completed"


class Raises(SpanProcessor):
    """Part of an SDK that is broken."""

    def on_end(self, span: ReadableSpan) -> None:
        raise RuntimeError("the disk is full")


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_an_sdk_that_raises_costs_one_line_in_the_log(
    make_flow: MakeFlow, strategy: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    telemetry = Telemetry()
    telemetry.provider.add_span_processor(Raises())
    flow = make_flow(**strategy, plugins=[telemetry.plugin])
    with caplog.at_level(logging.WARNING):
        job = flow.run("source", {"count": COUNT}, timeout=SECONDS)
    assert (job.status, job.ledger.completed) == ("completed", 2 * COUNT + 1)
    assert [record.getMessage() for record in caplog.records] == [
        f"plugin 'OpenTelemetry' raised RuntimeError in routilux_activations_finished, and is not told about job "
        f"{job.job_id} any more"
    ]
