"""One call of a handler without a flow, for a unit test of a routine."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from contextvars import copy_context
from threading import get_ident
from typing import Any, NamedTuple

from routilux_core._routines.frame import CURRENT
from routilux_core._routines.signature import Payload, bind
from routilux_core._threads.resources import Resources
from routilux_core.errors import UnknownNameError
from routilux_core.ports import ENTRY
from routilux_core.routine import Routine


class Emitted(NamedTuple):
    """What a handler has emitted once: the name of the event, and the data by name."""

    event: str
    data: dict[str, Any]


def call(routine: Routine, slot: str = ENTRY, /, **payload: Any) -> list[Emitted]:
    """Call the handler of a slot as a flow would, in this thread, and return what it emits, in order.

    Without a slot, the routine's `__call__` is called. What the handler raises is raised here. What `per_worker`
    declares is made for this call, and closed after it. An `async def` handler is awaited. The routine is in no flow
    afterwards: it may be called again, and keeps its state.

        assert call(Fetch(url=...), "request", name="Oslo") == [("fetched", {"name": "Oslo", "letters": 4})]
    """
    made = routine.get_slot(slot)
    handler = bind(made.handler, made.signature, f"{type(routine).__name__}, slot {slot!r}")
    frame = _Frame(routine)
    try:
        copy_context().run(frame.run, handler, payload)
    finally:
        frame.close()
    return frame.emitted


class _Frame:
    """Stands for the worker that would call the handler."""

    outer = None
    at = None

    def __init__(self, routine: Routine) -> None:
        self.routine: Routine | None = routine
        self.thread = get_ident()
        self.engine = object()
        self.emitted: list[Emitted] = []
        self._resources = Resources()

    def run(self, handler: Callable[[Payload], Any], payload: Payload) -> None:
        CURRENT.set(self)
        returned = handler(payload)
        if inspect.iscoroutine(returned):
            asyncio.run(returned)

    def emit(self, event_name: str, data: dict[str, Any], /) -> None:
        assert self.routine is not None
        events = self.routine._routilux.events
        if event_name not in events:
            raise UnknownNameError("event", event_name, events, type(self.routine).__name__)
        self.emitted.append(Emitted(event_name, data))

    async def room(self, event_name: str, /) -> None:
        """Return at once: nothing waits for what is emitted."""

    def is_cancelled(self) -> bool:
        return False

    def call_id(self) -> tuple[str, int, int]:
        return "call", 1, 1

    def resource(self, key: tuple[object, str], factory: Callable[[], Any], /) -> Any:
        return self._resources.get(key, factory)

    def drop(self, key: tuple[object, str], /) -> None:
        self._resources.drop(key)

    def close(self) -> None:
        """End the call: whoever emits later is told so."""
        self.routine = None
        self._resources.close_mine()
