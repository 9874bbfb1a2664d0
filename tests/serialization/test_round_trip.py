"""Any flow comes back as it went: to the byte, in a walk over the live objects, and in what it does."""

from __future__ import annotations

import functools
import json
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from places import DOCS
from routilux_core import Flow, JobState
from saving import flows

pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.getLogger("routilux_core").disabled = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # random wires rarely supply what a handler requires
        yield
    logging.getLogger("routilux_core").disabled = False


@functools.cache
def _schema() -> Any:
    file = DOCS / "saved.schema.json"
    return jsonschema.Draft202012Validator(json.loads(file.read_text(encoding="utf-8")))


def check(flow: Flow, by_schema: bool = False) -> None:
    saved = flow.serialize()
    text = json.dumps(saved)
    if by_schema:
        _schema().validate(json.loads(text))
    assert json.dumps(flow.serialize()) == text, "saving changed the flow"
    new = Flow()
    new.deserialize(json.loads(text))
    assert json.dumps(new.serialize()) == text
    assert flows.walk(new) == flows.walk(flow)
    assert flows.outcome(new) == flows.outcome(flow)
    jobs = [each.job_state for each in (flow, new)]
    for job in jobs:
        record = json.dumps(job.serialize())
        if by_schema:
            _schema().validate(json.loads(record))
        assert json.dumps(JobState.deserialize(json.loads(record)).serialize()) == record


every = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]


@settings(max_examples=25, deadline=None, suppress_health_check=every)
@given(st.data())
def test_any_flow_comes_back_as_it_went(data: st.DataObject) -> None:
    check(data.draw(flows.flows(most=12)), by_schema=True)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_a_thousand_large_flows_come_back_as_they_went() -> None:
    met: Counter[str] = Counter()

    @settings(max_examples=1000, deadline=None, suppress_health_check=every)
    @given(st.data())
    def each(data: st.DataObject) -> None:
        flow = data.draw(flows.flows())
        met.update(flows.traits(flow))
        check(flow)

    each()
    print(met)
    assert all(met[trait] > 50 for trait in ("self loop", "parallel", "slot and event of one name")), met
    assert met["over 40 routines"] > 10, met
