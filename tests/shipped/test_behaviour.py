"""The behaviour tests of the strategies that share memory, where they don't look into it, on worker processes."""

from __future__ import annotations

import importlib
import inspect
from concurrent.futures import Executor
from typing import Any

import pytest
from shipped_strategies import SharedBatches

MODULES = (
    "test_order",
    "test_slots",
    "test_jobs",
    "test_error_handling",
    "test_flow",
    "test_routines",
    "test_handlers",
)

# What these need that worker processes can't have.
LEFT_OUT = {
    "test_a_cycle_ends_when_its_budget_is_used": "takes 20,000 ways there and back",
    "test_only_what_is_retryable_is_retried": "compares the exception by identity",
    "test_a_failure_says_where_what_and_why": "compares the exception by identity",
    "test_raise_for_errors_raises_what_stopped_or_was_continued_after": "compares the exceptions by identity",
    "test_any_exception_is_contained": "compares the exception by identity",
    "test_a_policy_that_raises_fails_the_activation_and_the_worker_lives": "gives max_workers beside the strategy",
    "test_a_log_that_raises_does_not_cost_a_worker": "gives max_workers beside the strategy",
    "test_a_stateless_routine_lets_others_pass_while_a_retry_waits": "waits for an event of this process",
    "test_what_waits_for_a_routine_is_bounded_whatever_else_is_emitted": "watches a routine of this process",
    "test_context_variables_of_the_caller_are_seen_in_every_handler": "context variables don't travel",
    "test_a_job_started_in_a_handler_is_returned_running": "executes its own flow in a handler",
    "test_a_handler_may_run_another_flow": "holds the other flow",
    "test_slots_and_events_may_come_after_the_routine_was_added": "collects in a list of this process",
    "test_what_a_merge_function_may_supply_is_not_warned_of": "collects in a list of this process",
    "test_a_copy_for_the_job_may_ask_the_flow": "holds the flow",
    "test_a_gather_slot_of_a_job_that_was_stopped_is_not_called": "cancels its own flow in a handler",
}


@pytest.fixture
def strategy(executor: Executor) -> dict[str, Any]:
    return {"execution_strategy": SharedBatches(max_workers=2, executor=executor)}


def _borrow() -> None:
    for module in map(importlib.import_module, MODULES):
        for name, found in vars(module).items():
            takes = inspect.isfunction(found) and name.startswith("test_") and found.__module__ == module.__name__
            if takes and "strategy" in inspect.signature(found).parameters and name not in LEFT_OUT:
                globals()[name] = found


_borrow()


def test_what_is_left_out_exists() -> None:
    names = {name for module in MODULES for name in vars(importlib.import_module(module))}
    assert LEFT_OUT.keys() <= names
