"""Where another thread is, by its frames and by the report of `faulthandler`."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from routilux_core._local import deadlines
from routilux_core._routines.frame import has_gil

SECONDS = 20.0

pytestmark = pytest.mark.skipif(not has_gil(), reason="where a thread is can't be told without the GIL")


class Waiter:
    """A thread that waits in `wait`, which `enter` has called."""

    def __init__(self) -> None:
        self.there, self.release = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.enter, daemon=True)

    def enter(self) -> None:
        self.there.set()
        self.wait()

    def wait(self) -> None:
        assert self.release.wait(SECONDS)


@pytest.fixture
def waiter() -> Iterator[Waiter]:
    waiter = Waiter()
    waiter.thread.start()
    assert waiter.there.wait(SECONDS)
    yield waiter
    waiter.release.set()
    waiter.thread.join(SECONDS)


@pytest.fixture(params=sorted({deadlines.FRAMES_ARE_SAFE, False}))
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "FRAMES_ARE_SAFE", request.param)


@pytest.mark.usefixtures("_way")
def test_a_stack_reads_like_a_traceback(waiter: Waiter) -> None:
    stack = ""
    while "in wait\n    assert self.release.wait(SECONDS)" not in stack:  # it is on its way there
        assert waiter.thread.ident is not None
        stack = deadlines.stack_of(waiter.thread.ident)
    line = Waiter.enter.__code__.co_firstlineno + 2
    assert f'File "{__file__}", line {line}, in enter\n    self.wait()\n' in stack
    assert stack.index("in enter") < stack.index("in wait")


@pytest.mark.usefixtures("_way")
def test_a_thread_that_is_gone_is_nowhere() -> None:
    assert deadlines.stack_of(1) == ""
