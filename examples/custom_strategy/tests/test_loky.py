"""The strategy keeps the promises of routilux-core, and is found by its name."""

from typing import ClassVar

import pytest

from routilux_core import Flow, Routine, event, slot
from routilux_core.testing import StrategySuite


class TestLoky(StrategySuite):
    # What an executor can't do, whoever writes the strategy. `pytest -rs` lists these with their reasons.
    exempt: ClassVar = {
        "test_a_dead_worker_costs_the_call_that_ran": "an executor breaks as a whole, and can't say which call ran",
        "test_a_running_handler_sees_that_its_job_was_cancelled": "nothing of an executor reaches a worker that runs",
        "test_a_program_that_ends_leaves_nothing": "loky waits for what runs when the interpreter exits",
        "test_a_program_that_is_killed_leaves_nothing": "a worker of loky sees only later that its parent was killed",
        "test_workers_know_the_classes_of_the_program": "loky sends classes of the main module by value",
    }

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
