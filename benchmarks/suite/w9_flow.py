"""A stream whose sink marks each number in place and so keeps nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from routilux_core import Routine, slot
from suite.flows import check_job, stream, warm_up

_marks: list[bytearray] = []


class Marker(Routine, stateless=True):
    """Counts the calls for each number."""

    @slot
    def input(self, n: int) -> None:
        _marks[-1][n] += 1


class OrderedMarker(Routine):
    """The same, one call at a time."""

    @slot
    def input(self, n: int) -> None:
        _marks[-1][n] += 1


def marked_stream(
    count: int, strategy: str, threads: int, *, stateless: bool
) -> tuple[Callable[[], None], bytearray, list[Any]]:
    """The run, the marks that it makes, and where it leaves its flow and job so that they stay alive."""
    workers = threads if strategy == "concurrent" else None
    warm_up(strategy, workers)
    _marks[:] = [bytearray(count)]
    flow = stream(count, Marker() if stateless else OrderedMarker(), strategy, workers)
    kept: list[Any] = []

    def run() -> None:
        job = flow.execute("source")
        flow.wait_for_completion()
        flow.shutdown()
        check_job(job, count + 1)
        kept.extend((flow, job))

    return run, _marks[-1], kept
