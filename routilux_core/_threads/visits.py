"""Who is inside the engine: calls from outside, so that one in the middle of another is known for what it is.

A signal handler runs in the main thread, between any two steps of whatever that thread does. A destructor does so in
any thread. What they call then finds the locks of their own thread held, and things half done.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable
from threading import get_ident
from types import FrameType, TracebackType
from typing import Protocol, Self

from routilux_core._routines.frame import CURRENT


def is_held_here(lock: threading.RLock) -> bool:
    """Return whether the calling thread has a lock."""
    held: bool = lock._is_owned()  # type: ignore[attr-defined]  # no public name, but `threading.Condition` asks it, too
    return held


class Visited(Protocol):
    """What is needed of the engine."""

    visits: dict[int, Visit]
    hurt: bool
    postponed: deque[Callable[[], object]]

    def mend(self) -> None: ...
    def catch_up(self) -> None: ...


class Visit:
    """One call into the engine, while it lasts: `with Visit(engine):`. What an exception leaves behind is mended."""

    __slots__ = ("_engine", "_frame", "_here", "_outer")

    def __init__(self, engine: Visited) -> None:
        self._engine = engine
        self._here = CURRENT.get()
        self._outer: Visit | None = None
        self._frame: FrameType | None = None

    def __enter__(self) -> Self:
        if self._engine.hurt:
            self._engine.mend()
        if self._engine.postponed:
            self._engine.catch_up()
        me = get_ident()
        self._frame, self._outer = sys._getframe(1), self._engine.visits.get(me)
        self._engine.visits[me] = self
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self._engine.hurt = True
        self._frame = None
        if self._outer is None:
            self._engine.visits.pop(get_ident(), None)
        else:
            self._engine.visits[get_ident()] = self._outer
        if error is not None:
            self._engine.mend()

    def is_below(self) -> bool:
        """Return whether the caller is called in the middle of this, and not by a handler or hook that it called."""
        if self._here is not CURRENT.get():
            return False
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame is not self._frame:
            frame = frame.f_back
        return frame is not None  # else an interrupt kept it from saying that it has ended
