"""The commands about flows: each does what it says, and says what is wrong in one message and by its exit code."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from routilux_core import cli

pytestmark = pytest.mark.once

MODULE = """
import time
from routilux_core import Flow, Routine, event, slot

class Double(Routine):
    factor: int = 2
    done = event("number", "word")
    odd = event("number")

    @slot
    def input(self, number, word="x"):
        self.emit("done", number=number * self.factor, word=word)

    @slot
    def other(self):
        raise OSError("no answer")

    @slot
    def thing(self):
        self.emit("odd", number=object())

    @slot
    def waits(self):
        while not self.cancelled:
            time.sleep(0.01)

class Refuses(Routine):
    word: str

    def __attrs_post_init__(self):
        raise ValueError(f"bad word {self.word}")

def make():
    flow = Flow("doubles", "sequential", 3)
    flow.add_routine(Double(), "first")
    flow.add_routine(Double(factor=5), "the [second]", execution_strategy="concurrent")
    flow.connect("first", "done", "the [second]", "input", {"word": "label"})
    flow.add_output("the [second]", "done", "result")
    flow.add_output("first", "odd")
    return flow

def broken(needed):
    return make()

flow = make()
number = 3
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands")
    (folder / "doubles.py").write_text(MODULE, encoding="utf-8")
    code = (
        "import doubles; doubles.flow.save('flow.json'); doubles.flow.run('first', {}, slot='other').save('job.json')"
    )
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
    assert table[2] == [
        "the",
        "[second]",
        "Double",
        "input,",
        "other,",
        "thing,",
        "waits",
        "done,",
        "odd",
        "concurrent",
    ]
    assert "first.done -> the [second].input  (word as label)" in lines
    assert lines[lines.index("") :].count("flowchart LR") == 1


def test_validate_takes_the_record_of_a_job_as_well(folder: Path) -> None:
    done = routilux(folder, "validate", "job.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert "(failed) of flow 'doubles' can be loaded" in done.stdout
    (folder / "no job.json").write_text(
        (folder / "job.json").read_text().replace('"status": "failed"', '"status": "done"')
    )
    done = routilux(folder, "validate", "no job.json")
    assert (done.returncode, done.stdout) == (1, "")
    assert "status: expected one of" in done.stderr


def test_show_prints_nothing_that_a_terminal_obeys(folder: Path) -> None:
    document = json.loads((folder / "flow.json").read_text(encoding="utf-8"))
    document["routines"]["\x1b[2Jgone ä\n"] = document["routines"]["first"]
    (folder / "escapes.json").write_text(json.dumps(document), encoding="utf-8")
    done = routilux(folder, "show", "escapes.json", "--types", "doubles")
    assert done.returncode == 0
    assert "\\x1b[2Jgone ä\\n" in done.stdout
    assert "\x1b" not in done.stdout


EVIL = "x\x1b[2J\x1b]0;owned\x07\x9b1m\r\nERROR forged: all is well\u202e"


def damaged(document: dict[str, Any], part: str) -> dict[str, Any]:
    """Return a saved flow that has escapes and line breaks in one part of it."""
    first = document["routines"]["first"]
    match part:
        case "ids":
            document["flow_id"] = EVIL
            document["routines"][EVIL] = first
            document["connections"][0] |= {"source": EVIL, "mapping": {"word": EVIL}}
            document["outputs"][0] |= {"name": EVIL}
        case "names":
            first["slots"][EVIL] = {"handler": "input", "merge": "override"}
            first["events"][EVIL] = [EVIL]
        case "strategy":
            document["strategy"] |= {"name": "process", "options": {EVIL: EVIL}}
        case "unknown strategy":
            document["strategy"]["name"] = EVIL
        case "keys":
            document[EVIL] = first[EVIL] = 1
        case "values":
            first["fields"]["factor"] = EVIL
            first["attributes"] = {EVIL: {"$object": EVIL, "fields": {}}, "a": {f"${EVIL}": 1}, "b": {"$decimal": EVIL}}
        case "slots":
            first["slots"][EVIL] = {"handler": EVIL, "merge": EVIL}
        case "refused":
            first["type"], first["fields"] = "doubles:Refuses", {"word": EVIL}
        case _:
            document["connections"].append(dict.fromkeys(("source", "event", "target", "slot"), EVIL) | {"mapping": {}})
    return document


@pytest.mark.filterwarnings("ignore:nothing is connected")  # its ids are in there as `repr` writes them
@pytest.mark.parametrize(
    "part", ["ids", "names", "strategy", "unknown strategy", "keys", "values", "slots", "refused", "connections"]
)
@pytest.mark.parametrize("command", [("validate",), ("show",), ("run", "--entry", "first.other", "--traceback")])
@pytest.mark.filterwarnings("default:nothing is connected to the event:UserWarning")
def test_nothing_of_a_file_moves_the_cursor_or_forges_a_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any, command: tuple[str, ...], part: str
) -> None:
    monkeypatch.syspath_prepend(str(folder))
    document = damaged(json.loads((folder / "flow.json").read_text(encoding="utf-8")), part)
    (tmp_path / "evil.json").write_text(json.dumps(document), encoding="utf-8")
    log = logging.getLogger("routilux_core")
    before = list(log.handlers)
    try:
        cli.main([*command, str(tmp_path / "evil.json"), "--types", "doubles"])
    finally:
        log.handlers[:] = before
    told = "".join(capfd.readouterr())
    assert told
    assert not [letter for letter in told if not (letter.isprintable() or letter == "\n")]
    assert not any(line.startswith("ERROR forged") for line in told.splitlines())


def test_a_command_line_is_repeated_so_that_no_terminal_obeys_it(capfd: Any) -> None:
    with pytest.raises(SystemExit):
        cli.main(["show", "doubles:flow", EVIL, f"--{EVIL}"])
    told = capfd.readouterr().err
    assert "\\x1b[2J" in told
    assert not [letter for letter in told if not (letter.isprintable() or letter == "\n")]


@pytest.mark.skipif(os.name != "posix", reason="closes the pipe that the command writes to")
@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "doubles:flow"),
        ("run", "doubles:flow", "--entry", "first.input", "--param", "number=1"),
        ("strategies",),
    ],
)
def test_a_command_whose_reader_has_gone_ends_quietly(folder: Path, arguments: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)  # as `head` does when it has seen enough
    command = [sys.executable, "-m", "routilux_core.cli", *arguments]
    done = subprocess.run(
        command, cwd=folder, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a disk that is full")
def test_what_cannot_be_written_is_one_message(folder: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "routilux_core.cli", "show", "doubles:flow"],
            cwd=folder,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("routilux: ")
    assert done.stderr.count("\n") == 1


def test_a_terminal_that_lacks_letters_is_no_reason_to_stop(folder: Path) -> None:
    command = [sys.executable, "-m", "routilux_core.cli", "run", "doubles:flow", "--entry", "first.input"]
    arguments = ["--param", "number=é"]
    environment = {"PYTHONIOENCODING": "ascii", "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [*command, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["outputs"]["result"][0]["number"] == "é" * 10
    done = subprocess.run(
        [*command, "--strategy", "ä"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_show_can_print_the_picture_alone(folder: Path) -> None:
    done = routilux(folder, "show", "doubles:flow", "--mermaid")
    assert done.stdout.startswith("flowchart LR\n")
    assert "[second]" not in done.stdout, "a bracket in a label would end it"


def test_run_prints_what_came_of_the_job(folder: Path) -> None:
    arguments = ("--entry", "first.input", "--param", "number=4", "--param", "word=a word", "--strategy", "concurrent")
    done = routilux(folder, "run", "flow.json", "--types", "doubles", *arguments, "--max-workers", "2")
    assert (done.returncode, done.stderr) == (0, "")
    facts = json.loads(done.stdout)
    assert facts["outputs"] == {"result": [{"number": 40, "word": "x"}], "first.odd": []}
    assert (facts["status"], facts["ledger"]["completed"]) == ("completed", 2)


def test_run_fails_when_the_job_fails(folder: Path) -> None:
    done = routilux(folder, "run", "doubles:flow", "--entry", "first.other")
    assert done.returncode == 1
    facts = json.loads(done.stdout)
    assert (facts["status"], facts["errors"]) == ("failed", ["first.other: OSError: no answer"])
    assert done.stderr.startswith("job doubles-")
    assert done.stderr.endswith(": routine 'first', slot 'other', attempt 1: OSError: no answer -> stop\n")
    done = routilux(folder, "run", "doubles:flow", "--entry", "first.other", "--traceback")
    assert 'raise OSError("no answer")' in done.stderr


def test_run_says_what_came_of_a_job_whose_outputs_are_no_json(folder: Path) -> None:
    done = routilux(folder, "run", "doubles:flow", "--entry", "first.thing")
    assert (done.returncode, done.stderr) == (0, "")
    (odd,) = json.loads(done.stdout)["outputs"]["first.odd"]
    assert odd["number"].startswith("<object object at 0x")


def test_run_cancels_a_job_that_takes_too_long(folder: Path) -> None:
    done = routilux(
        folder, "run", "doubles:flow", "--entry", "first.waits", "--strategy", "concurrent", "--timeout", "0.1"
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["status"] == "cancelled"
    assert "not done after 0.1 s" in done.stderr


@pytest.mark.parametrize("seconds", ["nan", "-1", "inf", "soon"])
def test_a_time_that_is_none_is_refused(folder: Path, seconds: str) -> None:
    done = routilux(folder, "run", "doubles:flow", "--entry", "first.input", f"--timeout={seconds}")
    assert done.returncode == 2
    assert f"invalid seconds value: {seconds!r}" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("show", "nothing.json"), "there is no file 'nothing.json'"),
        (("show", "doubles"), "a flow of a module is given as module:name"),
        (("show", "doubles:"), "there is no ''"),
        (("show", "flow.json"), "On this command line: --types MODULE"),
        (("show", "nomodule:flow"), "module 'nomodule' can't be imported: ModuleNotFoundError"),
        (("show", "doubles:number"), "it has to be a Flow"),
        (("show", "doubles:nothing"), "'doubles:nothing': there is no 'nothing'"),
        (("show", "doubles:broken"), "doubles:broken() raised TypeError: broken() missing 1 required"),
        (("show", "job.json"), "job.json is the record of a job"),
        (("run", "job.json", "--entry", "first"), "job.json is the record of a job"),
        (("validate", "doubles.py"), "'doubles.py' can't be read as JSON"),
        (("validate", "nofile.json"), "routilux: there is no file 'nofile.json'\n"),
        (("validate", "."), "Is a directory"),
        (("validate", "flow.json", "--types", "doubles.py"), "module 'doubles.py' can't be imported"),
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
