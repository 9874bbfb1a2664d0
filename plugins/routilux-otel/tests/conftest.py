"""Flows whose handlers worker processes can import."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from otel_routines import End, Source, Square
from telemetry import STRATEGIES

from routilux_core import Flow


@pytest.fixture(params=STRATEGIES)
def strategy(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The keywords of a flow under one strategy."""
    return dict(STRATEGIES[request.param])


@pytest.fixture
def make_flow() -> Iterator[Callable[..., Flow]]:
    """A factory of flows, which are shut down after the test."""
    with ExitStack() as stack:

        def make(**settings: Any) -> Flow:
            flow = Flow("traced", **settings)
            stack.callback(flow.shutdown)
            flow.add_routine(Source(), "source")
            flow.add_routine(Square(), "square")
            flow.add_routine(End(), "end")
            flow.connect("source", "item", "square", "n")
            flow.connect("square", "done", "end", "n")
            return flow

        yield make
