"""Handlers whose values are emitted: what they return, or each item that they yield."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any

from routilux_core._routines.attributes import INTERNALS
from routilux_core._routines.frame import frame_of
from routilux_core.errors import PayloadError, brief

Function = Callable[..., Any]

VALUE = "value"  # the parameter for what is no mapping, where the event declares none


def emitting(function: Function, event_name: str) -> Function:
    """Return a method that calls another one and emits its value, or each item where that is a generator.

    None that is returned emits nothing. Outside a flow, in a test of the method, it returns what the other returns.
    """
    if inspect.isasyncgenfunction(function):
        return _each_awaited(function, event_name)
    if inspect.iscoroutinefunction(function):
        return _awaited(function, event_name)
    yields = inspect.isgeneratorfunction(function)

    @wraps(function)
    def handler(self: Any, *values: Any, **named: Any) -> Any:
        value = function(self, *values, **named)
        if frame_of(self) is None:
            return value
        for item in items_of(value, yields):
            send(self, event_name, item)
        return None

    return handler


def _awaited(function: Function, event_name: str) -> Function:
    @wraps(function)
    async def handler(self: Any, *values: Any, **named: Any) -> Any:
        value = await function(self, *values, **named)
        if frame_of(self) is None:
            return value
        for item in items_of(value):
            send(self, event_name, item)
        return None

    return handler


def _each_awaited(function: Function, event_name: str) -> Function:
    @wraps(function)
    async def handler(self: Any, *values: Any, **named: Any) -> None:
        async for item in function(self, *values, **named):
            send(self, event_name, item)

    return handler


def items_of(value: Any, yields: bool = False) -> Iterable[Any]:
    """Return what is emitted of a value: each item where it yields, itself otherwise, and nothing of None."""
    if yields:
        return value  # type: ignore[no-any-return]
    return () if value is None else (value,)


def send(routine: Any, event_name: str, value: Any) -> None:
    """Emit a value: a mapping as the payload, anything else under the only parameter of the event, or as `value`."""
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise PayloadError(
                    f"{type(routine).__name__}: what is emitted as {event_name!r} has names that are no strings: "
                    f"{brief(name)}"
                )
        routine.emit(event_name, **value)
        return
    declared = getattr(routine, INTERNALS).events[event_name].output_params or (VALUE,)
    if len(declared) != 1:
        raise PayloadError(
            f"{type(routine).__name__}: its event {event_name!r} declares {', '.join(map(repr, declared))}, and the "
            f"handler returned {brief(value)}: return a mapping of names to values, or declare one parameter, as in "
            f"{event_name} = event('value')"
        )
    routine.emit(event_name, **{declared[0]: value})
