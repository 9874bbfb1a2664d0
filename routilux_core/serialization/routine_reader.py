"""Plain JSON back into routines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from routilux_core._routines.attributes import drop, own_attributes, put
from routilux_core._routines.merge_strategies import MERGES, Merge, merging_of
from routilux_core._routines.methods import bound, hides, method_of
from routilux_core._routines.signature import Signature
from routilux_core.errors import RoutiluxError
from routilux_core.ports import STATELESS_MERGES, Event, Slot
from routilux_core.routine import Routine
from routilux_core.serialization import annotations as annotations_module
from routilux_core.serialization.fields import shape_of, unsaveable
from routilux_core.serialization.policies import read_policy
from routilux_core.serialization.problems import Enough, Name, Path, Problems
from routilux_core.serialization.routine_forms import Form, form_of, is_free
from routilux_core.serialization.schema import RoutineRecord, SlotRecord
from routilux_core.serialization.type_lookup import KnownTypes, UnknownType, is_value_class, shown, type_name
from routilux_core.serialization.values import BROKEN, Reader


class NamedPorts:
    """The slots and events of a routine that its own values refer to: they are read before it is made."""

    def __init__(self, record: RoutineRecord, cls: type[Routine]) -> None:
        self._record = record
        self._class = cls
        self._events: dict[str, Event] = {}
        self._slots: dict[str, Slot] = {}

    def slot(self, name: str) -> Slot:
        """Return a slot by name, to be completed; the same one each time."""
        self._check("slot", name, self._record.slots)
        return self._slots.setdefault(name, Slot.named(name))

    def event(self, name: str) -> Event:
        """Return an event by name; the same one each time."""
        self._check("event", name, self._record.events)
        declared = self._class.__routilux_declared__.events.get(name)
        return self._events.setdefault(name, declared or Event(name, tuple(self._record.events[name])))

    def _check(self, kind: str, name: str, known: Iterable[str]) -> None:
        if name not in known:
            raise LookupError(f"the routine has no {kind} {shown(name)}")

    def settle(self, routine: Routine) -> None:
        """Let the routine have those that its values refer to."""
        internals = routine._routilux
        for name, named in self._slots.items():
            made = internals.slots.get(name)
            if made is not None:  # else there is a problem, which has been noted
                named.complete(made.handler, made.merge_strategy, made.signature, made.method)
                internals.slots[name] = named
        internals.events.update((name, each) for name, each in self._events.items() if name in internals.events)


class RoutineReader:
    """Turns plain JSON back into routines."""

    def __init__(self, reader: Reader, known: KnownTypes, problems: Problems) -> None:
        self.reader = reader
        self.known = known
        self.problems = problems
        self._classes: dict[str, type[Routine]] = {}

    def read(self, record: RoutineRecord, path: Path) -> Routine | None:
        """Return a routine; None after problems, which are noted."""
        before = len(self.problems.found)
        try:
            cls = self._class(record.type)
        except UnknownType as error:
            self.problems.add((path, Name("type")), str(error))
            return None
        form = form_of(cls)
        ports = self.reader.ports = NamedPorts(record, cls)
        self._settings(form, record, (path, Name("settings")))
        anew = record.attributes is None
        fields = self.reader.fields(form.shape.fields, record.fields, (path, Name("fields")), some=anew)
        attributes = self._attributes(form, record.attributes, (path, Name("attributes"))) if record.attributes else {}
        policy = None
        if record.error_handler is not None:
            policy = read_policy(record.error_handler, (path, Name("error_handler")), self.problems, self.known)
        if fields is None or len(self.problems.found) > before:
            return None
        try:
            routine: Routine = form.shape.make(fields, anew)
        except (Enough, RecursionError):
            raise
        except Exception as error:
            self.problems.add(path, f"{form.shape.name} refused its fields: {type(error).__name__}: {error}")
            return None
        self._complete(form, routine, attributes, record, path, policy, ports)
        return routine if len(self.problems.found) == before else None

    def _complete(
        self,
        form: Form,
        routine: Routine,
        attributes: dict[str, Any],
        record: RoutineRecord,
        path: Path,
        policy: Any,
        ports: NamedPorts,
    ) -> None:
        internals = routine._routilux
        if record.attributes is None:
            pass  # it is as its constructor has made it
        elif attributes or len(vars(routine)) > form.count:  # what a constructor has set beside the fields is not kept:
            drop(routine, own_attributes(routine).keys() - form.shape.fields.keys() - form.shape.secrets.keys())
            put(routine, attributes)  # what the routine had is what the file says
        internals.stats = dict(record.stats)
        internals.error_handler = policy
        self._slots(form, routine, record.slots, (path, Name("slots")))
        if {name: tuple(params) for name, params in record.events.items()} != form.events or [*record.events] != [
            *form.events
        ]:
            self._events(form, routine, record.events, (path, Name("events")))
        ports.settle(routine)

    def _class(self, name: str) -> type[Routine]:
        found = self._classes.get(name)
        if found is None:
            found = self._classes[name] = self.known.routine(name)
            self._allow(found)
        return found

    def _allow(self, cls: type) -> None:
        """Let the file make objects of the classes that the annotations lead to, in any number of steps."""
        for field in shape_of(cls).fields.values():
            for each in annotations_module.classes_in(field.annotation):
                if is_value_class(each) and self.known.allow(each) and unsaveable(each) is None:
                    self._allow(each)

    def _settings(self, form: Form, record: RoutineRecord, path: Path) -> None:
        for name, own in {"on_crash": "retry", **form.settings}.items():
            saved = getattr(record.settings, name)
            if saved != own or type(saved) is not type(own):
                self.problems.add(
                    (path, Name(name)),
                    f"saved as {shown(saved)}, but {form.shape.name} has {own!r} by its class keyword: correct the one "
                    "or the other",
                )

    def _attributes(self, form: Form, attributes: dict[str, Any], path: Path) -> dict[str, Any]:
        found = {}
        for name, data in attributes.items():
            if hides(form.shape.cls, name):
                self.problems.add((path, name), f"no attribute can have this name: it is a method of {form.name}")
            elif not is_free(form.shape.cls, name) or name in form.shape.all_names():
                self.problems.add((path, name), "no attribute can have this name")
            else:
                found[name] = self.reader.decode(data, (path, Name(name)))
        return {} if any(each is BROKEN for each in found.values()) else found

    def _slots(self, form: Form, routine: Routine, slots: dict[str, SlotRecord], path: Path) -> None:
        if [(name, each.handler, each.merge, each.whole) for name, each in slots.items()] == [
            (name, name, saved["merge"], "whole" in saved) for name, _, saved in form.slots
        ] and len(routine._routilux.slots) == len(form.slots):
            return  # as the class declares them
        declared = {name: (own, saved) for name, own, saved in form.slots}
        made: dict[str, Slot] = {}
        signatures: dict[tuple[str, bool], Signature] = {}  # of the handlers: one may serve any number of slots
        for name, record in slots.items():
            try:
                made[name] = self._slot(routine, name, record, declared, signatures, (path, name))
            except RoutiluxError as error:
                self.problems.add((path, name), str(error))
        for name in declared.keys() - slots.keys():
            self.problems.add((path, name), f"is missing: {form.shape.name} declares it")
        routine._routilux.slots = made

    def _slot(
        self,
        routine: Routine,
        name: str,
        record: SlotRecord,
        declared: dict[str, tuple[Merge, dict[str, Any]]],
        signatures: dict[tuple[str, bool], Signature],
        path: Path,
    ) -> Any:
        cls = type(routine)
        if method_of(cls, record.handler) is None:
            self.problems.add(
                (path, Name("handler")), f"{type_name(cls)} has no method {shown(record.handler)} of its own"
            )
            return None
        own, saved = declared.get(name, (None, {}))
        as_saved = record.merge == saved.get("merge")
        merge = own if as_saved else self._merge(routine, record.merge, (path, Name("merge")))
        if merge is None:
            return None
        if routine.__routilux_settings__.stateless and merging_of(merge).keeps_state:
            self.problems.add((path, Name("merge")), f"a slot of a stateless routine is {STATELESS_MERGES}")
            return None
        handler = bound(routine, record.handler)
        key = record.handler, self._whole(cls, name, record, saved, path)
        signature = signatures.get(key)
        if signature is None:
            signature = signatures[key] = Signature.of(handler, f"slot {name!r}", key[1])
        return Slot(name, handler, merge, signature, record.handler)

    def _whole(self, cls: type, name: str, record: SlotRecord, saved: dict[str, Any], path: Path) -> bool:
        """Return whether the handler takes the whole payload; files of earlier versions leave that to the class."""
        if not saved or record.handler != name:
            return record.whole
        by_class = "whole" in saved
        if record.whole and not by_class:
            what = f"saved as true, but {type_name(cls)} declares the slot without it: correct the one or the other"
            self.problems.add((path, Name("whole")), what)
        return by_class

    def _merge(self, routine: Routine, merge: str, path: Path) -> Merge | None:
        if merge in MERGES:
            return merge
        kind, _, name = merge.partition(":")
        if kind == "method" and method_of(type(routine), name) is not None:
            return bound(routine, name)
        self.problems.add(
            path,
            f"expected {', '.join(MERGES)}, or method: and the name of a method of {type_name(type(routine))}, "
            f"not {shown(merge)}",
        )
        return None

    def _events(self, form: Form, routine: Routine, events: dict[str, list[str]], path: Path) -> None:
        for name, params in form.events.items():
            if tuple(events.get(name, ("",))) != params:
                self.problems.add((path, name), f"{form.shape.name} declares it with the parameters {list(params)}")
        own = routine._routilux.events
        routine._routilux.events = {name: own.get(name) or Event(name, tuple(each)) for name, each in events.items()}
