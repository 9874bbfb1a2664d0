"""Values as plain JSON, and back: what JSON has stays as it is, everything else is an object with one `$` key."""

from __future__ import annotations

import base64
import datetime
import decimal
import enum
import json
import math
import pathlib
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

from routilux_core._problems import Enough, Name, Path, Problems
from routilux_core._shapes import Field, shape_of, unsaveable
from routilux_core._type_names import KnownTypes, UnknownType, shown, type_name

DEEPEST = 100  # levels of a value inside each other
LARGEST = 1 << 12_000  # what JSON readers take of an integer: Python's own stops at 4,300 digits
SAME_HASH = 1000  # elements of a set or keys of a dict
BROKEN = object()  # what stands for a value with a problem, while the others are looked for

Encoder = Callable[["Writer", Any, Path, int], Any]
Decoder = Callable[["Reader", Any, Path, int], Any]


class Writer:
    """Turns values into JSON, and notes by path what can't be saved."""

    def __init__(self, problems: Problems) -> None:
        self.problems = problems

    def encode(self, value: Any, path: Path, depth: int = 0) -> Any:
        """Return a value as plain JSON."""
        if depth > DEEPEST:
            return self.refuse(path, f"is nested more than {DEEPEST} levels deep, or contains itself")
        encoder = ENCODERS.get(type(value))
        if encoder is not None:
            return encoder(self, value, path, depth)
        if isinstance(value, enum.Enum):
            return self._enum(value, path)
        return self._object(value, path, depth)

    def refuse(self, path: Path, why: str) -> None:
        self.problems.add(path, why)

    def text(self, value: str, path: Path) -> str:
        """Return a string that can be written as UTF-8."""
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                self.refuse(path, f"{shown(value)} has half of a surrogate pair, which no file can hold; save bytes")
        return value

    def _enum(self, value: enum.Enum, path: Path) -> Any:
        cls, name = type(value), value.name
        if name is None or cls.__members__.get(name) is not value:
            parts = [each.name or "" for each in value] if isinstance(value, enum.Flag) else []
            name = "|".join(parts)
            if not isinstance(value, enum.Flag) or _flag(cls, name) != value:
                return self.refuse(path, f"{shown(value)} is no member of {type_name(cls)} by name")
        return {"$enum": type_name(cls), "name": name}

    def _object(self, value: Any, path: Path, depth: int) -> Any:
        cls = type(value)
        why = unsaveable(cls)
        if why is not None:
            return self.refuse(path, f"a {type_name(cls)} can't be saved: it {why}. {_advice(value)}")
        shape = shape_of(cls)
        for name in shape.rest(value):
            self.refuse((path, Name(name)), f"is no field of {shape.name}, so it can't be saved")
        return {"$object": shape.name, "fields": self.fields(shape.fields, shape.held(value), path, depth)}

    def fields(self, fields: dict[str, Field], held: dict[str, Any], path: Path, depth: int = 0) -> dict[str, Any]:
        """Return the fields of an object; one that its own annotation would refuse when loaded is refused now."""
        found = {}
        for name, value in held.items():
            found[name] = self.encode(value, (path, Name(name)), depth + 1)
            if not fields[name].check(value):
                self.refuse((path, Name(name)), misfit(value, fields[name]))
        return found


class Reader:
    """Turns JSON back into values, and notes by path what can't be."""

    def __init__(self, problems: Problems, types: KnownTypes) -> None:
        self.problems = problems
        self.types = types

    def decode(self, data: Any, path: Path, depth: int = 0) -> Any:
        """Return the value of plain JSON; BROKEN after a problem, which is noted."""
        kind = type(data)
        if data is None or kind is str or kind is bool or kind is int:
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
            if type(key) is not str:
                return self.refuse(path, f"{shown(key)} is no string, as a key of JSON has to be")
            found[key] = self.decode(each, (path, key), depth + 1)
        return BROKEN if any(each is BROKEN for each in found.values()) else found

    def _tagged(self, tag: str, data: dict[str, Any], path: Path, depth: int) -> Any:
        decoder = DECODERS.get(tag)
        if decoder is None:
            return self.refuse(path, f"there is no kind of value {shown(tag)}; there is {', '.join(DECODERS)}")
        expected = EXTRA_KEYS.get(tag, frozenset()) | {tag}
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

    def fields(self, fields: dict[str, Field], data: Any, path: Path, depth: int = 0) -> dict[str, Any] | None:
        """Return the values of fields, checked against their annotations; None after a problem."""
        if type(data) is not dict:
            raise TypeError(f"fields are an object, not {type(data).__name__}")
        before = len(self.problems.found)
        found = {}
        for name, each in data.items():
            field = fields.get(name)
            if field is None:
                self.refuse((path, name), "there is no such field")
            elif each is not None and type(each) in field.simple:
                found[name] = each
            else:
                found[name] = self._field(field, each, (path, Name(name)), depth)
        for name, field in fields.items() if len(data) != len(fields) else ():
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


def _advice(value: object) -> str:
    if callable(value):
        return "Code is never saved: make it a method, and keep its name"
    return "What a worker needs for itself is declared with per_worker; anything else, keep as plain values"


def _keys(data: dict[str, Any]) -> str:
    return shown(", ".join(map(str, list(data)[:10])))


# -- one kind of value after the other: how it is written, and how it is read


def _write_int(writer: Writer, value: int, path: Path, depth: int) -> Any:
    return value if -LARGEST < value < LARGEST else writer.refuse(path, "is an integer too large for JSON")


def _write_float(writer: Writer, value: float, path: Path, depth: int) -> Any:
    return value if math.isfinite(value) else {"$float": str(value)}


def _read_float(reader: Reader, data: dict[str, Any], path: Path, depth: int) -> float:
    if data["$float"] not in ("nan", "inf", "-inf"):
        raise ValueError("a $float is 'nan', 'inf' or '-inf'; any other is written as a number")
    return float(data["$float"])


def _write_list(writer: Writer, value: Any, path: Path, depth: int) -> list[Any]:
    return [writer.encode(each, (path, index), depth + 1) for index, each in enumerate(list(value))]


def _write_dict(writer: Writer, value: dict[Any, Any], path: Path, depth: int) -> dict[str, Any]:
    items = list(value.items())  # a copy: a handler may be at work on it
    if all(type(key) is str and not key.startswith("$") for key, _ in items):
        return {writer.text(key, path): writer.encode(each, (path, key), depth + 1) for key, each in items}
    pairs = [
        [writer.encode(key, (path, key), depth + 2), writer.encode(each, (path, key), depth + 2)]
        for key, each in items
    ]
    return {"$dict": pairs}


def _read_dict(reader: Reader, data: dict[str, Any], path: Path, depth: int) -> Any:
    pairs = reader.content(data["$dict"], path, depth)
    if pairs is None:
        return BROKEN
    _check_hashes([key for key, _ in pairs])
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("two keys are equal")
    return found


def _write_set(writer: Writer, value: Any, path: Path, depth: int) -> dict[str, Any]:
    # Sets have no order of their own: sorted, the same set is always the same text.
    found = [writer.encode(each, (path, each), depth + 1) for each in list(value)]
    return {f"${type(value).__name__}": sorted(found, key=json.dumps)}


def _check_hashes(elements: list[Any]) -> None:
    """Refuse elements chosen to have one hash, with which sets and dicts take the square of the time."""
    if len(elements) > SAME_HASH and max(Counter(map(hash, elements)).values()) > SAME_HASH:
        raise ValueError(f"more than {SAME_HASH} elements have the same hash")


def _read_collection(make: Callable[[list[Any]], Any], tag: str) -> Decoder:
    def read(reader: Reader, data: dict[str, Any], path: Path, depth: int) -> Any:
        found = reader.content(data[tag], path, depth)
        if found is not None and make is not tuple:
            _check_hashes(found)
        made = None if found is None else make(found)
        if made is not None and found is not None and len(made) != len(found):
            raise ValueError("two elements are equal")
        return BROKEN if made is None else made

    return read


def _write_time(writer: Writer, value: Any, path: Path, depth: int) -> Any:
    zone = value.tzinfo
    if zone is not None:
        offset = zone.utcoffset(None) if type(zone) is datetime.timezone else None
        if offset is None or zone.tzname(None) != datetime.timezone(offset).tzname(None):
            return writer.refuse(path, f"the time zone {zone!r} can't be saved: use datetime.timezone, or UTC")
    if value.fold:
        return writer.refuse(path, "a time with fold=1 can't be saved: use a time zone")
    return {f"${type(value).__name__}": value.isoformat()}


def _text_of(data: dict[str, Any], tag: str) -> str:
    if type(data[tag]) is not str:
        raise TypeError(f"a {tag} is a string, not {type(data[tag]).__name__}")
    return str(data[tag])


def _as_text(tag: str, make: Callable[[str], Any], text: Callable[[Any], str] = str) -> tuple[Encoder, Decoder]:
    """Return both directions of a kind that is written as a string. Only the one way that we write it is read."""

    def write(writer: Writer, value: Any, path: Path, depth: int) -> Any:
        return {tag: writer.text(text(value), path)}

    def read(reader: Reader, data: dict[str, Any], path: Path, depth: int) -> Any:
        given = _text_of(data, tag)
        made = make(given)
        if text(made) != given:
            raise ValueError(f"{shown(given)} is written {shown(text(made))}")
        return made

    return write, read


def _write_timedelta(writer: Writer, value: datetime.timedelta, path: Path, depth: int) -> Any:
    return {"$timedelta": [value.days, value.seconds, value.microseconds]}


def _read_timedelta(reader: Reader, data: dict[str, Any], path: Path, depth: int) -> datetime.timedelta:
    given = data["$timedelta"]
    if type(given) is not list or [type(each) for each in given] != [int, int, int]:
        raise TypeError("a $timedelta is a list of days, seconds and microseconds, all whole numbers")
    made = datetime.timedelta(*given)
    if [made.days, made.seconds, made.microseconds] != given:
        raise ValueError("seconds are below 86,400, microseconds below 1,000,000, and neither is below 0")
    return made


def _flag(cls: Any, names: str) -> Any:
    members = [cls.__members__[name] for name in names.split("|")] if names else []
    combined = cls(0)
    for member in members:
        combined |= member
    return combined


def _read_enum(reader: Reader, data: dict[str, Any], path: Path, depth: int) -> Any:
    cls, name = reader.types.value(_text_of(data, "$enum")), _text_of(data, "name")
    if not issubclass(cls, enum.Enum):
        raise TypeError(f"{type_name(cls)} is no enum")
    if name in cls.__members__:
        return cls.__members__[name]
    if not issubclass(cls, enum.Flag) or not all(each in cls.__members__ for each in name.split("|") if name):
        raise LookupError(f"{type_name(cls)} has no member {shown(name)}")
    return _flag(cls, name)


def _read_object(reader: Reader, data: dict[str, Any], path: Path, depth: int) -> Any:
    cls = reader.types.value(_text_of(data, "$object"))
    why = unsaveable(cls)
    if why is not None or issubclass(cls, enum.Enum):
        raise TypeError(f"a {type_name(cls)} {why or 'is an enum'}")
    shape = shape_of(cls)
    found = reader.fields(shape.fields, data["fields"], path[0], depth)
    return BROKEN if found is None else shape.make(found)


EXTRA_KEYS = {"$enum": frozenset({"name"}), "$object": frozenset({"fields"})}

ENCODERS: dict[type, Encoder] = {
    type(None): lambda writer, value, path, depth: None,
    bool: lambda writer, value, path, depth: value,
    str: lambda writer, value, path, depth: writer.text(value, path),
    int: _write_int,
    float: _write_float,
    list: _write_list,
    dict: _write_dict,
    tuple: lambda writer, value, path, depth: {"$tuple": _write_list(writer, value, path, depth)},
    set: _write_set,
    frozenset: _write_set,
    datetime.datetime: _write_time,
    datetime.time: _write_time,
    datetime.timedelta: _write_timedelta,
}

DECODERS: dict[str, Decoder] = {
    "$float": _read_float,
    "$dict": _read_dict,
    "$tuple": _read_collection(tuple, "$tuple"),
    "$set": _read_collection(set, "$set"),
    "$frozenset": _read_collection(frozenset, "$frozenset"),
    "$timedelta": _read_timedelta,
    "$enum": _read_enum,
    "$object": _read_object,
}


def _to_base64(value: bytes | bytearray) -> str:
    return base64.b64encode(value).decode()


def _from_base64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


for _kind, _tag, _make, _text in (
    (bytes, "$bytes", _from_base64, _to_base64),
    (bytearray, "$bytearray", lambda text: bytearray(_from_base64(text)), _to_base64),
    (datetime.datetime, "$datetime", datetime.datetime.fromisoformat, datetime.datetime.isoformat),
    (datetime.date, "$date", datetime.date.fromisoformat, datetime.date.isoformat),
    (datetime.time, "$time", datetime.time.fromisoformat, datetime.time.isoformat),
    (decimal.Decimal, "$decimal", decimal.Decimal, str),
    (uuid.UUID, "$uuid", uuid.UUID, str),
    (complex, "$complex", complex, str),
    (type(pathlib.Path()), "$path", pathlib.Path, str),
    (pathlib.PurePosixPath, "$posix_path", pathlib.PurePosixPath, str),
    (pathlib.PureWindowsPath, "$windows_path", pathlib.PureWindowsPath, str),
):
    _write, DECODERS[_tag] = _as_text(_tag, _make, _text)
    ENCODERS.setdefault(_kind, _write)
