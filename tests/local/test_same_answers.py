"""Strategies written from the contract alone give the answers of `sequential`, in every style of handler."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from attrs import evolve

from routilux_core import ExecutionStrategy, Flow
from strategies.event_loop import EventLoopStrategy
from strategies.flows import TABLE, Answer, Row, routines
from strategies.greenlets import GreenletStrategy
from strategies.patient_loop import PatientLoopStrategy
from strategies.styles import Handler, awaiting, plain, switching
from strategies.thread_pool import StockThreadsStrategy
from stress import harness
from stress.routines import Played

MakeFlow = Callable[..., Flow]
Style = Callable[[Handler], Handler]
MANY = [
    (StockThreadsStrategy, plain),
    (GreenletStrategy, plain),
    (GreenletStrategy, switching),
    (EventLoopStrategy, plain),
    (EventLoopStrategy, awaiting),
    (PatientLoopStrategy, awaiting),
]
EACH = pytest.mark.parametrize(("strategy", "style"), MANY, ids=lambda each: each.__name__)


def play(flow: Flow, row: Row, style: Style) -> Answer:
    kit = routines(style)
    flow.add_routine(kit.Source(), "source")
    return row.play(flow, kit)


@EACH
@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.once), 7])
@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_a_strategy_gives_the_answer_of_sequential(
    make_flow: MakeFlow, row: Row, strategy: type[ExecutionStrategy], style: Style, workers: int
) -> None:
    expected = play(make_flow(), row, plain)
    assert row.expected(expected), expected
    assert play(make_flow(execution_strategy=strategy(max_workers=workers)), row, style) == expected


@pytest.mark.stress
@EACH
@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.once) for seed in range(2, 6))])
def test_a_random_flow_gives_the_answer_of_its_plan(
    monkeypatch: pytest.MonkeyPatch, strategy: type[ExecutionStrategy], style: Style, seed: int
) -> None:
    check_seed(monkeypatch, strategy, style, seed)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@EACH
def test_300_random_flows_give_the_answers_of_their_plans(
    monkeypatch: pytest.MonkeyPatch, strategy: type[ExecutionStrategy], style: Style
) -> None:
    for seed in range(300):
        check_seed(monkeypatch, strategy, style, seed)


def check_seed(monkeypatch: pytest.MonkeyPatch, strategy: type[ExecutionStrategy], style: Style, seed: int) -> None:
    """Run the plan of a seed with all its routines under one strategy."""
    plan = harness.draw(seed)
    between = "shutdown" if plan.between == "strategy" else plan.between
    nodes = tuple(evolve(node, strategy=None) for node in plan.nodes)
    plan = evolve(plan, strategy=strategy(max_workers=plan.workers), workers=None, between=between, nodes=nodes)
    with monkeypatch.context() as patch:
        for name in ("first", "second"):
            patch.setattr(Played, name, style(getattr(Played, name)))
        assert harness.check_flow(plan) > 0, f"seed {seed} ran nothing"
