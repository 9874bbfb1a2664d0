"""Error handlers as plain JSON, and back."""

from __future__ import annotations

from typing import Any

import attrs

from routilux_core.error_handling import ErrorHandler
from routilux_core.serialization.problems import Name, Path, Problems
from routilux_core.serialization.schema import PolicyRecord
from routilux_core.serialization.type_lookup import KnownTypes, UnknownType, shown, type_name

EXCEPTIONS = ("retryable_exceptions", "non_retryable_exceptions")
_names = tuple(each.name for each in attrs.fields(ErrorHandler))


def write_policy(policy: ErrorHandler, path: Path, problems: Problems) -> dict[str, Any] | None:
    """Return an error handler as plain JSON."""
    if type(policy) is not ErrorHandler:
        problems.add(path, f"a {type_name(type(policy))} can't be saved: only an ErrorHandler itself can")
        return None
    found = {name: getattr(policy, name) for name in _names}
    for name in ("strategy", "after_retries"):
        found[name] = found[name].value
    for name in EXCEPTIONS:
        found[name] = [type_name(each) for each in found[name]]
    return found


def read_policy(record: PolicyRecord, path: Path, problems: Problems, types: KnownTypes) -> ErrorHandler | None:
    """Return the error handler of a record; None after problems, which are noted."""
    found = attrs.asdict(record)
    before = len(problems.found)
    for name in ("strategy", "after_retries"):
        if found[name] not in ("stop", "continue", "skip", "retry"):
            problems.add((path, Name(name)), f"expected stop, continue, skip or retry, not {shown(found[name])}")
    for name in EXCEPTIONS:
        names = found[name]
        found[name] = []
        for index, each in enumerate(names):
            try:
                found[name].append(types.exception(each))
            except UnknownType as error:
                problems.add(((path, Name(name)), index), str(error))
    if len(problems.found) > before:
        return None
    try:
        return ErrorHandler(**{**found, **{name: tuple(found[name]) for name in EXCEPTIONS}})
    except ValueError as error:
        problems.add(path, str(error))
        return None
