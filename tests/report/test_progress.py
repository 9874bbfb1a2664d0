"""Progress on a terminal, and the table of `--watch`: what is told is true, nothing else is disturbed, and nobody who
does not look pays for it."""

from __future__ import annotations

import io
import logging
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from routilux_core import Flow, Routine, slot
from routilux_core._report import progress
from routilux_core._report.reading import Reader, Reading
from routilux_core._report.table import table_of
from routilux_core._report.terminal import Block

fcntl = pytest.importorskip("fcntl", reason="there are no pseudo-terminals here")
import struct  # noqa: E402
import termios  # noqa: E402

pytestmark = pytest.mark.once

SUPPORT = Path(__file__).parents[1] / "support"
SECONDS = 30.0


def on_terminal(code: str, columns: int = 100, *, tqdm: bool = False) -> str:
    """Run a program whose output and errors go to a terminal, and return what was written there."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    without = "" if tqdm else "import sys; sys.modules['tqdm'] = None\n"
    variables = {**os.environ, "PYTHONPATH": str(SUPPORT), "TERM": "xterm", "PYTHONUTF8": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", without + code], stdin=slave, stdout=slave, stderr=slave, env=variables
    )
    os.close(slave)
    written = b""
    try:
        while True:
            try:
                read = os.read(master, 1 << 16)
            except OSError:  # the last who had the terminal has gone
                break
            if not read:
                break
            written += read
    finally:
        os.close(master)
        process.kill()
        process.wait()
    return written.decode()


def screen_of(written: str) -> list[str]:
    """Return the lines that a terminal shows after all that was written."""
    lines, row = [""], 0
    column = 0
    for piece in re.findall(r"\x1b\[(\d*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n]+)", written):
        number, letter, back, down, text = piece
        if letter == "A":
            row = max(0, row - int(number or 1))
        elif letter == "J":
            lines[row:] = [lines[row][:column]]
        elif letter == "K":
            lines[row] = lines[row][:column]
        elif back:
            column = 0
        elif down:
            row += 1
            column = 0
            if row == len(lines):
                lines.append("")
        elif text:
            lines[row] = lines[row][:column].ljust(column) + text + lines[row][column + len(text) :]
            column += len(text)
    return [line.rstrip() for line in lines]


SLOW = """
import logging, sys, time, warnings
import seen_routines
from routilux_core import Flow, Routine, slot

class Slow(Routine):
    @slot
    def go(self, n: int) -> None:
        time.sleep(0.03)
        if n % 10 == 0:
            print("printed", n)
            logging.getLogger("mine").warning("logged %d", n)

logging.basicConfig(format="%(message)s")
with Flow("slow", STRATEGY, progress=True) as flow:
    flow.add_routine(seen_routines.Numbers(), "numbers")
    flow.add_routine(Slow(), "slow")
    flow.connect("numbers", "number", "slow", "go")
    job = flow.execute("numbers", {"count": 21})
    flow.wait_for_completion()
    print("behind it")
"""


@pytest.mark.parametrize("tqdm", [False, True])
@pytest.mark.parametrize("name", ["sequential", "concurrent"])
def test_a_line_is_drawn_again_and_again_and_all_else_is_above_it(name: str, tqdm: bool) -> None:
    if tqdm:
        pytest.importorskip("tqdm")
    written = on_terminal(SLOW.replace("STRATEGY", repr(name)), tqdm=tqdm)
    frames = re.findall(r"(\d+) done", written)
    assert len(set(frames)) >= 3, "it was drawn while the job ran"
    assert [*map(int, frames)] == sorted(map(int, frames))
    assert "running slow" in written
    assert "%" not in written
    shown = [line for line in screen_of(written) if line]
    texts = [f"{what} {n}" for n in (0, 10, 20) for what in ("printed", "logged")]
    assert shown[: len(texts)] == texts
    assert shown[-1] == "behind it"
    assert "completed: 22 done" in shown[-2]
    assert len(shown) == len(texts) + 2


def test_a_narrow_terminal_gets_short_lines_and_two_jobs_two_of_them() -> None:
    code = SLOW.replace("STRATEGY", "'concurrent'").replace("flow.wait", "flow.execute('numbers', {}); flow.wait")
    written = on_terminal(code, columns=40)
    shown = screen_of(written)
    assert all(len(line) <= 40 for line in shown)
    assert [line for line in shown if re.match(r"slow-\w+-1 completed: 22 do", line)]
    assert [line for line in shown if re.match(r"slow-\w+-2 completed: 13 do", line)]


def test_the_command_line_shows_progress_or_a_table_and_its_answer_stays_whole() -> None:
    run = "from routilux_core.cli import main; raise SystemExit(main(['run', 'seen_routines:wired', "
    code = run + "'--entry', 'numbers'{}]))"
    shown = [line for line in screen_of(on_terminal(code.format(", '--progress'"))) if line]
    assert any(re.match(r"wired-\w+-1 completed: 24 done", line) for line in shown)
    assert '"status": "completed",' in "\n".join(shown)
    shown = [line for line in screen_of(on_terminal(code.format(", '--watch'"))) if line]
    head = next(number for number, line in enumerate(shown) if line.startswith("routine "))
    assert shown[head].split()[:4] == ["routine", "calls", "errors", "retried"]
    rows = {line.split()[0]: line.split()[1:4] for line in shown[head + 1 : head + 5]}
    assert rows == {
        "squares": ["12", "2", "0"],
        "flaky": ["15", "0", "5"],
        "numbers": ["1", "0", "0"],
        "total": ["1", "0", "0"],
    }


def test_where_nobody_looks_nothing_is_shown_and_no_thread_is_started(
    seen: ModuleType, strategy: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    before = threading.active_count()
    with Flow("quiet", progress=True, error_handler="skip", **strategy) as flow:
        flow.add_routine(seen.Numbers(), "numbers")
        flow.run("numbers", {"count": 3})
    assert capfd.readouterr() == ("", "")
    assert threading.active_count() <= before


def test_what_is_told_at_the_end_is_the_ledger(seen: ModuleType, strategy: dict[str, Any]) -> None:
    with seen.wire(Flow("told", **strategy)) as flow:
        job = flow.run("numbers")
    reading, ledger = Reader(job).read(), job.ledger
    assert (reading.status, reading.done, reading.pending) == ("completed", ledger.posted, 0)
    assert reading.errors == ledger.failed + ledger.skipped
    assert (reading.running, reading.retrying) == ({}, 0)
    assert len(table_of(job)) == 5


def test_what_runs_is_named_and_a_retry_that_waits_is_counted() -> None:
    entered, go_on = threading.Event(), threading.Event()

    class Waits(Routine, stateless=True):
        @slot
        def go(self) -> None:
            entered.set()
            assert go_on.wait(SECONDS)
            raise ValueError("again")

    with Flow("busy", "concurrent", error_handler="retry") as flow:
        flow.add_routine(Waits(), "waits")
        job = flow.execute("waits")
        assert entered.wait(SECONDS)
        assert job.activity == ({"waits": 1}, 0)
        assert "running waits" in Reader(job).read().line
        go_on.set()
        while not job.activity.retrying:
            entered.wait(0.001)
        assert "1 waiting for a retry" in Reader(job).read().line
        job.cancel()
    assert job.activity == ({}, 0)


def test_hostile_names_are_one_harmless_line(hostile_names: list[str]) -> None:
    for name in hostile_names:
        reading = Reading(name, "running", 1, 2, 3.0, {name: 2}, 1, 1)
        assert reading.line.isprintable()
        assert len(reading.line) < 1000
    stream = io.StringIO()
    block = Block(stream)
    block.show(hostile_names)
    lines = stream.getvalue().split("\n")
    assert len(lines) == len(hostile_names)
    assert all(line.isprintable() for line in lines)


def test_what_stood_in_is_taken_back_also_where_others_came_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    handler = logging.StreamHandler(terminal)
    logging.getLogger("some.logger").addHandler(handler)
    display = progress.TerminalDisplay(False)
    assert sys.stderr is not terminal
    assert handler.stream is sys.stderr
    print("part of ", end="", file=sys.stderr)
    print("a line", file=sys.stderr)
    assert terminal.getvalue() == "part of a line\n"
    display.end()
    assert sys.stderr is terminal
    assert handler.stream is terminal
    display = progress.TerminalDisplay(False)
    others = io.StringIO()
    monkeypatch.setattr(sys, "stderr", others)
    display.end()
    assert sys.stderr is others
    logging.getLogger("some.logger").removeHandler(handler)


def test_a_notebook_has_one_output_that_is_updated(seen: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    kernel = type("ZMQInteractiveShell", (), {})()
    handle = SimpleNamespace(update=shown.append)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: kernel))
    monkeypatch.setitem(
        sys.modules, "IPython.display", SimpleNamespace(HTML=str, display=lambda *_, display_id: handle)
    )
    with Flow("<b>note</b>", progress=True) as flow:
        flow.add_routine(seen.Numbers(), "numbers")
        flow.run("numbers", {"count": 3})
    assert re.match(r"<pre>&lt;b&gt;note&lt;/b&gt;-\w+-1 completed: 1 done", shown[-1])


def test_a_flow_that_was_asked_for_progress_is_saved_as_any_other(seen: ModuleType) -> None:
    plain, asked = Flow("same"), Flow("same", progress=True)
    assert asked.serialize() == plain.serialize()


def test_a_map_shows_its_progress() -> None:
    shown = on_terminal(
        "import routilux_core, math\nprint(routilux_core.map(math.sqrt, [4.0] * 30, progress=True)[-1])"
    )
    assert "31 done" in shown
    assert "map" in shown
    assert "2.0" in shown
