"""The graph of a flow as data: routines, connections and outputs, and the checks that refuse a wrong one."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice, product
from types import MappingProxyType
from typing import NamedTuple

from attrs import frozen

from routilux_core._routines.emitting import VALUE
from routilux_core._text.printable import printable
from routilux_core.errors import (
    ConfigurationError,
    DuplicateNameError,
    UnknownNameError,
)
from routilux_core.ports import ENTRY, Slot
from routilux_core.routine import Routine

MOST_COMPARED = 10_000  # events with slots, where a connection seems to be missing


@frozen
class Connection:
    """From an event to a slot; `param_mapping` renames parameters (old name, new name) on the way."""

    source: str
    event: str
    target: str
    slot: str
    param_mapping: tuple[tuple[str, str], ...] = ()


class Output(NamedTuple):
    """An event whose payloads a job collects, under a name."""

    routine_id: str
    event: str
    name: str


class Graph:
    """Routines by id, connections in the order made, and outputs."""

    def __init__(self, flow_id: str, routines: dict[str, Routine] | None = None, version: int = 0) -> None:
        self.flow_id = flow_id
        self.routines = {} if routines is None else routines
        self.connections: list[Connection] = []
        self.outputs: list[Output] = []
        self.version = version
        self._view: Mapping[str, Routine] = MappingProxyType({})
        self._edges: set[Connection] = set()
        self._gathering: list[Connection] = []  # those that end in a gather slot

    def add_routine(self, routine: Routine, routine_id: str | None) -> str:
        """Take a routine in, under an id that defaults to its class's name in lower case; return the id."""
        self._check_instance(routine, "add_routine")
        name = self.free_id(type(routine).__name__.lower()) if routine_id is None else routine_id
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"a routine id is a non-empty string, not {routine_id!r}")
        if name in self.routines:
            raise DuplicateNameError(f"flow {self.flow_id!r} has a routine {name!r} already: give another routine_id")
        self._claim(routine, name)
        self.routines[name] = routine
        self.version += 1
        return name

    def _check_instance(self, routine: object, what: str) -> None:
        if not isinstance(routine, Routine):
            raise ConfigurationError(f"{what} takes a Routine instance, not {routine!r}")

    def _claim(self, routine: Routine, name: str) -> None:
        owner = routine._routilux.claim(self.flow_id, name)
        if owner is not None:
            raise DuplicateNameError(
                f"this {type(routine).__name__} is routine {owner[1]!r} of flow {owner[0]!r} already: "
                "an instance belongs to one flow, under one id; make another instance"
            )

    def free_id(self, name: str) -> str:
        """Return this name, or with the first number from 2 on that makes it a new one."""
        free, number = name, 2
        while free in self.routines:
            free, number = f"{name}_{number}", number + 1
        return free

    def connect(
        self, source: str, event: str, target: str, slot: str, param_mapping: Mapping[str, str] | None
    ) -> Connection:
        """Wire an event to a slot; both have to exist."""
        self._check_order(source, event, target, slot)
        self.event(source, event)
        made = Connection(source, event, target, slot, _checked_mapping(param_mapping))
        receiver = self.slot(target, slot)
        if made in self._edges:
            raise DuplicateNameError(printable(f"{source}.{event} is connected to {target}.{slot} in this way already"))
        gathering = [made, *self._gathering] if receiver.gathers else self._gathering
        self._refuse_gather_cycle(made, gathering)
        self._warn_if_unsupplied(made, receiver)
        self._warn_if_renamed_in_vain(made)
        self._gathering = gathering
        self.connections.append(made)
        self._edges.add(made)
        self.version += 1
        return made

    def between(self, source: str, target: str) -> tuple[str, str, str, dict[str, str] | None]:
        """Return the only event of a routine, another with the slot at which it is called, and the names on the way.

        One parameter that is declared becomes the one that is required, whatever the two are called.
        """
        events, slots = self.routine(source)._routilux.events, self.routine(target)._routilux.slots
        slot = slots.get(ENTRY) or (next(iter(slots.values())) if len(slots) == 1 else None)
        if len(events) != 1 or slot is None:
            what, names = ("event", events) if len(events) != 1 else ("slot", slots)
            who = source if len(events) != 1 else target
            have = ", ".join(map(repr, names)) or "none"
            raise ConfigurationError(
                f"chain: routine {who!r} has to have one {what} and has {have}: say which with connect"
            )
        (event,) = events.values()
        given, required = event.output_params or (VALUE,), slot.signature.required
        renamed = len(given) == len(required) == 1 and given != required and not slot.signature.whole
        return event.name, target, slot.name, {given[0]: required[0]} if renamed else None

    def add_output(self, routine_id: str, event: str, name: str | None) -> str:
        """Name an event whose payloads jobs collect; return the name, `routine_id.event` by default."""
        self.event(routine_id, event)
        chosen = f"{routine_id}.{event}" if name is None else name
        if not isinstance(chosen, str):
            raise ConfigurationError(f"the name of an output is a string, not {name!r}")
        if any(output.name == chosen for output in self.outputs):
            raise DuplicateNameError(f"flow {self.flow_id!r} has an output {chosen!r} already: give another name")
        self.outputs.append(Output(routine_id, event, chosen))
        self.version += 1
        return chosen

    def disconnect(
        self, source: str, event: str, target: str, slot: str, param_mapping: Mapping[str, str] | None
    ) -> list[Connection]:
        """Take out what connects an event to a slot: with this mapping, or whatever the mapping where it is None."""
        self.event(source, event)
        self.slot(target, slot)
        mapping = None if param_mapping is None else _checked_mapping(param_mapping)
        gone = [
            each
            for each in self.connections
            if (each.source, each.event, each.target, each.slot) == (source, event, target, slot)
            and mapping in (None, each.param_mapping)
        ]
        if not gone:
            raise ConfigurationError(
                printable(
                    f"{source}.{event} is not connected to {target}.{slot}{'' if mapping is None else ' in this way'}"
                )
            )
        self._take_out(gone)
        return gone

    def _take_out(self, gone: list[Connection]) -> None:
        self._edges.difference_update(gone)
        self.connections = [each for each in self.connections if each in self._edges]
        self._gathering = [each for each in self._gathering if each in self._edges]
        self.version += 1

    def remove_routine(self, routine_id: str) -> Routine:
        """Take out a routine, with its connections and outputs; return it."""
        name = self.named(routine_id)
        self._take_out([each for each in self.connections if name in (each.source, each.target)])
        self.outputs = [output for output in self.outputs if output.routine_id != name]
        self._view = MappingProxyType({})
        return self.routines.pop(name)

    def replace_routine(self, routine_id: str, routine: Routine) -> Routine:
        """Put a routine in the place of another, which has what is connected there; return the other."""
        old = self.routine(routine_id)
        self._check_instance(routine, "replace_routine")
        self._check_fits(routine_id, routine)
        self._claim(routine, routine_id)
        self.routines[routine_id] = routine
        self._gathering = [each for each in self.connections if self.slot(each.target, each.slot).gathers]
        self._view = MappingProxyType({})
        self.version += 1
        return old

    def _check_fits(self, routine_id: str, routine: Routine) -> None:
        """Refuse a routine that has not the events and slots that are connected at this id."""
        slots, events = routine._routilux.slots, routine._routilux.events
        kind = f"the {type(routine).__name__} in the place of routine {routine_id!r}"
        before = self.routines[routine_id]._routilux.slots
        for each in self.connections:
            if each.source == routine_id and each.event not in events:
                raise UnknownNameError("event", each.event, events, f"{kind} has not what is connected")
            if each.target == routine_id and each.slot not in slots:
                raise UnknownNameError("slot", each.slot, slots, f"{kind} has not what is connected")
            if each.target == routine_id and slots[each.slot].gathers and not before[each.slot].gathers:
                raise ConfigurationError(
                    printable(
                        f"{kind} gathers at slot {each.slot!r}, and the other does not: remove it, and connect anew"
                    )
                )
        for output in self.outputs:
            if output.routine_id == routine_id and output.event not in events:
                raise UnknownNameError("event", output.event, events, f"{kind} has not the one of an output")

    def named(self, routine_id: str) -> str:
        """Return the id of a routine that is here."""
        self.routine(routine_id)
        return routine_id

    def view(self) -> Mapping[str, Routine]:
        """Return the routines as they are now, read-only; who takes one out, or replaces it, empties `_view`."""
        view = self._view
        if len(view) != len(self.routines):
            view = self._view = MappingProxyType(self.routines.copy())
        return view

    def routine(self, routine_id: str) -> Routine:
        """Return a routine by id."""
        if isinstance(routine_id, Routine):
            raise self._named_by_id(routine_id)
        try:
            return self.routines[routine_id]
        except (KeyError, TypeError):
            raise UnknownNameError("routine", routine_id, self.routines, f"flow {self.flow_id!r}") from None

    def slot(self, routine_id: str, name: str) -> Slot:
        """Return a slot of a routine."""
        slots = self.routine(routine_id)._routilux.slots
        if name not in slots:
            where = f"routine {routine_id!r} of flow {self.flow_id!r}"
            method = isinstance(name, str) and callable(getattr(type(self.routines[routine_id]), name, None))
            advice = f": its method {name!r} is no slot; put @slot on it" if method else ""
            raise UnknownNameError("slot", name, slots, f"{where}{advice}")
        return slots[name]

    def event(self, routine_id: str, name: str) -> None:
        """Check that a routine has an event."""
        events = self.routine(routine_id)._routilux.events
        if name not in events:
            raise UnknownNameError("event", name, events, f"routine {routine_id!r} of flow {self.flow_id!r}")

    def _named_by_id(self, routine: Routine) -> ConfigurationError:
        owner, kind = routine._routilux.owner, type(routine).__name__
        if owner is not None and self.routines.get(owner[1]) is routine:
            return ConfigurationError(f"this {kind} is a routine; its id is {owner[1]!r}, which is what to give here")
        return ConfigurationError(
            f"this {kind} is a routine that is not in flow {self.flow_id!r}: add it with add_routine, and give the id "
            "that this returns"
        )

    def _check_order(self, source: object, event: object, target: object, slot: object) -> None:
        """Refuse the four names in another order: what should be an event or a slot is a routine."""
        names = [name if isinstance(name, str) else None for name in (source, event, target, slot)]
        routines = [name in self.routines for name in names]
        if routines[0] and not routines[2] and (routines[1] or routines[3]):
            asked = ", ".join(repr(name) for name in (source, event, target, slot))
            raise ConfigurationError(
                f"connect({asked}): the order is source routine, event, target routine, slot, and "
                f"{names[1] if routines[1] else names[3]!r} is a routine"
            )

    def successors(self) -> dict[str, list[str]]:
        """Return, for each routine with connections, the routines that its events reach directly."""
        found: dict[str, list[str]] = {}
        for connection in self.connections:
            found.setdefault(connection.source, []).append(connection.target)
        return found

    def to_mermaid(self) -> str:
        """Return the graph as a Mermaid flowchart: stateless routines round, outputs slanted, events on the arrows."""
        numbers = {routine_id: f"r{number}" for number, routine_id in enumerate(self.routines)}
        lines = ["flowchart LR"]
        for routine_id, routine in self.routines.items():
            stateless = routine.__routilux_settings__.stateless
            start, end = ("(", ")") if stateless else ("[", "]")
            lines.append(f"    {numbers[routine_id]}{start}{_quoted(routine_id)}{end}")
        for each in self.connections:
            renamed = "".join(f", {old} as {new}" for old, new in each.param_mapping)
            label = _quoted(f"{each.event} → {each.slot}{renamed}")
            lines.append(f"    {numbers[each.source]} -->|{label}| {numbers[each.target]}")
        for number, output in enumerate(self.outputs):
            lines.append(f"    o{number}[/{_quoted(output.name)}/]")
            lines.append(f"    {numbers[output.routine_id]} -.->|{_quoted(output.event)}| o{number}")
        return "\n".join(lines) + "\n"

    def _refuse_gather_cycle(self, made: Connection, gathering: list[Connection]) -> None:
        """Refuse a connection that closes a cycle through a gather slot, wherever on the cycle that slot is."""
        if not gathering:
            return
        following = self.successors()
        behind = reachable(made.target, following) | {made.target}
        for edge in gathering:
            on_the_way = edge is made or edge.source in behind
            if on_the_way and made.source in reachable(edge.target, following) | {edge.target}:
                slot = printable(f"{edge.target}.{edge.slot}")
                wire = printable(f"{made.source}.{made.event} -> {made.target}.{made.slot}")
                raise ConfigurationError(
                    f"{slot} gathers everything that arrives in a job, so it can't be reached from {edge.target!r} "
                    f"itself, as {wire} would do; break the cycle"
                )

    def _warn_if_unsupplied(self, made: Connection, receiver: Slot) -> None:
        declared = self.routines[made.source]._routilux.events[made.event].output_params
        if not declared or receiver.signature.whole or callable(receiver.merge_strategy):
            return  # what a merge function returns, nobody knows
        renamed = dict(made.param_mapping)
        arriving = {renamed.get(name, name) for name in declared}
        absent = [name for name in receiver.signature.required if name not in arriving]
        if absent:
            names = f"{made.target}.{made.slot}", f"{made.source}.{made.event}"
            target, source = map(printable, names)
            warnings.warn(
                f"{target} requires {', '.join(map(repr, absent))}, but {source} "
                f"declares {', '.join(map(repr, declared))}: rename with param_mapping, or correct the declaration"
                f"{receiver.signature.advice}",
                stacklevel=5,
            )

    def _warn_if_renamed_in_vain(self, made: Connection) -> None:
        """Warn of a parameter that is renamed, and that the event does not declare."""
        declared = self.routines[made.source]._routilux.events[made.event].output_params
        for old, new in made.param_mapping:
            if declared and old not in declared:
                text = f"{made.source}.{made.event} declares {', '.join(map(repr, declared))}, not {old!r}"
                warnings.warn(printable(f"param_mapping {{{old!r}: {new!r}}} has no effect: {text}"), stacklevel=5)

    def unconnected(self, entry: str) -> str | None:
        """Say which connection seems to be missing in a job that begins at `entry`; None if none does.

        An event that is reached and leads nowhere, and a slot of a routine that nothing leads to, which takes just what
        the event has. Neither alone is a mistake: the last event of a flow leads nowhere, and a flow may have several
        entries.
        """
        led_to = {each.target for each in self.connections} | {entry}
        idle = [name for name in self.routines if name not in led_to]
        if not idle:
            return None
        taken = {(each.source, each.event) for each in self.connections}
        taken |= {(each.routine_id, each.event) for each in self.outputs}
        reached = [entry, *reachable(entry, self.successors())]
        events = [
            (name, each)
            for name in reached
            for each in self.routines[name]._routilux.events.values()
            if each.output_params and (name, each.name) not in taken
        ]
        slots = [
            (name, each) for name in idle for each in self.routines[name]._routilux.slots.values() if each.name != ENTRY
        ]
        for (source, event), (target, slot) in islice(product(events, slots), MOST_COMPARED):
            required = slot.signature.required
            if required and {*required} <= {*event.output_params}:
                wire = f"{source!r}, {event.name!r}, {target!r}, {slot.name!r}"
                return printable(
                    f"nothing is connected to the event {event.name!r} of routine {source!r}, and nothing leads to "
                    f"routine {target!r}: is flow.connect({wire}) missing?"
                )
        return None

    def gather_order(self) -> list[tuple[str, str]]:
        """Return the gather slots (routine id, slot), each behind those that can reach it."""
        slots = [
            (routine_id, slot.name)
            for routine_id, routine in self.routines.items()
            for slot in routine._routilux.slots.values()
            if slot.gathers
        ]
        if len(slots) < 2:
            return slots
        following = self.successors()
        holders = {routine_id for routine_id, _ in slots}
        before = dict.fromkeys(holders, 0)
        for holder in holders:
            for reached in reachable(holder, following) & holders:
                before[reached] += 1
        return sorted(slots, key=lambda slot: before[slot[0]])


def circles(following: Mapping[str, Iterable[str]]) -> dict[str, int]:
    """Return a number for each routine; two that can reach each other have the same one.

    Tarjan's strongly connected components, without recursion: a chain may be long.
    """
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    circle: dict[str, int] = {}
    open_ones: list[str] = []
    for start in following:
        trail: list[tuple[str, Iterator[str]]] = []
        step: str | None = None if start in order else start
        while step is not None or trail:
            if step is not None:
                order[step] = low[step] = len(order)
                open_ones.append(step)
                trail.append((step, iter(following.get(step, ()))))
            name, ahead = trail[-1]
            step = None
            for reached in ahead:
                if reached not in order:
                    step = reached
                    break
                if reached not in circle:
                    low[name] = min(low[name], order[reached])
            if step is None:
                trail.pop()
                if trail:
                    low[trail[-1][0]] = min(low[trail[-1][0]], low[name])
                if low[name] == order[name]:
                    _close_circle(name, open_ones, circle)
    return circle


def _close_circle(name: str, open_ones: list[str], circle: dict[str, int]) -> None:
    number = len(circle)
    while name not in circle:
        circle[open_ones.pop()] = number


def reachable(start: str, following: Mapping[str, Iterable[str]]) -> set[str]:
    """Return every routine that can be reached from `start` in one step or more."""
    found: set[str] = set()
    paths: list[Iterator[str]] = [iter(following.get(start, ()))]
    while paths:
        for name in paths.pop():
            if name not in found:
                found.add(name)
                paths.append(iter(following.get(name, ())))
    return found


def _quoted(text: str) -> str:
    """Return a Mermaid text: whatever could mean something there is written as the number of its character."""
    return '"' + "".join(c if c.isalnum() or c in " _-.,→" else f"#{ord(c)};" for c in text) + '"'


def _checked_mapping(param_mapping: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    pairs = tuple((param_mapping or {}).items())
    for old, new in pairs:
        if not (isinstance(old, str) and isinstance(new, str)):
            raise ConfigurationError(f"param_mapping renames one string to another, not {old!r} to {new!r}")
    if len({new for _, new in pairs}) < len(pairs):
        raise ConfigurationError(f"param_mapping {dict(pairs)!r} gives two parameters the same new name")
    return pairs
