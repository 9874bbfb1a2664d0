"""Routines as plain JSON."""

from __future__ import annotations

import math
from typing import Any

from routilux_core._routines.attributes import own_attributes
from routilux_core._routines.methods import hides, name_of
from routilux_core.ports import Slot
from routilux_core.routine import Routine
from routilux_core.serialization.policies import write_policy
from routilux_core.serialization.problems import Name, Path, Problems
from routilux_core.serialization.routine_forms import Form, form_of, is_free, slot_form
from routilux_core.serialization.type_lookup import shown
from routilux_core.serialization.values import LARGEST, Writer

SMALL, LEAST = 1 << 63, -(1 << 63)  # integers between them need no second look
MISSING = object()


class RoutineWriter:
    """Turns routines into plain JSON."""

    def __init__(self, writer: Writer, problems: Problems, state: bool = True) -> None:
        self.writer = writer
        self.problems = problems
        self.state = state  # else without counters, and as each was made
        self._forms: dict[type, Form] = {}

    def write(self, routine_id: str, routine: Routine, path: Path, strategy: str | None) -> dict[str, Any]:
        """Return a routine as plain JSON."""
        # What saving a large flow costs is spent here, so nothing is called for what is simple, or as it was declared.
        form = self._forms.get(routine.__class__) or self._form(routine, (path, routine_id))
        state, internals = routine.__dict__ if form.count else own_attributes(routine), routine._routilux
        self.writer.owner = routine
        if not self.state:
            return self._as_made(form, routine, (path, routine_id), strategy)
        slots, events, policy = internals.slots, internals.events, internals.error_handler
        fields: dict[str, Any] = {}
        for name, simple in form.quick:
            value = state.get(name, MISSING)
            kind = type(value)
            if kind in simple and (
                value.isascii()
                if kind is str
                else LEAST < value < SMALL
                if kind is int
                else kind is not float or value - value == 0  # which it is of no NaN and of no infinity
            ):
                fields[name] = value
            elif value is not MISSING:
                self._field(form, fields, name, value, (path, routine_id))
        saved_slots = {}
        for name, merge, saved in form.slots:
            made = slots[name]
            if made.method == name and made.merge_strategy is merge:
                saved_slots[name] = saved.copy()
        saved_events = {}
        for name, each in events.items():
            saved_events[name] = [*each.output_params]
        if not form.names_are_plain or len(events) != len(form.events) or len(slots) != len(saved_slots):
            saved_slots = self._slots(form, routine, (path, routine_id))
        return {
            "type": form.name,
            "strategy": strategy,
            "settings": form.settings.copy(),
            "fields": fields,
            "attributes": {}
            if len(state) == form.count == len(fields) + 1
            else self._attributes(form, routine, (path, routine_id)),
            "stats": self._stats(internals.stats.copy(), (path, routine_id)) if internals.stats else {},
            "slots": saved_slots,
            "events": saved_events,
            "error_handler": policy
            and write_policy(policy, ((path, routine_id), Name("error_handler")), self.problems),
        }

    def _as_made(self, form: Form, routine: Routine, path: Path, strategy: str | None) -> dict[str, Any]:
        """Return a routine as it was made, whatever its handlers have changed since."""
        internals, given = routine._routilux, routine._routilux.given
        if given is None or not form.shape.constructed:
            why = (
                "has an `__init__` of its own, so how it was made is not known: declare fields, or save its state"
                if not form.shape.constructed
                else "was read from a pickle, so how it was made is not known: save its state"
            )
            self.problems.add(path, f"{form.name} {why}")
        kept = {name: value for name, value in (given or {}).items() if name in form.shape.fields}
        policy = internals.error_handler
        return {
            "type": form.name,
            "strategy": strategy,
            "settings": form.settings.copy(),
            "fields": self.writer.fields(form.shape.fields, kept, (path, Name("fields"))),
            "attributes": None,
            "stats": {},
            "slots": self._slots(form, routine, path),
            "events": {name: [*each.output_params] for name, each in internals.events.items()},
            "error_handler": policy and write_policy(policy, (path, Name("error_handler")), self.problems),
        }

    def _form(self, routine: Routine, path: Path) -> Form:
        form = self._forms[type(routine)] = form_of(type(routine))
        self.writer.class_name(type(routine), (path, Name("type")))
        if (why := form.shape.lacking()) is not None:
            self.problems.add((path, Name("type")), f"{form.name} {why}")
        return form

    def _field(self, form: Form, fields: dict[str, Any], name: str, value: Any, path: Path) -> None:
        fields.update(self.writer.fields(form.shape.fields, {name: value}, (path, Name("fields"))))

    def _attributes(self, form: Form, routine: Routine, path: Path) -> dict[str, Any]:
        names = form.shape.rest(routine)
        state = own_attributes(routine)  # as they are now: a handler may be at work on it, and has what is new last
        within = (path, Name("attributes"))
        found = {}
        for name in names:
            if name == "_routilux":
                continue
            if name not in state or not is_free(routine.__class__, name):
                kind = "that hides a method of that name" if hides(routine.__class__, name) else "of this kind"
                self.problems.add((within, name), f"an attribute {kind} can't be saved")
            else:
                found[self.writer.text(name, within)] = self.writer.encode(state[name], (within, Name(name)))
        return found

    def _stats(self, stats: dict[str, float], path: Path) -> dict[str, Any]:
        path = (path, Name("stats"))
        for name, value in stats.items():
            self.writer.text(name, path)
            kind = type(value)
            if not (math.isfinite(value) if kind is float else kind is int and -LARGEST < value < LARGEST):
                self.problems.add((path, name), f"{shown(value)} is no finite number that a file can hold")
        return stats

    def _slots(self, form: Form, routine: Routine, path: Path) -> dict[str, Any]:
        """Return the slots of a routine one by one: some are not as its class declares them."""
        slots = routine._routilux.slots
        for name in slots:
            self.writer.text(name, ((path, Name("slots")), name))
        for name, event in routine._routilux.events.items():
            for text in (name, *event.output_params):
                self.writer.text(text, ((path, Name("events")), name))
        return {name: self._slot(form, routine, made, path) for name, made in slots.items()}

    def _slot(self, form: Form, routine: Routine, made: Slot, path: Path) -> dict[str, Any]:
        within = ((path, Name("slots")), made.name)
        method = made.method or name_of(routine, made.handler)
        if method is None:
            self.problems.add(
                (within, Name("handler")),
                getattr(made.handler, "why_unsaved", None)
                or f"{shown(made.handler)} is no method of {form.shape.name}, and code is saved by the name of its "
                "method",
            )
        return slot_form(method or "", self._merge(form, routine, made, within), made.signature.whole)

    def _merge(self, form: Form, routine: Routine, made: Slot, path: Path) -> str:
        merge = made.merge_strategy
        declared = next((saved for slot, own, saved in form.slots if slot == made.name and own is merge), None)
        if declared is not None:
            return str(declared["merge"])
        if isinstance(merge, str):
            return merge
        name = name_of(routine, merge)
        if name is None:
            self.problems.add(
                (path, Name("merge")),
                f"{shown(merge)} is no method of {form.shape.name}, and code is saved by the name of its method: make "
                "it a method or a static method",
            )
        return f"method:{name}"
