"""The user's records of attempts, made of what a history keeps. Loaded where somebody looks at records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from routilux_core._tracking.history import OUTCOMES, Record
from routilux_core.records import ActivationRecord


def activation_records(
    records: Iterable[Record],
    name: Callable[[int], tuple[str, str]],
    causes: Mapping[int, tuple[int, ...]] = MappingProxyType({}),
    payloads: Mapping[int, dict[str, Any]] = MappingProxyType({}),
) -> Iterable[ActivationRecord]:
    """Yield the user's record for each of ours; `name` gives routine id and slot of a slot number.

    `causes` are those of calls of gather slots, and `payloads` what calls were given, where they are kept.
    """
    for number, cause, slot, attempt, outcome, worker, posted, started, ended in records:
        routine_id, slot_name = name(slot)
        yield ActivationRecord(
            id=number,
            cause=cause or None,
            routine_id=routine_id,
            slot=slot_name,
            attempt=attempt,
            outcome=OUTCOMES[outcome],
            worker=worker,
            posted=posted,
            started=started,
            ended=ended,
            extra=_extra(number, causes, payloads) if causes or payloads else {},
        )


def _extra(
    number: int, causes: Mapping[int, tuple[int, ...]], payloads: Mapping[int, dict[str, Any]]
) -> dict[str, Any]:
    extra: dict[str, Any] = {}
    if number in causes:
        extra["causes"] = causes[number]
    if number in payloads:
        extra["payload"] = payloads[number].copy()
    return extra
