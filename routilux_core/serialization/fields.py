"""What of a class is saved: its fields, with the check that its annotation makes, and how an object is made again."""

from __future__ import annotations

import dataclasses
import enum
import functools
import inspect
import weakref
from collections.abc import Callable, Iterable
from types import MemberDescriptorType
from typing import Any

import attrs
from attrs import frozen

from routilux_core._text.secrets import is_secret
from routilux_core.routine import Routine
from routilux_core.serialization import annotations as annotations_module
from routilux_core.serialization.annotations import Check
from routilux_core.serialization.type_lookup import is_named_tuple, is_value_class, type_name

_shapes: weakref.WeakKeyDictionary[type, Shape] = weakref.WeakKeyDictionary()


@frozen(eq=False)
class Field:
    """One field: its name, that of its constructor parameter (None: it has none), and what fits it."""

    name: str
    parameter: str | None
    simple: frozenset[type]
    check: Check
    annotation: Any

    def explain(self) -> str:
        """Return the annotation for a message."""
        name = getattr(self.annotation, "__name__", None) if isinstance(self.annotation, type) else None
        return str(name or self.annotation).replace("typing.", "")


@frozen(eq=False)
class Shape:
    """The fields of a class. `derived` are cached properties: they are worked out again, so they are not saved.

    Nor are `secrets`, the fields that are marked so: an object is made again with their defaults.
    """

    cls: type
    name: str
    fields: dict[str, Field]
    constructed: bool
    derived: frozenset[str]
    hidden: tuple[tuple[str, Any], ...]  # slots, some of them perhaps of no field
    secrets: dict[str, Callable[[Any], Any] | None]  # what makes the default, given the object; None: it has none

    def held(self, value: Any) -> dict[str, Any]:
        """Return the fields of an object, in their order; those that were never set are absent."""
        return {name: getattr(value, name) for name in self.fields if hasattr(value, name)}

    def rest(self, value: Any) -> list[str]:
        """Return the names of what an object holds beside its fields."""
        held = tuple(getattr(value, "__dict__", ()))  # a copy: a handler may be at work on it
        known = self.all_names()
        own = [name for name in held if name not in known]
        return own + [name for name, slot in self.hidden if name not in known and _is_set(slot, value)]

    def all_names(self) -> set[str]:
        """Return the names that no other attribute has."""
        return self.fields.keys() | self.derived | self.secrets.keys()

    def lacking(self) -> str | None:
        """Say why no object of the class can be made again: a secret is in no file, and has no default."""
        for name, default in self.secrets.items():
            if default is None:
                return (
                    f"has the secret field {name!r}, which no file holds, and which so needs a default, as in "
                    "field(factory=from_environment, ...)"
                )
        return None

    def make(self, values: dict[str, Any], anew: bool = False) -> Any:
        """Return an object with these values; its constructor, where it was generated from the fields, sees them all.

        Afterwards each value is set as it was saved: a converter that had changed it already must not do so again.
        A field without a value is not set; `anew`, it gets its default.
        """
        if not self.constructed:
            made: Any = self.cls.__new__(self.cls)  # type: ignore[call-overload]
        else:
            given = {name: each.parameter for name, each in self.fields.items() if not anew or name in values}
            made = self.cls(**{parameter: values[name] for name, parameter in given.items() if parameter})
        if not issubclass(self.cls, tuple):
            for name in self.fields.keys() - values.keys() if not anew else ():
                if hasattr(made, name):
                    object.__delattr__(made, name)
            for name, value in values.items():
                object.__setattr__(made, name, value)
            for name, default in self.secrets.items() if not self.constructed else ():
                if default is not None:
                    object.__setattr__(made, name, default(made))
        return made


def shape_of(cls: type) -> Shape:
    """Return the shape of a class, worked out once."""
    found = _shapes.get(cls)
    if found is None:
        found = _shapes[cls] = _look_at(cls)
    return found


def unsaveable(cls: type) -> str | None:
    """Say why objects of a class can't be saved field by field; None if they can."""
    if is_named_tuple(cls):
        return None
    if issubclass(cls, enum.Enum):
        return "is an enum, which is saved by name"
    if not is_value_class(cls):
        return "is neither a plain value nor an object of an attrs class or a dataclass of its own"
    inherited = next((base for base in cls.__mro__[:-1] if base.__module__ == "builtins"), None)
    if inherited is not None:
        return f"is also a {inherited.__name__}, and what it holds as such would be lost"
    given = [each for each in vars(cls).get("__dataclass_fields__", {}).values() if _is_init_var(each)]
    return f"takes {given[0].name!r} as an InitVar, which it does not keep" if given else shape_of(cls).lacking()


def _is_init_var(each: dataclasses.Field[Any]) -> bool:
    return each._field_type is dataclasses._FIELD_INITVAR  # type: ignore[attr-defined]


def _look_at(cls: type) -> Shape:
    secrets = {each.name: _default_of(each) for each in _declared(cls) if is_secret(each)}
    parameters = {name: parameter for name, parameter in _parameters(cls) if name not in secrets}
    hints = annotations_module.hints_of(cls, parameters)
    fields = {name: _field(name, parameter, hints.get(name, Any)) for name, parameter in parameters.items()}
    vars_of_bases = [(name, value) for base in cls.__mro__ for name, value in vars(base).items()]
    derived = {name for name, value in vars_of_bases if isinstance(value, functools.cached_property)}
    derived.add("_attrs_cached_hash")  # where attrs keeps a hash; it differs from process to process
    derived.add("__orig_class__")  # what `Box[int]()` leaves for type checkers
    return Shape(
        cls, type_name(cls), fields, _is_constructed(cls, fields), frozenset(derived), tuple(_hidden(cls)), secrets
    )


def _field(name: str, parameter: str | None, annotation: Any) -> Field:
    simple, check = annotations_module.simple_types(annotation), annotations_module.check_for(annotation)
    return Field(name, parameter, simple, check, annotation)


def _parameters(cls: type) -> Iterable[tuple[str, str | None]]:
    if is_named_tuple(cls):
        return [(name, name) for name in cls._fields]  # type: ignore[attr-defined]
    return [(each.name, getattr(each, "alias", each.name) if each.init else None) for each in _declared(cls)]


def _declared(cls: type) -> tuple[Any, ...]:
    """Return the fields of a class that attrs or dataclasses has made, as they are declared."""
    if "__attrs_attrs__" in vars(cls):
        return tuple(attrs.fields(cls))
    return dataclasses.fields(cls) if "__dataclass_fields__" in vars(cls) else ()


def _default_of(declared: Any) -> Callable[[Any], Any] | None:
    """Return what makes the default of a field; None where it has none."""
    default = declared.default
    factory = getattr(declared, "default_factory", dataclasses.MISSING)
    if factory is not dataclasses.MISSING:
        return lambda made: factory()
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        return default.factory if default.takes_self else lambda made: default.factory()
    return None if default is attrs.NOTHING or default is dataclasses.MISSING else lambda made: default


def _is_constructed(cls: type, fields: dict[str, Field]) -> bool:
    """Whether the constructor takes the fields: what an own `__init__` takes, nobody can know."""
    if issubclass(cls, Routine):
        return cls.__init__ is Routine.__init__
    if "__dataclass_params__" not in vars(cls):
        return "__attrs_init__" not in vars(cls)
    # A dataclass leaves an `__init__` alone that it finds, and notes nowhere that it has.
    made: Any = vars(cls).get("__init__")
    takes = inspect.signature(made).parameters if made is not None else ()
    return {*takes} - {next(iter(takes), "")} == {each.parameter for each in fields.values() if each.parameter}


def _hidden(cls: type) -> Iterable[tuple[str, Any]]:
    for base in cls.__mro__:
        made = None if issubclass(base, Routine) else vars(base).get("__attrs_attrs__")
        # The slots that attrs adds to its fields are for cached properties, which are worked out again.
        known = None if made is None else {each.name for each in made}
        for name, value in vars(base).items():
            if isinstance(value, MemberDescriptorType) and (known is None or name in known):
                yield name, value


def _is_set(slot: Any, value: Any) -> bool:
    try:
        slot.__get__(value)
    except AttributeError:
        return False
    return True
