"""Fixtures for every test: the strategies that behaviour has to be the same under, and a watch on threads."""

from __future__ import annotations

import faulthandler
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from time import monotonic, sleep
from typing import Any

import pytest

from routilux_core import Flow

STRATEGIES: dict[str, dict[str, Any]] = {
    "sequential": {"execution_strategy": "sequential"},
    "concurrent": {"execution_strategy": "concurrent", "max_workers": 4},
}

# What a thread may still need to end after `shutdown` has returned; a thread that stays fails the test after it.
SECONDS_TO_END = 5.0

SECONDS_TO_EXIT = 60.0


def pytest_unconfigure() -> None:
    """End the interpreter, with all stacks and a code that is not 0, if a thread that is left keeps it alive."""
    faulthandler.dump_traceback_later(SECONDS_TO_EXIT, exit=True)


@pytest.fixture(params=sorted(STRATEGIES))
def strategy(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The keywords that make a `Flow` run under one strategy; a test that asks for it runs under each of them."""
    return dict(STRATEGIES[request.param])


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    """Fail a test that leaves a worker, or any thread that would keep the interpreter alive."""
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
