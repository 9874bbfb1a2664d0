"""What a routine class is checked for when it is defined: mistakes that would otherwise show only in a job."""

from __future__ import annotations

import inspect
import math
import sys
import warnings
from collections import defaultdict, deque
from collections.abc import Mapping
from types import MemberDescriptorType
from typing import NamedTuple

import attrs

from routilux_core._text.secrets import is_secret
from routilux_core.errors import ConfigurationError, DefinitionError, UnknownNameError, brief
from routilux_core.ports import Event, per_worker
from routilux_core.seconds import check_seconds

SHARED = (list, dict, set, bytearray, deque)  # with all that are made of them: defaultdict, OrderedDict, Counter


class RoutineSettings(NamedTuple):
    """The class keywords of a routine, checked."""

    stateless: bool = False
    concurrency: int | None = None
    scope: str = "flow"
    timeout: float | None = None
    type_name: str | None = None
    on_worker_lost: str = "fail"
    on_crash: str = "retry"
    inline: bool = False


def check_settings(cls: type, settings: RoutineSettings) -> None:
    bound, timeout = settings.concurrency, settings.timeout
    if settings.scope not in ("flow", "job"):
        raise UnknownNameError("scope", settings.scope, ("flow", "job"), f"class {cls.__name__}")
    if settings.on_worker_lost not in ("fail", "retry"):
        raise UnknownNameError("on_worker_lost", settings.on_worker_lost, ("fail", "retry"), f"class {cls.__name__}")
    if settings.on_crash not in ("fail", "retry"):
        raise UnknownNameError("on_crash", settings.on_crash, ("fail", "retry"), f"class {cls.__name__}")
    if not isinstance(settings.inline, bool):
        raise ConfigurationError(f"class {cls.__name__}: inline has to be True or False, not {brief(settings.inline)}")
    if bound is not None and (isinstance(bound, bool) or not isinstance(bound, int) or not 1 <= bound <= sys.maxsize):
        raise ConfigurationError(
            f"class {cls.__name__}: concurrency has to be a whole number from 1 to {sys.maxsize}, not {brief(bound)}"
        )
    if bound is not None and not settings.stateless:
        raise ConfigurationError(
            f"class {cls.__name__}: concurrency bounds the parallel calls of a stateless routine; one with state has "
            "one call at a time; add stateless=True or drop concurrency"
        )
    if timeout is not None and check_seconds(timeout, f"class {cls.__name__}: timeout") == math.inf:
        raise ConfigurationError(f"class {cls.__name__}: timeout can't be infinite; without a limit, leave it out")
    name = settings.type_name
    if name is not None and not (isinstance(name, str) and name):
        raise ConfigurationError(f"class {cls.__name__}: type_name has to be a non-empty string, not {name!r}")


def check_names(cls: type, reserved: frozenset[str]) -> None:
    declared = [name for name, value in vars(cls).items() if isinstance(value, (Event, per_worker))]
    declared += [name for name, value in vars(cls).items() if hasattr(value, "__routilux_slot__")]
    for name in [*inspect.get_annotations(cls), *declared]:
        if name in reserved:
            raise DefinitionError(
                f"class {cls.__name__}: {name!r} is a method of Routine, and a field, slot or event of that name would "
                "hide it; choose another name"
            )


def check_shared(cls: type, stateless: bool) -> None:
    """Refuse a list, say, that all instances would share: one without an annotation, which makes no field.

    A name in capitals is a constant. A stateless class keeps nothing on its instances, so there it may be meant, and is
    warned of.
    """
    annotated = inspect.get_annotations(cls)
    for name, value in vars(cls).items():
        kind = type(value)
        if name in annotated or name.isupper() or name.startswith("__") or not issubclass(kind, SHARED):
            continue
        text = (
            f"class {cls.__name__}: {name!r} is a {kind.__name__} that all instances would share; write "
            f"{name}: {kind.__name__} = {_own_one(value)}, or annotate it with ClassVar if that is meant"
        )
        if not stateless:
            raise DefinitionError(text)
        warnings.warn(text, stacklevel=4)


def _own_one(value: object) -> str:
    """Return how a field is declared of which each instance has its own, with what is in it."""
    kind = type(value)
    if not value and kind is not defaultdict:
        return f"field(factory={kind.__name__})"
    return f"field(factory=lambda: {brief(value) if kind in (list, dict, set) else f'{kind.__name__}(...)'})"


def check_fields(cls: type, given: tuple[object, ...], fields: Mapping[str, object]) -> None:
    """Say what is wrong with the fields that a routine was to be made with, if anything is."""
    takes = {each.alias or each.name: each for each in attrs.fields(cls) if each.init}
    missing = [name for name, each in takes.items() if each.default is attrs.NOTHING and name not in fields]
    form = f"{cls.__name__}({', '.join(f'{name}=...' for name in takes)})"
    if given:
        value = "..." if any(map(is_secret, takes.values())) else brief(given[0])  # whose it is, nobody knows
        raise DefinitionError(f"{cls.__name__}({value}): a routine takes its fields by name: {form}")
    for name in fields:
        if name not in takes:
            from routilux_core._text.hints import Hints  # only for a mistake

            raise DefinitionError(f"{cls.__name__} has no field {name!r}{Hints().hint(name, takes)}; it takes {form}")
    if missing:
        raise DefinitionError(f"{cls.__name__}() lacks {', '.join(map(repr, missing))}: write {form}")


def unknown_keyword(cls: type, name: str) -> DefinitionError:
    """Return the error for a class keyword that neither a routine nor a base of the class takes."""
    from routilux_core._text.hints import Hints  # only for a mistake

    known = RoutineSettings._fields
    hint = Hints().hint(name, known)
    return DefinitionError(f"class {cls.__name__}: unknown class keyword {name!r}{hint}; there is {', '.join(known)}")


DROP_IT = (
    "a routine class is an attrs class already: leave @dataclass or @attrs.define out, annotate its fields, and take "
    "`field` from routilux_core"
)


def check_made_once(cls: type) -> None:
    """Refuse what a decorator makes of a routine class: a second class, without the class keywords of the first."""
    if "__routilux_settings__" in vars(cls):
        raise DefinitionError(
            f"class {cls.__name__} is made again by a decorator, without its class keywords; {DROP_IT}"
        )
    for base in cls.__mro__[1:]:
        declared = vars(base).get("__routilux_declared__")
        if declared is not None:
            check_not_remade(base, declared.fields)


def check_not_remade(cls: type, fields: object) -> None:
    """Refuse a routine class that a decorator has changed: to it, the fields had lost their defaults."""
    made = vars(cls)
    if made.get("__attrs_attrs__") is not fields or "__dataclass_fields__" in made:
        raise DefinitionError(f"class {cls.__name__} was changed by a decorator after it was made; {DROP_IT}")


def check_defaults(cls: type) -> None:
    for attribute in attrs.fields(cls):
        kind = type(attribute.default)
        if kind is MemberDescriptorType:
            raise DefinitionError(
                f"class {cls.__name__}: {attribute.name!r} is a field and in __slots__, which can't both be; leave it "
                "out of __slots__"
            )
        if kind.__module__ == "dataclasses":
            raise DefinitionError(
                f"class {cls.__name__}: {attribute.name!r} is a field of dataclasses; take `field` from routilux_core"
            )
        if issubclass(kind, SHARED):
            raise DefinitionError(
                f"class {cls.__name__}: the default of field {attribute.name!r} is a {kind.__name__} that all "
                f"instances would share; write {_own_one(kind() if is_secret(attribute) else attribute.default)}"
            )
        if isinstance(attribute.default, (Event, per_worker)):
            raise DefinitionError(f"class {cls.__name__}: {attribute.name!r} is declared without an annotation")
