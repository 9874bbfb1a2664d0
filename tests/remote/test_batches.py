"""How many activations travel together, and how many batches are away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from routilux_core import Flow, Routine, event, slot
from shipped.routines import Appender, Pause, Square, Sum
from shipped.strategies import Mortal

MakeFlow = Callable[..., Flow]
SECONDS = 20.0


class Here(Routine):
    """A source of this process: all that it emits waits at once."""

    item = event("n")

    def __call__(self, count: int) -> None:
        for n in range(count):
            self.emit("item", n=n)


def sizes_of(make_flow: MakeFlow, target: Routine, count: int, **settings: Any) -> list[tuple[int, int]]:
    strategy = Mortal(max_workers=2)
    flow = make_flow(execution_strategy=strategy, max_pending=100_000, **settings)
    flow.add_routine(Here(), "source", execution_strategy="concurrent")
    flow.add_routine(target, "target")
    flow.connect("source", "item", "target", "n")
    job = flow.execute("source", {"count": count})
    assert job.wait(SECONDS), job.explain()
    assert job.status == "completed"
    assert sum(size for size, _ in strategy.sizes) == count
    return strategy.sizes


def test_one_travels_alone_until_it_was_measured_then_many_together(make_flow: MakeFlow) -> None:
    sizes = sizes_of(make_flow, Square(), 2000)
    assert [size for size, _ in sizes[:2]] == [1, 1]
    assert 10 < max(size for size, _ in sizes) <= 2000 // 4
    assert max(away for _, away in sizes) <= 4


def test_long_ones_never_wait_behind_each_other(make_flow: MakeFlow) -> None:
    sizes = sizes_of(make_flow, Pause(seconds=0.006), 12)
    assert {size for size, _ in sizes} == {1}
    assert max(away for _, away in sizes) <= 2


def test_what_takes_more_than_a_quarter_of_a_batch_travels_alone(make_flow: MakeFlow) -> None:
    seconds = Mortal.capabilities.batch_seconds * 0.3
    assert {size for size, _ in sizes_of(make_flow, Pause(seconds=seconds), 12)} == {1}


def test_what_takes_more_than_a_quarter_of_a_batch_joins_no_short_ones(make_flow: MakeFlow) -> None:
    strategy, count = Mortal(max_workers=2), 12
    flow = make_flow(execution_strategy=strategy)
    flow.add_routine(Here(), "source", execution_strategy="concurrent")
    flow.add_routine(Pause(seconds=strategy.capabilities.batch_seconds * 0.3), "pause")
    flow.add_routine(Square(), "square")
    flow.connect("source", "item", "pause", "n")
    flow.connect("source", "item", "square", "n")
    for _ in range(2):  # the second time, both have been measured
        strategy.sizes.clear()
        job = flow.execute("source", {"count": count})
        assert job.wait(SECONDS), job.explain()
    assert [size for size, _ in strategy.sizes].count(1) >= count


def test_few_heavy_payloads_travel_together(make_flow: MakeFlow) -> None:
    class Heavy(Routine):
        item = event("n")

        def __call__(self, count: int) -> None:
            for _ in range(count):
                self.emit("item", n=bytes(1 << 20))

    class Takes(Routine, stateless=True):
        @slot
        def n(self, n: bytes) -> None: ...

    strategy = Mortal(max_workers=1)
    flow = make_flow(execution_strategy=strategy, max_pending=100_000)
    flow.add_routine(Heavy(), "source", execution_strategy="concurrent")
    flow.add_routine(Takes(), "target")
    flow.connect("source", "item", "target", "n")
    job = flow.execute("source", {"count": 100})
    assert job.wait(SECONDS), job.explain()
    assert max(size for size, _ in strategy.sizes) <= 16


def test_a_routine_with_state_travels_with_many_and_in_order(make_flow: MakeFlow) -> None:
    total = Sum()
    sizes = sizes_of(make_flow, total, 1000)
    assert max(size for size, _ in sizes) > 10
    assert total.seen == list(range(1000))


def test_what_is_merged_travels_alone(make_flow: MakeFlow) -> None:
    appender = Appender()
    assert {size for size, _ in sizes_of(make_flow, appender, 30)} == {1}
    assert appender.rows[-1] == list(range(30))


def test_a_routine_with_a_timeout_travels_alone(make_flow: MakeFlow) -> None:
    class Timed(Square, stateless=True, timeout=30.0):
        """May be ended."""

    assert {size for size, _ in sizes_of(make_flow, Timed(), 60)} == {1}


@pytest.mark.parametrize("bound", [1, 3])
def test_a_bound_on_parallel_calls_holds(make_flow: MakeFlow, bound: int) -> None:
    class Bounded(Pause, stateless=True, concurrency=bound):
        """Pauses few at a time."""

    sizes = sizes_of(make_flow, Bounded(seconds=0.0), 200)
    assert max(size for size, _ in sizes) <= bound


def test_above_max_pending_the_newest_goes_first_and_all_of_it_is_done(make_flow: MakeFlow) -> None:
    flow, total = make_flow(execution_strategy=Mortal(max_workers=2), max_pending=8), Sum()
    flow.add_routine(Here(), "source", execution_strategy="concurrent")
    for name in ("first", "second"):
        flow.add_routine(Square(), name)
    flow.add_routine(total, "sum")
    flow.connect("source", "item", "first", "n")
    flow.connect("first", "done", "second", "n")
    flow.connect("second", "done", "sum", "n")
    job = flow.execute("source", {"count": 400})
    assert job.wait(SECONDS), job.explain()
    assert sorted(total.seen) == [n**4 for n in range(400)]
