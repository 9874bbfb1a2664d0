"""A function is enough: routines that call one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import new_class
from typing import Any, overload

from routilux_core._routines.emitting import items_of, send
from routilux_core.errors import DefinitionError, brief
from routilux_core.ports import event, slot
from routilux_core.routine import Routine

Function = Callable[..., Any]

INPUT = "input"  # the slot of a routine that is made of a function
OUT = "out"  # its event


@overload
def as_routine(function: Function, /) -> type[Routine]: ...
@overload
def as_routine(*, stateless: bool = True, **keywords: Any) -> Callable[[Function], type[Routine]]: ...
def as_routine(function: Function | None = None, /, *, stateless: bool = True, **keywords: Any) -> Any:
    """Make a routine class of a function: its parameters are the slot `input`, its value is emitted as `out`.

    A mapping is emitted as the payload, anything else as `value`; of a generator each item is emitted. None that is
    returned emits nothing. The class is stateless: its calls may run at the same time. `concurrency`, `timeout` and the
    other class keywords of a routine can be given.

    >>> from routilux_core.testing import call
    >>> @as_routine(timeout=5.0)
    ... def letters(name: str) -> int:
    ...     return len(name)
    >>> [emitted] = call(letters(), "input", name="Oslo")
    >>> emitted.data
    {'value': 4}
    """

    def make(function: Function) -> type[Routine]:
        check_function(function, "as_routine")
        body = {
            INPUT: slot(emits=OUT)(_with_self(function)),
            OUT: event(),
            "__module__": function.__module__,
            "__qualname__": function.__qualname__,
            "__doc__": function.__doc__,
        }
        return new_class(
            function.__name__,
            (Routine,),
            {"stateless": stateless, **keywords},
            lambda namespace: namespace.update(body),
        )

    return make if function is None else make(function)


def _with_self(function: Function) -> Any:
    """Return a function as a method, which ignores its routine."""

    async def items(self: Routine, *values: Any, **named: Any) -> Any:
        async for item in function(*values, **named):
            yield item

    async def awaited(self: Routine, *values: Any, **named: Any) -> Any:
        return await function(*values, **named)

    def generated(self: Routine, *values: Any, **named: Any) -> Any:
        yield from function(*values, **named)

    def plain(self: Routine, *values: Any, **named: Any) -> Any:
        return function(*values, **named)

    method: Any = plain
    for is_kind, form in (
        (inspect.isasyncgenfunction, items),
        (inspect.iscoroutinefunction, awaited),
        (inspect.isgeneratorfunction, generated),
    ):
        if is_kind(function):
            method = form
    parameters = list(inspect.signature(function).parameters.values())
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    method.__signature__ = inspect.Signature([own, *parameters])
    method.__name__, method.__doc__ = INPUT, function.__doc__
    return method


class FunctionRoutine(Routine, stateless=True):
    """A routine that calls a function: what `Flow.add` makes of one."""

    out = event()

    def __init__(self, function: Function) -> None:
        super().__init__()
        awaits = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
        self.define_slot(INPUT, (_AsyncCaller if awaits else _Caller)(function, self))


class _Caller:
    """The handler of such a routine. It goes to other processes with the function's name, and looks like it."""

    def __init__(self, function: Function, routine: Routine) -> None:
        self.function = function
        self.routine = routine

    def __repr__(self) -> str:
        return f"the function {id_of(self.function)!r}"

    @property
    def why_unsaved(self) -> str:
        """Why no file can hold it, and what can be done."""
        name = id_of(self.function)
        return f"{self!r} is code, which no file holds: write @as_routine above it, and add {name}() instead of {name}"

    def __reduce__(self) -> Any:
        return type(self), (self.function, self.routine)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.function)

    def __call__(self, *values: Any, **named: Any) -> None:
        value = self.function(*values, **named)
        for item in items_of(value, inspect.isgenerator(value)):
            send(self.routine, OUT, item)


class _AsyncCaller(_Caller):
    """The same for an `async def` function, under a strategy that awaits."""

    async def __call__(self, *values: Any, **named: Any) -> None:  # type: ignore[override]
        value = self.function(*values, **named)
        if inspect.isasyncgen(value):
            async for item in value:
                send(self.routine, OUT, item)
            return
        for item in items_of(await value):
            send(self.routine, OUT, item)


def routine_of(function: Function) -> Routine:
    """Return a routine that calls a function: slot `input`, event `out`."""
    check_function(function, "add")
    return FunctionRoutine(function)


def check_function(function: object, what: str) -> None:
    if isinstance(function, type) and issubclass(function, Routine):
        raise DefinitionError(f"{what}({function.__name__}): this is a routine class: give an instance of it")
    if not callable(function):
        raise DefinitionError(f"{what}({brief(function)}): give a function, or a routine")


def id_of(function: Function) -> str:
    """Return the id of a routine that calls a function: its name."""
    name = str(getattr(function, "__name__", type(function).__name__))
    return "function" if name == "<lambda>" else name
