"""The end of a job, told once: to listeners first, then to those who wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from threading import get_ident
from typing import Any, Protocol

from routilux_core._engine.merging import SlotMemory
from routilux_core._routines.frame import CURRENT, Frame
from routilux_core._threads.aside import Aside
from routilux_core._threads.completion import Completion

ASIDE = 0  # no thread of ours tells of the end


class Ending:
    """Who waits for the end, and how far the telling is."""

    __slots__ = ("at_rest", "done", "finisher", "told", "waiters")

    def __init__(self) -> None:
        self.done = Completion()
        self.waiters: list[Frame] = []  # handlers, of other flows, that wait for it
        self.finisher: int | None = None  # the thread that tells of the end
        self.told = False  # listeners were told of the end, or are just being told
        self.at_rest: Completion | None = None  # while a caller works on the job: set when it ends or is paused


class EngineRole(Protocol):
    """What is needed of the engine."""

    aside: Aside
    deferred: deque[Callable[[], None]]
    ending: set[Any]

    @property
    def acquire(self) -> Callable[[], bool]: ...
    @property
    def release(self) -> Callable[[], None]: ...
    def run_deferred(self) -> None: ...
    def close_books(self, run: Any, /) -> bool: ...
    def forget_end(self, run: Any, /) -> Callable[[], None] | None: ...


class Ended(Protocol):
    """What is needed of a run."""

    ended: bool
    ending: Ending
    listeners: Any
    slots: SlotMemory

    @property
    def book(self) -> Any: ...
    @property
    def engine(self) -> EngineRole: ...
    def end_if_idle(self) -> bool: ...


def announce_end(run: Ended) -> None:
    """Tell those who wait that the job has ended, if it has. Outside the lock.

    One thread does it, once; what interrupts it leaves the rest to `announce_end_again`.
    """
    # A look without the lock, which spares most callers it: `close_books` asks again with it, and decides.
    if not run.ended or run.ending.finisher is not None:
        return
    if run.book is not None and not run.book.end():  # its record is on disk before anybody is told
        return
    if not run.engine.close_books(run):
        return  # who ended it, or ends it just now, is here, too
    run.slots.merged.clear()
    if run.listeners is None or getattr(CURRENT.get(), "in_caller", False):
        _tell(run)
    else:  # they may take their time, and no worker is to wait for them
        run.engine.aside.do(partial(_tell, run))
        run.ending.finisher = ASIDE


def announce_end_again(run: Ended) -> None:
    """Go on telling those who wait, if this thread was interrupted while it did so. Outside the lock."""
    # Without the lock: where this thread is the one that tells, no other writes here.
    if run.ending.finisher == get_ident() and (not run.ending.done.is_set() or run in run.engine.ending):
        run.ending.finisher = None
    announce_end(run)


def _tell(run: Ended) -> None:
    """Tell listeners, and then those who wait."""
    try:
        if run.listeners is not None and not run.ending.told:
            run.ending.told = True
            run.listeners.job_finished()
    finally:  # an exception that a signal handler raises
        run.listeners = None
        run.ending.done.set()
        behind = run.engine.forget_end(run)
    if behind is not None:
        behind()


def nudge(run: Ended) -> None:
    """Let those who wait for the job look around."""
    run.ending.done.nudge()
    if run.ending.at_rest is not None:
        run.ending.at_rest.nudge()
