"""Strategies that let a test choose the order: a planted race is found by a seed, and replayed by it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from routilux_core import (
    ActivationRecord,
    ErrorHandler,
    Flow,
    FlowStateError,
    Routine,
    UnknownNameError,
    event,
    field,
    slot,
)
from routilux_core.testing import ManualStrategy, ShuffledStrategy

SEEDS = 50

MakeFlow = Callable[..., Flow]


class Fork(Routine):
    out = event("n")

    def __call__(self, n: int = 0) -> None:
        self.emit("out", n=n)


class Burst(Routine, stateless=True):
    out = event("n")

    @slot
    def go(self, count: int, first: int = 0) -> None:
        for n in range(first, first + count):
            self.emit("out", n=n)


class Add(Routine, stateless=True):
    amount: int
    out = event("n")

    @slot
    def n(self, n: int) -> None:
        self.emit("out", n=n + self.amount)


class Account(Routine):
    """Has a race: whether the withdrawal is refused depends on which of two upstreams comes first."""

    balance: int = 0
    refused: int = 0

    @slot
    def n(self, n: int) -> None:
        if self.balance + n < 0:
            self.refused += 1
        else:
            self.balance += n


class Keep(Routine):
    seen: list[int] = field(factory=list)
    fails: int = 0

    @slot
    def n(self, n: int) -> None:
        if self.fails:
            self.fails -= 1
            raise ValueError("planted")
        self.seen.append(n)


def bank(strategy: Any) -> tuple[Flow, Account]:
    """A deposit of 5 and a withdrawal of 3 by two routes, of the same length, to one account."""
    flow, account = Flow(execution_strategy=strategy), Account()
    for routine_id, routine in (("fork", Fork()), ("pay_in", Add(amount=5)), ("draw", Add(amount=-3))):
        flow.add_routine(routine, routine_id)
    flow.add_routine(account, "account")
    for route in ("pay_in", "draw"):
        flow.connect("fork", "out", route, "n")
        flow.connect(route, "out", "account", "n")
    return flow, account


def refused_with(seed: int) -> int:
    flow, account = bank(ShuffledStrategy(seed))
    with flow:
        assert flow.run("fork").status == "completed"
    return account.refused


def test_a_seed_within_fifty_finds_a_planted_race_and_replays_it() -> None:
    flow, account = bank("sequential")
    with flow:
        flow.run("fork")
    assert account.refused == 0
    found = [seed for seed in range(SEEDS) if refused_with(seed)]
    assert 0 < len(found) < SEEDS
    assert all(refused_with(found[0]) == 1 for _ in range(20))


def order_with(seed: int) -> list[ActivationRecord]:
    flow, _ = bank(ShuffledStrategy(seed))
    with flow:
        return list(flow.run("fork").get_execution_history())


def test_a_race_that_a_seed_has_found_is_replayed_step_by_step() -> None:
    found = next(seed for seed in range(SEEDS) if refused_with(seed))
    strategy = ManualStrategy()
    flow, account = bank(strategy)
    with flow:
        job = flow.execute("fork")
        for record in order_with(found):
            assert strategy.step(record).routine_id == record.routine_id
    assert job.status == "completed"
    assert account.refused == 1


@pytest.mark.once
def test_a_seed_is_the_same_order_in_every_process() -> None:
    program = "import test_ordered; print([test_ordered.orders_with(seed) for seed in range(20)])"
    told = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert told == {f"{[orders_with(seed) for seed in range(20)]}\n"}


def orders_with(seed: int) -> tuple[list[tuple[int, str]], list[int]]:
    """The order of calls in two flows, one of them with forty that may overtake each other."""
    with ExitStack() as stack:
        order = [(record.id, record.routine_id) for record in order_with(seed)]
        return order, kept_with(seed, lambda **settings: stack.enter_context(Flow(**settings)))


def kept_with(seed: int, make_flow: MakeFlow) -> list[int]:
    flow, keep = make_flow(execution_strategy=ShuffledStrategy(seed)), Keep()
    flow.add_routine(Fork(), "fork")
    flow.add_routine(keep, "keep")
    for number, source in enumerate(("one", "two")):
        flow.add_routine(Burst(), source)
        flow.connect(source, "out", "keep", "n")
        flow.add_routine(Start(first=number * 100), f"start_{source}")
        flow.connect("fork", "out", f"start_{source}", "n")
        flow.connect(f"start_{source}", "out", source, "go")
    assert flow.run("fork").status == "completed"
    return keep.seen


class Start(Routine, stateless=True):
    first: int
    out = event("count", "first")

    @slot
    def n(self, n: int) -> None:
        self.emit("out", count=20, first=self.first)


def test_a_shuffled_order_keeps_what_one_call_emits_in_order_and_lets_upstreams_overtake(make_flow: MakeFlow) -> None:
    orders = {tuple(kept_with(seed, make_flow)) for seed in range(20)}
    assert len(orders) == 20, "every seed has its own order"
    for order in orders:
        assert [n for n in order if n < 100] == list(range(20))
        assert [n for n in order if n >= 100] == list(range(100, 120))
    assert any(order[0] >= 100 for order in orders)
    assert kept_with(3, make_flow) == kept_with(3, make_flow)


def test_a_shuffled_order_lets_nothing_pass_a_retry_of_a_routine_with_state(make_flow: MakeFlow) -> None:
    flow, keep = make_flow(execution_strategy=ShuffledStrategy(1)), Keep(fails=3)
    keep.set_error_handler(ErrorHandler("retry", max_retries=3, retry_delay=0.01))
    flow.add_routine(Burst(), "burst")
    flow.add_routine(keep, "keep")
    flow.connect("burst", "out", "keep", "n")
    job = flow.run("burst", {"count": 10})
    assert job.status == "completed"
    assert job.ledger.retried == 3
    assert keep.seen == list(range(10))


def test_a_shuffled_order_of_thousands_ends_in_seconds(make_flow: MakeFlow) -> None:
    flow = make_flow(execution_strategy=ShuffledStrategy(1))
    flow.add_routine(Burst(), "burst")
    flow.add_routine(Add(amount=1), "add")
    flow.add_routine(Keep(), "keep")
    flow.connect("burst", "out", "add", "n")
    flow.connect("add", "out", "keep", "n")
    job = flow.run("burst", {"count": 3000})
    assert job.ledger.completed == 6001
    assert sorted(job.routines["keep"].seen) == list(range(1, 3001))  # type: ignore[attr-defined]


def test_a_manual_strategy_runs_nothing_until_a_step_and_what_the_test_chooses() -> None:
    strategy = ManualStrategy()
    assert strategy.pending == []
    flow, account = bank(strategy)
    with flow:
        job = flow.execute("fork", {"n": 0})
        assert job.status == "running"
        assert job.wait() is False, "waiting runs nothing, and does not block"
        assert [(each.routine_id, each.slot, dict(each.payload)) for each in strategy.pending] == [
            ("fork", "__call__", {"n": 0})
        ]
        fork = strategy.step()
        assert [each.routine_id for each in strategy.pending] == ["pay_in", "draw"]
        assert {each.cause for each in strategy.pending} == {fork.id}
        strategy.step("draw")
        withdrawal = strategy.pending[-1]
        assert withdrawal.routine_id == "account"
        assert strategy.step(withdrawal).payload == {"n": -3}
        assert account.refused == 1
        assert [each.routine_id for each in strategy.run_all()] == ["pay_in", "account"]
        assert job.status == "completed"
        assert job.ledger.completed == 5


def test_a_step_that_can_not_be_made_says_what_could_be() -> None:
    strategy = ManualStrategy()
    flow, _ = bank(strategy)
    with flow:
        with pytest.raises(FlowStateError, match="nothing to step"):
            strategy.step()
        flow.execute("fork")
        with pytest.raises(UnknownNameError, match=r"pending activation 'acount'.*'fork'"):
            strategy.step("acount")
        done = strategy.step()
        with pytest.raises(UnknownNameError, match=r"activation 1 of 'fork'.*'draw'"):
            strategy.step(done)
        strategy.run_all()


def test_leaving_a_flow_cancels_what_was_not_stepped() -> None:
    strategy = ManualStrategy()
    flow, _ = bank(strategy)
    with flow:
        job = flow.execute("fork")
        strategy.step()
    assert job.status == "cancelled"
    assert (job.ledger.completed, job.ledger.discarded, job.ledger.pending) == (1, 2, 0)
    with flow:
        again = flow.execute("fork")
        assert len(strategy.run_all()) == 5
    assert again.status == "completed"


def test_a_paused_job_is_not_stepped_and_goes_on_in_order() -> None:
    strategy = ManualStrategy()
    flow, keep = Flow(execution_strategy=strategy), Keep()
    flow.add_routine(Burst(), "burst")
    flow.add_routine(keep, "keep")
    flow.connect("burst", "out", "keep", "n")
    with flow:
        job = flow.execute("burst", {"count": 5})
        strategy.step()
        strategy.step()
        job.pause()
        assert strategy.pending == []
        job.resume()
        strategy.run_all()
    assert job.status == "completed"
    assert keep.seen == list(range(5))


def test_two_jobs_are_stepped_in_turns() -> None:
    strategy = ManualStrategy()
    flow, keep = Flow(execution_strategy=strategy), Keep()
    flow.add_routine(Burst(), "burst")
    flow.add_routine(keep, "keep")
    flow.connect("burst", "out", "keep", "n")
    with flow:
        jobs = [flow.execute("burst", {"count": 2, "first": first}) for first in (0, 10)]
        strategy.step()
        strategy.step("burst")
        for _ in range(2):
            for job in jobs:
                strategy.step(next(each for each in strategy.pending if each.job_id == job.job_id))
    assert keep.seen == [0, 10, 1, 11]
    assert [job.status for job in jobs] == ["completed", "completed"]
