"""Jobs are told apart over processes, and say when they ran by the clock of the day."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from time import time

import pytest

from routilux_core import Flow, JobState

ID_OF_A_JOB = """
from routilux_core import Flow
with Flow("prices") as flow:
    flow.add(print, "print")
    print(flow.run("print", {}).job_id)
"""


def ask(name: str) -> dict[str, str]:
    return {"name": name}


@pytest.mark.once
def test_a_job_of_another_process_has_another_id() -> None:
    said = [subprocess.run([sys.executable, "-c", ID_OF_A_JOB], capture_output=True, text=True) for _ in range(2)]
    ids = {run.stdout.split()[-1] for run in said}
    assert len(ids) == 2, [run.stderr for run in said]
    assert all(each.startswith("prices-") for each in ids)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_job_of_a_forked_child_has_another_id(tmp_path: Path) -> None:
    with Flow("prices") as flow:
        flow.add(ask, "ask")
        flow.run("ask", {"name": "oslo"})
        child = os.fork()
        if not child:
            try:
                (tmp_path / "id").write_text(flow.run("ask", {"name": "oslo"}).job_id)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert flow.run("ask", {"name": "oslo"}).job_id != (tmp_path / "id").read_text()


def test_a_saved_job_says_when_it_began_and_ended(tmp_path: Path) -> None:
    before = time()
    with Flow("prices") as flow:
        flow.add(ask, "ask")
        job = flow.run("ask", {"name": "oslo"})
    job.save(tmp_path / "job.json")
    read = JobState.load(tmp_path / "job.json")
    assert (read.started_at, read.ended_at) == (job.started_at, job.ended_at)
    assert read.started_at is not None
    assert read.ended_at is not None
    assert before - 1 < read.started_at <= read.ended_at < time() + 1


def test_a_record_without_times_has_none(tmp_path: Path) -> None:
    with Flow("prices") as flow:
        flow.add(ask, "ask")
        document = flow.run("ask", {"name": "oslo"}).serialize()
    del document["started_at"], document["ended_at"]
    read = JobState.deserialize(document)
    assert (read.started_at, read.ended_at) == (None, None)
