"""The context of a trace in worker processes: what travels, and how it is taken up there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from opentelemetry import propagate
from opentelemetry.context import attach, detach
from opentelemetry.trace import Span, set_span_in_context


def carrier_of(span: Span) -> Callable[[], AbstractContextManager[None]]:
    """Return what lets the calls of a task run below a span, wherever that is unpickled and called."""
    headers: dict[str, str] = {}
    propagate.inject(headers, set_span_in_context(span))
    return partial(continued, headers)


@contextmanager
def continued(headers: dict[str, str]) -> Iterator[None]:
    """Let what is traced meanwhile be below the span whose headers these are."""
    token = attach(propagate.extract(headers))
    try:
        yield
    finally:
        detach(token)
