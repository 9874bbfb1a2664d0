"""Running something that may hang, and saying where it hangs."""

from __future__ import annotations

import faulthandler
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class Hang(AssertionError):
    """Something did not end in its time; the message has the stacks of all threads."""


def watched(work: Callable[[], T], seconds: float, label: str) -> T:
    """Return what `work` returns, called in a thread of its own; raise Hang with all stacks after `seconds`."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name=f"watched: {label}", daemon=True)
    with tempfile.TemporaryFile("w+") as stacks:
        # By faulthandler's own thread, which needs no GIL: it reports even where this thread can't.
        faulthandler.dump_traceback_later(seconds, file=stacks)
        try:
            thread.start()
            thread.join(seconds + 0.5)
        finally:
            faulthandler.cancel_dump_traceback_later()
        if thread.is_alive():
            stacks.seek(0)
            raise Hang(f"{label} did not end within {seconds:g} s\n{stacks.read()}")
    if errors:
        raise errors[0]
    return results[0]


@contextmanager
def switching_often(seconds: float = 1e-6) -> Iterator[None]:
    """Let threads take turns as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(seconds)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
