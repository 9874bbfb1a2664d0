"""Whole programs in a session of their own, and a look at which of its processes are left."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SECONDS = 30.0
GRACE = 1.0  # seconds that running handlers get at exit: fewer than usual, since these programs use them up
LATE = 10.0  # seconds more: a busy machine has them, and they are far from what handlers would go on for

PRELUDE = f"""
import itertools, multiprocessing, os, signal, sys, threading, time
import routilux_core._runtime.runtime
from routilux_core import Flow, Routine, event, slot

routilux_core.flow.EXIT_GRACE_S = routilux_core._runtime.runtime.EXIT_GRACE_S = {GRACE}
"""
PRELUDE += """
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


def start(*command: str | Path, **settings: object) -> subprocess.Popen[str]:
    """Start a program in a session of its own, so that all of its processes can be found.

    One that lies in a folder of its own finds what lies beside it, as a user's does; any other must not find this
    checkout in the place of what is installed.
    """
    if any(isinstance(each, Path) for each in command) or "cwd" in settings:
        settings.setdefault("env", {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"})
    return subprocess.Popen(
        [str(settings.pop("python", sys.executable)), *map(str, command)],
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
    assert not left_after(program.pid, SECONDS), "processes left behind"
    return program.returncode, out, err


def run(script: Path, text: str) -> tuple[int, str, str]:
    script.write_text(text)
    return ended(start(script))
