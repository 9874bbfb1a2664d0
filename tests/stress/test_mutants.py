"""The check of random flows finds dispatchers that are wrong on purpose, and nothing in the right one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parents[1]
ISSUED = 2_000  # flows within which a wrong dispatcher has to be found
SHORT = 200  # flows in every run; each mutant is found in the first twenty or so
MUTANTS = (
    "leaves_in_two_steps",
    "counts_before_its_record",
    "counts_before_its_emissions",
    "queues_a_mailbox_twice",
    "serves_the_last_first",
)


def hunt(mutant: str, first_seed: int, flows: int, patience: float) -> dict[str, Any]:
    """Hunt in a process of its own: what a mutant breaks or hangs ends with it."""
    search = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "stress.mutants", mutant, str(first_seed), str(flows)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=patience, env={**os.environ, "PYTHONPATH": search}
    )
    assert done.returncode == 0, f"the hunt for {mutant} broke: is it planted in the right place?\n{done.stderr}"
    return dict(json.loads(done.stdout))


def check_found(result: dict[str, Any]) -> None:
    assert result["hits"] > 0, f"never applied, so nothing was shown; plant it elsewhere: {result}"
    assert result["found_after"], f"not found: {result}"


@pytest.mark.stress
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_dispatcher_is_found(mutant: str) -> None:
    check_found(hunt(mutant, 0, SHORT, patience=100.0))


@pytest.mark.stress
def test_the_right_dispatcher_is_not_found_wrong_by_the_same_hunt() -> None:
    result = hunt("none", 0, 20, patience=100.0)
    assert (result["found_after"], result["tried"]) == (None, 20), result


@pytest.mark.stress
@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        ("del _loop.Worker._leave", "Worker._leave is gone"),
        ("_loop.Worker._leave = lambda self, queue: None", "called with other arguments"),
    ],
    ids=["gone", "changed"],
)
def test_a_mutant_that_no_longer_applies_fails_loudly(break_it: str, message: str) -> None:
    code = f"""
from routilux_core import _loop
{break_it}
from stress.mutants import hunt
hunt("leaves_in_two_steps", 0, 1)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(TESTS)}
    )
    assert done.returncode == 1
    assert "Outdated" in done.stderr
    assert message in done.stderr


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_dispatcher_is_found_within_2000_flows_wherever_the_hunt_begins(mutant: str) -> None:
    for first_seed in range(0, 10 * ISSUED, ISSUED):
        check_found(hunt(mutant, first_seed, ISSUED, patience=1800.0))
