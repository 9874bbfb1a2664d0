"""Any flow comes back as it went: to the byte, in a walk over the live objects, and in what it does."""

from __future__ import annotations

import importlib
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routilux_core import Flow, JobState


def _flows() -> Any:
    """Return the module of random flows; it is found beside the tests, which are on nobody's path."""
    tests = str(Path(__file__).parents[1])
    if tests not in sys.path:
        sys.path.append(tests)
    return importlib.import_module("saving.flows")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.getLogger("routilux_core").disabled = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # random wires rarely supply what a handler requires
        yield
    logging.getLogger("routilux_core").disabled = False


def check(flow: Flow) -> None:
    flows = _flows()
    saved = flow.serialize()
    text = json.dumps(saved)
    assert json.dumps(flow.serialize()) == text, "saving changed the flow"
    new = Flow()
    new.deserialize(json.loads(text))
    assert json.dumps(new.serialize()) == text
    assert flows.walk(new) == flows.walk(flow)
    assert flows.outcome(new) == flows.outcome(flow)
    jobs = [each.job_state for each in (flow, new)]
    for job in jobs:
        record = json.dumps(job.serialize())
        assert json.dumps(JobState.deserialize(json.loads(record)).serialize()) == record


every = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]


@settings(max_examples=25, deadline=None, suppress_health_check=every)
@given(st.data())
def test_any_flow_comes_back_as_it_went(data: st.DataObject) -> None:
    check(data.draw(_flows().flows(most=12)))


@pytest.mark.soak
@pytest.mark.timeout(7200)
@settings(max_examples=1000, deadline=None, suppress_health_check=every)
@given(st.data())
def test_a_thousand_large_flows_come_back_as_they_went(data: st.DataObject) -> None:
    check(data.draw(_flows().flows()))
