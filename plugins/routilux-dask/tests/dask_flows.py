"""A source and its work as a flow, and what tests wait for."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from dask_routines import Work

from routilux_core import Flow, JobState
from shipped.routines import Source

SECONDS = 60.0


def finished(job: JobState) -> JobState:
    assert job.wait(SECONDS), job.explain()
    assert job.ledger.balanced
    return job


def appeared(path: Path) -> str:
    """Wait for a file that a handler makes, and return what it says."""
    end = time.monotonic() + SECONDS
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not come"
        os.sched_yield()
        time.sleep(0.005)
    return path.read_text()


def build(flow: Flow, work: Any, source: Any = None) -> Flow:
    flow.add_routine(source or Source(), "source")
    flow.add_routine(work, "work")
    flow.connect("source", "item", "work", "n")
    if isinstance(work, Work):
        flow.add_output("work", "done")
    return flow
