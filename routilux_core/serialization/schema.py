"""The saved form as records, and the one converter that reads them: strict in types, with unknown keys forbidden."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NewType, TypeVar, get_args, get_origin

import cattrs
from attrs import frozen, has
from cattrs.errors import (
    AttributeValidationNote,
    ClassValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
)
from cattrs.gen import make_dict_structure_fn

from routilux_core.records import Ledger
from routilux_core.serialization.problems import MOST, ROOT, Name, Path, Problems
from routilux_core.serialization.type_lookup import is_writable, shown

R = TypeVar("R")
Value = NewType("Value", object)  # JSON that stands for any value: `values` reads it, by the class that it is for
Number = NewType("Number", float)  # an int stays an int


@frozen
class StrategyRecord:
    """How a flow runs, as it was given."""

    name: str
    max_workers: int | None
    options: dict[str, Value]


@frozen
class PolicyRecord:
    """An error handler."""

    strategy: str
    max_retries: int
    retry_delay: Number
    retry_backoff: Number
    retryable_exceptions: list[str]
    non_retryable_exceptions: list[str]
    max_delay: Number | None
    jitter: Number
    after_retries: str


@frozen
class SettingsRecord:
    """The class keywords of a routine."""

    stateless: bool
    concurrency: int | None
    scope: str
    timeout: Number | None
    on_worker_lost: str


@frozen
class SlotRecord:
    """A slot: the name of its handler's method, how arriving data is merged, and whether all of it is passed."""

    handler: str
    merge: str
    whole: bool = False  # written only where it is so


@frozen
class RoutineRecord:
    """A routine: its type's name, its fields, and what it has beside them."""

    type: str
    strategy: str | None
    settings: SettingsRecord
    fields: dict[str, Value]
    attributes: dict[str, Value]
    stats: dict[str, Number]
    slots: dict[str, SlotRecord]
    events: dict[str, list[str]]
    error_handler: PolicyRecord | None


@frozen
class ConnectionRecord:
    """From an event to a slot."""

    source: str
    event: str
    target: str
    slot: str
    mapping: dict[str, str]


@frozen
class OutputRecord:
    """An event whose payloads jobs collect."""

    routine: str
    event: str
    name: str


@frozen
class FlowRecord:
    """A flow."""

    format: str
    version: int
    flow_id: str
    strategy: StrategyRecord
    max_pending: int
    history_size: int
    error_handler: PolicyRecord
    routines: dict[str, RoutineRecord]
    connections: list[ConnectionRecord]
    outputs: list[OutputRecord]


@frozen
class ExceptionRecord:
    """An exception as text."""

    type: str
    message: str


@frozen
class FailureRecord:
    """One failure, with its decision."""

    routine: str
    slot: str
    attempt: int
    exception: ExceptionRecord
    traceback: str
    payload_keys: list[str]
    policy: PolicyRecord
    emitted: int
    decision: str | None
    activation: int = 0  # files of 0.1 have neither
    cause: int | None = None


@frozen
class LeftOutRecord:
    """How many failures, and attempts that were retried or skipped, there were beside those in the record."""

    failures: int
    attempts: int


@frozen
class JobRecord:
    """A job. `history` is checked where it is read: its records may get more fields."""

    format: str
    version: int
    job_id: str
    flow_id: str
    status: str
    ledger: Ledger
    late_emissions: int
    routine_states: dict[str, str]
    errors: list[FailureRecord]
    outputs: dict[str, list[dict[str, Value]]]
    history: list[dict[str, Value]]
    errors_left_out: LeftOutRecord | None = None  # where none were, there is no such key


def structure(data: Any, record: type[R], problems: Problems) -> R | None:
    """Return plain JSON as a record; None after problems, which are noted."""
    try:
        return converter().structure(data, record)
    except Exception as error:
        for path, message in _told(error, ROOT):
            problems.add(path, message)
        return None


@functools.cache
def converter() -> cattrs.Converter:
    """Return the converter. All its functions are made here: later ones would be compiled while a file loads."""
    made = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)
    made.register_structure_hook(str, _text)
    for kind in (int, bool):
        made.register_structure_hook(kind, _exactly(kind))
    made.register_structure_hook(Number, _number)
    made.register_structure_hook(Value, lambda data, _: data)
    made.register_structure_hook_factory(lambda kind: _origin(kind) is list, lambda kind: _list(made, kind))
    made.register_structure_hook_factory(lambda kind: _origin(kind) is dict, lambda kind: _dict(made, kind))
    made.register_structure_hook_factory(has, lambda kind: _record(made, kind))
    for record in (FlowRecord, JobRecord):
        made.get_structure_hook(record)
    return made


def _origin(kind: Any) -> Any:
    return get_origin(kind)


Hook = Callable[[Any, Any], Any]


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
    (element,) = get_args(kind)
    inner = made.get_structure_hook(element)

    def structure(data: Any, _: Any) -> Any:
        if type(data) is not list:
            raise TypeError(f"expected a list, not {_what(data)}")
        try:
            return [inner(each, element) for each in data]
        except Exception:
            return _again(enumerate(data), inner, element)

    return structure


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
