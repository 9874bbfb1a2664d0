"""Error handlers as plain JSON, and back: the converter's, with the types of exceptions that one loading knows."""

from __future__ import annotations

from typing import Any

from routilux_core.error_handling import ErrorHandler
from routilux_core.serialization.converter import structure, unstructure
from routilux_core.serialization.kinds import known_here
from routilux_core.serialization.problems import Path, Problems
from routilux_core.serialization.type_lookup import KnownTypes, type_name


def write_policy(policy: ErrorHandler, path: Path, problems: Problems) -> dict[str, Any] | None:
    """Return an error handler as plain JSON."""
    if type(policy) is not ErrorHandler:
        problems.add(path, f"a {type_name(type(policy))} can't be saved: only an ErrorHandler itself can")
        return None
    written: dict[str, Any] = unstructure(policy)
    return written


def read_policy(data: Any, path: Path, problems: Problems, types: KnownTypes) -> ErrorHandler | None:
    """Return the error handler of plain JSON; None after problems, which are noted."""
    token = known_here.set(types)
    try:
        return structure(data, ErrorHandler, problems, path)
    finally:
        known_here.reset(token)
