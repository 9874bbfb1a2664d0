"""What a routine holds, wherever it is kept: in its `__dict__`, or in what its class or a base names in `__slots__`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from types import MemberDescriptorType
from typing import Any
from weakref import WeakKeyDictionary

_members: WeakKeyDictionary[type, dict[str, MemberDescriptorType]] = WeakKeyDictionary()

INTERNALS = "_routilux"  # what the engine keeps on a routine, which is no attribute of its own


def owner_of(routine: object) -> tuple[str, str] | None:
    """Return whose a routine is: the ids of its flow, and of itself in it; None where it is in no flow."""
    owner: tuple[str, str] | None = getattr(routine, INTERNALS).owner
    return owner


def members_of(cls: type) -> dict[str, MemberDescriptorType]:
    """Return what the objects of a class keep in slots, by the names of the attributes; worked out once."""
    found = _members.get(cls)
    if found is None:
        named = [item for base in reversed(cls.__mro__) for item in vars(base).items()]
        found = {name: value for name, value in named if isinstance(value, MemberDescriptorType)}
        _members[cls] = found
    return found


def own_attributes(owner: Any) -> dict[str, Any]:
    """Return the attributes of an object, as they are."""
    return _flat(object.__getstate__(owner))  # type: ignore[attr-defined, unused-ignore]


def attributes_of(owner: Any) -> dict[str, Any]:
    """Return the attributes of an object that travel, or are copied: those that its class's `__getstate__` gives."""
    return _flat(owner.__getstate__()) if _is_own(type(owner), "__getstate__") else own_attributes(owner)


def _flat(state: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in state if isinstance(state, tuple) else (state,):
        found.update(part or {})
    found.pop(INTERNALS, None)
    return found


def _is_own(cls: Any, name: str) -> bool:
    """Whether a class has a method that somebody wrote: what attrs and dataclasses make knows its own fields alone."""
    made = getattr(getattr(cls, name, None), "__globals__", {"__name__": "builtins"})
    return hasattr(cls, name) and made.get("__name__") not in ("attr._make", "dataclasses")


def give(owner: Any, attributes: Mapping[str, Any]) -> None:
    """Give an object attributes, by its class's `__setstate__` if there is one."""
    if _is_own(type(owner), "__setstate__"):
        type(owner).__setstate__(owner, attributes)
    else:
        put(owner, attributes)


def put(owner: Any, attributes: Mapping[str, Any]) -> None:
    """Give an object attributes as they are: no property, and no `__setattr__` of its class is asked."""
    members = members_of(type(owner))
    kept = vars(owner)
    for name, value in attributes.items():
        if name in members:
            members[name].__set__(owner, value)
        else:
            kept[name] = value


def drop(owner: Any, names: Iterable[str]) -> None:
    """Take attributes from an object, where it has them."""
    members = members_of(type(owner))
    for name in names:
        vars(owner).pop(name, None)
        if name in members:
            with suppress(AttributeError):
                members[name].__delete__(owner)
