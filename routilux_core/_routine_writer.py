"""Routines as plain JSON."""

from __future__ import annotations

from typing import Any

from routilux_core._policies import write_policy
from routilux_core._problems import Name, Path, Problems
from routilux_core._routine_forms import Form, form_of, is_free, method_of
from routilux_core._type_names import shown
from routilux_core._values import Writer
from routilux_core.ports import Slot
from routilux_core.routine import Routine

SMALL = 1 << 63  # integers below it need no second look


class RoutineWriter:
    """Turns routines into plain JSON."""

    def __init__(self, writer: Writer, problems: Problems) -> None:
        self.writer = writer
        self.problems = problems

    def write(self, routine: Routine, path: Path, strategy: str | None) -> dict[str, Any]:
        """Return a routine as plain JSON."""
        cls = type(routine)
        form, internals = form_of(cls), routine._routilux
        state = vars(routine)
        fields = self._fields(form, state, path)
        policy, stats = internals.error_handler, internals.stats
        return {
            "type": form.shape.name,
            "strategy": strategy,
            "settings": form.settings.copy(),
            "fields": fields,
            "attributes": {} if len(state) == form.count == len(fields) + 1 else self._attributes(form, routine, path),
            "stats": self._stats(dict(stats), (path, Name("stats"))) if stats else {},
            "slots": self._slots(form, routine, path),
            "events": {name: list(each.output_params) for name, each in internals.events.items()},
            "error_handler": policy and write_policy(policy, (path, Name("error_handler")), self.problems),
        }

    def _fields(self, form: Form, state: dict[str, Any], path: Path) -> dict[str, Any]:
        found = {}
        for name, simple in form.quick:
            if name not in state:
                continue
            value = state[name]
            kind = type(value)
            if kind in simple and (value.isascii() if kind is str else kind is not int or -SMALL < value < SMALL):
                found[name] = value
            else:
                found.update(self.writer.fields(form.shape.fields, {name: value}, (path, Name("fields"))))
        return found

    def _attributes(self, form: Form, routine: Routine, path: Path) -> dict[str, Any]:
        state = vars(routine)
        within = (path, Name("attributes"))
        found = {}
        for name in form.shape.rest(routine):
            if name == "_routilux":
                continue
            if name not in state or not is_free(name):
                self.problems.add((within, name), "an attribute of this kind can't be saved")
            else:
                found[self.writer.text(name, within)] = self.writer.encode(state[name], (within, Name(name)))
        return found

    def _stats(self, stats: dict[str, float], path: Path) -> dict[str, Any]:
        for name, value in stats.items():
            if type(value) not in (int, float) or not -SMALL < value < SMALL:
                self.problems.add((path, name), f"{shown(value)} is no finite number")
        return stats

    def _slots(self, form: Form, routine: Routine, path: Path) -> dict[str, Any]:
        found, slots = {}, routine._routilux.slots
        for name, function, merge, merge_name in form.slots:
            made = slots[name]
            handler = made.handler
            try:
                same = handler.__func__ is function and handler.__self__ is routine  # type: ignore[attr-defined]
            except AttributeError:
                same = False
            if not same or made.merge_strategy is not merge:
                break
            found[name] = {"handler": name, "merge": merge_name}
        if len(found) == len(slots):
            return found
        return {name: self._slot(form, routine, made, path) for name, made in slots.items()}

    def _slot(self, form: Form, routine: Routine, made: Slot, path: Path) -> dict[str, Any]:
        within = ((path, Name("slots")), made.name)
        handler = _name_of(routine, made.handler)
        if handler is None:
            self.problems.add(
                (within, Name("handler")),
                f"{shown(made.handler)} is no method of {form.shape.name}, and code is saved by the name of its method",
            )
        return {"handler": handler, "merge": self._merge(form, routine, made, within)}

    def _merge(self, form: Form, routine: Routine, made: Slot, path: Path) -> str:
        merge = made.merge_strategy
        declared = next((name for slot, _, own, name in form.slots if slot == made.name and own is merge), None)
        if declared is not None:
            return declared
        if isinstance(merge, str):
            return merge
        name = _name_of(routine, merge)
        if name is None:
            self.problems.add(
                (path, Name("merge")),
                f"{shown(merge)} is no method of {form.shape.name}, and code is saved by the name of its method: make "
                "it a method or a static method",
            )
        return f"method:{name}"


def _name_of(routine: Routine, code: Any) -> str | None:
    """Return the name under which a routine has a method; None if it is not a method of it."""
    name = getattr(code, "__name__", None)
    if type(name) is not str or method_of(type(routine), name) is None:
        return None
    return name if getattr(routine, name, None) == code else None
