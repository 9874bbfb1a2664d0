"""A pytest plugin: write `pytest_plugins = ("routilux_core.testing.fixtures",)` in conftest.py.

    def test_the_report_is_right(flow_runner):
        job = flow_runner(build, "cities", {"names": ["Oslo", "Lima"]})
        assert job.results("report.done") == [{"letters": 8}]

`build(flow)` adds the routines and connects them; the test runs once for each strategy that is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from routilux_core import Flow, JobState
from routilux_core._registry.strategies import BUNDLED, claims

Build = Callable[[Flow], object]


class FlowRunner:
    """Runs flows under one strategy, whose name is `strategy`."""

    def __init__(self, strategy: str) -> None:
        self.strategy = strategy

    def __repr__(self) -> str:
        return f"FlowRunner({self.strategy!r})"

    def __call__(
        self,
        build: Build,
        entry: str,
        params: Mapping[str, Any] | None = None,
        *,
        slot: str | None = None,
        max_workers: int | None = None,
        timeout: float = 60.0,
        raise_for_errors: bool = True,
    ) -> JobState:
        """Make a flow, let `build` fill it, run one job of it, and return the job.

        Its errors are raised; with `raise_for_errors=False` they are left in `job.errors`. After `timeout` seconds the
        job is cancelled, and `JobTimeout` raised.
        """
        with Flow(execution_strategy=self.strategy, max_workers=max_workers) as flow:
            build(flow)
            return flow.run(entry, params, slot=slot, timeout=timeout, raise_for_errors=raise_for_errors)


@pytest.fixture(params=sorted({*BUNDLED, *claims()}))
def flow_runner(request: pytest.FixtureRequest) -> FlowRunner:
    """What runs a flow under one strategy; a test that asks for it runs under each that is installed."""
    return FlowRunner(request.param)
