"""What the saved forms of all routines of one class have in common: worked out once."""

from __future__ import annotations

import weakref
from typing import Any

from attrs import fields, frozen

from routilux_core._routines.attributes import members_of
from routilux_core._routines.merge_strategies import Merge
from routilux_core._routines.methods import hides
from routilux_core.routine import Routine
from routilux_core.serialization.converter import unstructure
from routilux_core.serialization.fields import Shape, shape_of
from routilux_core.serialization.schema import SettingsRecord, SlotRecord

_forms: weakref.WeakKeyDictionary[type, Form] = weakref.WeakKeyDictionary()


@frozen(eq=False)
class Form:
    """What the saved form of every routine of a class has in common."""

    shape: Shape
    name: str
    settings: dict[str, Any]
    quick: tuple[tuple[str, frozenset[type]], ...]
    count: int  # of the attributes of an instance that has its fields, and nothing else; 0 where some are in slots
    slots: tuple[tuple[str, Merge, dict[str, Any]], ...]  # name, merge strategy, what is saved
    events: dict[str, tuple[str, ...]]
    names_are_plain: bool  # ASCII, so that they need no second look


def form_of(cls: type[Routine]) -> Form:
    """Return the form of a class, worked out once."""
    form = _forms.get(cls)
    if form is None:
        form = _forms[cls] = _look_at(cls)
    return form


def _look_at(cls: type[Routine]) -> Form:
    shape, declared = shape_of(cls), cls.__routilux_declared__
    settings = cls.__routilux_settings__
    names = [
        *declared.slots,
        *declared.events,
        *(name for each in declared.events.values() for name in each.output_params),
    ]
    return Form(
        shape,
        shape.name,
        unstructure(SettingsRecord(**{each.name: getattr(settings, each.name) for each in fields(SettingsRecord)})),
        tuple((each.name, each.simple) for each in shape.fields.values()),
        0 if members_of(cls) else 1 + len(shape.fields),
        tuple(
            (name, merge, slot_form(name, _declared(merge), signature.whole))
            for name, (merge, signature) in declared.slots.items()
        ),
        {name: each.output_params for name, each in declared.events.items()},
        all(type(name) is str and name.isascii() for name in names),
    )


def slot_form(handler: str, merge: str, whole: bool) -> dict[str, Any]:
    """Return the saved form of a slot."""
    saved: dict[str, Any] = unstructure(SlotRecord(handler, merge, whole))
    return saved


def _declared(merge: Merge) -> str:
    """Return the saved name of a merge strategy that the class declares: a function is compared, not looked up."""
    if isinstance(merge, str):
        return merge
    named: Any = merge if hasattr(merge, "__qualname__") else type(merge)  # an object with `__call__`
    return f"function:{named.__module__}:{named.__qualname__}"


def is_free(cls: type[Routine], name: str) -> bool:
    """Whether an attribute of this name is a user's own, and hides no code of the class."""
    return (
        not hides(cls, name)
        and not (name.startswith("__") and name.endswith("__"))
        and name not in vars(Routine)
        and name != "_routilux"
    )
