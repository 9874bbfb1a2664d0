"""What a routine class declares: slots, events, and what each worker makes for itself."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from functools import partial
from inspect import CO_VARARGS, CO_VARKEYWORDS
from types import FunctionType, MethodType
from typing import Any, NamedTuple, TypeVar, overload

from routilux_core._routines.attributes import INTERNALS
from routilux_core._routines.emitting import emitting
from routilux_core._routines.frame import frame_of
from routilux_core._routines.merge_strategies import MERGES, merging_of
from routilux_core._routines.merge_strategies import Merge as Merge
from routilux_core._routines.methods import bound
from routilux_core._routines.signature import Handler, Signature, bind
from routilux_core.errors import ConfigurationError, DefinitionError, EmitError, UnknownNameError

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
MERGE_STRATEGIES = tuple(MERGES)
STATELESS_MERGES = " or ".join(repr(name) for name, each in MERGES.items() if not each.keeps_state)
ENTRY = "__call__"  # the name of the slot that a routine's own __call__ is


class Slot:
    """A named input of a routine: its handler, and how arriving data is merged.

    `method` is the name under which the routine's class has the handler; None where it is other code.
    """

    __slots__ = ("_handler", "merge_strategy", "method", "name", "signature")

    def __init__(
        self, name: str, handler: Handler, merge_strategy: Merge, signature: Signature, method: str | None
    ) -> None:
        self.name = name
        self.method: str | None
        self.complete(handler, merge_strategy, signature, method)

    @classmethod
    def named(cls, name: str) -> Slot:
        """Return a slot to be completed: what a routine holds may refer to it before its handler is there."""
        made = cls.__new__(cls)
        made.name = name
        return made

    def complete(self, handler: Handler, merge_strategy: Merge, signature: Signature, method: str | None) -> None:
        """Give the slot what it was made without."""
        self._handler, self.merge_strategy, self.signature, self.method = handler, merge_strategy, signature, method

    @property
    def handler(self) -> Handler:
        return self._handler

    @handler.setter
    def handler(self, handler: Handler) -> None:
        self._handler = handler
        self.method = None  # until somebody has looked for it

    @property
    def gathers(self) -> bool:
        """Whether what arrives waits for the end of the job."""
        return merging_of(self.merge_strategy).gathers

    def bind(self, routine: object) -> None:
        """Let the slot call the method of this routine, if it calls one."""
        if self.method is not None:
            self._handler = bound(routine, self.method)

    def receive(self, data: dict[str, Any]) -> Any:
        """Call the handler with this payload, without a flow, and return what it returns; nothing is merged."""
        return bind(self.handler, self.signature, f"slot {self.name!r}")(dict(data))

    def __getstate__(self) -> tuple[Any, ...]:
        handler: Any = None if self.method else self._handler  # a method is found again by its name: see `bind`
        if isinstance(handler, MethodType):
            handler = (
                handler.__func__,
                handler.__self__,
            )  # pickle would take what is called so, perhaps another
        return self.name, handler, self.merge_strategy, self.signature, self.method

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.name, handler, self.merge_strategy, self.signature, self.method = state
        self._handler = MethodType(*handler) if isinstance(handler, tuple) else handler

    def __repr__(self) -> str:
        return f"Slot({self.name!r}, merge_strategy={self.merge_strategy!r})"


class Event:
    """A named output of a routine; `output_params` are documentation."""

    def __init__(self, name: str = "", output_params: tuple[str, ...] = ()) -> None:
        self.name = name
        self.output_params = output_params

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"Event({self.name!r}, {list(self.output_params)!r})"


def event(*output_params: str) -> Event:
    """Declare an output of a routine class: `fetched = event("name", "letters")`.

    The names of what is emitted are documentation; `Flow.connect` warns of a mapping that renames another one.
    """
    return Event(output_params=output_params)


class SlotMark(NamedTuple):
    """What `@slot` leaves on a method."""

    merge_strategy: Merge
    whole: bool = False
    emits: str | None = None  # the event that takes what the handler returns


class Declared(NamedTuple):
    """The slots and events that a class declares, its bases' included; worked out once for each class."""

    slots: dict[str, tuple[Merge, Signature]]
    events: dict[str, Event]
    fields: object = None  # as attrs has noted them on the class: other ones have been made since by a decorator

    @classmethod
    def of(cls, routine_class: type, stateless: bool) -> Declared:
        """Look through a routine class."""
        marks: dict[str, SlotMark] = {}
        events: dict[str, Event] = {}
        for base in reversed(routine_class.__mro__):
            for name, value in vars(base).items():
                mark = getattr(value, "__routilux_slot__", None)
                if isinstance(mark, SlotMark):
                    marks[name] = mark
                elif isinstance(value, Event):
                    events[name] = value
                elif value is event or value is slot or value is per_worker:
                    called = f"{routine_class.__name__}.{name} is the function {value.__name__!r} itself"
                    raise DefinitionError(f"{called}: call it, as in {name} = {value.__name__}(...)")
        _refuse_fields(routine_class, marks)
        _check_emitted(routine_class, marks, events)
        if any(ENTRY in vars(base) for base in routine_class.__mro__):
            marks.setdefault(ENTRY, SlotMark("override"))
        return cls(
            {
                name: (mark.merge_strategy, _declared(routine_class, name, mark, stateless))
                for name, mark in marks.items()
            },
            events,
            vars(routine_class)["__attrs_attrs__"],
        )


def _check_emitted(routine_class: type, marks: dict[str, SlotMark], events: dict[str, Event]) -> None:
    for name, mark in marks.items():
        if mark.emits is not None and mark.emits not in events:
            where = f"{routine_class.__name__}, slot {name!r}: declare it, as in {mark.emits} = event('value')"
            raise UnknownNameError("event", mark.emits, events, where)


def _refuse_fields(routine_class: type, marks: dict[str, SlotMark]) -> None:
    for each in vars(routine_class)["__attrs_attrs__"]:
        if each.name in marks:
            raise DefinitionError(
                f"class {routine_class.__name__}: the field {each.name!r} would hide the handler of the slot of "
                "that name; choose another name"
            )


def _declared(routine_class: type, name: str, mark: SlotMark, stateless: bool) -> Signature:
    where = routine_class.__name__
    check_slot(name, mark.merge_strategy, stateless, where)
    owner = next(base for base in routine_class.__mro__ if name in vars(base))
    found = vars(owner)[name]
    _check_method(owner, found, mark, f"{where}, slot {name!r}")
    bound = found.__get__(object(), routine_class) if hasattr(found, "__get__") else found
    return Signature.of(bound, f"{where}, slot {name!r}", mark.whole)


def _check_method(owner: type, found: Any, mark: SlotMark, where: str) -> None:
    """Refuse a method without `self`, for which the routine would be its first parameter, or with a bare `*args`."""
    if not isinstance(found, FunctionType) or found.__qualname__ != f"{owner.__qualname__}.{found.__name__}":
        return  # a function from elsewhere may name its parameters as it likes
    code = (inspect.unwrap(found) if mark.emits else found).__code__
    first = code.co_varnames[0] if code.co_argcount else ""
    takes_any = code.co_flags & CO_VARARGS and not code.co_argcount
    if code.co_flags & CO_VARARGS and not code.co_flags & CO_VARKEYWORDS and code.co_argcount:
        unnamed = code.co_varnames[code.co_argcount + code.co_kwonlyargcount]
        raise DefinitionError(
            f"{where}: the values of a payload have names, so nothing would arrive in *{unnamed}; name the parameters, "
            "or take everything with **values or @slot(whole=True)"
        )
    if first != "self" and not first.startswith("_") and not takes_any:
        rest = ", ".join(code.co_varnames[: code.co_argcount])
        raise DefinitionError(
            f"{where}: the method has no self; write def {found.__name__}(self{rest and f', {rest}'})"
        )


def check_slot(name: str, merge_strategy: Merge, stateless: bool, where: str) -> None:
    """Refuse a merge strategy that does not exist, or that a stateless routine can't have."""
    check_merge_strategy(merge_strategy, f"{where}, slot {name!r}")
    if stateless and merging_of(merge_strategy).keeps_state:
        raise DefinitionError(
            f"{where}, slot {name!r}: a stateless routine keeps nothing between calls, so its slots are "
            f"{STATELESS_MERGES}, not {merge_strategy!r}; drop stateless=True"
        )


@overload
def slot(handler: F, /) -> F: ...
@overload
def slot(*, merge_strategy: Merge = "override", whole: bool = False, emits: str | None = None) -> Callable[[F], F]: ...
def slot(
    handler: F | None = None,
    /,
    *,
    merge_strategy: Merge = "override",
    whole: bool = False,
    emits: str | None = None,
) -> F | Callable[[F], F]:
    """Declare a method to be the handler of an input slot of the same name.

    Each parameter gets the value of the key of its name. With `whole=True` the only parameter gets the whole payload,
    a dict of its own. With `emits="done"` what the handler returns is emitted as the event `done`, and each item where
    it yields: a mapping as the payload, anything else under the event's only parameter. None that is returned emits
    nothing. A handler of any other slot emits with `self.emit`, and what it returns is not used.

    >>> from routilux_core import Routine, event, slot
    >>> from routilux_core.testing import call
    >>> class Join(Routine):
    ...     joined = event("text")
    ...
    ...     @slot(emits="joined")
    ...     def words(self, first: str, second: str = "") -> str:
    ...         return first + second
    >>> [emitted] = call(Join(), "words", first="Os", second="lo")
    >>> emitted.data
    {'text': 'Oslo'}
    """

    def mark(function: F) -> F:
        if isinstance(function, str) or not hasattr(function, "__dict__"):
            raise DefinitionError(
                f"@slot is put on a method, whose name is the slot's, not on {function!r}; for a slot of another name, "
                "call define_slot(name, handler=...) in __init__"
            )
        check_merge_strategy(merge_strategy, f"@slot on {function!r}")
        if emits is not None:
            function = emitting(function, emits)  # type: ignore[assignment]
        function.__routilux_slot__ = SlotMark(merge_strategy, whole, emits)  # type: ignore[attr-defined]
        return function

    return mark if handler is None else mark(handler)


class per_worker(typing.Generic[T]):  # noqa: N801 - reads as a declaration, like `event` and `slot`
    """Declare something that each worker makes for itself, when first used in a handler, and closes at its end.

    The factory is called in the worker's own thread or process: without arguments, or with the routine where it is a
    function of one parameter: `per_worker(lambda self: connect(self.dsn))`. `self.renew("db")` replaces a broken one.
    An `async def` factory is awaited once for each event loop, by `await self.db` in an `async def` handler.
    What it made is never shipped, copied or saved. It is closed by its `close()` method, or by `__exit__` where it has
    only that, in the thread that made it. Under `sequential` each thread that waits is a worker: `shutdown()` closes
    what its own thread made, and any other thread closes its own when it ends, or when it next asks. What raises when
    it is closed, or hangs, is logged, and the rest is closed.

    >>> import sqlite3
    >>> from routilux_core import Routine, event, per_worker, slot
    >>> from routilux_core.testing import call
    >>> class Ask(Routine, stateless=True):
    ...     database = per_worker(lambda: sqlite3.connect(":memory:"))
    ...     answered = event("row")
    ...
    ...     @slot
    ...     def query(self, text: str) -> None:
    ...         self.emit("answered", row=self.database.execute(text).fetchone())
    >>> [emitted] = call(Ask(), "query", text="SELECT 1 + 1")
    >>> emitted.data
    {'row': (2,)}
    """

    def __init__(self, factory: Callable[[], T] | Callable[[Any], T]) -> None:
        self.factory = factory
        self.name = ""
        self._takes_routine = _takes_one(factory)
        self._opens = inspect.iscoroutinefunction(factory)

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, routine: None, owner: type) -> per_worker[T]: ...
    @overload
    def __get__(self, routine: object, owner: type) -> T: ...
    def __get__(self, routine: object, owner: type) -> T | per_worker[T]:
        if routine is None:
            return self
        frame = frame_of(routine)
        if frame is None:
            raise EmitError(
                f"{owner.__name__}.{self.name} belongs to a worker: use it in a handler, in the thread that runs it"
            )
        key, factory = (getattr(routine, INTERNALS).owner, self.name), self._factory_for(routine)
        value: T = self._way_to_open(frame, owner)(key, factory) if self._opens else frame.resource(key, factory)
        return value

    def _way_to_open(self, frame: Any, owner: type) -> Callable[..., Any]:
        opening: Callable[..., Any] | None = getattr(frame, "opening", None)
        if opening is None or frame.thread != frame.home:
            raise EmitError(
                f"{owner.__name__}.{self.name} is made by an `async def` factory, in an event loop: write "
                f"`await self.{self.name}` in an `async def` handler"
            )
        return opening

    def _factory_for(self, routine: object) -> Callable[[], T]:
        factory: Any = self.factory
        return partial(factory, routine) if self._takes_routine else factory

    def __delete__(self, routine: object) -> None:
        raise ConfigurationError(
            f"{type(routine).__name__}.{self.name} is made by its factory in each worker, which closes it at its end: "
            "it can't be deleted"
        )

    def __set__(self, routine: object, value: T) -> None:
        raise ConfigurationError(f"{type(routine).__name__}.{self.name} is made by its factory in each worker")


def _takes_one(factory: Callable[..., Any]) -> bool:
    """Return whether a factory is a function of one parameter: a class, or what has defaults, is called without."""
    if not isinstance(factory, (FunctionType, MethodType)):
        return False
    required = [each for each in inspect.signature(factory).parameters.values() if each.default is each.empty]
    return len(required) == 1 and required[0].kind in (required[0].POSITIONAL_ONLY, required[0].POSITIONAL_OR_KEYWORD)


def check_merge_strategy(merge_strategy: Merge, where: str) -> None:
    if callable(merge_strategy) or merge_strategy in MERGE_STRATEGIES:
        return
    raise UnknownNameError(
        "merge strategy", merge_strategy, MERGE_STRATEGIES, f"{where}: give one of these or a callable (old, new)"
    )
