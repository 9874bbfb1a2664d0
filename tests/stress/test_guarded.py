"""Functions of the engine that are marked `@guarded` are called with the flow's lock held; a call without is found."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from places import SUPPORT

CHECKED = """
from stress.harness import check_seed

for seed in range(300, 312):
    check_seed(seed, limit=60.0)
print("as they should be")
"""
WITHOUT = """
from routilux_core import Flow

Flow()._runtime.engine.want_workers()
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    search = os.pathsep.join(filter(None, (str(SUPPORT), os.environ.get("PYTHONPATH"))))
    variables = {**os.environ, "PYTHONPATH": search, "ROUTILUX_CHECK_LOCKS": "1"}
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, env=variables)


@pytest.mark.once
def test_random_flows_call_what_is_guarded_with_the_lock_held() -> None:
    done = run(CHECKED)
    assert done.stdout == "as they should be\n", done.stderr


def test_a_call_without_the_lock_is_found() -> None:
    done = run(WITHOUT)
    assert "AssertionError: Engine.want_workers was called without the lock of a flow" in done.stderr
