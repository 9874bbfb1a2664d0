"""`routilux jobs`, `resume` and `prune`: what is in a journal, and what becomes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from journal.everything import make_flow
from routilux_core.cli import main

pytestmark = pytest.mark.once


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EFFECTS", str(tmp_path / "effects"))
    file = tmp_path / "jobs.db"
    with make_flow(file) as flow:
        flow.run("source", {"count": 2}, job_id="whole")
        with pytest.raises(RuntimeError), flow:
            inlet = flow._runtime.engine.nodes["flaky"].inlets["work"]
            handler = inlet.call

            def work(payload: dict[str, int]) -> None:
                handler(payload)
                flow.pause("enough")

            inlet.call = work
            flow.execute("source", {"count": 2}, job_id="half")
            raise RuntimeError
    return file


def test_the_commands_of_a_journal(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs", str(file)]) == 0
    whole, half = capsys.readouterr().out.splitlines()
    assert whole.startswith("whole  everything  completed")
    assert half.startswith("half  everything  paused")
    assert main(["jobs", str(file), "--json", "--status", "unfinished"]) == 0
    [facts] = json.loads(capsys.readouterr().out)
    assert (facts["job_id"], facts["ended"]) == ("half", False)
    assert facts["pending"] > 0

    assert main(["resume", str(file), "--types", "journal.everything"]) == 0
    assert capsys.readouterr().out == "half: completed\n"
    assert main(["resume", str(file)]) == 0
    assert "nothing" in capsys.readouterr().out

    assert main(["prune", str(file), "--older-than", "1d"]) == 0
    assert capsys.readouterr().out == "0 of 2 jobs deleted\n"
    assert main(["prune", str(file), "--older-than", "0s"]) == 0
    assert capsys.readouterr().out == "2 of 2 jobs deleted\n"
    assert main(["jobs", str(file)]) == 0
    assert capsys.readouterr().out == ""


def test_what_is_not_there_is_said(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs", str(file.parent / "none.db")]) == 1
    assert "no such file" in capsys.readouterr().err
    assert not (file.parent / "none.db").exists()
    assert main(["resume", str(file), "another"]) == 1
    assert "has no job 'another'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["prune", str(file), "--older-than", "soon"])
