"""What a journal holds, as text: payloads, the state of routines, failures, and what a flow looks like."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from routilux_core._routines.attributes import drop, own_attributes, put
from routilux_core._text.compact import compact, quoted
from routilux_core._text.printable import printable
from routilux_core.errors import JournalError
from routilux_core.graph import Graph
from routilux_core.ports import Event, Slot
from routilux_core.routine import Routine
from routilux_core.serialization.codecs import reader, writer
from routilux_core.serialization.converter import unstructure
from routilux_core.serialization.problems import ROOT, Name, Problems, reported
from routilux_core.serialization.routine_forms import form_of
from routilux_core.serialization.routine_reader import RoutineReader
from routilux_core.serialization.routine_writer import RoutineWriter
from routilux_core.serialization.type_lookup import KnownTypes, type_name

PAYLOAD = (ROOT, Name("payload"))
SMALL = 1 << 63
WORDS = {None: "null", True: "true", False: "false"}


def payload_text(payload: Mapping[str, Any], what: str) -> str:
    """Return a payload as text; what can't be saved is a `SerializationError` that names each value by its path."""
    return plain_text(payload) or written_text(payload, what)


def written_text(payload: Mapping[str, Any], what: str) -> str:
    """Return a payload that is not plain as text, as `payload_text` does."""
    with reported(f"{what} can't be kept in a journal") as problems:
        found = writer(problems).encode(dict(payload), PAYLOAD)
    return compact(found)


def plain_text(payload: Mapping[str, Any]) -> str | None:
    """Return the JSON of a payload that is nothing else, as most are; None where some value needs the writer."""
    # What `compact` makes of it, in one pass with the look at it, which takes a third of the time.
    parts = []
    for key, value in payload.items():
        kind = type(value)
        if kind is int:
            text = repr(value) if -SMALL < value < SMALL else None
        elif kind is str:
            text = quoted(value) if value.isascii() else None
        elif kind is float:
            text = repr(value) if value - value == 0 else None
        else:
            text = WORDS.get(value) if value is None or kind is bool else None
        if text is None or key.startswith("$") or not key.isascii():
            return None
        parts.append(f"{quoted(key)}:{text}")
    return f"{{{','.join(parts)}}}"


def state_text(routine: Routine, routine_id: str) -> str:
    """Return what a routine with state keeps between its calls: attributes and counters."""
    with reported(f"the state of routine {routine_id!r} can't be kept in a journal") as problems:
        found = _attributes(routine, problems)
        found["stats"] = RoutineWriter(writer(problems), problems)._stats(routine.stats(), ROOT)
    return compact(found)


def _attributes(routine: Routine, problems: Problems) -> dict[str, Any]:
    values, form = writer(problems), form_of(type(routine))
    values.owner = routine
    state = own_attributes(routine)
    held = {name: state[name] for name in form.shape.fields if name in state}
    return {
        "fields": values.fields(form.shape.fields, held, (ROOT, Name("fields"))),
        "attributes": RoutineWriter(values, problems)._attributes(form, routine, ROOT),
    }


class Reading:
    """Turns text back into values. Data is never code: nothing is imported."""

    def __init__(
        self, types: Iterable[type | ModuleType], where: str, renamed: Mapping[str, str] | None = None
    ) -> None:
        self.known = KnownTypes(types, renamed)
        self.where = where

    def load(self, text: str) -> Any:
        """Return what a row holds, as plain JSON."""
        try:
            return json.loads(text)
        except ValueError as error:
            raise JournalError(0, f"{self.where}: a row is no JSON: {error}") from error

    def payload(self, data: Any, what: str) -> dict[str, Any]:
        """Return a payload."""
        with reported(f"{what}, in {self.where}, can't be read") as problems:
            found = reader(problems, self.known).decode(data, PAYLOAD)
            if type(found) is not dict and not problems.found:
                problems.add(PAYLOAD, "is no object")
        return dict(found)

    def give_state(self, routine: Routine, routine_id: str, data: Mapping[str, Any]) -> None:
        """Give a routine the attributes and counters that it had."""
        with reported(f"the state of routine {routine_id!r}, in {self.where}, can't be read") as problems:
            if "fields" in data:
                self._give_attributes(routine, data, problems)
        with routine._routilux.lock:
            routine._routilux.stats.clear()
            routine._routilux.stats.update(data["stats"])

    def _give_attributes(self, routine: Routine, data: Mapping[str, Any], problems: Problems) -> None:
        values, form = reader(problems, self.known), form_of(type(routine))
        values.ports = LivePorts(routine)
        reading = RoutineReader(values, self.known, problems)
        reading._allow(type(routine))
        fields = values.fields(form.shape.fields, data["fields"], (ROOT, Name("fields")))
        attributes = reading._attributes(form, data["attributes"], (ROOT, Name("attributes")))
        if fields is None or problems.found:
            return
        drop(routine, own_attributes(routine).keys() - form.shape.fields.keys())
        put(routine, {**fields, **attributes})


class LivePorts:
    """The slots and events of a routine that is there already."""

    def __init__(self, routine: Routine) -> None:
        self._routine = routine

    def slot(self, name: str) -> Slot:
        return self._routine._routilux.slots[name]

    def event(self, name: str) -> Event:
        return self._routine._routilux.events[name]


def outline(graph: Graph) -> dict[str, Any]:
    """Return what has to be the same of a flow for its pending work to fit."""
    return {
        "routines": {name: _outline_of(routine) for name, routine in graph.routines.items()},
        "connections": sorted(
            f"{each.source}.{each.event} -> {each.target}.{each.slot} {dict(each.param_mapping) or ''}".strip()
            for each in graph.connections
        ),
        "outputs": sorted(f"{each.routine_id}.{each.event} as {each.name}" for each in graph.outputs),
    }


def _outline_of(routine: Routine) -> dict[str, Any]:
    settings = routine.__routilux_settings__
    return {
        "type": type_name(type(routine)),
        "stateless": settings.stateless,
        "scope": settings.scope,
        "slots": {
            name: each.merge_strategy if isinstance(each.merge_strategy, str) else "a function"
            for name, each in routine._routilux.slots.items()
        },
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what has changed in a flow, in words."""
    found = []
    old, new = before["routines"], now["routines"]
    found += [f"routine {printable(name)!r} is gone" for name in old.keys() - new.keys()]
    found += [f"routine {printable(name)!r} is new" for name in new.keys() - old.keys()]
    for name in old.keys() & new.keys():
        found += [
            f"routine {printable(name)!r}: {key} was {old[name].get(key)!r}, and is {new[name][key]!r}"
            for key in new[name]
            if old[name].get(key) != new[name][key] and not (key == "type" and _moved(old[name], new[name]))
        ]
    for what in ("connections", "outputs"):
        found += [f"{what[:-1]} {each} is gone" for each in before[what] if each not in now[what]]
        found += [f"{what[:-1]} {each} is new" for each in now[what] if each not in before[what]]
    return sorted(found)


def renamed(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """Return the modules whose classes have another name now: a program's are `__main__`'s where it is run."""
    old, new = before["routines"], now["routines"]
    moves = [_moved(old[name], new[name]) for name in old.keys() & new.keys()]
    return dict(move for move in moves if move)


def _moved(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the two modules of a class that was in the program, and is imported now, or the other way round."""
    (old, _, path), (new, _, now_path) = before["type"].partition(":"), now["type"].partition(":")
    return (old, new) if path == now_path and old != new and "__main__" in (old, new) else None


def failure_document(failure: Any) -> dict[str, Any]:
    """Return a failure as plain JSON."""
    from routilux_core.serialization.jobs import _failure

    with reported("a failure can't be kept in a journal") as problems:
        found: dict[str, Any] = unstructure(_failure(failure, ROOT, problems))
    return found
