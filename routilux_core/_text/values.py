"""Values of others as text, in short: what `field(metadata={"secret": True})` marks is left out."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from types import MappingProxyType
from typing import Any
from weakref import WeakKeyDictionary

from routilux_core._text.secrets import HIDDEN, is_secret

LONGEST = 200  # letters of a value
MOST = 50  # parameters of a payload
DEEPEST = 6  # levels of a value inside each other
PLAIN = 1 << 63  # integers below this stay numbers
FRAMES: tuple[tuple[type, str, str], ...] = (
    *((list, "[", "]"), (tuple, "(", ")"), (set, "{", "}"), (frozenset, "frozenset({", "})"), (deque, "deque([", "])")),
)

_fields: WeakKeyDictionary[type, tuple[tuple[str, bool], ...]] = WeakKeyDictionary()


def described(value: object, longest: int = LONGEST) -> str:
    """Return what a value looks like, cut after `longest` letters, whatever its own `__repr__` does."""
    try:
        return look_of(value, longest)
    except Exception as error:
        return f"<{type(value).__name__}: its repr raises {type(error).__name__}>"


def look_of(value: object, longest: int) -> str:
    """Return what a value looks like, cut after `longest` letters: its `repr`, without secrets, which may raise."""
    text = _text(value, longest, DEEPEST)
    return text if len(text) <= longest else f"{text[:longest]}..."


def plain(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return a payload as it is kept: numbers and short strings as they are, anything else as it looks."""
    found = {_readable(str(name)[:LONGEST]): _plain(value) for name, value in islice(payload.items(), MOST)}
    if len(payload) > MOST:
        found["..."] = f"{len(payload) - MOST:,} more"
    return found


def _plain(value: object) -> Any:
    kind = type(value)
    if value is None or kind is bool or kind is float:
        return value
    if isinstance(value, int) and kind is int and -PLAIN < value < PLAIN:
        return value
    if isinstance(value, str) and kind is str:
        return _readable(value if len(value) <= LONGEST else f"{value[:LONGEST]}... ({len(value):,} letters)")
    return _readable(described(value))


def _readable(text: str) -> str:
    """Return text that a file can hold: half of a surrogate pair has no UTF-8."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def _text(value: object, room: int, deep: int) -> str:
    kind = type(value)
    if isinstance(value, (str, bytes, bytearray)) and len(value) > room:
        return repr(value[:room])
    if deep == 0:
        return "..."
    fields = None if isinstance(value, type) else _fields_of(kind)
    if fields is not None:
        return f"{kind.__qualname__}({_joined(_field_texts(value, fields, room, deep), room)})"
    if isinstance(value, (dict, MappingProxyType)):
        inside = (f"{_text(key, room, deep - 1)}: {_text(each, room, deep - 1)}" for key, each in value.items())
        return _framed(kind, dict, "{", _joined(inside, room), "}")
    for base, before, behind in FRAMES:
        if isinstance(value, base) and value:
            return _of_elements(value, base, before, behind, room, deep)
    return repr(value)


def _of_elements(value: Any, base: type, before: str, behind: str, room: int, deep: int) -> str:
    names: tuple[str, ...] = getattr(value, "_fields", ()) if base is tuple else ()
    if names:  # a named tuple
        texts = (f"{name}={_text(each, room, deep - 1)}" for name, each in zip(names, value, strict=False))
        return f"{type(value).__qualname__}({_joined(texts, room)})"
    inside = _joined((_text(each, room, deep - 1) for each in value), room)
    if base is tuple and len(value) == 1:
        inside += ","
    return _framed(type(value), base, before, inside, behind)


def _framed(kind: type, base: type, before: str, inside: str, behind: str) -> str:
    return f"{before}{inside}{behind}" if kind in (base, MappingProxyType) else f"{kind.__qualname__}({inside})"


def _joined(texts: Iterable[str], room: int) -> str:
    """Return what is one behind the other, no further than there is room for it."""
    found: list[str] = []
    for text in texts:
        if room < 0:
            found.append("...")
            break
        found.append(text)
        room -= len(text)
    return ", ".join(found)


def _field_texts(value: object, fields: tuple[tuple[str, bool], ...], room: int, deep: int) -> Iterator[str]:
    for name, is_shown in fields:
        if not is_shown:
            yield f"{name}={HIDDEN}"
        elif hasattr(value, name):
            yield f"{name}={_text(getattr(value, name), room, deep - 1)}"


def _fields_of(kind: type) -> tuple[tuple[str, bool], ...] | None:
    """Return the fields that the `repr` of a class of attrs or of dataclasses has, and whether each is shown.

    None for any other class, and for one without a secret that has a `__repr__` which somebody wrote.
    """
    found = _fields.get(kind)
    if found is None and (declared := _declared(kind)):
        fields = tuple((each.name, not is_secret(each)) for each in declared if each.repr or is_secret(each))
        if _is_generated(kind.__repr__) or not all(is_shown for _, is_shown in fields):
            found = _fields[kind] = fields
    return found


def _is_generated(function: Any) -> bool:
    code = getattr(getattr(function, "__wrapped__", function), "__code__", None)
    return code is not None and code.co_filename.startswith(("<attrs generated", "<string>"))


def _declared(kind: type) -> Iterable[Any]:
    made = getattr(kind, "__attrs_attrs__", None)
    if made is not None:
        return made  # type: ignore[no-any-return]
    return dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
