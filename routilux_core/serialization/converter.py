"""The one converter between records and JSON: strict in types, with unknown keys forbidden, and told by path."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, TypeVar, get_args, get_origin

import cattrs
from attrs import AttrsInstance, fields, has
from cattrs.errors import (
    AttributeValidationNote,
    ClassValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
)
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn

from routilux_core.error_handling import ErrorHandler
from routilux_core.graph import Connection, Output
from routilux_core.serialization.kinds import register_kinds
from routilux_core.serialization.problems import MOST, ROOT, Name, Path, Problems
from routilux_core.serialization.schema import (
    FailureRecord,
    FlowRecord,
    JobRecord,
    PolicyRecord,
    SettingsRecord,
    SlotRecord,
    Value,
)
from routilux_core.serialization.type_lookup import is_writable, shown

R = TypeVar("R")


def structure(data: Any, record: type[R], problems: Problems, path: Path = ROOT) -> R | None:
    """Return plain JSON as a record; None after problems, which are noted."""
    try:
        return converter().structure(data, record)
    except Exception as error:
        for where, message in _told(error, path):
            problems.add(where, message)
        return None


def unstructure(record: Any, kind: Any = None) -> Any:
    """Return a record, a policy, or a list of connections or outputs as plain JSON. A `Value` in it is JSON already."""
    return converter().unstructure(record, kind)


@cache
def converter() -> cattrs.Converter:
    """Return the converter. All its functions are made here: later ones would be compiled while a file loads."""
    made = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)
    _read_strictly(made)
    register_kinds(made)
    _add_policies(made)
    _write_as_named(made)
    for record in (FlowRecord, JobRecord, PolicyRecord):
        made.get_structure_hook(record)
        made.get_unstructure_hook(record)
    return made


def _read_strictly(made: cattrs.Converter) -> None:
    made.register_structure_hook(str, _text)
    for kind in (int, bool):
        made.register_structure_hook(kind, _exactly(kind))
    made.register_structure_hook(float, _number)
    made.register_structure_hook(Value, lambda data, _: data)
    for origin, make in ((list, _list), (tuple, _tuple), (dict, _dict)):
        made.register_structure_hook_factory(_is_of(origin), partial(make, made))
    made.register_structure_hook_factory(has, lambda kind: _record(made, kind))


def _add_policies(made: cattrs.Converter) -> None:
    """Read a policy as its record, which has to be whole, and then as its own class, which checks the numbers."""
    read = made.get_structure_hook(PolicyRecord)

    def policy(data: Any, _: Any) -> ErrorHandler:
        record = read(data, PolicyRecord)
        return ErrorHandler(**{each.name: getattr(record, each.name) for each in fields(PolicyRecord)})

    made.register_structure_hook(ErrorHandler, policy)
    made.get_unstructure_hook(ErrorHandler)


def _write_as_named(made: cattrs.Converter) -> None:
    """Write connections and outputs by their names in the file, and leave out what a record may lack."""
    made.register_unstructure_hook_func(lambda kind: kind == list[Connection], _write_connections)
    made.register_unstructure_hook_func(lambda kind: kind == list[Output], _write_outputs)
    inner = make_dict_unstructure_fn(SettingsRecord, made)
    made.register_unstructure_hook(SettingsRecord, lambda each: _without_default(inner(each)))
    _leave_out(made, SlotRecord, ("whole",))
    _leave_out(made, FailureRecord, ("activation", "cause"))
    _leave_out(made, JobRecord, ("errors_left_out",), ("started_at",), ("ended_at",))


def _without_default(settings: dict[str, Any]) -> dict[str, Any]:
    if settings["on_crash"] == "retry":
        del settings["on_crash"]
    return settings


def _leave_out(made: cattrs.Converter, record: type[AttrsInstance], *groups: tuple[str, ...]) -> None:
    """Write keys that a record may lack only where the first of their group says something."""
    inner = make_dict_unstructure_fn(record, made)

    def write(each: Any) -> dict[str, Any]:
        saved = inner(each)
        for names in groups:
            if not getattr(each, names[0]):
                for name in names:
                    del saved[name]
        return saved

    made.register_unstructure_hook(record, write)


# A large flow has thousands of them: a call for each would cost a tenth of what saving the flow takes.
def _write_connections(connections: list[Connection]) -> list[dict[str, Any]]:
    return [
        {
            "source": each.source,
            "event": each.event,
            "target": each.target,
            "slot": each.slot,
            "mapping": dict(each.param_mapping),
        }
        for each in connections
    ]


def _write_outputs(outputs: list[Output]) -> list[dict[str, str]]:
    return [{"routine": each.routine_id, "event": each.event, "name": each.name} for each in outputs]


Hook = Callable[[Any, Any], Any]


def _is_of(origin: Any) -> Callable[[Any], bool]:
    return lambda kind: get_origin(kind) is origin


def _exactly(kind: type) -> Hook:
    def structure(data: Any, _: Any) -> Any:
        if type(data) is not kind:
            raise TypeError(f"expected {kind.__name__}, not {_what(data)}")
        return data

    return structure


def _text(data: Any, _: Any) -> Any:
    if type(data) is not str or not is_writable(data):
        raise TypeError(f"expected a string of UTF-8, not {_what(data)}")
    return data


def _number(data: Any, _: Any) -> Any:
    if type(data) is not int and not (type(data) is float and math.isfinite(data)):
        raise TypeError(f"expected a finite number, not {_what(data)}")
    return data


def _what(data: Any) -> str:
    simple = data is None or isinstance(data, (str, int, float))
    return shown(data) if simple else {"dict": "an object", "list": "a list"}.get(type(data).__name__, "no JSON")


def _record(made: cattrs.Converter, kind: Any) -> Hook:
    inner = make_dict_structure_fn(kind, made, _cattrs_forbid_extra_keys=True, _cattrs_detailed_validation=True)

    def structure(data: Any, _: Any) -> Any:
        if type(data) is not dict:
            raise TypeError(f"expected an object, not {_what(data)}")
        return inner(data, kind)

    return structure


def _list(made: cattrs.Converter, kind: Any) -> Hook:
    element = get_args(kind)[0]
    inner = made.get_structure_hook(element)

    def structure(data: Any, _: Any) -> Any:
        if type(data) is not list:
            raise TypeError(f"expected a list, not {_what(data)}")
        try:
            return [inner(each, element) for each in data]
        except Exception:
            return _again(enumerate(data), inner, element)

    return structure


def _tuple(made: cattrs.Converter, kind: Any) -> Hook:
    read = _list(made, kind)
    return lambda data, _: tuple(read(data, kind))


def _dict(made: cattrs.Converter, kind: Any) -> Hook:
    element = get_args(kind)[1]
    inner = made.get_structure_hook(element)

    def structure(data: Any, _: Any) -> Any:
        if type(data) is not dict:
            raise TypeError(f"expected an object, not {_what(data)}")
        if not all(type(key) is str and is_writable(key) for key in data):
            raise TypeError("every key has to be a string of UTF-8")
        if element is Value:
            return data
        try:
            return {key: inner(each, element) for key, each in data.items()}
        except Exception:
            return _again(data.items(), inner, element)

    return structure


def _again(items: Any, inner: Hook, element: Any) -> Any:
    """Collect the errors of the elements of a list or an object: so many as will be told, and no more."""
    errors = []
    for key, each in items:
        try:
            inner(each, element)
        except Exception as error:
            error.__notes__ = [IterableValidationNote("", key, element)]
            errors.append(error)
            if len(errors) >= MOST:
                break
    raise IterableValidationError("", errors, element)


def _told(error: BaseException, path: Path) -> Iterator[tuple[Path, str]]:
    """Yield what is wrong, with its path, from the converter's tree of errors."""
    if isinstance(error, (ClassValidationError, IterableValidationError)):
        for each in error.exceptions:
            yield from _told(each, _step(each, path))
    elif isinstance(error, ForbiddenExtraKeysError):
        for key in sorted(error.extra_fields, key=str):
            yield (path, Name(key) if str(key).isidentifier() else key), "there is no such key"
    elif isinstance(error, KeyError):
        yield path, "is missing"
    else:
        yield path, str(error)


def _step(error: BaseException, path: Path) -> Path:
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            return path, Name(note.name)
        if isinstance(note, IterableValidationNote):
            return path, note.index
    return path
