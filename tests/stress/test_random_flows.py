"""Random flows give the answers that are worked out without the engine: a few in every run, 2,000 in a soak."""

from __future__ import annotations

import pytest

from stress.harness import check_seed

SHORT, LONG = 40, 2_000


@pytest.mark.stress
@pytest.mark.parametrize("seed", range(SHORT))
def test_a_random_flow_gives_the_answer_of_its_plan(seed: int) -> None:
    assert check_seed(seed) > 0, f"seed {seed} ran nothing"


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_2000_random_flows_give_the_answers_of_their_plans() -> None:
    called = sum(check_seed(seed) for seed in range(LONG))
    assert called > LONG
