"""Which activation runs here: the frame of the worker that called the handler, found through a context variable."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from threading import get_ident
from typing import Any, Protocol

from routilux_core._routines.attributes import owner_of
from routilux_core.errors import FlowStateError


class Ending(Protocol):
    """The end of a job, and the frames in which somebody waits for it."""

    waiters: list[Frame]


class Awaited(Protocol):
    """A job."""

    @property
    def job_id(self) -> str: ...
    @property
    def ending(self) -> Ending: ...


class Frame(Protocol):
    """One worker inside one handler."""

    thread: int

    @property
    def routine(self) -> object: ...  # None outside a handler
    @property
    def engine(self) -> object: ...

    @property
    def outer(self) -> Frame | None: ...
    @property
    def at(self) -> Awaited | None: ...

    def emit(self, event_name: str, data: dict[str, Any], /) -> None: ...

    def is_cancelled(self) -> bool: ...

    def call_id(self) -> tuple[str, int, int]: ...  # job, number, attempt

    def resource(self, key: tuple[object, str], factory: Callable[[], Any], /) -> Any: ...

    def drop(self, key: tuple[object, str], /) -> None: ...


CURRENT: ContextVar[Frame | None] = ContextVar("routilux_core_frame", default=None)


def frame_of(routine: object) -> Frame | None:
    """Return the frame if a handler of exactly this routine runs in the calling thread, else None.

    The thread is checked too: `asyncio.to_thread` and `copy_context` carry the variable into other threads.
    """
    frame = CURRENT.get()
    if frame is None or frame.routine is not routine or frame.thread != get_ident():
        return None
    return frame


def here() -> Frame | None:
    """Return the frame of the handler that runs in this thread, or of what tells listeners; None outside of both."""
    frame = CURRENT.get()
    return frame if frame is not None and frame.thread == get_ident() else None


def inside(engine: object) -> bool:
    """Return whether the caller is in a handler that this engine runs, or in a job for which such a one waits."""
    return any(frame.engine is engine for frame in _held_up())


def _held_up() -> Iterator[Frame]:
    """Yield the frames that can't go on before the caller does: on its stack, and of those who wait for their jobs."""
    found: set[int] = set()
    starts = [(CURRENT.get(), get_ident())]
    while starts:
        frame, thread = starts.pop()
        while frame is not None:
            if frame.thread == thread and id(frame) not in found:
                found.add(id(frame))
                yield frame
                if frame.at is not None:
                    starts += [(each, each.thread) for each in frame.at.ending.waiters.copy()]
            frame = frame.outer


def check_outside(engine: object, what: str) -> None:
    """Refuse a call inside a handler of the same flow, where it would wait for itself: also through other flows."""
    found = next((frame for frame in _held_up() if frame.engine is engine), None)
    if found is None:
        return
    if found.thread == get_ident():
        raise FlowStateError(
            f"{what} was called in a handler of the same flow, which would wait for itself: "
            "return from the handler, and wait outside"
        )
    frame = here()
    mine = frame.at.job_id if frame is not None and frame.at is not None else "this handler"
    owner = owner_of(found.routine) if found.routine is not None else None
    name = f"routine {owner[1]!r} of flow {owner[0]!r}" if owner else "a tracking hook of the same flow"
    raise FlowStateError(
        f"{what} was called in job {mine}, for whose end {name} waits, perhaps through others: in such a ring each "
        "would wait for the next; return from the handler, and wait outside"
    )


def has_gil() -> bool:
    """Return whether one thread at a time runs Python code, so that others see its plain steps in their order."""
    return getattr(sys, "_is_gil_enabled", lambda: True)()


def in_greenlet() -> bool:
    """Return whether the caller runs in a greenlet, which may share its thread with others."""
    greenlet = sys.modules.get("greenlet")
    return greenlet is not None and greenlet.getcurrent().parent is not None
