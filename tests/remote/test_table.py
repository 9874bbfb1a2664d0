"""The table of flows that every strategy answers alike, under strategies that share no memory with it.

The others run in `local/test_same_answers.py`: stock threads, greenlets, an event loop.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from routilux_core import ExecutionStrategy, Flow
from shipped.strategies import LokyStrategy, TwiceStrategy
from strategies.flows import TABLE, Answer, Row, routines

MakeFlow = Callable[..., Flow]


def play(flow: Flow, row: Row, here: str | None = None) -> Answer:
    kit = routines(lambda handler: handler, here)
    flow.add_routine(kit.Source(), "source")
    return row.play(flow, kit)


@pytest.mark.once  # what travels is tested on every interpreter; here it is who takes it along
@pytest.mark.parametrize("strategy", [LokyStrategy, TwiceStrategy], ids=lambda each: each.__name__)
@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
@pytest.mark.filterwarnings("ignore:A worker stopped:UserWarning", "ignore::DeprecationWarning:loky")
def test_a_strategy_that_ships_gives_the_answer_of_sequential(
    make_flow: MakeFlow, caplog: pytest.LogCaptureFixture, row: Row, strategy: type[ExecutionStrategy]
) -> None:
    expected = play(make_flow(), row)
    assert row.expected(expected), expected
    flow = make_flow(execution_strategy=strategy(max_workers=2))
    assert play(flow, row, "concurrent") == expected
    flow.shutdown()
    assert ("was ended twice by its pool" in caplog.text) is (strategy is TwiceStrategy)
