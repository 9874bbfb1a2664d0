"""The kinds of values that JSON does not have: how each is written as an object with one `$` key, and read."""

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
from typing import TYPE_CHECKING, Any

from routilux_core.ports import Event, Slot
from routilux_core.serialization.fields import shape_of, unsaveable
from routilux_core.serialization.problems import Path
from routilux_core.serialization.type_lookup import shown, type_name

if TYPE_CHECKING:
    from routilux_core.serialization.values import Reader, Writer

LARGEST = 1 << 12_000  # what JSON readers take of an integer: Python's own stops at 4,300 digits
SAME_HASH = 200  # elements of a set or keys of a dict
TOO_SLOW = f"more than {SAME_HASH} elements have the same hash"
BROKEN = object()  # what stands for a value with a problem, while the others are looked for

Encoder = Callable[["Writer", Any, Path, int], Any]
Decoder = Callable[["Reader", Any, Path, int], Any]


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


def _write_dict(writer: Writer, value: dict[Any, Any], path: Path, depth: int) -> Any:
    items = list(value.items())  # a copy: a handler may be at work on it
    if all(type(key) is str and not key.startswith("$") for key, _ in items):
        return {writer.text(key, path): writer.encode(each, (path, key), depth + 1) for key, each in items}
    if _is_slow([key for key, _ in items]):
        return writer.refuse(path, TOO_SLOW)
    pairs = [
        [writer.encode(key, (path, key), depth + 2), writer.encode(each, (path, key), depth + 2)] for key, each in items
    ]
    return {"$dict": pairs}


def _read_dict(reader: Reader, data: dict[str, Any], path: Path, depth: int) -> Any:
    if type(data["$dict"]) is list and any(type(each) is not list or len(each) != 2 for each in data["$dict"]):
        raise ValueError("a $dict is a list of pairs, each a list of a key and a value")
    pairs = reader.content(data["$dict"], path, depth)
    if pairs is None:
        return BROKEN
    _check_hashes([key for key, _ in pairs])
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("two keys are equal")
    return found


def _write_set(writer: Writer, value: Any, path: Path, depth: int) -> Any:
    elements = list(value)
    if _is_slow(elements):
        return writer.refuse(path, TOO_SLOW)
    # Sets have no order of their own: sorted, the same set is always the same text.
    found = [writer.encode(each, (path, each), depth + 1) for each in elements]
    return {f"${type(value).__name__}": sorted(found, key=json.dumps)}


def _is_slow(elements: list[Any]) -> bool:
    """Whether many elements have one hash, with which sets and dicts take the square of the time."""
    return len(elements) > SAME_HASH and max(Counter(map(hash, elements)).values()) > SAME_HASH


def _check_hashes(elements: list[Any]) -> None:
    if _is_slow(elements):
        raise ValueError(TOO_SLOW)


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


def _flag_of(cls: Any, names: str) -> Any:
    combined = cls(0)
    for name in names.split("|") if names else ():
        combined |= cls.__members__[name]
    return combined


def member_name(value: enum.Enum) -> str | None:
    """Return the name that stands for a member, or for some of a flag together; None if none does."""
    cls, name = type(value), value.name
    if name is not None and cls.__members__.get(name) is value:
        return name
    if not isinstance(value, enum.Flag):
        return None
    name = "|".join(each.name or "" for each in value)
    return (
        name
        if all(each in cls.__members__ for each in name.split("|") if name) and _flag_of(cls, name) == value
        else None
    )


def _read_enum(reader: Reader, data: dict[str, Any], path: Path, depth: int) -> Any:
    cls, name = reader.types.value(_text_of(data, "$enum")), _text_of(data, "name")
    if not issubclass(cls, enum.Enum):
        raise TypeError(f"{type_name(cls)} is no enum")
    if name in cls.__members__:
        return cls.__members__[name]
    parts = name.split("|", len(cls.__members__)) if name else []
    if not issubclass(cls, enum.Flag) or not all(each in cls.__members__ for each in parts):
        raise LookupError(f"{type_name(cls)} has no member {shown(name)}")
    made: enum.Enum = _flag_of(cls, name)
    if member_name(made) != name:
        raise ValueError(f"{shown(name)} is written {shown(member_name(made))}")
    return made


def _read_object(reader: Reader, data: dict[str, Any], path: Path, depth: int) -> Any:
    cls = reader.types.value(_text_of(data, "$object"))
    why = unsaveable(cls)
    if why is not None:
        raise TypeError(f"a {type_name(cls)} {why}")
    shape = shape_of(cls)
    found = reader.fields(shape.fields, data["fields"], path[0], depth)
    return BROKEN if found is None else shape.make(found)


def _write_slot(writer: Writer, value: Slot, path: Path, depth: int) -> Any:
    return _write_port(writer, "slot", value, path)


def _write_event(writer: Writer, value: Event, path: Path, depth: int) -> Any:
    return _write_port(writer, "event", value, path)


def _write_port(writer: Writer, kind: str, value: Slot | Event, path: Path) -> Any:
    if writer.owner is None or getattr(writer.owner._routilux, f"{kind}s").get(value.name) is not value:
        return writer.refuse(path, f"{shown(value)} is no {kind} of the routine that holds it, so it can't be saved")
    return {f"${kind}": writer.text(value.name, path)}


def _read_slot(reader: Reader, data: dict[str, Any], path: Path, depth: int) -> Slot:
    return reader.ports_here().slot(_text_of(data, "$slot"))


def _read_event(reader: Reader, data: dict[str, Any], path: Path, depth: int) -> Event:
    return reader.ports_here().event(_text_of(data, "$event"))


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
    Slot: _write_slot,
    Event: _write_event,
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
    "$slot": _read_slot,
    "$event": _read_event,
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
