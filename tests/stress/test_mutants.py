"""The check of random flows finds dispatchers that are wrong on purpose, and nothing in the right one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from places import SUPPORT
from stress import hunt as hunting

pytestmark = pytest.mark.once

ISSUED = 2_000  # flows within which a wrong dispatcher has to be found
SHORT = 500  # flows in every run; each mutant is found in the first few
MUTANTS = (
    "leaves_in_two_steps",
    "counts_before_its_record",
    "ends_while_it_is_held",
    "queues_a_mailbox_twice",
    "lends_a_permit_too_many",
    "counts_before_its_emissions",
    "serves_the_last_first",
    "comes_back_last",
)
# These differ only where two threads meet in a few bytecodes: once in some 300 flows.
RARE = ("counts_just_before_its_record", "looks_once")


def hunt(mutant: str, first_seed: int, flows: int, patience: float) -> dict[str, Any]:
    """Hunt in a process of its own: what a mutant breaks or hangs ends with it."""
    search = os.pathsep.join(filter(None, (str(SUPPORT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "stress.hunt", str(flows), str(first_seed), mutant]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=patience, env={**os.environ, "PYTHONPATH": search}
    )
    assert done.returncode == 0, f"the hunt for {mutant} broke: does it follow the engine?\n{done.stderr}"
    print(done.stdout)
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
    result = hunting.hunt("none", 40, 10)  # seeds that test_random_flows.py has not
    assert (result["found_after"], result["tried"]) == (None, 10), result


class Engine:
    def step(self) -> str:
        if self:
            return "right"
        return "right"


@pytest.mark.parametrize("method", ["gone", "step"])
@pytest.mark.parametrize("lines", ["no such line", 'return "right"'])
def test_a_mutant_that_does_not_follow_the_engine_is_outdated(method: str, lines: str) -> None:
    change = hunting.Change(Engine, method, lines, "pass")
    with pytest.raises(hunting.Outdated, match=r"is gone|stand there [02] times"), hunting.plant([change]):
        pass
    assert Engine().step() == "right"


def test_a_mutant_is_planted_and_taken_out_again() -> None:
    change = hunting.Change(
        Engine,
        "step",
        """
            if self:
                return "right"
        """,
        """
            if self and planted("here"):
                return "wrong"
        """,
    )
    hunting.hits.clear()
    with hunting.plant([change]):
        assert Engine().step() == "wrong"
    assert Engine().step() == "right"
    assert hunting.hits == {"here": 1}


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_dispatcher_is_found_within_2000_flows_wherever_the_hunt_begins(mutant: str) -> None:
    for first_seed in range(0, 10 * ISSUED, ISSUED):
        check_found(hunt(mutant, first_seed, ISSUED, patience=1800.0))


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("mutant", RARE)
def test_a_wrong_dispatcher_is_found_within_2000_flows_also_where_it_is_wrong_for_a_few_bytecodes(mutant: str) -> None:
    check_found(hunt(mutant, 0, ISSUED, patience=1800.0))
