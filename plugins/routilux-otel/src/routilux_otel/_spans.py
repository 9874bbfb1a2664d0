"""The spans of one job: its own, and one for each attempt, linked to the call that emitted what started it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from time import perf_counter_ns, time_ns

from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, Status, StatusCode, Tracer, set_span_in_context

from routilux_core import ActivationRecord, Failure, JobState

REMEMBERED = 65_536  # calls of a job to which later ones can be linked
HELD = 16_384  # records that wait for the end of the call that caused them
LINKS = 128  # of a span, as many as an SDK keeps where nothing else is said
FAILED = Status(StatusCode.ERROR)


class JobSpans:
    """What is traced of one job. All but `failed` is called by one thread at a time.

    A call often ends before the one that caused it, which is still emitting: its record is held until the span to link
    to is there. What is held for too long gets its span without a link; the id of its cause is an attribute anyway.
    """

    def __init__(self, tracer: Tracer, job: JobState) -> None:
        # Records have times of `perf_counter`; a span wants those of the wall clock, which may be set back meanwhile.
        self._offset = time_ns() - perf_counter_ns()
        self._tracer = tracer
        self.span = tracer.start_span(
            f"job {job.flow_id}", attributes={"routilux.job.id": job.job_id, "routilux.flow.id": job.flow_id}
        )
        self._parent: Context = set_span_in_context(self.span)
        self._contexts: dict[int, SpanContext] = {}
        self._held: dict[int, list[ActivationRecord]] = {}  # by their cause
        self._count = 0  # of those
        self._failures: dict[tuple[int, int], Failure] = {}

    @property
    def records(self) -> bool:
        """Whether the job was sampled: where it was not, nothing of it is."""
        return bool(self.span.is_recording())

    def failed(self, failure: Failure) -> None:
        """Keep a failure until the record of its attempt comes. Any thread: it is one step."""
        if self.records:
            self._failures[failure.activation, failure.attempt] = failure

    def finished(self, records: Sequence[ActivationRecord]) -> None:
        """Make the spans of attempts that have ended; those wait whose cause has not."""
        for record in records:
            cause = None if record.cause is None else self._contexts.get(record.cause)
            if cause is None and record.cause is not None:
                self._held.setdefault(record.cause, []).append(record)
                self._count += 1
            else:
                self._make(record, cause)
        while self._count > HELD:
            self._release(next(iter(self._held)), None)

    def end(self, job: JobState) -> None:
        """Make all spans that are left, and end that of the job."""
        while self._held:
            self._release(next(iter(self._held)), None)
        ledger = job.ledger
        self.span.set_attributes(
            {
                "routilux.job.status": job.status,
                "routilux.job.completed": ledger.completed,
                "routilux.job.failed": ledger.failed,
                "routilux.job.skipped": ledger.skipped,
                "routilux.job.discarded": ledger.discarded,
                "routilux.job.retried": ledger.retried,
            }
        )
        if job.status != "completed":
            self.span.set_status(Status(StatusCode.ERROR, f"the job ended as {job.status}"))
        self.span.end()

    def _release(self, cause: int, link: SpanContext | None) -> None:
        """Make the spans that have waited for one."""
        waiting = self._held.pop(cause, ())
        self._count -= len(waiting)
        for record in waiting:
            self._make(record, link)

    def _make(self, record: ActivationRecord, cause: SpanContext | None) -> None:
        """Make the span of an attempt, and of those that have waited for it, and so on; no deep recursion."""
        made = self._attempt(record, cause)
        if record.id not in self._held or record.outcome == "retried":
            return  # the most frequent case; and a retry has caused nothing: the attempt that is the last one does
        ready = deque([(record.id, made)])
        while ready:
            number, made = ready.popleft()
            waiting = self._held.pop(number, ())
            self._count -= len(waiting)
            for each in waiting:
                span = self._attempt(each, made)
                if each.outcome != "retried":
                    ready.append((each.id, span))

    def _attempt(self, record: ActivationRecord, cause: SpanContext | None) -> SpanContext:
        attributes: dict[str, str | int | float] = {
            "routilux.routine": record.routine_id,
            "routilux.slot": record.slot,
            "routilux.activation": record.id,
            "routilux.attempt": record.attempt,
            "routilux.outcome": record.outcome,
            "routilux.worker": record.worker,
            "routilux.queue_wait": record.queue_wait,
        }
        if record.cause is not None:
            attributes["routilux.cause"] = record.cause
        span = self._tracer.start_span(
            f"{record.routine_id}.{record.slot}",
            self._parent,
            attributes=attributes,
            links=[Link(cause)] if cause is not None else self._links(record),
            start_time=int(record.started * 1e9) + self._offset,
        )
        ended = int(record.ended * 1e9) + self._offset
        made = span.get_span_context()
        if record.outcome != "completed":
            self._say_why(span, self._failures.pop((record.id, record.attempt), None), ended)
        if record.outcome != "retried":
            self._contexts[record.id] = made
            if len(self._contexts) > REMEMBERED:
                del self._contexts[next(iter(self._contexts))]
        span.end(ended)
        return made

    def _links(self, record: ActivationRecord) -> list[Link]:
        """Link an attempt at a gather slot to all of its causes, which are over by then, if they are few."""
        if not record.extra:
            return []
        causes = dict.fromkeys(record.extra.get("causes", ()))
        return [Link(self._contexts[each]) for each in list(causes)[-LINKS:] if each in self._contexts]

    def _say_why(self, span: Span, failure: Failure | None, ended: int) -> None:
        if failure is None:
            span.set_status(FAILED)
            return
        # The traceback comes as text: its frames are let go of, or they are in another process.
        attributes = {"exception.stacktrace": failure.traceback}
        span.record_exception(failure.exception, attributes, timestamp=ended)
        span.set_status(Status(StatusCode.ERROR, type(failure.exception).__name__))
