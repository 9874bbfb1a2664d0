"""Flows whose handlers share no memory with them, on executors of the standard library and on the bundled pool."""

from concurrent.futures import Executor
from typing import Any

import pytest

from quickest import QUICKEST
from routilux_core_plugins.process import ProcessStrategy
from shipped.strategies import Mortal, Shared, SharedBatches


@pytest.fixture(params=["one by one", "in batches", "streamed", "process"])
def shipped(request: pytest.FixtureRequest, executor: Executor) -> dict[str, Any]:
    """The keywords of a flow whose handlers share no memory with it."""
    strategies = {
        "one by one": lambda: Shared(max_workers=2, executor=executor),
        "in batches": lambda: SharedBatches(max_workers=2, executor=executor),
        "streamed": lambda: Mortal(max_workers=3),
        "process": lambda: ProcessStrategy(max_workers=2, start_method=QUICKEST),
    }
    return {"execution_strategy": strategies[request.param]()}
