"""Random flows give the answers that are worked out without the engine: a few in every run, 2,000 in a soak."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SHORT, LONG = 40, 2_000


@pytest.fixture(scope="module")
def check_seed() -> Iterator[Callable[[int], int]]:
    """Give the check of one seed; its modules are found beside the tests, which are on nobody's path."""
    tests = str(Path(__file__).parents[1])
    sys.path.insert(0, tests)
    yield importlib.import_module("stress.harness").check_seed
    sys.path.remove(tests)


@pytest.mark.stress
@pytest.mark.parametrize("seed", range(SHORT))
def test_a_random_flow_gives_the_answer_of_its_plan(check_seed: Callable[[int], int], seed: int) -> None:
    assert check_seed(seed) > 0, f"seed {seed} ran nothing"


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_2000_random_flows_give_the_answers_of_their_plans(check_seed: Callable[[int], int]) -> None:
    called = sum(check_seed(seed) for seed in range(LONG))
    assert called > LONG
