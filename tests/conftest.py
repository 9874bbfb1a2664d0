"""Fixtures for every test: the strategies that behaviour has to be the same under, and a watch on threads."""

from __future__ import annotations

import faulthandler
import gc
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from routilux_core import Flow
from shipped.strategies import SharedBatches

pytest.register_assert_rewrite("shipped.same_answers")

STRATEGIES: dict[str, dict[str, Any]] = {
    "sequential": {"execution_strategy": "sequential"},
    "concurrent": {"execution_strategy": "concurrent", "max_workers": 4},
}

IN_PROCESSES = "in-processes"  # handlers share no memory with their flow

# What a thread may still need to end after `shutdown` has returned; a thread that stays fails the test after it.
SECONDS_TO_END = 5.0

SECONDS_TO_EXIT = 60.0


def pytest_unconfigure() -> None:
    """End the interpreter, with all stacks and a code that is not 0, if a thread that is left keeps it alive."""
    faulthandler.dump_traceback_later(SECONDS_TO_EXIT, exit=True)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave a module unread all of whose tests run once, where those are not selected: reading it takes its time."""
    if "not once" not in config.option.markexpr or collection_path.suffix != ".py":
        return None
    return "\npytestmark = pytest.mark.once" in collection_path.read_text("utf-8") or None


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Let the tests of modules that are marked so run on worker processes as well, but for those that say why not."""
    marked = metafunc.definition.get_closest_marker
    if "strategy" in metafunc.fixturenames and marked("in_processes_too") and not marked("in_this_process"):
        everywhere = pytest.mark.parametrize("strategy", [*sorted(STRATEGIES), IN_PROCESSES], indirect=True)
        metafunc.definition.add_marker(everywhere)
    if (rounds := marked("rounds")) is not None:
        # Thousands of tests, which every other run would collect for nothing.
        count = 1 if "not soak" in metafunc.config.option.markexpr else rounds.args[0]
        metafunc.fixturenames.append("round_")
        metafunc.parametrize("round_", range(count))


# The kit's cases that start programs, or wait for workers to die: the same on every interpreter.
COSTLY_CASES = ("routilux_core.testing._loss_cases", "routilux_core.testing._program_cases")


@pytest.hookimpl(tryfirst=True)  # before those are taken out that `-m` does not select
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if getattr(getattr(item, "function", None), "__module__", "") in COSTLY_CASES:
            item.add_marker(pytest.mark.once)


def pytest_collection_finish() -> None:
    """Let the collector of garbage look no more at what is there for the whole session: thousands of tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(params=sorted(STRATEGIES))
def strategy(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The keywords that make a `Flow` run under one strategy; a test that asks for it runs under each of them."""
    if request.param == IN_PROCESSES:
        return {"execution_strategy": SharedBatches(max_workers=2, executor=request.getfixturevalue("executor"))}
    return dict(STRATEGIES[request.param])


@pytest.fixture(scope="session")
def executor() -> Iterator[Executor]:
    """Two worker processes for all tests; they are warm when the first test has them."""
    made = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))
    for future in [made.submit(os.getpid) for _ in range(8)]:
        future.result()
    yield made
    made.shutdown()


@pytest.fixture(autouse=True)
def no_thread_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a worker, or any thread that would keep the interpreter alive."""
    if getattr(request.node, "callspec", None) and request.node.callspec.params.get("strategy") == IN_PROCESSES:
        request.getfixturevalue("executor")  # its threads stay until the session ends
    before = set(threading.enumerate())
    yield
    left = [
        thread
        for thread in threading.enumerate()
        if thread not in before and (not thread.daemon or thread.name.startswith("routilux"))
    ]
    for thread in left:
        _join(thread)
    names = sorted(thread.name for thread in left if thread.is_alive())
    assert not names, f"threads left behind: {', '.join(names)}; shut the flow down, or use the fixture make_flow"


def _join(thread: threading.Thread) -> None:
    """Wait for the end of a thread. One that is just being started is listed already, and can't be joined yet."""
    deadline = monotonic() + SECONDS_TO_END
    while thread.ident is None and thread in threading.enumerate() and monotonic() < deadline:
        sleep(0.001)
    if thread.ident is not None:
        thread.join(SECONDS_TO_END)


@pytest.fixture
def make_flow(no_thread_left: None) -> Iterator[Callable[..., Flow]]:
    """A `Flow` factory; what it made is shut down after the test, before the threads are counted."""
    with ExitStack() as stack:

        def make(*args: Any, **settings: Any) -> Flow:
            flow = Flow(*args, **settings)
            stack.callback(flow.shutdown, timeout=SECONDS_TO_END)
            return flow

        yield make
