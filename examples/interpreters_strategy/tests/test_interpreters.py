"""The strategy keeps the promises of routilux-core."""

from typing import ClassVar

import pytest

from routilux_core.testing import StrategySuite


class TestInterpreters(StrategySuite):
    # What an executor can't do, and what interpreters can't. `pytest -rs` lists these with their reasons.
    exempt: ClassVar = {
        "test_a_running_handler_sees_that_its_job_was_cancelled": "nothing of an executor reaches a worker that runs",
        "test_a_program_that_ends_leaves_nothing": "the interpreter waits for what executors run when it exits",
        "test_workers_know_the_classes_of_the_program": "it has no main module: put routines into another",
        "test_what_a_worker_made_for_itself_is_closed": "what belongs to a thread is there for one task of it only",
    }

    @pytest.fixture
    def strategy(self):
        return "interpreters"
