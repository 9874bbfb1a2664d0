"""How a payload becomes the arguments of a handler: worked out once, from the handler's signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from operator import itemgetter
from typing import Any, NamedTuple

from routilux_core._routines.methods import dispatcher_of
from routilux_core.errors import DefinitionError, PayloadError

Handler = Callable[..., Any]
Payload = dict[str, Any]

WHOLE_ADVICE = "; to give it the whole payload, add @slot(whole=True)"

_NAMED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Signature(NamedTuple):
    """What a handler takes: its parameters by name, everything, or the payload as it is in its only parameter."""

    names: tuple[str, ...]
    defaults: dict[str, Any]
    required: tuple[str, ...]
    positional_only: tuple[str, ...]
    keyword_only: tuple[str, ...]
    takes_all: bool
    whole: bool
    is_async: bool

    @property
    def lone(self) -> str | None:
        """The name of the only parameter, where it is required, taken by position, and not the whole payload."""
        plain = len(self.names) == 1 and self.required == self.names and not self.whole and not self.takes_all
        return self.names[0] if plain and not self.keyword_only else None

    @property
    def advice(self) -> str:
        """What to add to a message about a parameter that nothing arrived for."""
        return WHOLE_ADVICE if len(self.names) == 1 and self.required and not self.takes_all else ""

    @property
    def takes_nothing(self) -> bool:
        """Whether there is no parameter at all."""
        return not self.names and not self.takes_all

    @classmethod
    def of(cls, handler: Handler, where: str, whole: bool = False) -> Signature:
        """Read the signature; a generator function is refused, because calling it would run nothing.

        With `whole`, the only parameter gets the payload as it is, so there has to be exactly one.
        """
        dispatcher = dispatcher_of(handler)
        if dispatcher is not None:  # what it looks like is its first function, which is not bound
            handler = dispatcher.func.__get__(object())
        function = _called(handler)
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise DefinitionError(
                f"{where}: the handler is a generator function, so calling it would run nothing; "
                "emit each item with self.emit instead of yielding it"
            )
        parameters = _parameters(handler, where)
        named = [p for p in parameters if p.kind in _NAMED]
        by_type = named[0] if dispatcher is not None and named else None  # by whose type it dispatches: by position
        if whole:
            _check_whole(parameters, where)
        return cls(
            names=tuple(p.name for p in named),
            defaults={p.name: p.default for p in named if p.default is not p.empty},
            required=tuple(p.name for p in named if p.default is p.empty),
            positional_only=tuple(p.name for p in named if p.kind is p.POSITIONAL_ONLY or p is by_type),
            keyword_only=tuple(p.name for p in named if p.kind is p.KEYWORD_ONLY),
            takes_all=any(p.kind is p.VAR_KEYWORD for p in parameters),
            whole=bool(whole),
            is_async=inspect.iscoroutinefunction(function),
        )


def _called(handler: Handler) -> Any:
    """Return the function that a call of the handler runs first: what it wraps is its own affair."""
    function = getattr(handler, "func", handler)
    return type(function).__call__ if callable(function) and not inspect.isroutine(function) else function


def _parameters(handler: Handler, where: str) -> list[inspect.Parameter]:
    if not callable(handler):
        raise DefinitionError(f"{where}: the handler has to be callable, not {handler!r}")
    try:
        return list(inspect.signature(handler).parameters.values())
    except (ValueError, TypeError):
        raise DefinitionError(
            f"{where}: the signature of {handler!r} can't be read; wrap it in a method with named parameters"
        ) from None


def _check_whole(parameters: list[inspect.Parameter], where: str) -> None:
    if len(parameters) != 1 or parameters[0].kind not in _NAMED:
        have = ", ".join(map(str, parameters)) or "none"
        raise DefinitionError(
            f"{where}: whole=True passes the whole payload to the only parameter of the handler, so it has to have "
            f"exactly one, and has: {have}; drop whole=True, and name the keys that it takes"
        )


def bind(handler: Handler, signature: Signature, where: str) -> Callable[[Payload], Any]:
    """Return a function that calls the handler with what it takes from a payload.

    A required parameter that did not arrive is a `PayloadError` which names the slot, the parameter and what came.
    """
    if signature.whole:
        return _bind_whole(handler, signature)
    if signature.takes_all:
        return _bind_all(handler, signature, where)
    if signature.takes_nothing:
        return lambda payload: handler()
    plain = signature.required == signature.names and not signature.keyword_only
    if plain and len(signature.names) == 1:
        return _bind_one(handler, signature.names[0], where)
    if plain:
        return _bind_positional(handler, signature.names, where)
    return _bind_named(handler, signature, where)


def _bind_whole(handler: Handler, signature: Signature) -> Callable[[Payload], Any]:
    if not signature.keyword_only:
        return lambda payload: handler(dict(payload))
    (name,) = signature.names
    return lambda payload: handler(**{name: dict(payload)})


def _bind_all(handler: Handler, signature: Signature, where: str) -> Callable[[Payload], Any]:
    required, positional, defaults = signature.required, signature.positional_only, signature.defaults
    if not required and not positional:
        return lambda payload: handler(**payload)

    def call(payload: Payload) -> Any:
        _check(required, payload, where)
        if not positional:
            return handler(**payload)
        rest = {key: value for key, value in payload.items() if key not in positional}
        return handler(*[payload.get(name, defaults.get(name)) for name in positional], **rest)

    return call


def _bind_one(handler: Handler, name: str, where: str) -> Callable[[Payload], Any]:
    def call(payload: Payload) -> Any:
        try:
            value = payload[name]
        except KeyError:
            raise _missing((name,), payload, where, WHOLE_ADVICE) from None
        return handler(value)

    return call


def _bind_positional(handler: Handler, names: tuple[str, ...], where: str) -> Callable[[Payload], Any]:
    take = itemgetter(*names)

    def call(payload: Payload) -> Any:
        try:
            values = take(payload)
        except KeyError:
            raise _missing(names, payload, where) from None
        return handler(*values)

    return call


def _bind_named(handler: Handler, signature: Signature, where: str) -> Callable[[Payload], Any]:
    names, required, defaults = signature.names, signature.required, signature.defaults
    positional = signature.positional_only
    by_keyword = [name for name in names if name not in positional]
    advice = signature.advice

    def call(payload: Payload) -> Any:
        _check(required, payload, where, advice)
        first = [payload.get(name, defaults.get(name)) for name in positional]
        return handler(*first, **{name: payload[name] for name in by_keyword if name in payload})

    return call


def _check(required: tuple[str, ...], payload: Payload, where: str, advice: str = "") -> None:
    if not payload.keys() >= set(required):
        raise _missing(required, payload, where, advice)


def _missing(required: tuple[str, ...], payload: Payload, where: str, advice: str = "") -> PayloadError:
    absent = tuple(name for name in required if name not in payload)
    arrived = ", ".join(repr(name) for name in payload) or "nothing"
    error = PayloadError(
        f"{where}: the handler requires {', '.join(map(repr, absent))}, but what arrived is {arrived}; "
        f"rename with param_mapping when connecting, or give the parameter a default{advice}"
    )
    error.absent = absent
    return error
