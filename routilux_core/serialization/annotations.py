"""Whether a value fits an annotation: worked out once for each annotation, as a function."""

from __future__ import annotations

import collections.abc
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Check = Callable[[Any], bool]
SIMPLE = (int, float, str, bool, type(None))  # values of exactly these types are saved as they are


def anything(value: Any) -> bool:
    """Fit every value: what an annotation that can't be judged amounts to."""
    return True


def hints_of(cls: type, names: Iterable[str]) -> dict[str, Any]:
    """Return the annotations of these attributes of a class; `Any` for one that names what is not there at run time.

    They are evaluated as the author of the class wrote them: nothing in a file leads here.
    """
    found: dict[str, Any] = {}
    for name in names:
        for base in cls.__mro__:
            annotation = inspect.get_annotations(base).get(name, found)
            if annotation is not found:
                found[name] = _evaluated(annotation, base)
                break
    return found


def _evaluated(annotation: Any, owner: type) -> Any:
    # One by one: an annotation that fails must not take the others with it.
    holder = type("Holder", (), {"__annotations__": {"only": annotation}, "__module__": owner.__module__})
    try:
        return typing.get_type_hints(holder)["only"]
    except Exception:
        return Any


def check_for(annotation: Any) -> Check:
    """Return the function that says whether a value fits; what can't be judged fits."""
    origin = typing.get_origin(annotation)
    if annotation is None or annotation is type(None):
        return lambda value: value is None
    if origin in (typing.Annotated, typing.Final, typing.Required, typing.NotRequired):
        return check_for(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return _any_of([check_for(each) for each in typing.get_args(annotation)])
    if origin is typing.Literal:
        return _one_of(typing.get_args(annotation))
    if isinstance(annotation, typing.NewType):
        return check_for(annotation.__supertype__)
    if isinstance(origin, type):
        return _generic(origin, typing.get_args(annotation))
    return _instance(annotation) if isinstance(annotation, type) else anything


def simple_types(annotation: Any) -> frozenset[type]:
    """Return which of the simplest types fit an annotation whatever the value is, so that no check has to be called."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return frozenset().union(*map(simple_types, typing.get_args(annotation)))
    if origin in (typing.Annotated, typing.Final):
        return simple_types(typing.get_args(annotation)[0])
    if annotation is None:
        return frozenset((type(None),))
    if isinstance(annotation, type) and origin is None:
        return frozenset(
            each for each in SIMPLE if issubclass(each, (annotation, int) if annotation is float else annotation)
        )
    return frozenset(SIMPLE) if annotation is Any else frozenset()


def classes_in(annotation: Any) -> Iterable[type]:
    """Yield every class that an annotation names."""
    if isinstance(annotation, type) and typing.get_origin(annotation) is None:
        yield annotation
    for each in typing.get_args(annotation):
        yield from classes_in(each)


def _any_of(checks: list[Check]) -> Check:
    return lambda value: any(check(value) for check in checks)


def _one_of(allowed: tuple[Any, ...]) -> Check:
    return lambda value: any(value == each and type(value) is type(each) for each in allowed)


def _instance(cls: type) -> Check:
    if cls is float:
        return lambda value: isinstance(value, (int, float))
    if cls is complex:
        return lambda value: isinstance(value, (int, float, complex))
    try:
        isinstance(None, cls)
    except TypeError:  # `Any`, a typed dict or a protocol: the annotation says nothing that could be looked at
        return anything
    return lambda value: isinstance(value, cls)


def _generic(origin: type, arguments: tuple[Any, ...]) -> Check:
    is_it = _instance(origin)
    if issubclass(origin, tuple) and arguments:
        return _tuple(is_it, arguments)
    if issubclass(origin, collections.abc.Mapping) and len(arguments) == 2:
        return _mapping(is_it, check_for(arguments[0]), check_for(arguments[1]))
    if issubclass(origin, collections.abc.Collection) and len(arguments) == 1:
        return _collection(is_it, check_for(arguments[0]))
    return is_it


def _tuple(is_it: Check, arguments: tuple[Any, ...]) -> Check:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return _collection(is_it, check_for(arguments[0]))
    checks = [] if arguments == ((),) else [check_for(each) for each in arguments]

    def fits(value: Any) -> bool:
        return is_it(value) and len(value) == len(checks) and all(map(_call, checks, value))

    return fits


def _call(check: Check, value: Any) -> bool:
    return check(value)


def _mapping(is_it: Check, keys: Check, values: Check) -> Check:
    def fits(value: Mapping[Any, Any]) -> bool:  # looks at copies: a handler may be at work on it
        return is_it(value) and all(map(keys, list(value))) and all(map(values, list(value.values())))

    return fits


def _collection(is_it: Check, each: Check) -> Check:
    return lambda value: is_it(value) and all(map(each, list(value)))
