"""The versions of the saved form: newer ones are refused by name, older ones upgraded on plain dicts, step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from routilux_core.serialization.problems import ROOT, Name, Problems
from routilux_core.serialization.type_lookup import shown

FLOW, JOB = "routilux-flow", "routilux-job"
VERSION = 1

Step = Callable[[dict[str, Any]], dict[str, Any]]
# Each takes a document of its version, as plain JSON, and returns one of the next. There was no other version yet.
STEPS: dict[str, dict[int, Step]] = {FLOW: {}, JOB: {}}


def upgraded(data: Any, form: str, problems: Problems) -> dict[str, Any] | None:
    """Return a document in the newest version; None after problems, which are noted."""
    if not isinstance(data, Mapping):
        problems.add(ROOT, f'expected an object with "format": "{form}", not {shown(data)}')
        return None
    found, version = data.get("format"), data.get("version")
    if found != form or type(found) is not str:
        problems.add((ROOT, Name("format")), f"expected {form!r}, not {shown(found)}")
        return None
    if type(version) is not int or version < 1:
        problems.add((ROOT, Name("version")), f"expected a whole number from 1, not {shown(version)}")
        return None
    if version > VERSION:
        problems.add(
            (ROOT, Name("version")),
            f"the file has version {shown(version)} of the format, and this routilux-core reads up to version "
            f"{VERSION}: install a newer one",
        )
        return None
    document = dict(data)
    for number in range(version, VERSION):
        try:
            document = STEPS[form][number](document)
        except Exception as error:  # a step takes for granted what every honest document of its version has
            what = f"{type(error).__name__}: {shown(str(error))}"
            problems.add(ROOT, f"it can't be upgraded from version {number} to {number + 1} of the format: {what}")
            return None
    return document
