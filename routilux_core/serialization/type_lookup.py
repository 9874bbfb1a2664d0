"""Names of classes in saved files, and how a class is found by one: among those already defined, never by importing."""

from __future__ import annotations

import enum
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any, TypeGuard

from routilux_core._text.hints import Hints
from routilux_core._text.values import look_of
from routilux_core.errors import ConfigurationError
from routilux_core.routine import Routine
from routilux_core.strategy import ExecutionStrategy

# `vars` would ask the module or the metaclass, and a lazy module answers by importing.
_inside_module: Any = vars(ModuleType)["__dict__"].__get__
_inside_class: Any = vars(type)["__dict__"].__get__

LONGEST_NAME = 500  # characters of a name that are shown in a message


class UnknownType(LookupError):
    """No class of this name can be used here; the message says why."""


def type_name(cls: type) -> str:
    """Return the name that a class is saved under: its `type_name=`, or `module:QualName`."""
    settings = vars(cls).get("__routilux_settings__")
    chosen: str | None = getattr(settings, "type_name", None)
    return chosen or f"{cls.__module__}:{cls.__qualname__}"


class KnownTypes:
    """The classes that one loading may use: those given, and those already defined in this process.

    A routine is found among all subclasses of `Routine`. What else a file makes (attrs classes, dataclasses, enums) is
    found in the loaded modules, but only in the packages that define a routine and in those that the annotations
    of a routine's fields lead to: a file can't make an object of any class that happens to be loaded.
    """

    def __init__(self, given: Iterable[type | ModuleType] = (), renamed: Mapping[str, str] | None = None) -> None:
        self.hints = Hints()
        self._renamed = renamed or {}  # modules that have another name than when it was saved
        self._given: dict[str, type] = {}
        self._routines: dict[str, list[type[Routine]]] | None = None
        self._annotated: dict[str, type] = {}
        self._packages: set[str] | None = None
        for each in given:
            for cls in _classes(each):
                self._add(cls)

    def _add(self, cls: type) -> None:
        before = self._given.setdefault(type_name(cls), cls)
        if before is not cls:
            raise ConfigurationError(f"types has two classes that are both called {type_name(cls)!r}")

    def _from_given(self, name: str) -> type | None:
        """Return a class that was given; the script that saved a file called its own classes `__main__:...`."""
        found = self._given.get(name)
        module, _, path = name.partition(":")
        if found is None and module == "__main__":
            same = [cls for cls in self._given.values() if cls.__qualname__ == path]
            found = same[0] if len(same) == 1 else None
        return found

    def _now(self, name: str) -> str:
        """Return the name that a class has now."""
        module, colon, path = name.partition(":")
        return f"{self._renamed.get(module, module)}{colon}{path}"

    def strategy(self, name: str) -> type[ExecutionStrategy] | None:
        """Return the strategy class of this name that was given, if any."""
        for cls in self._given.values():
            if issubclass(cls, ExecutionStrategy) and getattr(cls, "name", None) == name:
                return cls
        return None

    def allow(self, cls: type) -> bool:
        """Let a class be used because an annotation names it; return whether that is new."""
        new = type_name(cls) not in self._annotated
        self._annotated.setdefault(type_name(cls), cls)
        return new

    def routine(self, name: str) -> type[Routine]:
        """Return a routine class by its saved name."""
        name = self._now(name)
        found: Any = self._from_given(name)
        if _is_routine(found):
            return found
        found = _defined(name)
        if _is_routine(found) and type_name(found) == name:
            return found
        candidates = self._all_routines().get(name, [])
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise UnknownType(f"{len(candidates)} classes are called {shown(name)}: say which with types=[...]")
        raise UnknownType(self._no_routine(name, found))

    def _no_routine(self, name: str, found: object) -> str:
        if found is not None:
            return f"{shown(name)} is not a subclass of Routine"
        hint = self.hints.hint(name, self._all_routines())
        return (
            f"no routine class is called {shown(name)}{hint}; files never import: import the module that defines it, "
            "or give the class with types=[...]"
        )

    def exception(self, name: str) -> type[BaseException]:
        """Return an exception type by its saved name."""
        name = self._now(name)
        given = self._from_given(name)
        found = given or _defined(name)
        if is_class(found) and issubclass(found, BaseException) and (given or type_name(found) == name):
            return found
        raise UnknownType(
            f"no exception type is called {shown(name)} in the loaded modules; files never import: import the module "
            "that defines it, or give the class with types=[...]"
        )

    def value(self, name: str) -> type:
        """Return an attrs class, a dataclass or an enum by its saved name."""
        name = self._now(name)
        found: Any = self._from_given(name) or self._annotated.get(name)
        defined = None if found else _defined(name)
        own = name.partition(":")[0].partition(".")[0] in self._own_packages()
        if own or (is_class(defined) and issubclass(defined, enum.Enum)):
            found = found or defined
        if is_value_class(found) and (type_name(found) == name or found in self._given.values()):
            return found
        raise UnknownType(
            f"no attrs class, dataclass or enum called {shown(name)} may be made here: files never import, and make "
            "only classes of packages that define routines, of annotations, and those given with types=[...]"
        )

    def _all_routines(self) -> dict[str, list[type[Routine]]]:
        if self._routines is None:
            self._routines = defaultdict(list)
            for cls in _subclasses(Routine):
                name: Any = type_name(cls)
                if isinstance(name, str):  # a class that was refused when it was made is there until it is collected
                    self._routines[name].append(cls)
        return self._routines

    def _own_packages(self) -> set[str]:
        if self._packages is None:
            classes = [cls for found in self._all_routines().values() for cls in found]
            self._packages = {cls.__module__.partition(".")[0] for cls in [*classes, *self._given.values()]}
        return self._packages


def is_class(found: Any) -> TypeGuard[type]:
    """Whether something is a class, without asking it as `isinstance` does: a lazy proxy would load what it is for."""
    return issubclass(type(found), type)


def is_value_class(found: Any) -> TypeGuard[type]:
    """Whether values of this class can be saved field by field, or by name."""
    if not is_class(found) or issubclass(found, Routine):
        return False
    own = vars(found)
    made_of_fields = "__attrs_attrs__" in own or "__dataclass_fields__" in own or is_named_tuple(found)
    return made_of_fields or issubclass(found, enum.Enum)


def is_named_tuple(cls: type) -> bool:
    """Whether a class was made by `typing.NamedTuple` or `collections.namedtuple`."""
    return issubclass(cls, tuple) and cls.__base__ is tuple and isinstance(vars(cls).get("_fields"), tuple)


def shown(value: object) -> str:
    """Return a value for a message, shortened where it is huge."""
    if isinstance(value, str) and len(value) > LONGEST_NAME:
        return repr(value[:LONGEST_NAME]) + "..."
    try:
        return look_of(value, LONGEST_NAME)
    except Exception:
        return f"a {type(value).__name__} that has no repr"


def is_writable(text: str) -> bool:
    """Whether a file can hold a text: half of a surrogate pair has no UTF-8."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _classes(given: type | ModuleType) -> list[type]:
    """Return what one element of `types` stands for: a class itself, or the classes that a module defines."""
    if isinstance(given, type):
        return [given]
    if isinstance(given, ModuleType):
        found = [value for value in vars(given).values() if isinstance(value, type)]
        usable = (Routine, BaseException, ExecutionStrategy, enum.Enum)
        return [cls for cls in dict.fromkeys(found) if issubclass(cls, usable) or is_value_class(cls)]
    raise ConfigurationError(f"types takes classes, and modules that define them, not {given!r}")


def _is_routine(found: Any) -> TypeGuard[type[Routine]]:
    return is_class(found) and issubclass(found, Routine)


def _defined(name: str) -> Any:
    """Return what a loaded module has under `module:QualName`, or None. What is lazy stays so: no code runs."""
    module_name, colon, path = name.partition(":")
    found: Any = sys.modules.get(module_name) if colon else None
    inside = _inside_module if issubclass(type(found), ModuleType) else None
    for part in path.split("."):
        if inside is None:
            return None
        found = inside(found).get(part)
        inside = _inside_class if is_class(found) else None
    return found


def _subclasses(cls: type[Routine]) -> Iterable[type[Routine]]:
    seen: set[type[Routine]] = set()
    waiting = [cls]
    while waiting:
        for sub in waiting.pop().__subclasses__():
            if sub not in seen:
                seen.add(sub)
                waiting.append(sub)
                yield sub
