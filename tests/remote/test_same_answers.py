"""A flow whose handlers share no memory with it gives the answers that it gives in one thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from routilux_core import Flow, Routine
from shipped.answers import SEQUENTIAL, finished
from shipped.routines import Counts, CountsWithout, Source, WithOwnState
from shipped.same_answers import SameAnswers

MakeFlow = Callable[..., Flow]


class TestSameAnswers(SameAnswers):
    """Under each of the strategies here."""


def test_a_routine_may_have_its_own_way_to_be_pickled(make_flow: MakeFlow, shipped: dict[str, Any]) -> None:
    flow, routine = make_flow("f", **shipped), WithOwnState()
    flow.add_routine(Source(), "source")
    flow.add_routine(routine, "own")
    flow.connect("source", "item", "own", "n")
    finished(flow.execute("source", {"count": 5}))
    assert routine.calls == 5
    assert not hasattr(routine, "gone")
    assert not routine.lock.locked()


@pytest.mark.parametrize("routine", [Counts, CountsWithout])
def test_counters_are_the_same(make_flow: MakeFlow, shipped: dict[str, Any], routine: type[Routine]) -> None:
    def build(flow: Flow) -> dict[str, float]:
        flow.add_routine(Source(), "source")
        flow.add_routine(routine(), "counts")
        flow.routines["counts"].increment_stat("before")
        flow.connect("source", "item", "counts", "n")
        for count in (3, 6) if routine is Counts else (3, 3):
            finished(flow.execute("source", {"count": count}))
        return {name: round(value, 9) for name, value in flow.routines["counts"].stats().items()}

    assert build(make_flow("f", **shipped)) == build(make_flow("f", **SEQUENTIAL))
