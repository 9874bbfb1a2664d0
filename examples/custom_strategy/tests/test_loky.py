"""The strategy keeps the promises of routilux-core, and is found by its name."""

import pytest

from routilux_core import Flow, Routine, event, slot
from routilux_core.testing import StrategySuite


class TestLoky(StrategySuite):
    @pytest.fixture
    def strategy(self):
        return "loky"


class Square(Routine, stateless=True):
    done = event("n")

    @slot
    def n(self, n: int) -> None:
        self.emit("done", n=n * n)


def test_a_flow_finds_it_by_name():
    with Flow(execution_strategy="loky", max_workers=2) as flow:
        flow.add_routine(Square(), "square")
        flow.add_output("square", "done")
        assert flow.run("square", {"n": 7}).outputs == {"square.done": [{"n": 49}]}
