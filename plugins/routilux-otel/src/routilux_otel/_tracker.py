"""The plugin: it hears of jobs and attempts, and hands them to spans and metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider, get_tracer

from routilux_core import ActivationRecord, Failure, JobState, hookimpl
from routilux_otel._metrics import Metrics
from routilux_otel._propagation import carrier_of
from routilux_otel._spans import JobSpans


class OpenTelemetry:
    """Traces and counts what flows do, with the providers of the program unless others are given.

    Installed, it listens to every flow. Each job begins a span, below the one that is current where `execute` is
    called; each attempt at a call has a span below that of its job.
    """

    def __init__(
        self, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        # These follow the program: what is made before it sets its providers up is handed on to them then.
        self._tracer = get_tracer("routilux_otel", tracer_provider=tracer_provider)
        self._metrics = Metrics(meter_provider)
        self._jobs: dict[int, JobSpans] = {}  # by the identity of their state: ids are one flow's own

    @hookimpl
    def routilux_job_started(self, job: JobState) -> None:
        """Begin the span of a job."""
        self._jobs[id(job)] = JobSpans(self._tracer, job)

    @hookimpl
    def routilux_carry(self, job: JobState) -> Callable[[], AbstractContextManager[None]] | None:
        """Let what handlers trace in other processes be below the span of the job; also that nothing is sampled."""
        spans = self._jobs[id(job)]
        return carrier_of(spans.span) if spans.span.get_span_context().is_valid else None

    @hookimpl
    def routilux_failure_decided(self, job: JobState, failure: Failure) -> None:
        """Keep a failure for the span of its attempt."""
        spans = self._jobs.get(id(job))
        if spans is not None:
            spans.failed(failure)

    @hookimpl
    def routilux_activations_finished(self, job: JobState, records: Sequence[ActivationRecord]) -> None:
        """Make spans of attempts that have ended, and count them."""
        spans = self._jobs[id(job)]
        if spans.records:
            self._or_forget(job, spans.finished, records)
        if self._metrics.counts:
            self._or_forget(job, self._metrics.finished, records)

    @hookimpl
    def routilux_job_finished(self, job: JobState) -> None:
        """End the span of a job."""
        spans = self._jobs.pop(id(job))
        if spans.records:
            spans.end(job)

    def _or_forget(self, job: JobState, tell: Callable[[Any], None], records: Sequence[ActivationRecord]) -> None:
        """Tell; where the SDK raises, the core tells us no more of this job, and not of its end."""
        try:
            tell(records)
        except BaseException:
            self._jobs.pop(id(job), None)
            raise
