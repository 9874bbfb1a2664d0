"""Random flows with plugins: some that count what they are told, and some that always fail, beside each other."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest

from routilux_core import ActivationRecord, Failure, Flow, JobState, hookimpl
from stress import harness

SEEDS = range(1000, 1020)


class Counts:
    """Counts what it is told of each job, and compares it at the end with what the engine counted."""

    def __init__(self) -> None:
        self.open: dict[str, tuple[set[tuple[int, int]], list[str]]] = {}
        self.lock = threading.Lock()
        self.jobs = 0
        self.wrong: list[object] = []

    @hookimpl
    def routilux_job_started(self, job: JobState) -> None:
        self.open[job.job_id] = (set(), [])

    @hookimpl
    def routilux_activations_finished(self, job: JobState, records: list[ActivationRecord]) -> None:
        seen, _ = self.open[job.job_id]
        fresh = {(record.id, record.attempt) for record in records}
        if len(fresh) < len(records) or fresh & seen:
            self.wrong.append((job, "a record came twice"))
        seen |= fresh

    @hookimpl
    def routilux_event_emitted(self, emission: Any) -> None:
        with self.lock:
            self.open[emission.job_id][1].append(emission.event)

    @hookimpl
    def routilux_job_finished(self, job: JobState) -> None:
        seen, emissions = self.open.pop(job.job_id)
        figures = job.tracker.get_flow_performance()
        told = (len(seen), len(emissions))
        if told != (figures["total_executions"], job.ledger.emitted):
            self.wrong.append((job, told, figures, job.ledger))
        self.jobs += 1


class Fails:
    """Raises whenever it is asked or told."""

    @hookimpl
    def routilux_activations_finished(self) -> None:
        raise SystemExit(3)

    @hookimpl
    def routilux_handle_error(self, failure: Failure) -> None:
        raise KeyError(failure.routine_id)


@pytest.mark.stress
def test_listeners_hear_of_everything_once_and_change_no_answer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    counts = Counts()
    make: Callable[..., Flow] = functools.partial(Flow, plugins=[counts, Fails])
    monkeypatch.setattr(harness, "Flow", make)
    caplog.set_level("CRITICAL", logger="routilux_core")
    for seed in SEEDS:
        assert harness.check_seed(seed) > 0
    assert counts.wrong == []
    assert counts.jobs > len(SEEDS)
    assert counts.open == {}
