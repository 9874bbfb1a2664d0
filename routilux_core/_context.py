"""Which activation runs here: the frame of the worker that called the handler, found through a context variable."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from threading import get_ident
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from routilux_core.routine import Routine


class Frame(Protocol):
    """One worker inside one handler."""

    thread: int
    routine: Routine | None

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
