"""What handlers return. Nothing uses it, which is said once; work that has yet to be done lets the call fail."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Coroutine, Generator
from types import GeneratorType

from routilux_core.errors import DefinitionError, is_interrupt

# Who calls a handler looks whether it returned None, then whether it returned one of these, and asks here only then.
HARMLESS = frozenset((bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset))


def is_awaitable(returned: object) -> bool:
    """Return whether somebody has to await it; going by its type alone, so nothing of it is run."""
    if type(returned) is GeneratorType:
        return bool(returned.gi_code.co_flags & inspect.CO_ITERABLE_COROUTINE)
    return issubclass(type(returned), Awaitable)


def check_returned(returned: object, routine_id: str, slot: str, told: set[str]) -> None:
    """Refuse what nobody awaits, or asks for its items, and close it; warn of anything else, once for each slot.

    `told` has the slots of this routine for which that was done.
    """
    kind = type(returned)
    if is_awaitable(returned):
        what = (
            "which nobody awaits; make the handler itself an `async def`, under a strategy that declares coroutines "
            "(execution_strategy='asyncio'), "
            "or let it wait for what it calls: asyncio.run(...)"
        )
    elif issubclass(kind, (Generator, AsyncGenerator)):
        what = "which nobody asks for its items; emit each item with self.emit instead of yielding it"
    else:
        if slot not in told:
            told.add(slot)
            _warn(returned, routine_id, slot)
        return
    _close(returned)
    raise DefinitionError(
        f"routine {routine_id!r}, slot {slot!r}: the handler returned an object of type {kind.__name__!r}, {what}"
    )


def _warn(returned: object, routine_id: str, slot: str) -> None:
    from routilux_core._text.log import log

    log.warning(
        "routine %r, slot %r: the handler returned a value of type %r, which nothing uses: emit it with "
        "self.emit(...), or declare the slot with @slot(emits='...')",
        *(routine_id, slot, type(returned).__name__),
    )


def _close(returned: object) -> None:
    """Close what was never begun, so that Python does not warn of it as well."""
    if issubclass(type(returned), (Coroutine, Generator)):
        try:
            returned.close()  # type: ignore[attr-defined]
        except BaseException as error:  # it was begun, and does as it likes
            if is_interrupt(error):
                raise
