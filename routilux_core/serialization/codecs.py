"""How values of all kinds are written and read: containers and objects here, what holds no others by the converter.

What holds others is written and read by hand: each element has a path of its own, for what is wrong with it, and a
depth, which is bounded. Which class an object or an enum is of, `KnownTypes` decides: a file must not make just any.
Slots and events are those of the routine that is being written or read.
"""

from __future__ import annotations

import enum
import functools
import json
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

from routilux_core.ports import Event, Slot
from routilux_core.serialization.converter import converter
from routilux_core.serialization.fields import shape_of, unsaveable
from routilux_core.serialization.kinds import TAGS, Unsaveable, text_under
from routilux_core.serialization.problems import Name, Path, Problems
from routilux_core.serialization.type_lookup import KnownTypes, shown, type_name
from routilux_core.serialization.values import BROKEN, LARGEST, Decoder, Encoder, Reader, Writer

SAME_HASH = 200  # elements of a set or keys of a dict
TOO_SLOW = f"more than {SAME_HASH} elements have the same hash"
EXTRA_KEYS = {"$enum": frozenset({"name"}), "$object": frozenset({"fields"})}


def writer(problems: Problems) -> Writer:
    """Return a writer of values of all kinds."""
    return Writer(problems, encoders(), _write_other)


def reader(problems: Problems, known: KnownTypes) -> Reader:
    """Return a reader of values of all kinds."""
    return Reader(problems, known, decoders(), EXTRA_KEYS)


@functools.cache
def encoders() -> dict[type, Encoder]:
    """Return how values are written, by their exact type."""
    hook = converter().get_unstructure_hook
    return {**{kind: _by_hook(hook(kind)) for kind in TAGS.values()}, **ENCODERS}


@functools.cache
def decoders() -> dict[str, Decoder]:
    """Return how values are read, by their tag."""
    hook = converter().get_structure_hook
    return {**DECODERS, **{tag: _of_kind(hook(kind), kind) for tag, kind in TAGS.items()}}


def _by_hook(hook: Callable[[Any], Any]) -> Encoder:
    def write(writer: Writer, value: Any, path: Path, depth: int) -> Any:
        try:
            return hook(value)
        except Unsaveable as why:
            return writer.refuse(path, str(why))

    return write


def _of_kind(hook: Callable[[Any, Any], Any], kind: type) -> Decoder:
    return lambda reader, data, path, depth: hook(data, kind)


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


def _write_other(writer: Writer, value: Any, path: Path, depth: int) -> Any:
    if isinstance(value, enum.Enum):
        return _write_enum(writer, value, path, depth)
    return _write_object(writer, value, path, depth)


def _write_enum(writer: Writer, value: enum.Enum, path: Path, depth: int) -> Any:
    try:
        name = converter().get_unstructure_hook(enum.Enum)(value)
    except Unsaveable as why:
        return writer.refuse(path, str(why))
    return {"$enum": writer.class_name(type(value), path), "name": name}


def _read_enum(reader: Reader, data: dict[str, Any], path: Path, depth: int) -> Any:
    cls, name = reader.types.value(text_under("$enum", data)), text_under("name", data)
    if not issubclass(cls, enum.Enum):
        raise TypeError(f"{type_name(cls)} is no enum")
    return converter().get_structure_hook(enum.Enum)(name, cls)


def _write_object(writer: Writer, value: Any, path: Path, depth: int) -> Any:
    cls = type(value)
    why = unsaveable(cls)
    if why is not None:
        return writer.refuse(path, f"a {type_name(cls)} can't be saved: it {why}. {_advice(value)}")
    shape = shape_of(cls)
    for name in shape.rest(value):
        writer.refuse((path, Name(name)), f"is no field of {shape.name}, so it can't be saved")
    return {
        "$object": writer.class_name(cls, path),
        "fields": writer.fields(shape.fields, shape.held(value), path, depth),
    }


def _advice(value: object) -> str:
    if callable(value):
        return "Code is never saved: make it a method, and keep its name"
    return "What a worker needs for itself is declared with per_worker; anything else, keep as plain values"


def _read_object(reader: Reader, data: dict[str, Any], path: Path, depth: int) -> Any:
    cls = reader.types.value(text_under("$object", data))
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
    return reader.ports_here().slot(text_under("$slot", data))


def _read_event(reader: Reader, data: dict[str, Any], path: Path, depth: int) -> Event:
    return reader.ports_here().event(text_under("$event", data))


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
    Slot: _write_slot,
    Event: _write_event,
}

DECODERS: dict[str, Decoder] = {
    "$float": _read_float,
    "$dict": _read_dict,
    "$tuple": _read_collection(tuple, "$tuple"),
    "$set": _read_collection(set, "$set"),
    "$frozenset": _read_collection(frozenset, "$frozenset"),
    "$enum": _read_enum,
    "$object": _read_object,
    "$slot": _read_slot,
    "$event": _read_event,
}
