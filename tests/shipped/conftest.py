"""Worker processes import the routines of these tests by name: the parent's path goes along with them."""

import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from routilux_core_plugins.process import ProcessStrategy

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from shipped_strategies import Mortal, Shared, SharedBatches  # noqa: E402

QUICKEST = "spawn" if sys.platform == "win32" else "forkserver"  # the pool's own tests use what is the default
if QUICKEST == "forkserver":
    multiprocessing.set_forkserver_preload(["routilux_core.worker", "shipped_routines"])


@pytest.fixture(scope="session")
def executor() -> Iterator[Executor]:
    """Two worker processes for all tests; they are warm when the first test has them."""
    made = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))
    for future in [made.submit(os.getpid) for _ in range(8)]:
        future.result()
    yield made
    made.shutdown()


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
