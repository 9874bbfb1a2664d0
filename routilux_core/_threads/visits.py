"""Who is inside the engine: calls from outside, so that one in the middle of another is known for what it is.

A signal handler runs in the main thread, between any two steps of whatever that thread does. A destructor does so in
any thread. What they call then finds the locks of their own thread held, and things half done.
"""

from __future__ import annotations

import sys
import threading
from _thread import start_new_thread
from collections import deque
from collections.abc import Callable
from threading import get_ident
from types import FrameType, TracebackType
from typing import Protocol, Self

from routilux_core._routines.frame import CURRENT
from routilux_core._threads.guard import is_held_here
from routilux_core.errors import FlowStateError


class Visited(Protocol):
    """What is needed of the engine."""

    visits: Visits
    hurt: bool

    def mend(self) -> None: ...


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
        visits = self._engine.visits
        if visits.postponed:
            visits.catch_up()
        me = get_ident()
        self._frame, self._outer = sys._getframe(1), visits.by_thread.get(me)
        visits.by_thread[me] = self
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self._engine.hurt = True
        self._frame = None
        if self._outer is None:
            self._engine.visits.by_thread.pop(get_ident(), None)
        else:
            self._engine.visits.by_thread[get_ident()] = self._outer
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


class Visits:
    """The calls that threads are in, of one flow, and those that were put off."""

    __slots__ = ("_lock", "by_thread", "postponed", "postponing")

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self.by_thread: dict[int, Visit] = {}  # the newest of each
        self.postponed: deque[Callable[[], object]] = deque()
        self.postponing = threading.RLock()  # by one thread at a time, so that they keep their order

    def is_interrupted(self) -> bool:
        """Return whether the calling thread is in the middle of a step, and a signal handler, say, has called."""
        if is_held_here(self._lock):
            return True
        visit = self.by_thread.get(get_ident())
        return visit is not None and visit.is_below()

    def check_uninterrupted(self, what: str) -> None:
        """Refuse a call that would wait for the step in whose middle it comes."""
        if self.is_interrupted():
            raise FlowStateError(
                f"{what} was called in the middle of the engine's own work in this thread, by a signal handler "
                "perhaps, and would wait for itself: call cancel(), which does not wait, or set a flag and wait outside"
            )

    def put_off(self, call: Callable[..., object], *arguments: object) -> None:
        """Make a call in another thread, which can wait until this one is through with its step.

        Not by way of `threading`: starting a thread may be what was interrupted.
        """
        self.postponed.append(lambda: call(*arguments))
        start_new_thread(self.catch_up, ())

    def catch_up(self) -> None:
        """Make the calls that were put off, in their order. Not in the middle of a step."""
        if is_held_here(self.postponing):
            return  # it is one of them that looks whether there are others
        with self.postponing:
            while self.postponed:
                self.postponed.popleft()()
