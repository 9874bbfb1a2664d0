"""Processes in which Dask can't be used, which is said: the child of a fork, and a worker of another cluster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of a fork beside threads, which is meant
from routilux_core import Flow, Routine, StrategyError, event, slot

class Work(Routine, stateless=True):
    done = event("pid")
    @slot
    def input(self):
        self.emit("done", pid=os.getpid())

def pid_of_worker(flow):
    job = flow.run("work")
    job.raise_for_errors()
    return job.outputs["work.done"][0]["pid"]

if __name__ == "__main__":
    flow = Flow(execution_strategy="dask", max_workers=1)
    flow.add_routine(Work(), "work")
    flow.add_output("work", "done")
    worker = pid_of_worker(flow)
    child = os.fork()
    if not child:
        try:
            flow.execute("work")
        except StrategyError as error:
            print(error, flush=True)
        sys.exit(5)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), pid_of_worker(flow) == worker)
    flow.shutdown()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_fork_of_a_program_that_used_dask_is_told_so_and_leaves_the_cluster_alone(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    refused, *rest = done.stdout.splitlines()
    assert "strategy 'dask' could not be opened: Dask can't be used in process" in refused
    assert "it was forked from process" in refused
    assert (done.returncode, rest, done.stderr) == (0, ["5 True"], "")


NESTED = """
from routilux_core import Flow, Routine, slot

class Inner(Routine, stateless=True):
    @slot
    def input(self): pass

class Outer(Routine, stateless=True):
    @slot
    def input(self):
        with Flow(execution_strategy="dask", max_workers=1) as flow:
            flow.add_routine(Inner(), "inner")
            flow.run("inner")

if __name__ == "__main__":
    with Flow(execution_strategy="dask", max_workers=1, error_handler="continue") as flow:
        flow.add_routine(Outer(), "outer")
        print(flow.run("outer").errors[0].exception)
"""


def test_a_private_cluster_in_a_worker_of_another_one_is_refused_with_the_cause(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(NESTED)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert "a private Dask cluster can't be started in process" in done.stdout
    assert "daemonic processes are not allowed to have children" in done.stdout


def test_processes_of_a_private_cluster_say_nothing_where_the_main_module_has_no_guard(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(NESTED.replace('if __name__ == "__main__":', "if True:"))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert done.stderr.count("routilux_core.errors.StrategyError:") == 1
    assert "has to start its work under `if __name__" in done.stderr.splitlines()[-1]
    assert "bootstrapping" not in done.stderr
