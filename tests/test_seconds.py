"""Seconds: any number of them works wherever seconds are taken, and what is none is refused where it is given."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from processes.patient import MONTH, Patient, Plain
from routilux_core import Capabilities, ConfigurationError, Flow, JobState, Routine
from routilux_core.seconds import FOREVER, LONGEST, check_patience, check_seconds, stretch
from routilux_core_plugins.process import ProcessStrategy

MANY = [MONTH, 3e6, 1e10, 1e300, 10**400, math.inf]
NONE_AT_ALL = [math.nan, "5", True, [1]]

MakeFlow = Callable[..., Flow]


def ran(flow: Flow, routine: Routine) -> JobState:
    flow.add_routine(routine, "it")
    job = flow.execute("it", {"n": 1})
    assert job.wait(60.0)
    return job


def test_a_time_out_of_a_month_works(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    assert ran(make_flow(**strategy), Patient()).status == "completed"


def test_a_time_out_of_a_month_works_in_processes(make_flow: MakeFlow) -> None:
    assert ran(make_flow(execution_strategy="process", max_workers=1), Patient()).status == "completed"


@pytest.mark.parametrize("seconds", [3e6, math.inf])
def test_a_start_may_take_any_time(make_flow: MakeFlow, seconds: float) -> None:
    options = {"start_timeout": seconds}
    flow = make_flow(execution_strategy="process", max_workers=1, strategy_options=options)
    assert ran(flow, Plain()).status == "completed"


@pytest.mark.parametrize("seconds", MANY)
def test_a_wait_may_take_any_time(make_flow: MakeFlow, strategy: dict[str, Any], seconds: float) -> None:
    flow = make_flow(**strategy)
    flow.add_routine(Plain(), "it")
    for wait in (lambda job: job.wait(seconds), lambda job: flow.wait_for_completion(seconds)):
        job = flow.execute("it", {"n": 1})
        assert wait(job)
        assert job.status == "completed"
    flow.execute("it", {"n": 1})
    flow.shutdown(timeout=seconds)


def test_a_wait_of_less_than_nothing_is_over(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow = make_flow(**strategy)
    flow.add_routine(Plain(), "it")
    flow.pause()
    job = flow.execute("it", {"n": 1})
    assert job.wait(60.0)
    assert job.wait(-1.0)
    assert flow.wait_for_completion(-math.inf)


@pytest.mark.parametrize("seconds", NONE_AT_ALL)
def test_what_is_no_number_of_seconds_is_refused(
    make_flow: MakeFlow, strategy: dict[str, Any], seconds: object
) -> None:
    flow = make_flow(**strategy)
    flow.add_routine(Plain(), "it")
    job = flow.run("it", {"n": 1})
    for call in (job.wait, flow.wait_for_completion, lambda given: flow.shutdown(timeout=given)):
        with pytest.raises(ConfigurationError, match=r"has to be a number of seconds, or None for no limit, not"):
            call(seconds)  # type: ignore[operator]


@pytest.mark.parametrize("seconds", [*NONE_AT_ALL, 0, -1, -math.inf])
def test_a_limit_that_makes_no_sense_is_refused_where_it_is_given(seconds: Any) -> None:
    with pytest.raises(ConfigurationError, match="seconds above 0"):
        ProcessStrategy(start_timeout=seconds)
    with pytest.raises(ConfigurationError, match="seconds above 0"):
        type("Limited", (Routine,), {}, timeout=seconds)
    with pytest.raises(ConfigurationError, match="batch_seconds"):
        Capabilities(shares_memory=False, batch_seconds=seconds)


@pytest.mark.parametrize("seconds", [1e300, math.inf])
def test_a_strategy_may_declare_that_batches_take_any_time(seconds: float) -> None:
    assert Capabilities(shares_memory=False, batch_seconds=seconds).batch_seconds == seconds


def test_one_wait_takes_a_day_at_most() -> None:
    assert stretch(math.inf) == stretch(MONTH) == LONGEST
    assert (stretch(None), stretch(-1.0), stretch(2.5)) == (None, 0.0, 2.5)


def test_a_number_that_is_too_large_for_a_float_is_for_ever() -> None:
    assert check_seconds(10**400, "it") == math.inf
    assert check_patience(2 * FOREVER, "it") is None
    assert check_patience(-(10**400), "it") == 0.0
