"""Values as bytes: by reference where that can be followed, by value where it can't; and which part can't be sent."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import io
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from types import FunctionType, MethodType
from typing import Any
from weakref import WeakSet

from routilux_core._methods import bound, joined, name_of
from routilux_core.errors import ShippingError
from routilux_core.ports import Event, Slot
from routilux_core.routine import Routine

PROTOCOL = 5
MAIN = ("__main__", "__mp_main__")
ATOMS = frozenset((str, int, float, bool, type(None), bytes))
DEPTH = 12  # how deep the search for the culprit goes
ADVICE = {
    True: "install routilux-core[cloudpickle], or move it to a module that the worker can import",
    False: "make it in the worker with per_worker(...), leave it out with __getstate__, or let the routine run in a "
    "thread: add_routine(..., execution_strategy='concurrent')",
}


class _ByValueOnlyError(Exception):
    """Found a class or function that a worker process could not import."""


def is_plain(payload: dict[str, Any]) -> bool:
    """Return whether pickling the payload can't fail, neither here nor there."""
    return ATOMS.issuperset(map(type, payload.values())) and all(type(key) is str for key in payload)


class _NotPlainError(Exception):
    """Found something that is made by a call when it is unpickled."""


class _Plain(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        raise _NotPlainError


def dumps_plain(value: Any) -> bytes | None:
    """Pickle what is made of builtin values and containers only, so that unpickling it can't fail; else None."""
    file = io.BytesIO()
    try:
        _Plain(file, PROTOCOL).dump(value)
    except Exception:  # of too deep a nesting, too
        return None
    return file.getvalue()


def dumps(value: Any, routine: Routine | None = None) -> bytes:
    """Pickle a value; where it refers to the given routine, `loads` puts the one that it is given."""
    try:
        return _dumps(_ByReference, value, routine)
    except _ByValueOnlyError:
        pass
    except Exception:
        if not has_cloudpickle():
            raise
    return _dumps(_by_value(), value, routine)


def loads(data: bytes, routine: Routine | None = None) -> Any:
    """Unpickle what `dumps` made."""
    return _Unpickler(io.BytesIO(data), routine).load()


def _dumps(pickler: Callable[..., Any], value: Any, routine: Routine | None) -> bytes:
    file = io.BytesIO()
    pickler(file, routine).dump(value)
    return file.getvalue()


def _this_routine() -> None:
    """Stands in a pickle for the routine that `loads` is given; never called itself."""


def _this_port(kind: str, name: str) -> None:
    """Stands in a pickle for a slot or an event of that routine."""


def _reduce(routine: Routine | None, value: Any) -> Any:
    """Return how a routine, and what belongs to one, is pickled; anything else is None."""
    if isinstance(value, Routine):
        if value is routine:
            return _this_routine, ()
        raise pickle.PicklingError(
            f"{type(value).__name__} is another routine, and what happened to a copy of it in the worker would be "
            "lost: connect the two, and emit"
        )
    if isinstance(value, MethodType):
        return _reduce_method(value)
    if routine is not None and isinstance(value, (Slot, Event)):
        kind = "slots" if isinstance(value, Slot) else "events"
        if getattr(routine._routilux, kind).get(value.name) is value:
            return _this_port, (kind, value.name)
    return None


def _reduce_method(method: MethodType) -> Any:
    """Return how a bound method is pickled that its class has under another name: pickle goes by what it is called."""
    owner, called = method.__self__, getattr(method, "__name__", "")
    if isinstance(owner, type) or getattr(owner, called, None) == method:
        return None
    name = name_of(owner, method)
    return (joined, (method.__func__, owner)) if name is None else (bound, (owner, name))


class _ByReference(pickle.Pickler):
    """Refuses what is defined in the main program, where a worker process could not find it."""

    def __init__(self, file: io.BytesIO, routine: Routine | None) -> None:
        super().__init__(file, PROTOCOL)
        self._routine = routine

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, (type, FunctionType)):
            if value.__module__ in MAIN:
                _check_main(value)
            return NotImplemented
        reduced = _reduce(self._routine, value)
        return NotImplemented if reduced is None else reduced


def _check_main(value: Any) -> None:
    """Refuse what is defined in the main program, unless workers can import that and there is no better way."""
    if has_cloudpickle():
        raise _ByValueOnlyError
    if not _is_found_by_workers(sys.modules["__main__"]):
        raise pickle.PicklingError(f"{value.__qualname__} is defined in __main__, which a worker process can't import")


def _is_found_by_workers(main: object) -> bool:
    """Return whether a worker imports the main module, as `multiprocessing` does: by its name, or from its file.

    What is called `__main__.py`, of a package, a folder or an archive, is most often not guarded, and never imported.
    """
    name = getattr(getattr(main, "__spec__", None), "name", None)
    if name is not None:
        return not (name == "__main__" or name.endswith(".__main__"))
    return os.path.exists(getattr(main, "__file__", None) or "")  # of a program from stdin it is no file


@functools.cache
def has_cloudpickle() -> bool:
    """Return whether the extra is installed, without importing it."""
    if "cloudpickle" in sys.modules:
        return sys.modules["cloudpickle"] is not None
    return importlib.util.find_spec("cloudpickle") is not None


_set_up: WeakSet[type] = WeakSet()  # classes of this process that no pickle may define again


@functools.cache
def _by_value() -> Callable[..., Any]:
    cloudpickle: Any = importlib.import_module("cloudpickle")  # an extra: type checkers may not find it

    class ByValue(cloudpickle.Pickler):  # type: ignore[misc]
        """Sends classes and functions along where a worker process could not import them."""

        def __init__(self, file: io.BytesIO, routine: Routine | None) -> None:
            super().__init__(file, PROTOCOL)
            self._routine = routine

        def reducer_override(self, value: Any) -> Any:
            if isinstance(value, type):
                _set_up.add(value)
            reduced = _reduce(self._routine, value)
            return super().reducer_override(value) if reduced is None else reduced

    return ByValue


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, routine: Routine | None) -> None:
        super().__init__(file)
        self._routine = routine

    def find_class(self, module: str, name: str) -> Any:
        if name == "_this_routine" and module == __name__:
            return lambda: self._routine
        if name == "_this_port" and module == __name__:
            return lambda kind, name: getattr(self._routine._routilux, kind)[name]  # type: ignore[union-attr]
        found = super().find_class(module, name)
        if name == "_class_setstate" and module == "cloudpickle.cloudpickle":
            return functools.partial(_set_up_once, found)
        return found


def _set_up_once(set_state: Callable[[type, Any], type], cls: type, state: Any) -> type:
    """Give a class that came by value its attributes: a class that comes home keeps its own methods."""
    if cls not in _set_up:
        _set_up.add(cls)
        set_state(cls, state)
    return cls


# -- what can't be sent, by its path


def explain(
    error: BaseException, whole: str, kind: str, name: str, value: Any, routine: Routine | None = None
) -> ShippingError:
    """Return an error that names the smallest part of a value that can't be pickled.

    `whole` says whose it is ("routine 'fetch'"), `kind` and `name` what the value is in it ("attribute", "client").
    """
    path, culprit, reason = _culprit(value, routine, name, error)
    where = f"{whole}: {kind} {path!r}" if name else f"{whole}: {kind}"
    shown = culprit if isinstance(culprit, (type, FunctionType)) else type(culprit)
    by_name = isinstance(culprit, (type, FunctionType)) and not has_cloudpickle()
    return ShippingError(
        f"{where} ({shown.__qualname__}) can't be sent to a worker process: {str(reason) or type(reason).__name__}; "
        f"{ADVICE[by_name]}",
        path,
        culprit,
    )


def _culprit(value: Any, routine: Routine | None, path: str, reason: BaseException) -> tuple[str, Any, BaseException]:
    seen: set[int] = set()
    for _ in range(DEPTH):
        seen.add(id(value))
        for step, child in _children(value):
            error = None if id(child) in seen or type(child) in ATOMS else _failure(child, routine)
            if error is not None:
                path, value, reason = path + step, child, error
                break
        else:
            break
    return path, value, reason


def _failure(value: Any, routine: Routine | None) -> BaseException | None:
    try:
        dumps(value, routine)
    except Exception as error:
        return error
    return None


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the parts of a value as pickle sees them, each with the step that leads to it."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"[{key!r}]", item
            yield f"[key {key!r}]", key
    elif isinstance(value, (list, tuple, set, frozenset)):
        for number, item in enumerate(value):
            yield f"[{number}]", item
    elif not isinstance(value, (type, FunctionType, Routine)):
        yield from _reduced(value)


def _reduced(value: Any) -> Iterator[tuple[str, Any]]:
    function = getattr(value, "func", None)  # functools.partial
    if function is not None:
        yield ".func", function
    owner = getattr(value, "__self__", None)  # a bound method
    if owner is not None:
        yield ".__self__", owner
    try:
        state = value.__getstate__()
    except Exception:
        return
    for part in state if isinstance(state, tuple) else (state,):
        if isinstance(part, dict):
            yield from ((f".{name}", item) for name, item in part.items())
