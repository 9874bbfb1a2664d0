"""Collecting what keeps a flow or a job from being saved or loaded, each with its path."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from routilux_core._text.printable import printable
from routilux_core.errors import Problem, SerializationError

MOST = 100  # problems that are told; a hostile file could have millions

# Where a value is, as links to what it is in: (the path of that, a key). A step costs one tuple, its text nothing.
Path = tuple[Any, ...]
ROOT: Path = ()


class Enough(Exception):
    """So many problems were found that no more are looked for."""


class Problems:
    """The problems found so far."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def add(self, path: Path, message: str) -> None:
        """Note a problem; raises `Enough` when the rest would tell nobody anything more."""
        self.found.append(Problem(text_of(path), printable(message)))
        if len(self.found) >= MOST:
            raise Enough


@contextmanager
def reported(what: str) -> Iterator[Problems]:
    """Give a collector, and raise one `SerializationError` of everything in it at the end."""
    problems = Problems()
    try:
        yield problems
    except Enough:
        problems.found.append(Problem("", f"there may be more: the search stopped after {MOST} problems"))
    except RecursionError:
        problems.found.append(Problem("", "it is nested too deeply"))
    if problems.found:
        raise SerializationError(what, problems.found)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep the garbage collector from looking through what is just being made, which is most of what that costs."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def text_of(path: Path) -> str:
    """Return a path as one would write it: `routines['fetch'].fields.rows[2]`."""
    keys: list[Any] = []
    while path:
        path, key = path
        keys.append(key)
    return "".join(_step(key) for key in reversed(keys)).removeprefix(".")


class Name(str):
    """A key that is one of the format's or of a class's, written with a dot."""

    __slots__ = ()


def _step(key: Any) -> str:
    if isinstance(key, Name):
        return f".{printable(key)}"
    text = repr(key)
    return f"[{text}]" if len(text) <= 100 else f"[{text[:100]}...]"
