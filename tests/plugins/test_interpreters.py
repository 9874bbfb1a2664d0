"""The example over interpreters of their own runs flows, where Python has them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from places import CHECKOUT, SUPPORT

PROGRAM = """
from routilux_interpreters import InterpretersStrategy
from shipped.routines import Source, Square, Sum

from routilux_core import Flow

with Flow(execution_strategy=InterpretersStrategy(max_workers=2)) as flow:
    for name, routine in (("source", Source()), ("square", Square()), ("sum", Sum())):
        flow.add_routine(routine, name)
    flow.connect("source", "item", "square", "n")
    flow.connect("square", "done", "sum", "n")
    job = flow.run("source", {"count": 50})
    print(job.status, flow.routines["sum"].total, job.ledger.completed, job.ledger.balanced)
"""


@pytest.mark.skipif(sys.version_info < (3, 13), reason="interpreters in threads need Python 3.13, and an executor 3.14")
def test_handlers_run_in_interpreters_of_their_own() -> None:
    path = [str(CHECKOUT / "examples" / "interpreters_strategy" / "src"), str(SUPPORT)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*path, os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"completed {sum(n * n for n in range(50))} 101 True\n"
