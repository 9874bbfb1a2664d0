"""Whole programs that use the process pool: how they start, are interrupted, are killed, and that nothing is left."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from textwrap import dedent

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

SECONDS = 30.0
GRACE = 3.0  # what running handlers get at interpreter exit

PRELUDE = """
import itertools, multiprocessing, os, signal, sys, threading, time
from routilux_core import Flow, Routine, event, slot

IN_WORKER = __name__ == "__mp_main__"

class Work(Routine, stateless=True):
    done = event("n")

    @slot
    def input(self, n, seconds=0.0, loop=False, said="running"):
        if said:
            print(said, flush=True)
        if loop:
            sum(itertools.repeat(0, 10**13))
        time.sleep(seconds)
        self.emit("done", n=n)

def make(**options):
    flow = Flow(execution_strategy="process", max_workers=2, strategy_options=options)
    flow.add_routine(Work(), "work")
    flow.add_output("work", "done")
    return flow

def answer(flow, n):
    job = flow.run("work", {"n": n, "said": ""})
    job.raise_for_errors()
    return job.outputs["work.done"]
"""

HELLO = """
    with make() as flow:
        print(answer(flow, 7))
"""


def guarded(body: str) -> str:
    return f"{PRELUDE}\nif __name__ == '__main__':\n{body}"


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return tmp_path / "program.py"


def start(*command: str | Path, **settings: object) -> subprocess.Popen[str]:
    """Start a program in a session of its own, so that all of its processes can be found."""
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdin=settings.pop("stdin", subprocess.DEVNULL),  # type: ignore[call-overload]
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **settings,
    )


@contextmanager
def running(*command: str | Path) -> Iterator[subprocess.Popen[str]]:
    program = start(*command)
    try:
        yield program
    finally:
        program.kill()
        program.communicate()


def members(session: int) -> list[int]:
    """Return the processes of a session that have not ended."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            state, _parent, _group, its_session, *_ = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(its_session) == session and state not in "ZX":
            found.append(int(name))
    return found


def left_after(session: int, seconds: float) -> list[int]:
    """Return the processes of a session that are still there after so many seconds; at once if there are none."""
    deadline = time.monotonic() + seconds
    while (pids := members(session)) and time.monotonic() < deadline:
        try:
            watch = os.pidfd_open(pids[0])
        except ProcessLookupError:
            continue
        select.select([watch], [], [], max(0.0, deadline - time.monotonic()))
        os.close(watch)
    return members(session)


def ended(program: subprocess.Popen[str], within: float = SECONDS) -> tuple[int, str, str]:
    """Wait for a program and all of its processes; return its exit code and what it wrote."""
    begun = time.monotonic()
    out, err = program.communicate(timeout=SECONDS)
    took = time.monotonic() - begun
    assert took < within, f"took {took:.1f} s; {err}"
    assert not left_after(program.pid, 5.0), "processes left behind"
    return program.returncode, out, err


def run(script: Path, text: str) -> tuple[int, str, str]:
    script.write_text(text)
    return ended(start(script))


def test_a_script_runs_and_leaves_nothing(script: Path) -> None:
    assert run(script, guarded(HELLO)) == (0, "[{'n': 7}]\n", "")


def test_a_program_on_the_command_line_works(tmp_path: Path) -> None:
    (tmp_path / "lib.py").write_text(PRELUDE)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom lib import *\n{dedent(HELLO)}"
    assert ended(start("-c", code)) == (0, "[{'n': 7}]\n", "")


def test_a_program_from_stdin_works(tmp_path: Path) -> None:
    (tmp_path / "lib.py").write_text(PRELUDE)
    source = tmp_path / "piped"
    source.write_text(f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom lib import *\n{dedent(HELLO)}")
    with source.open() as stdin:
        assert ended(start(stdin=stdin)) == (0, "[{'n': 7}]\n", "")


def test_a_module_run_with_m_works(tmp_path: Path) -> None:
    (tmp_path / "tool.py").write_text(guarded(HELLO))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    assert ended(start("-m", "tool", env=environment)) == (0, "[{'n': 7}]\n", "")


def test_a_flow_runs_in_a_daemon_thread(script: Path) -> None:
    body = """
    def work():
        with make() as flow:
            print(answer(flow, 7))
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join()
"""
    assert run(script, guarded(body)) == (0, "[{'n': 7}]\n", "")


def test_what_handlers_print_arrives(script: Path) -> None:
    body = """
    with make() as flow:
        flow.run("work", {"n": 1, "said": "from a worker"})
"""
    assert run(script, guarded(body)) == (0, "from a worker\n", "")


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("answer(make(), 1)", "exit code 1"),
        ("if IN_WORKER: raise ImportError('only in workers')", "exit code 1"),
        ("if IN_WORKER: sys.exit(0)", "exit code 0"),
        ("if IN_WORKER: threading.Event().wait()", "not ready after"),
        ("if IN_WORKER: os.kill(os.getpid(), signal.SIGSTOP)", "not ready after"),
    ],
    ids=["no guard", "fails to import", "exits", "hangs", "stands still"],
)
def test_a_main_module_that_workers_cant_import_is_named(script: Path, broken: str, reason: str) -> None:
    body = """
    make(start_timeout=1.0).run("work", {"n": 1})
"""
    code, out, err = run(script, f"{PRELUDE}\n{broken}\n\nif __name__ == '__main__':{body}")
    assert (code, out) == (1, "")
    assert "StrategyError" in err
    assert reason in err
    assert "if __name__ == '__main__':" in err
    assert str(script) in err


def test_a_fork_of_the_program_leaves_the_pool_alone(script: Path) -> None:
    body = """
    flow = make()
    print(answer(flow, 7), flush=True)
    child = os.fork()
    if child == 0:
        sys.exit(5)  # through all the exit handlers
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(answer(flow, 8))
    flow.shutdown()
"""
    assert run(script, guarded(body)) == (0, "[{'n': 7}]\n5\n[{'n': 8}]\n", "")


def test_a_fork_of_the_program_is_told_that_the_pool_is_not_its_own(script: Path) -> None:
    body = """
    flow = make()
    answer(flow, 7)
    child = os.fork()
    if child == 0:
        job = flow.execute("work", {"n": 1})
        print(job.wait(10), job.status, job.errors and job.errors[0].exception, flush=True)
        flow.shutdown()
        sys.exit(0)
    os.waitpid(child, 0)
    flow.shutdown()
"""
    code, out, err = run(script, guarded(body))
    assert (code, err) == (0, "")
    assert out.startswith("True failed this pool belongs to process")


def test_a_program_that_forgets_to_shut_down_ends(script: Path) -> None:
    assert run(script, guarded("    flow = make()\n    print(answer(flow, 7))\n")) == (0, "[{'n': 7}]\n", "")


def test_a_program_that_ends_while_its_handlers_run_ends_after_the_grace(script: Path) -> None:
    body = """
    flow = make()
    job = flow.execute("work", {"n": 1, "seconds": 60})
"""
    script.write_text(guarded(body))
    code, _out, err = ended(start(script), within=GRACE + 3.0)
    assert code == 0
    assert "the interpreter exits while 1 jobs run" in err
    assert "Traceback" not in err


def test_a_pool_of_a_child_of_multiprocessing_ends_with_it(script: Path) -> None:
    body = """
    child = multiprocessing.get_context("spawn").Process(target=work)
    child.start()
    child.join()
    print(child.exitcode)
"""
    work = "\ndef work():\n    flow = make()\n    print(answer(flow, 7), flush=True)\n"
    code, out, err = run(script, f"{PRELUDE}{work}\nif __name__ == '__main__':\n{body}")
    assert (code, out, err) == (0, "[{'n': 7}]\n0\n", "")


LONG = """
    flow = make()
    job = flow.execute("work", {"n": 1, "seconds": 60, "loop": LOOP})
    try:
        job.wait()
    except KeyboardInterrupt:
        print("interrupted", job.status, flush=True)
        raise
"""


@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupt_ends_the_program_within_the_grace(script: Path, times: int) -> None:
    script.write_text(guarded(LONG.replace("LOOP", "False")))
    with running(script) as program:
        assert program.stdout.readline() == "running\n"
        os.killpg(program.pid, signal.SIGINT)  # as the terminal does: to all of them
        assert program.stdout.readline().startswith("interrupted")
        if times == 2:
            os.killpg(program.pid, signal.SIGINT)
        code, _out, err = ended(program, within=GRACE + 1.0)
    assert code == -signal.SIGINT
    assert err.count("Traceback") <= times + 1
    assert "SpawnProcess" not in err
    assert "routilux-worker" not in err


def test_an_interrupt_while_the_pool_starts_ends_the_program(script: Path) -> None:
    body = """
    print("starting", flush=True)
    make().run("work", {"n": 1, "seconds": 60})
"""
    script.write_text(guarded(body))
    with running(script) as program:
        assert program.stdout.readline() == "starting\n"
        os.killpg(program.pid, signal.SIGINT)
        code, _out, _err = ended(program, within=GRACE + 1.0)
    assert code == -signal.SIGINT


def test_sigterm_ends_the_program_and_its_workers(script: Path) -> None:
    script.write_text(guarded(LONG.replace("LOOP", "True")))
    with running(script) as program:
        assert program.stdout.readline() == "running\n"
        program.terminate()
        code, _out, _err = ended(program, within=1.0)
    assert code == -signal.SIGTERM


def test_workers_in_a_c_loop_die_with_a_killed_parent(script: Path) -> None:
    script.write_text(guarded(LONG.replace("LOOP", "True")))
    with running(script) as program:
        assert program.stdout.readline() == "running\n"
        program.kill()
        ended(program, within=1.0)


BUSY = """
    with make() as flow:
        while True:
            for n in range(20):
                flow.execute("work", {"n": n, "seconds": 0.001 * (n % 3), "said": ""})
            flow.wait_for_completion()
            print("round", flush=True)
"""


def _kill_at_a_random_moment(script: Path, seed: int) -> None:
    """From before the first worker is up to the middle of the work."""
    with running(script) as program, suppress(subprocess.TimeoutExpired):
        program.wait(random.Random(seed).uniform(0.05, 1.0))
        pytest.fail("the program ended by itself")
    assert not left_after(program.pid, 5.0), "processes left behind"


def test_nothing_outlives_a_parent_that_is_killed_at_a_random_moment(script: Path) -> None:
    script.write_text(guarded(BUSY))
    for seed in range(4):
        _kill_at_a_random_moment(script, seed)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_nothing_outlives_any_of_50_parents_that_are_killed(script: Path) -> None:
    script.write_text(guarded(BUSY))
    for seed in range(50):
        _kill_at_a_random_moment(script, seed)
