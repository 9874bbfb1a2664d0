"""The commands about flows: each does what it says, and says what is wrong in one message and by its exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MODULE = """
from routilux_core import Flow, Routine, event, slot

class Double(Routine):
    factor: int = 2
    done = event("number")

    @slot
    def input(self, number, word="x"):
        self.emit("done", number=number * self.factor, word=word)

    @slot
    def other(self):
        raise OSError("no answer")

def make():
    flow = Flow("doubles", max_workers=3)
    flow.add_routine(Double(), "first")
    flow.add_routine(Double(factor=5), "the [second]", execution_strategy="concurrent")
    flow.connect("first", "done", "the [second]", "input", {"word": "label"})
    flow.add_output("the [second]", "done", "result")
    return flow

flow = make()
number = 3
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands")
    (folder / "doubles.py").write_text(MODULE, encoding="utf-8")
    code = "import doubles; doubles.flow.save('flow.json')"
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, env={"PYTHONPATH": "."}, timeout=60)
    document = json.loads((folder / "flow.json").read_text(encoding="utf-8"))
    document["connections"][0]["slot"] = "inputt"
    document["routines"]["first"]["fields"]["factor"] = "two"
    (folder / "broken.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


def routilux(folder: Path, *arguments: str) -> Any:
    command = [sys.executable, "-m", "routilux_core.cli", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_validate_says_that_a_file_can_be_loaded(folder: Path) -> None:
    done = routilux(folder, "validate", "flow.json", "--types", "doubles")
    assert (done.returncode, done.stderr) == (0, "")
    assert "flow 'doubles' with 2 routines and 1 connections can be loaded" in done.stdout


def test_validate_tells_every_problem_with_its_path(folder: Path) -> None:
    done = routilux(folder, "validate", "broken.json", "--types", "doubles")
    assert (done.returncode, done.stdout) == (1, "")
    assert "routines['first'].fields.factor: 'two' does not fit the annotation int" in done.stderr
    assert "connections[0].slot: routine 'the [second]' has no slot 'inputt'; did you mean 'input'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_imports_nothing_itself(folder: Path) -> None:
    done = routilux(folder, "validate", "flow.json")
    assert done.returncode == 1
    assert "no routine class is called 'doubles:Double'" in done.stderr


@pytest.mark.parametrize("what", [("flow.json", "--types", "doubles"), ("doubles:flow",), ("doubles:make",)])
def test_show_prints_a_table_and_a_picture(folder: Path, what: tuple[str, ...]) -> None:
    done = routilux(folder, "show", *what)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "flow 'doubles', strategy 'sequential' with 3 workers"
    table = [line.split() for line in lines[2:5]]
    assert table[0] == ["routine", "type", "slots", "events", "strategy"]
    assert table[2] == ["the", "[second]", "Double", "input,", "other", "done", "concurrent"]
    assert "first.done -> the [second].input  (word as label)" in lines
    assert lines[lines.index("") :].count("flowchart LR") == 1


def test_show_can_print_the_picture_alone(folder: Path) -> None:
    done = routilux(folder, "show", "doubles:flow", "--mermaid")
    assert done.stdout.startswith("flowchart LR\n")
    assert "[second]" not in done.stdout, "a bracket in a label would end it"


def test_run_prints_what_came_of_the_job(folder: Path) -> None:
    arguments = ("--entry", "first.input", "--param", "number=4", "--param", "word=a word", "--strategy", "concurrent")
    done = routilux(folder, "run", "flow.json", "--types", "doubles", *arguments, "--max-workers", "2")
    assert (done.returncode, done.stderr) == (0, "")
    facts = json.loads(done.stdout)
    assert facts["outputs"] == {"result": [{"number": 40, "word": "x"}]}
    assert (facts["status"], facts["ledger"]["completed"]) == ("completed", 2)


def test_run_fails_when_the_job_fails(folder: Path) -> None:
    done = routilux(folder, "run", "doubles:flow", "--entry", "first.other")
    assert done.returncode == 1
    assert json.loads(done.stdout)["status"] == "failed"
    assert "OSError('no answer')" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("show", "nothing.json"), "nothing.json"),
        (("show", "nomodule:flow"), "module 'nomodule' can't be imported: ModuleNotFoundError"),
        (("show", "doubles:number"), "it has to be a Flow"),
        (("show", "doubles:nothing"), "it has to be a Flow"),
        (("run", "doubles:flow", "--entry", "frist"), "did you mean 'first'?"),
        (("run", "doubles:flow", "--entry", "first"), "say which with execute"),
        (("run", "doubles:flow", "--entry", "first.input", "--param", "number"), "--param takes NAME=VALUE"),
        (("run", "doubles:flow", "--entry", "first.input", "--strategy", "concurent"), "did you mean 'concurrent'?"),
        (("run", "doubles:flow", "--entry", "first.input", "--max-workers", "0"), "max_workers has to be"),
    ],
)
def test_what_cannot_be_done_is_one_message(folder: Path, arguments: tuple[str, ...], words: str) -> None:
    done = routilux(folder, *arguments)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr
