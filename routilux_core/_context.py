"""Which activation runs here: the frame of the worker that called the handler, found through a context variable."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextvars import ContextVar
from threading import get_ident
from typing import TYPE_CHECKING, Any, Protocol

from routilux_core.errors import FlowStateError

if TYPE_CHECKING:
    from routilux_core.routine import Routine


class Frame(Protocol):
    """One worker inside one handler."""

    thread: int
    routine: Routine | None

    @property
    def hub(self) -> object: ...

    @property
    def outer(self) -> Frame | None: ...

    def emit(self, event_name: str, data: dict[str, Any], /) -> None: ...

    def is_cancelled(self) -> bool: ...

    def resource(self, key: tuple[object, str], factory: Callable[[], Any], /) -> Any: ...


CURRENT: ContextVar[Frame | None] = ContextVar("routilux_core_frame", default=None)


def frame_of(routine: Routine) -> Frame | None:
    """Return the frame if a handler of exactly this routine runs in the calling thread, else None.

    The thread is checked too: `asyncio.to_thread` and `copy_context` carry the variable into other threads.
    """
    frame = CURRENT.get()
    if frame is None or frame.routine is not routine or frame.thread != get_ident():
        return None
    return frame


def inside(hub: object) -> bool:
    """Return whether the caller is in a handler that this dispatcher runs, at any depth of the stack."""
    frame = CURRENT.get()
    while frame is not None:
        if frame.hub is hub and frame.thread == get_ident():
            return True
        frame = frame.outer
    return False


def check_outside(hub: object, what: str) -> None:
    """Refuse a call inside a handler of the same flow, where it would wait for itself."""
    if inside(hub):
        raise FlowStateError(
            f"{what} was called in a handler of the same flow, which would wait for itself: "
            "return from the handler, and wait outside"
        )


def has_gil() -> bool:
    """Return whether one thread at a time runs Python code, so that others see its plain steps in their order."""
    return getattr(sys, "_is_gil_enabled", lambda: True)()


def in_greenlet() -> bool:
    """Return whether the caller runs in a greenlet, which may share its thread with others."""
    greenlet = sys.modules.get("greenlet")
    return greenlet is not None and greenlet.getcurrent().parent is not None
