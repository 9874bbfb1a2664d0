"""Kinds of values that JSON does not have and that hold no others, as hooks of the converter: both ways of each.

A hook that writes raises `Unsaveable`; one that reads raises anything. Only the one way that we write a value is read.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import enum
import pathlib
import uuid
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import cattrs

from routilux_core.error_handling import ErrorStrategy
from routilux_core.serialization.type_lookup import KnownTypes, is_writable, shown, type_name

HALF = "has half of a surrogate pair, which no file can hold"
EXCEPTION = type[BaseException]

# Which exceptions a file may name differs from loading to loading; the converter, and what it calls, is one for all.
known_here: ContextVar[KnownTypes] = ContextVar("known_here")


class Unsaveable(ValueError):
    """Why a value can't be saved."""


def register_kinds(made: cattrs.Converter) -> None:
    """Teach the converter all kinds of `TAGS`, and enums and types of exceptions by their names."""
    for tag, (kind, read, text) in TEXTS.items():
        made.register_unstructure_hook(kind, _writer_of_text(tag, text))
        made.register_structure_hook(kind, _reader_of_text(tag, read, text))
    for kind in (datetime.datetime, datetime.time):
        made.register_unstructure_hook(kind, _write_time)
    made.register_unstructure_hook(datetime.timedelta, _write_timedelta)
    made.register_structure_hook(datetime.timedelta, _read_timedelta)
    made.register_unstructure_hook(enum.Enum, _write_member)
    made.register_structure_hook(enum.Enum, _read_member)
    made.register_unstructure_hook(ErrorStrategy, lambda member: member.value)  # in the format before enums were
    made.register_structure_hook(ErrorStrategy, _read_strategy)
    made.register_structure_hook_func(lambda kind: kind == EXCEPTION, lambda name, _: _read_exception(name))
    made.register_unstructure_hook_func(lambda kind: kind == tuple[EXCEPTION, ...], lambda all: [*map(type_name, all)])


def text_under(tag: str, data: dict[str, Any]) -> str:
    """Return what a tag holds that has a string."""
    if type(data[tag]) is not str:
        raise TypeError(f"a {tag} is a string, not {type(data[tag]).__name__}")
    return str(data[tag])


def _writer_of_text(tag: str, text: Callable[[Any], str]) -> Callable[[Any], dict[str, str]]:
    def write(value: Any) -> dict[str, str]:
        written = text(value)
        if not is_writable(written):  # the path of a file can have such names
            raise Unsaveable(f"{shown(written)} {HALF}; save bytes")
        return {tag: written}

    return write


def _reader_of_text(tag: str, make: Callable[[str], Any], text: Callable[[Any], str]) -> Callable[[Any, Any], Any]:
    def read(data: dict[str, Any], _: Any) -> Any:
        given = text_under(tag, data)
        made = make(given)
        if text(made) != given:
            raise ValueError(f"{shown(given)} is written {shown(text(made))}")
        return made

    return read


def _write_time(value: Any) -> dict[str, str]:
    zone = value.tzinfo
    if zone is not None:
        offset = zone.utcoffset(None) if type(zone) is datetime.timezone else None
        if offset is None or zone.tzname(None) != datetime.timezone(offset).tzname(None):
            raise Unsaveable(f"the time zone {zone!r} can't be saved: use datetime.timezone, or UTC")
    if value.fold:
        raise Unsaveable("a time with fold=1 can't be saved: use a time zone")
    return {f"${type(value).__name__}": value.isoformat()}


def _write_timedelta(value: datetime.timedelta) -> dict[str, list[int]]:
    return {"$timedelta": [value.days, value.seconds, value.microseconds]}


def _read_timedelta(data: dict[str, Any], _: Any) -> datetime.timedelta:
    given = data["$timedelta"]
    if type(given) is not list or [type(each) for each in given] != [int, int, int]:
        raise TypeError("a $timedelta is a list of days, seconds and microseconds, all whole numbers")
    made = datetime.timedelta(*given)
    if [made.days, made.seconds, made.microseconds] != given:
        raise ValueError("seconds are below 86,400, microseconds below 1,000,000, and neither is below 0")
    return made


def _write_member(value: enum.Enum) -> str:
    name = _name_of(value)
    if name is None:
        raise Unsaveable(f"{shown(value)} is no member of {type_name(type(value))} by name")
    return name


def _name_of(value: enum.Enum) -> str | None:
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


def _flag_of(cls: Any, names: str) -> Any:
    combined = cls(0)
    for name in names.split("|") if names else ():
        combined |= cls.__members__[name]
    return combined


def _read_member(name: str, cls: type[enum.Enum]) -> enum.Enum:
    if name in cls.__members__:
        return cls.__members__[name]
    parts = name.split("|", len(cls.__members__)) if name else []
    if not issubclass(cls, enum.Flag) or not all(each in cls.__members__ for each in parts):
        raise LookupError(f"{type_name(cls)} has no member {shown(name)}")
    made: enum.Enum = _flag_of(cls, name)
    if _name_of(made) != name:
        raise ValueError(f"{shown(name)} is written {shown(_name_of(made))}")
    return made


def _read_strategy(name: Any, _: Any) -> ErrorStrategy:
    if type(name) is not str or name not in STRATEGIES:
        expected = f"{', '.join(STRATEGIES[:-1])} or {STRATEGIES[-1]}"
        raise ValueError(f"expected {expected}, not {shown(name)}")
    return ErrorStrategy(name)


def _read_exception(name: Any) -> type[BaseException]:
    if type(name) is not str:
        raise TypeError(f"expected the name of a type of exceptions, not {shown(name)}")
    return known_here.get().exception(name)


def _to_base64(value: bytes | bytearray) -> str:
    return base64.b64encode(value).decode()


def _from_base64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


STRATEGIES = [each.value for each in ErrorStrategy]
# A kind that is a string under a tag: how it is read, and how it is written.
TEXTS: dict[str, tuple[type, Callable[[str], Any], Callable[[Any], str]]] = {
    "$bytes": (bytes, _from_base64, _to_base64),
    "$bytearray": (bytearray, lambda text: bytearray(_from_base64(text)), _to_base64),
    "$datetime": (datetime.datetime, datetime.datetime.fromisoformat, datetime.datetime.isoformat),
    "$date": (datetime.date, datetime.date.fromisoformat, datetime.date.isoformat),
    "$time": (datetime.time, datetime.time.fromisoformat, datetime.time.isoformat),
    "$decimal": (decimal.Decimal, decimal.Decimal, str),
    "$uuid": (uuid.UUID, uuid.UUID, str),
    "$complex": (complex, complex, str),
    "$path": (type(pathlib.Path()), pathlib.Path, str),
    "$posix_path": (pathlib.PurePosixPath, pathlib.PurePosixPath, str),
    "$windows_path": (pathlib.PureWindowsPath, pathlib.PureWindowsPath, str),
}
TAGS: dict[str, type] = {"$timedelta": datetime.timedelta, **{tag: kind for tag, (kind, _, _) in TEXTS.items()}}
