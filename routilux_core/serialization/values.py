"""Values as plain JSON, and back: what JSON has stays as it is, everything else is an object with one `$` key."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from routilux_core.ports import Event, Slot
from routilux_core.routine import Routine
from routilux_core.serialization.fields import Field
from routilux_core.serialization.kinds import HALF
from routilux_core.serialization.problems import Enough, Name, Path, Problems
from routilux_core.serialization.type_lookup import KnownTypes, UnknownType, is_writable, shown, type_name

LARGEST = 1 << 12_000  # what JSON readers take of an integer: Python's own stops at 4,300 digits
DEEPEST = 100  # levels of a value inside each other
BROKEN = object()  # what stands for a value with a problem, while the others are looked for

Encoder = Callable[["Writer", Any, Path, int], Any]
Decoder = Callable[["Reader", Any, Path, int], Any]


class Ports(Protocol):
    """The slots and events of one routine, by name; a `LookupError` where there is none."""

    def slot(self, name: str) -> Slot: ...
    def event(self, name: str) -> Event: ...


class Writer:
    """Turns values into JSON, and notes by path what can't be saved; `other` writes what has no encoder of its type."""

    def __init__(self, problems: Problems, encoders: Mapping[type, Encoder], other: Encoder) -> None:
        self.problems = problems
        self._encoders = encoders
        self._other = other
        self.owner: Routine | None = None  # whose values are being written
        self._called: dict[str, type] = {}

    def encode(self, value: Any, path: Path, depth: int = 0) -> Any:
        """Return a value as plain JSON."""
        if depth > DEEPEST:
            return self.refuse(path, f"is nested more than {DEEPEST} levels deep, or contains itself")
        return self._encoders.get(type(value), self._other)(self, value, path, depth)

    def refuse(self, path: Path, why: str) -> None:
        self.problems.add(path, why)

    def text(self, value: str, path: Path) -> str:
        """Return a string that can be written as UTF-8."""
        if type(value) is not str:
            self.refuse(path, f"a name is a plain string, not {shown(value)}, a {type(value).__name__}")
        elif not is_writable(value):
            self.refuse(path, f"{shown(value)} {HALF}; save bytes")
        return value

    def class_name(self, cls: type, path: Path) -> str:
        """Return the name of a class, which has to tell it from all others that are saved with it."""
        name = type_name(cls)
        if self._called.setdefault(name, cls) is not cls:
            self.refuse(path, f"two classes that are saved here are both called {shown(name)}: name one of them anew")
        return name

    def fields(self, fields: dict[str, Field], held: dict[str, Any], path: Path, depth: int = 0) -> dict[str, Any]:
        """Return the fields of an object; one that its own annotation would refuse when loaded is refused now."""
        found = {}
        for name, value in held.items():
            found[name] = self.encode(value, (path, Name(name)), depth + 1)
            if not fields[name].check(value):
                self.refuse((path, Name(name)), misfit(value, fields[name]))
        return found


class Reader:
    """Turns JSON back into values, and notes by path what can't be; a decoder's tag may need more keys beside it."""

    def __init__(
        self, problems: Problems, types: KnownTypes, decoders: Mapping[str, Decoder], more: Mapping[str, frozenset[str]]
    ) -> None:
        self.problems = problems
        self.types = types
        self._decoders = decoders
        self._more_keys = more
        self.ports: Ports | None = None  # of the routine whose values are being read

    def ports_here(self) -> Ports:
        """Return the slots and events that values here may refer to."""
        if self.ports is None:
            raise LookupError("slots and events are those of a routine, and nothing here belongs to one")
        return self.ports

    def decode(self, data: Any, path: Path, depth: int = 0) -> Any:
        """Return the value of plain JSON; BROKEN after a problem, which is noted."""
        kind = type(data)
        if kind is str:
            return data if is_writable(data) else self.refuse(path, f"{shown(data)} {HALF}")
        if kind is int:
            return data if -LARGEST < data < LARGEST else self.refuse(path, "is an integer too large for JSON")
        if data is None or kind is bool:
            return data
        if kind is float:
            return data if math.isfinite(data) else self.refuse(path, 'write {"$float": "nan"}, "inf" or "-inf"')
        if depth > DEEPEST:
            return self.refuse(path, f"is nested more than {DEEPEST} levels deep")
        if kind is list:
            return self._items(data, path, depth)
        if kind is not dict:
            return self.refuse(path, f"a {kind.__name__} is no JSON")
        tag = next((key for key in data if type(key) is str and key.startswith("$")), None)
        return self._plain(data, path, depth) if tag is None else self._tagged(tag, data, path, depth)

    def refuse(self, path: Path, why: str) -> Any:
        self.problems.add(path, why)
        return BROKEN

    def _items(self, data: list[Any], path: Path, depth: int) -> Any:
        found = [self.decode(each, (path, index), depth + 1) for index, each in enumerate(data)]
        return BROKEN if any(each is BROKEN for each in found) else found

    def _plain(self, data: dict[str, Any], path: Path, depth: int) -> Any:
        found = {}
        for key, each in data.items():
            if type(key) is not str or not is_writable(key):
                return self.refuse(path, f"{shown(key)} is no string of UTF-8, as a key of JSON has to be")
            found[key] = self.decode(each, (path, key), depth + 1)
        return BROKEN if any(each is BROKEN for each in found.values()) else found

    def _tagged(self, tag: str, data: dict[str, Any], path: Path, depth: int) -> Any:
        decoder = self._decoders.get(tag)
        if decoder is None:
            return self.refuse(path, f"there is no kind of value {shown(tag)}; there is {', '.join(self._decoders)}")
        expected = self._more_keys.get(tag, frozenset()) | {tag}
        if data.keys() != expected:
            return self.refuse(path, f"a {tag} has the keys {', '.join(sorted(expected))}, not {_keys(data)}")
        try:
            return decoder(self, data, (path, tag), depth)
        except UnknownType as error:
            return self.refuse(path, str(error))
        except (Enough, RecursionError):
            raise
        except Exception as error:
            return self.refuse(path, f"{type(error).__name__}: {shown(str(error))}")

    def content(self, data: Any, path: Path, depth: int) -> list[Any] | None:
        """Return what a tag that holds a list holds; None after a problem."""
        if type(data) is not list:
            raise TypeError(f"expected a list, not {type(data).__name__}")
        found = self._items(data, path, depth)
        return None if found is BROKEN else found

    def fields(
        self, fields: dict[str, Field], data: Any, path: Path, depth: int = 0, some: bool = False
    ) -> dict[str, Any] | None:
        """Return the values of fields, or of `some`, checked against their annotations; None after a problem."""
        if type(data) is not dict:
            raise TypeError(f"fields are an object, not {type(data).__name__}")
        before = len(self.problems.found)
        found = {}
        for name, each in data.items():
            field = fields.get(name)
            if field is None:
                self.refuse((path, name), "there is no such field")
            elif type(each) in field.simple and (each.isascii() if type(each) is str else type(each) is not float):
                found[name] = each
            else:
                found[name] = self._field(field, each, (path, Name(name)), depth)
        for name, field in fields.items() if not some and data.keys() != fields.keys() else ():
            if name not in data and field.parameter is not None:
                self.refuse((path, Name(name)), "is missing")
        return found if len(self.problems.found) == before else None

    def _field(self, field: Field, data: Any, path: Path, depth: int) -> Any:
        value = self.decode(data, path, depth + 1)
        if value is not BROKEN and not field.check(value):
            self.refuse(path, misfit(value, field))
        return value


def misfit(value: Any, field: Field) -> str:
    """Say that a value does not fit the annotation of its field."""
    return f"{shown(value)} does not fit the annotation {shown(field.explain())[1:-1]}"


def _keys(data: dict[str, Any]) -> str:
    return shown(", ".join(map(str, list(data)[:10])))
