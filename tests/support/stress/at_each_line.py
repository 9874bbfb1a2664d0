"""Interrupts the engine in the calling thread at a given line that it executes: what a signal may do, and more often.

A signal handler runs between some steps of a line only. Here it comes before each line of the engine, in turn.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import routilux_core
import routilux_core_plugins

HOMES = tuple(str(Path(package.__file__ or "").parent) for package in (routilux_core, routilux_core_plugins))


class Interruption:
    """Calls something before the `at`-th line of the engine that this thread executes, and counts them.

    Where functions are named, only their lines count.
    """

    def __init__(self, at: int, what: Callable[[], Any], *functions: Callable[..., Any]) -> None:
        self.at, self.what = at, what
        self.codes = {each.__code__ for each in functions}
        self.lines = 0
        self.where = "nowhere"

    def __call__(self, work: Callable[[], Any]) -> None:
        """Do some work under it; what is raised is the caller's."""
        self.begin()
        try:
            work()
        finally:
            sys.settrace(None)

    def begin(self) -> None:
        """Count lines from here on, in what is called; who calls this ends the tracing."""
        sys.settrace(self._on_call)

    def _on_call(self, frame: FrameType, event: str, argument: object) -> Any:
        code = frame.f_code
        counts = code in self.codes if self.codes else code.co_filename.startswith(HOMES)
        return self._on_line if counts else None

    def _on_line(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "line" and not _cannot_be(frame):
            self.lines += 1
            if self.lines == self.at:
                sys.settrace(None)
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} in {frame.f_code.co_name}"
                self.what()
        return self._on_line


def _cannot_be(frame: FrameType) -> bool:
    """Return whether no signal can come where Python says that a line begins.

    A `with` is come to once more at its end, before the exit; a `try` is no step, and may be outside of a `with`.
    """
    line, before = (linecache.getline(frame.f_code.co_filename, frame.f_lineno - back).strip() for back in (0, 1))
    return line.startswith("with ") or (line == "try:" and "acquire" not in before)
