"""Programs that are interrupted or killed while their workers run: they end in time, and nothing outlives them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from time import monotonic

import pytest

from processes.programs import GRACE, LATE, SECONDS, ended, guarded, left_after, running

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return tmp_path / "program.py"


LONG = """
    flow = make()
    try:  # the worker may say that it runs before `execute` has returned
        job = flow.execute("work", {"n": 1, "seconds": 60, "loop": LOOP})
        job.wait()
    except KeyboardInterrupt:
        print("interrupted", flow.job_state.status, flush=True)
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
        code, _out, err = ended(program, within=GRACE + LATE)
    assert code == -signal.SIGINT
    assert err.count("Traceback") <= times + 1
    assert "SpawnProcess" not in err
    assert "routilux-worker" not in err


def test_an_interrupt_inside_a_with_block_ends_the_program_within_the_grace(script: Path) -> None:
    body = """
    with make() as flow:
        flow.run("work", {"n": 1, "loop": True})
"""
    script.write_text(guarded(body))
    with running(script) as program:
        assert program.stdout.readline() == "running\n"
        os.killpg(program.pid, signal.SIGINT)
        code, _out, _err = ended(program, within=GRACE + LATE)
    assert code == -signal.SIGINT


def test_an_interrupt_while_the_pool_starts_ends_the_program(script: Path) -> None:
    body = """
    print("starting", flush=True)
    make().run("work", {"n": 1, "seconds": 60})
"""
    script.write_text(guarded(body))
    with running(script) as program:
        assert program.stdout.readline() == "starting\n"
        began = monotonic()
        os.killpg(program.pid, signal.SIGINT)
        said = program.stdout.readline()  # nothing: it has ended
        assert said or monotonic() - began < GRACE + LATE
        if said:  # Python drops an interrupt that comes in a callback of a weak reference, of which imports have many
            os.killpg(program.pid, signal.SIGINT)
        code, _out, err = ended(program, within=GRACE + LATE)
    assert not said or "Exception ignored" in err
    assert code == -signal.SIGINT


def test_sigterm_ends_the_program_and_its_workers(script: Path) -> None:
    script.write_text(guarded(LONG.replace("LOOP", "True")))
    with running(script) as program:
        assert program.stdout.readline() == "running\n"
        program.terminate()
        code, _out, _err = ended(program, within=LATE)
    assert code == -signal.SIGTERM


def test_workers_in_a_c_loop_die_with_a_killed_parent(script: Path) -> None:
    script.write_text(guarded(LONG.replace("LOOP", "True")))
    with running(script) as program:
        assert program.stdout.readline() == "running\n"
        program.kill()
        ended(program, within=LATE)


def test_where_the_system_does_not_end_workers_they_see_to_it_themselves(script: Path) -> None:
    no_help = "if IN_WORKER:\n    import ctypes\n    ctypes.CDLL = None\n"
    script.write_text(guarded(LONG.replace("LOOP", "False")).replace("class Work", f"{no_help}\nclass Work"))
    with running(script) as program:
        assert program.stdout.readline() == "running\n"
        program.kill()
        ended(program)


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
    assert not left_after(program.pid, SECONDS), "processes left behind"


def test_nothing_outlives_a_parent_that_is_killed_at_a_random_moment(script: Path) -> None:
    script.write_text(guarded(BUSY))
    for seed in range(2):
        _kill_at_a_random_moment(script, seed)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_nothing_outlives_any_of_50_parents_that_are_killed(script: Path) -> None:
    script.write_text(guarded(BUSY))
    for seed in range(50):
        _kill_at_a_random_moment(script, seed)
