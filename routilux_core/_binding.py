"""How a payload becomes the arguments of a handler: worked out once, from the handler's signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any, NamedTuple, get_origin

from routilux_core.errors import DefinitionError, PayloadError

Handler = Callable[..., Any]
Payload = dict[str, Any]

_NAMED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Signature(NamedTuple):
    """What a handler takes: its parameters by name, and whether it takes everything or the payload as it is."""

    names: tuple[str, ...]
    defaults: dict[str, Any]
    required: tuple[str, ...]
    positional_only: tuple[str, ...]
    keyword_only: tuple[str, ...]
    takes_all: bool
    whole: str | None
    always_whole: bool
    is_async: bool

    @property
    def lone(self) -> str | None:
        """The name of the only parameter, where it is required, taken by position, and not the whole payload."""
        plain = len(self.names) == 1 and self.required == self.names and self.whole is None and not self.takes_all
        return self.names[0] if plain and not self.keyword_only else None

    @property
    def takes_nothing(self) -> bool:
        """Whether there is no parameter at all."""
        return not self.names and not self.takes_all

    @classmethod
    def of(cls, handler: Handler, where: str) -> Signature:
        """Read the signature; a generator function is refused, because calling it would run nothing."""
        function = _called(handler)
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise DefinitionError(
                f"{where}: the handler is a generator function, so calling it would run nothing; "
                "emit each item with self.emit instead of yielding it"
            )
        parameters = _parameters(handler, where)
        named = [p for p in parameters if p.kind in _NAMED]
        takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
        lone = named[0] if len(named) == 1 and not takes_all else None
        always = lone is not None and _is_mapping(lone.annotation)
        return cls(
            names=tuple(p.name for p in named),
            defaults={p.name: p.default for p in named if p.default is not p.empty},
            required=tuple(p.name for p in named if p.default is p.empty),
            positional_only=tuple(p.name for p in named if p.kind is p.POSITIONAL_ONLY),
            keyword_only=tuple(p.name for p in named if p.kind is p.KEYWORD_ONLY),
            takes_all=takes_all,
            whole=lone.name if lone is not None and (always or lone.name == "data") else None,
            always_whole=always,
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


def _is_mapping(annotation: Any) -> bool:
    if isinstance(annotation, str):
        name = annotation.partition("[")[0].rpartition(".")[2].strip()
        return name in ("dict", "Dict", "Mapping", "MutableMapping")
    kind = get_origin(annotation) or annotation
    return isinstance(kind, type) and kind is not object and issubclass(dict, kind) and issubclass(kind, Mapping)


def bind(handler: Handler, signature: Signature, where: str) -> Callable[[Payload], Any]:
    """Return a function that calls the handler with what it takes from a payload.

    A required parameter that did not arrive is a `PayloadError` which names the slot, the parameter and what came.
    """
    if signature.whole is not None:
        return _bind_whole(handler, signature, where)
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


def _bind_whole(handler: Handler, signature: Signature, where: str) -> Callable[[Payload], Any]:
    name, always, required = signature.whole, signature.always_whole, bool(signature.required)
    by_position = not signature.keyword_only

    def call(payload: Payload) -> Any:
        value = payload[name] if name in payload and not always else dict(payload)
        if not required and not payload:
            return handler()
        return handler(value) if by_position else handler(**{str(name): value})

    return call


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
            raise _missing((name,), payload, where) from None
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

    def call(payload: Payload) -> Any:
        _check(required, payload, where)
        first = [payload.get(name, defaults.get(name)) for name in positional]
        return handler(*first, **{name: payload[name] for name in by_keyword if name in payload})

    return call


def _check(required: tuple[str, ...], payload: Payload, where: str) -> None:
    if not payload.keys() >= set(required):
        raise _missing(required, payload, where)


def _missing(required: tuple[str, ...], payload: Payload, where: str) -> PayloadError:
    absent = ", ".join(repr(name) for name in required if name not in payload)
    arrived = ", ".join(repr(name) for name in payload) or "nothing"
    return PayloadError(
        f"{where}: the handler requires {absent}, but what arrived is {arrived}; "
        "rename with param_mapping when connecting, or give the parameter a default"
    )
