"""Random cancels and pauses of each bundled strategy count everything, hang nowhere and start nothing late."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from failing import interruptions
from routilux_core._engine.run import Run
from routilux_core_plugins.process import handle

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="named pipes")

STRATEGIES = ("sequential", "concurrent", "process")
SHORT, LONG = 12, 200
FEW, MANY = 300, 1_000  # events in a flow
ACTIONS = {"cancel", "pause", "pause, cancel"}


@pytest.mark.stress
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_jobs_interrupted_at_random_moments_count_everything(tmp_path: Path, strategy: str) -> None:
    done = interruptions.interrupt(strategy, range(SHORT), FEW, tmp_path, interruptions.Trial.check)
    assert len(done) >= SHORT // 2, f"too many jobs ended before their moment: {done}"


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_200_interrupted_jobs_of_1000_events_count_everything(tmp_path: Path, strategy: str) -> None:
    done = interruptions.interrupt(strategy, range(LONG), MANY, tmp_path, interruptions.Trial.check)
    assert set(done) == ACTIONS
    assert len(done) >= LONG * 3 // 4, f"too many jobs ended before their moment: {len(done)}"


@pytest.mark.stress
def test_the_check_finds_a_cancel_that_returns_before_workers_can_see_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    abort = Run.abort
    monkeypatch.setattr(Run, "abort", lambda *run_and_kill: threading.Timer(0.005, abort, run_and_kill).start())
    with pytest.raises(interruptions.LateStart):
        interruptions.interrupt("concurrent", range(LONG), FEW, tmp_path, interruptions.Trial.check)


@pytest.mark.stress
def test_the_check_finds_a_cancel_that_does_not_reach_the_worker_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handle.Worker, "tell_to_stop_before_the_next", lambda self, batch: None)
    with pytest.raises(interruptions.LateStart):
        interruptions.interrupt("process", range(LONG), FEW, tmp_path, interruptions.Trial.check)
