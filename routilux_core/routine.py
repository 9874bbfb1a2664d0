"""Routine: a node of a flow, with its configuration, slots, events and handlers."""

from __future__ import annotations

import typing
from threading import current_thread, get_ident, main_thread
from types import MethodType
from typing import Any

import attrs

from routilux_core._routines.attributes import INTERNALS, attributes_of, give
from routilux_core._routines.frame import CURRENT, frame_of
from routilux_core._routines.internals import Internals
from routilux_core._routines.methods import name_of
from routilux_core._routines.settings import (
    RoutineSettings,
    check_defaults,
    check_fields,
    check_made_once,
    check_names,
    check_not_remade,
    check_settings,
    check_shared,
    unknown_keyword,
)
from routilux_core._routines.signature import Handler, Signature
from routilux_core._routines.twins import Twins
from routilux_core._text.secrets import without_secrets
from routilux_core.error_handling import ErrorHandler, ErrorStrategy
from routilux_core.errors import (
    ConfigurationError,
    DefinitionError,
    DuplicateNameError,
    EmitError,
    PayloadError,
    SealedRoutineError,
    UnknownNameError,
    brief,
)
from routilux_core.journal import RunningActivation
from routilux_core.ports import Declared, Event, Merge, Slot, check_slot, per_worker

R = typing.TypeVar("R", bound="Routine")


@typing.dataclass_transform(field_specifiers=(attrs.field,), kw_only_default=True, eq_default=False)
class Routine:
    """A node of a flow. Subclass it; annotated class attributes are keyword-only configuration, made by attrs.

    A routine handles one event at a time, in the order of arrival, so its handlers need no lock. Class keywords:
    `stateless=True` (calls may run in parallel; sealed when added to a flow; not inherited), `concurrency=N` (a bound
    on the parallel calls of a stateless routine), `scope="job"` (each job gets a fresh copy), `timeout` (seconds
    for one call), `type_name` (the name it is saved under), `on_worker_lost="retry"` (a call whose worker process dies
    is made again; by default it has failed), `on_crash="fail"` (a call that ran when the process died has failed, where
    the flow has a journal; by default it is made again), `inline=True` (where an event loop runs coroutines, plain
    handlers are called in it, not in a thread beside it: for those that are over at once).

    A copy of a routine (`copy.copy`, `copy.deepcopy`, `pickle`) is in no flow, and its slots call its own methods.

    >>> from routilux_core import Routine, event, slot
    >>> from routilux_core.testing import call
    >>> class Count(Routine):
    ...     step: int = 1
    ...     total: int = 0
    ...     counted = event("total")
    ...
    ...     @slot
    ...     def add(self, n: int) -> None:
    ...         self.total += n * self.step
    ...         self.emit("counted", total=self.total)
    >>> [emitted] = call(Count(step=10), "add", n=4)
    >>> emitted.event, emitted.data
    ('counted', {'total': 40})
    """

    _routilux: Internals
    __routilux_settings__: typing.ClassVar[RoutineSettings] = RoutineSettings()
    __routilux_declared__: typing.ClassVar[Declared] = Declared({}, {})

    def __init_subclass__(
        cls,
        *,
        stateless: bool = False,
        concurrency: int | None = None,
        scope: str = "flow",
        timeout: float | None = None,
        type_name: str | None = None,
        on_worker_lost: str = "fail",
        on_crash: str = "retry",
        inline: bool = False,
        **rest: Any,
    ) -> None:
        try:
            super().__init_subclass__(**rest)
        except TypeError as error:
            if not rest or "takes no keyword arguments" not in str(error):  # a base that takes some, and refuses these
                raise
            raise unknown_keyword(cls, next(iter(rest))) from None
        check_made_once(cls)
        cls.__routilux_settings__ = RoutineSettings(
            stateless=stateless,
            concurrency=concurrency,
            scope=scope,
            timeout=timeout,
            type_name=type_name,
            on_worker_lost=on_worker_lost,
            on_crash=on_crash,
            inline=inline,
        )
        check_settings(cls, cls.__routilux_settings__)
        check_names(cls, _RESERVED)
        check_shared(cls, stateless)
        hooks: dict[str, Any] = {"on_setattr": []} if stateless else {}
        own_setattr = "__setattr__" in cls.__dict__
        attrs.define(
            cls,
            slots=False,
            eq=False,
            kw_only=True,
            init=False,
            auto_attribs=True,
            field_transformer=without_secrets,
            **hooks,
        )
        check_defaults(cls)
        cls.__routilux_declared__ = Declared.of(cls, stateless)
        if stateless and not own_setattr:
            cls.__setattr__ = _sealed_setattr  # type: ignore[assignment]

    def __new__(cls, *args: Any, **kwargs: Any) -> typing.Self:
        check_not_remade(cls, cls.__routilux_declared__.fields)
        routine = super().__new__(cls)
        object.__setattr__(routine, INTERNALS, Internals())
        _declare(routine)
        return routine

    def __init__(self, *given: Any, **fields: Any) -> None:
        initialise = getattr(self, "__attrs_init__", None)
        if initialise is None:
            if fields:
                raise TypeError(f"Routine() takes no fields: subclass it to declare {', '.join(fields)}")
            return
        try:
            initialise(*given, **fields)
        except TypeError:
            check_fields(type(self), given, fields)
            raise
        cls: type[Any] = type(self)
        names = [each.name for each in attrs.fields(cls) if each.alias in fields]
        self._routilux.given = {name: getattr(self, name) for name in names if hasattr(self, name)}

    def __copy__(self) -> typing.Self:
        return _twin(self, {}, deep=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> typing.Self:
        return _twin(self, memo, deep=True)

    def __reduce_ex__(self, protocol: typing.SupportsIndex) -> str | tuple[Any, ...]:
        if type(self).__reduce__ is not object.__reduce__:
            return self.__reduce__()
        return _blank, (type(self),), _packed(self), None, None, _unpack

    def define_slot(
        self,
        name: str,
        handler: Handler | None = None,
        merge_strategy: Merge = "override",
        *,
        whole: bool = False,
    ) -> Slot:
        """Add an input; without a handler, the method of the same name is the handler.

        Each parameter of the handler gets the value of the key of its name. With `whole=True` the only parameter gets
        the whole payload.
        """
        where = type(self).__name__
        check_slot(name, merge_strategy, self.__routilux_settings__.stateless, where)
        if handler is None:
            handler = getattr(self, name, None)
        if handler is None:
            raise DefinitionError(f"{where}, slot {name!r}: give a handler, or define a method {name!r}")
        if isinstance(handler, MethodType) and isinstance(handler.__self__, Routine) and handler.__self__ is not self:
            raise DefinitionError(
                f"{where}, slot {name!r}: {handler.__name__!r} is a method of another routine, which handles its own "
                "events: connect the two, and emit"
            )
        signature = Signature.of(handler, f"{where}, slot {name!r}", whole)
        made = Slot(name, handler, merge_strategy, signature, name_of(self, handler))
        _change(self, self._routilux.slots, made)
        return made

    def define_event(self, name: str, output_params: typing.Iterable[str] | None = None) -> Event:
        """Add an output; the parameter names are documentation."""
        made = Event(name, tuple(output_params or ()))
        _change(self, self._routilux.events, made)
        return made

    def emit(self, event_name: str, /, *unnamed: typing.Never, **data: Any) -> None:
        """Send `data` to every slot that is connected to the event.

        Each value has a name: `self.emit("fetched", name=name, letters=7)`.

        Only inside a handler of this routine, in the handler's own thread, while its job runs; anything else is an
        `EmitError`. Other routines' handlers may run inside this call: hold no lock across it.
        """
        frame = CURRENT.get()
        if frame is None or frame.routine is not self or frame.thread != get_ident():
            raise _emit_refused(self, event_name)
        if unnamed or "flow" in data:  # no parameter: for that, Python would look through all names of `data`
            _check_data(self, event_name, unnamed, data)
        frame.emit(event_name, data)

    def emit_async(self, event_name: str, /, *unnamed: typing.Never, **data: Any) -> typing.Awaitable[None]:
        """`emit`, and wait while more than `max_pending` wait where that went: `await self.emit_async("item", n=n)`.

        In an `async def` handler, whose event loop goes on meanwhile, and with it who works that off.
        """
        frame = frame_of(self)
        if frame is None:
            raise _emit_refused(self, event_name)
        room = getattr(frame, "room", None)
        if room is None or frame.thread != getattr(frame, "home", frame.thread):
            raise EmitError(
                f"emit_async({event_name!r}) of routine {_name_of(self)!r} was called in a handler that runs in no "
                "event loop: make the handler an `async def`, or call emit, which waits by itself"
            )
        self.emit(event_name, *unnamed, **data)
        awaited: typing.Awaitable[None] = room(event_name)
        return awaited

    def renew(self, name: str) -> Any:
        """Close what this worker made for a `per_worker` declaration, make it anew, and return it.

        For what has broken: `self.renew("db")` in the handler that found it out. Other workers keep theirs.
        """
        declared = getattr(type(self), name, None) if isinstance(name, str) else None
        if not isinstance(declared, per_worker):
            known = [each for each in dir(type(self)) if isinstance(getattr(type(self), each, None), per_worker)]
            raise UnknownNameError("per_worker declaration", name, known, type(self).__name__)
        frame = frame_of(self)
        if frame is None:
            raise EmitError(
                f"renew({name!r}) was called outside a handler of {_name_of(self)!r}: each worker has its own"
            )
        frame.drop((self._routilux.owner, declared.name))
        return getattr(self, name)

    def get_slot(self, name: str) -> Slot:
        """Return a slot by name."""
        try:
            return self._routilux.slots[name]
        except KeyError:
            raise UnknownNameError("slot", name, self._routilux.slots) from None

    def get_event(self, name: str) -> Event:
        """Return an event by name."""
        try:
            return self._routilux.events[name]
        except KeyError:
            raise UnknownNameError("event", name, self._routilux.events) from None

    def stats(self) -> dict[str, float]:
        """Return a copy of the routine's own counters."""
        with self._routilux.lock:
            return dict(self._routilux.stats)

    def increment_stat(self, name: str, amount: float = 1) -> float:
        """Add to one of the routine's own counters, from any thread, and return the new value."""
        with self._routilux.lock:
            value = self._routilux.stats[name] = self._routilux.stats.get(name, 0) + amount
        return value

    def reset_stats(self, keys: typing.Iterable[str] | None = None) -> None:
        """Forget the routine's own counters: those of these names, or all."""
        with self._routilux.lock:
            for name in list(self._routilux.stats) if keys is None else keys:
                self._routilux.stats.pop(name, None)

    def set_error_handler(self, error_handler: ErrorHandler | ErrorStrategy | str | None) -> None:
        """Set this routine's own policy, by object, enum or name; None leaves it to the flow's."""
        if isinstance(error_handler, (ErrorStrategy, str)):
            error_handler = ErrorHandler(error_handler)
        if not (error_handler is None or isinstance(error_handler, ErrorHandler)):
            raise ConfigurationError(f"an error handler is an ErrorHandler or a strategy name, not {error_handler!r}")
        self._routilux.error_handler = error_handler
        if self._routilux.policy_changed is not None:
            self._routilux.policy_changed()

    def get_error_handler(self) -> ErrorHandler | None:
        """Return this routine's own policy, or None."""
        return self._routilux.error_handler

    def set_as_optional(self, strategy: ErrorStrategy | str = ErrorStrategy.CONTINUE) -> None:
        """Let jobs go on after an error in this routine: by CONTINUE, or by SKIP."""
        chosen = ErrorStrategy.of(strategy)
        if chosen not in (ErrorStrategy.CONTINUE, ErrorStrategy.SKIP):
            raise ConfigurationError(
                f"set_as_optional({chosen.value!r}): a job goes on after an error by 'continue' or 'skip'; for any "
                "other policy, call set_error_handler"
            )
        self.set_error_handler(ErrorHandler(chosen))

    def set_as_critical(self, max_retries: int = 3, retry_delay: float = 1.0, retry_backoff: float = 2.0) -> None:
        """Retry after an error in this routine, and stop the job when that did not help."""
        self.set_error_handler(ErrorHandler(ErrorStrategy.RETRY, max_retries, retry_delay, retry_backoff))

    @property
    def activation(self) -> RunningActivation:
        """The call that runs: `self.activation.key` is the same at each of its attempts, and after each crash.

        Only inside a handler of this routine, in the handler's own thread.
        """
        frame = frame_of(self)
        if frame is None:
            raise EmitError(f"activation of routine {_name_of(self)!r} was asked for outside a handler of it")
        return RunningActivation(*frame.call_id())

    @property
    def cancelled(self) -> bool:
        """Whether the job of the handler that asks was stopped or cancelled; False outside a handler."""
        frame = frame_of(self)
        return frame is not None and frame.is_cancelled()


def _declare(routine: Routine) -> None:
    """Give an instance the slots and events of its class."""
    internals, declared = routine._routilux, type(routine).__routilux_declared__
    internals.events.update(declared.events)
    for name, (merge_strategy, signature) in declared.slots.items():
        internals.slots[name] = Slot(name, getattr(routine, name), merge_strategy, signature, name)


def let_go(routine: Routine) -> None:
    """Free a routine of its flow, so that another may take it in."""
    internals = routine._routilux
    internals.owner = internals.change = internals.policy_changed = None
    internals.sealed = False


def fresh_copy(routine: Routine) -> Routine:
    """Return a deep copy of a routine that belongs to the same flow: what a job gets of one with `scope="job"`."""
    try:
        twin = _twin(routine, {}, deep=True)
    except Exception as error:
        notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
        raise ConfigurationError(
            f"a {type(routine).__name__} can't be copied, which scope='job' does for each job: {error!r}{notes}; make "
            "it in the handler, declare it with per_worker, or give its class a __deepcopy__"
        ) from error
    twin._routilux.owner, twin._routilux.sealed = routine._routilux.owner, routine._routilux.sealed
    return twin


def _twin(routine: R, memo: dict[int, Any], *, deep: bool) -> R:
    """Return a copy in no flow, whose slots call its own methods."""
    twin = _blank(type(routine))
    memo[id(routine)] = twin
    source, internals, twins = routine._routilux, twin._routilux, Twins(memo, deep)
    for made in source.slots.values():  # before the attributes, which may hold one
        own = Slot(made.name, made.handler, made.merge_strategy, made.signature, made.method)
        internals.slots[made.name] = memo[id(made)] = own
    memo.update((id(made), made) for made in source.events.values())  # names, which nothing changes
    give(twin, twins.all(attributes_of(routine)))
    for made in source.slots.values():
        own = internals.slots[made.name]
        if made.method is None:
            own.handler = twins.of(made.handler)
        own.bind(twin)
        own.merge_strategy = twins.of(made.merge_strategy)
    internals.events, internals.error_handler = dict(source.events), source.error_handler
    internals.given = source.given
    with source.lock:
        internals.stats = dict(source.stats)
    return twin


def _blank(cls: type[R]) -> R:
    """Return a routine without attributes, slots and events."""
    routine = object.__new__(cls)
    object.__setattr__(routine, INTERNALS, Internals())
    return routine


def _packed(routine: Routine) -> tuple[Any, ...]:
    """Return what a pickle of a routine holds; that it is in a flow is left behind."""
    internals = routine._routilux
    slots, events = list(internals.slots.values()), internals.events
    return attributes_of(routine), slots, events, routine.stats(), internals.error_handler


def _unpack(routine: Routine, packed: tuple[Any, ...]) -> None:
    internals = routine._routilux
    attributes, slots, internals.events, internals.stats, internals.error_handler = packed
    for each in slots:
        internals.slots[each.name] = each
        each.bind(routine)
    give(routine, attributes)


def _change(routine: Routine, where: dict[str, Any], made: Slot | Event) -> None:
    def change() -> None:
        kind = "a slot" if isinstance(made, Slot) else "an event"
        if made.name in where:
            raise DuplicateNameError(f"{type(routine).__name__} has {kind} {made.name!r} already: choose another name")
        where[made.name] = made

    made_by = routine._routilux.change
    if made_by is None:
        change()
    else:
        made_by(change)


def _name_of(routine: Routine) -> str:
    return routine._routilux.owner[1] if routine._routilux.owner else type(routine).__name__


def _check_data(routine: Routine, event_name: str, unnamed: tuple[Any, ...], data: dict[str, Any]) -> None:
    """Refuse values without a name, and a flow, which an emission does not take: the engine knows it."""
    what = f"routine {_name_of(routine)!r}, emit({event_name!r}, ...)"
    if unnamed:
        declared = routine._routilux.events.get(event_name, Event()).output_params or ("value",)
        raise PayloadError(
            f"{what}: each value has a name, as in emit({event_name!r}, {declared[0]}={brief(unnamed[0])})"
        )
    if hasattr(type(data.get("flow")), "add_routine"):
        raise PayloadError(f"{what}: leave flow= out; a routine emits into the flow that runs it")


def _emit_refused(routine: Routine, event_name: str) -> EmitError:
    name = _name_of(routine)
    what = f"emit({event_name!r}) of routine {name!r}"
    frame = CURRENT.get()
    thread = current_thread()
    if frame is None and thread is not main_thread():
        return EmitError(
            f"{what} was called outside a handler of it, in thread {thread.name!r}: give the data to the handler that "
            f"waits for this thread, and emit there; to start a job, call flow.execute({name!r})"
        )
    if frame is None:
        return EmitError(f"{what} was called outside a handler of it: start a job with flow.execute({name!r}) instead")
    if frame.thread != get_ident():
        return EmitError(
            f"{what} was called from another thread than its handler's, {thread.name!r}: return the data to the "
            "handler, and emit there"
        )
    if frame.routine is None:
        return EmitError(f"{what} was called after its handler had ended: let the handler wait for what it starts")
    return EmitError(f"{what} was called inside a handler of another routine: connect the two and emit there")


def _sealed_setattr(self: Routine, name: str, value: Any) -> None:
    if self._routilux.sealed:
        raise SealedRoutineError(
            f"{type(self).__name__}.{name} can't be assigned: the routine is stateless, and its calls run in parallel "
            "once it is in a flow; drop stateless=True, or emit the value",
            name=name,
            obj=self,
        )
    object.__setattr__(self, name, value)


_RESERVED = frozenset(name for name in vars(Routine) if not name.startswith("__")) | {INTERNALS}
