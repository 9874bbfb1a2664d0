"""`routilux jobs`, `resume` and `prune`: what is in a journal, and what becomes of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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


PROGRAM = """
import os
from attrs import frozen
from routilux_core import Flow, Routine, event, slot


@frozen
class Price:
    of: str
    cents: int


class Names(Routine):
    named = event("price")

    @slot
    def begin(self) -> None:
        for name in ("gold", "zinc", "tin"):
            self.emit("named", price=Price(name, len(name)))


class Total(Routine):
    last: Price | None = None
    cents: int = 0

    @slot
    def add(self, price: Price) -> None:
        if price.of == "zinc" and "DIE" in os.environ:
            os.kill(os.getpid(), 9)
        self.last, self.cents = price, self.cents + price.cents


def make_flow() -> Flow:
    flow = Flow("prices", journal="jobs.db")
    flow.add_routine(Names(), "names")
    flow.add_routine(Total(), "total")
    flow.connect("names", "named", "total", "add")
    return flow


if __name__ == "__main__":
    with make_flow() as flow:
        flow.execute("names", job_id="monday").wait()
        print(flow.routines["total"].last, flow.routines["total"].cents)
"""


@pytest.mark.parametrize("begun", ["prices.py", "-c import prices; prices.make_flow().run('names', job_id='monday')"])
@pytest.mark.parametrize("resumed", ["prices.py", "-m routilux_core.cli resume jobs.db --flow prices:make_flow"])
def test_a_program_and_a_module_that_is_imported_have_the_same_classes(
    begun: str, resumed: str, tmp_path: Path
) -> None:
    (tmp_path / "prices.py").write_text(PROGRAM)
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    env.pop("PYTHONSAFEPATH", None)

    def run(command: str, **more: str) -> subprocess.CompletedProcess[str]:
        words = ["-c", command[3:]] if command.startswith("-c ") else command.split()
        return subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env={**env, **more}, capture_output=True, text=True, timeout=60
        )

    assert run(begun, DIE="1").returncode == -9
    done = run(resumed)
    assert done.returncode == 0, done.stderr
    if resumed == "prices.py":
        assert done.stdout == "Price(of='tin', cents=3) 11\n"
    else:
        assert done.stdout == "monday: completed\n  was in doubt, and made again: total.add monday:3\n"
