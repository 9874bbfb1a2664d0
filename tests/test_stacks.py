"""Where another thread is, by its frames and by the report of `faulthandler`."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from types import FrameType

import pytest

from routilux_core._local import begun, stacks

SECONDS = 20.0


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


def ident(waiter: Waiter) -> int:
    assert waiter.thread.ident is not None
    return waiter.thread.ident


def wait_for(waiter: Waiter) -> list[str]:
    """Return the functions of this file that the thread is in, once it waits in the last."""
    names: list[str] = []
    while "wait" not in names:
        names = [place.function for place in stacks.places_of(ident(waiter)) if place.file == __file__]
    return names


def test_the_places_of_a_thread_are_those_of_its_calls(waiter: Waiter) -> None:
    assert wait_for(waiter) == ["wait", "enter"]
    lines = [place.line for place in stacks.places_of(ident(waiter)) if place.file == __file__]
    first = Waiter.wait.__code__.co_firstlineno, Waiter.enter.__code__.co_firstlineno
    assert lines == [first[0] + 1, first[1] + 2]


@pytest.mark.parametrize("by_frames", {stacks.FRAMES_ARE_SAFE, False})
def test_a_stack_reads_like_a_traceback(waiter: Waiter, monkeypatch: pytest.MonkeyPatch, by_frames: bool) -> None:
    wait_for(waiter)
    monkeypatch.setattr(stacks, "FRAMES_ARE_SAFE", by_frames)
    stack = stacks.stack_of(ident(waiter))
    assert "in enter\n    self.wait()\n" in stack
    assert stack.index("in enter") < stack.index("in wait\n    assert self.release.wait(SECONDS)")


def test_a_thread_that_is_gone_is_nowhere() -> None:
    assert stacks.places_of(1) == []
    assert stacks.stack_of(1) == ""


def test_whether_a_function_was_entered_is_told_by_its_line(waiter: Waiter) -> None:
    wait_for(waiter)

    def entered(function: object) -> bool | None:
        code = function.__code__  # type: ignore[attr-defined]
        return begun._is_listed(ident(waiter), waiter.thread.run.__code__, code)

    assert (entered(Waiter.wait), entered(Waiter.enter)) == (True, True)
    assert entered(Waiter.__init__) is False  # the search ends at what is taken for the loop here


def test_a_tracer_at_the_entry_of_a_function_is_not_taken_for_its_body() -> None:
    at_entry, go_on = threading.Event(), threading.Event()

    def handler() -> None:
        go_on.clear()

    def stop_at_entry(frame: FrameType, event: str, _: object) -> None:
        if frame.f_code is handler.__code__ and event == "call":
            at_entry.set()
            go_on.wait(SECONDS)

    def traced() -> None:
        sys.settrace(stop_at_entry)
        handler()

    thread = threading.Thread(target=traced)
    thread.start()
    try:
        assert at_entry.wait(SECONDS)
        assert thread.ident is not None
        assert begun._is_listed(thread.ident, thread.run.__code__, handler.__code__) is False
    finally:
        go_on.set()
        thread.join(SECONDS)


def test_where_a_function_is_one_line_it_cannot_be_told() -> None:
    gate = threading.Lock()
    gate.acquire()
    wait = lambda: gate.acquire()  # noqa: E731
    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    try:
        assert thread.ident is not None
        while not any(place.function == "<lambda>" for place in stacks.places_of(thread.ident)):
            pass
        assert begun._is_listed(thread.ident, thread.run.__code__, wait.__code__) is None
    finally:
        gate.release()
        thread.join(SECONDS)
