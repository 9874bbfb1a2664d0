"""Plugins beside a pool of processes: they are told here, and one that fails changes nothing."""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable
from time import perf_counter, sleep
from typing import Any

import pytest

from processes.timed import Collects, Source, Waits
from quickest import keywords
from routilux_core import Flow, JobState, hookimpl

MakeFlow = Callable[..., Flow]
SECONDS = 30.0


class RaisesInBatches:
    """A tracker that raises whenever it is told what was run."""

    @hookimpl
    def routilux_activations_finished(self, records: Any) -> None:
        raise RuntimeError(len(records))


class Listens:
    """Keeps what it is told, and in which process."""

    def __init__(self) -> None:
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.ended: list[str] = []
        self.processes: set[int] = set()

    @hookimpl
    def routilux_activations_finished(self, records: Any) -> None:
        self.processes.add(os.getpid())
        self.outcomes.update((record.routine_id, record.outcome) for record in records)

    @hookimpl
    def routilux_job_finished(self, job: JobState) -> None:
        self.ended.append(job.job_id)


def run(flow: Flow) -> JobState:
    flow.add_routine(Source(), "source")
    flow.add_routine(Waits(), "waits")
    flow.add_routine(Collects(), "collects")
    flow.connect("source", "item", "waits", "n")
    flow.connect("waits", "measured", "collects", "seconds")
    job = flow.execute("source", {"count": 6})
    assert job.wait(SECONDS), job.explain()
    return job


def test_a_tracker_that_raises_beside_processes_changes_nothing_but_one_log_line(
    make_flow: MakeFlow, caplog: pytest.LogCaptureFixture
) -> None:
    listens = Listens()
    flow = make_flow(**keywords("process", 2), plugins=[RaisesInBatches, listens])
    with caplog.at_level(logging.WARNING, logger="routilux_core"):
        job = run(flow)
    assert (job.status, job.ledger.completed, job.errors) == ("completed", 13, [])
    assert listens.outcomes == {("source", "completed"): 1, ("waits", "completed"): 6, ("collects", "completed"): 6}
    assert listens.processes == {os.getpid()}
    assert listens.ended == [job.job_id]
    (record,) = caplog.records
    assert record.getMessage() == (
        "plugin 'RaisesInBatches' raised RuntimeError in routilux_activations_finished, and is not told about job "
        f"{job.job_id} any more"
    )


class Held:
    """Listens to everything, and takes its time over the first job, until the test lets it go."""

    def __init__(self, hook: str) -> None:
        self.held, self.go_on = threading.Event(), threading.Event()
        setattr(self, hook, hookimpl(lambda: self.hold()))

    def hold(self) -> None:
        if not self.held.is_set():
            self.held.set()
            assert self.go_on.wait(SECONDS)


@pytest.mark.parametrize("hook", ["routilux_job_finished", "routilux_activations_finished", "routilux_event_emitted"])
def test_a_listener_that_takes_its_time_stalls_no_worker_process(make_flow: MakeFlow, hook: str) -> None:
    plugin = Held(hook)
    flow = make_flow(**keywords("process", 2), plugins=[plugin])
    flow.add_routine(Source(), "source")
    flow.add_routine(Waits(), "waits")
    flow.connect("source", "item", "waits", "n")
    try:
        first = flow.execute("source", {"count": 1})
        assert plugin.held.wait(SECONDS)
        job = flow.execute("source", {"count": 20})
        assert job.wait(SECONDS), job.explain()
        assert job.ledger.completed == 21
        assert not first.wait(0.0)
    finally:
        plugin.go_on.set()
    assert first.wait(SECONDS)


def test_a_listener_that_can_not_keep_up_holds_up_what_is_sent_and_hears_all(
    make_flow: MakeFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for it is bounded."""
    monkeypatch.setattr("routilux_core._tracking.listeners.BEHIND", 2)
    heard: Counter[str] = Counter()
    count, held, go_on = 5000, threading.Event(), threading.Event()

    class Slow:
        @hookimpl
        def routilux_activations_finished(self, records: Any) -> None:
            held.set()
            assert go_on.wait(SECONDS)
            heard.update(record.routine_id for record in records)

    flow = make_flow(**keywords("process", 2), plugins=[Slow])
    flow.add_routine(Source(), "source", execution_strategy="concurrent")
    flow.add_routine(Collects(), "collects")
    flow.connect("source", "item", "collects", "seconds", {"n": "seconds"})
    try:
        job = flow.execute("source", {"count": count})
        assert held.wait(SECONDS)
        deadline = perf_counter() + SECONDS
        while not flow._runtime.engine.behind:
            assert perf_counter() < deadline
            sleep(0.001)
        assert job.ledger.pending > 0
    finally:
        go_on.set()
    assert job.wait(SECONDS), job.explain()
    assert heard == {"source": 1, "collects": count}


def test_the_strategy_may_be_changed_when_a_job_has_ended(make_flow: MakeFlow) -> None:
    class Changes:
        @hookimpl
        def routilux_job_finished(self, job: JobState) -> None:
            began = perf_counter()
            flow.set_execution_strategy("concurrent")
            took.append(perf_counter() - began)

    took: list[float] = []
    flow = make_flow(**keywords("process", 2), plugins=[Changes])
    assert run(flow).status == "completed"
    assert flow.execution_strategy == "concurrent"
    assert flow.run("source", {"count": 3}).status == "completed"
    assert max(took) < SECONDS / 3
