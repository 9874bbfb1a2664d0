"""Values as bytes: by reference where that can be followed, by value where it can't; and which part can't be sent."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import io
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from contextvars import ContextVar
from pickle import PickleBuffer
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, WeakSet

from routilux_core._routines.methods import bound, joined, name_of
from routilux_core.errors import ShippingError
from routilux_core.ports import Event, Slot
from routilux_core.routine import Routine

PROTOCOL = 5
MAIN = ("__main__", "__mp_main__")
ATOMS = frozenset((str, int, float, bool, type(None), bytes))
APART = 1 << 16  # bytes of a buffer, or of a pickle, from which on it travels beside what it belongs to, uncopied
DEPTH = 12  # how deep the search for the culprit goes
ADVICE = {
    True: "install routilux-core[cloudpickle], or move it to a module that the worker can import",
    False: "make it in the worker with per_worker(...), leave it out with __getstate__, or let the routine run in a "
    "thread: add_routine(..., execution_strategy='concurrent')",
}


PutApart = Callable[[PickleBuffer], bool] | None
Buffer = bytes | bytearray | memoryview | PickleBuffer
Pickled = bytes | tuple[Buffer, Sequence[Buffer]]  # a pickle; where it is large, or has large buffers, with those apart


# Whether what goes by name out of the main program goes by value, too, for workers that have another main module.
WITH_VALUES: ContextVar[bool] = ContextVar("WITH_VALUES", default=False)


class _ByValueOnlyError(Exception):
    """Found a class or function that a worker process could not import."""


class NotThereError(Exception):
    """Something of the main program is sent by its name, and this process's main module has no such thing."""


def is_plain(payload: dict[str, Any]) -> bool:
    """Return whether pickling the payload can't fail, neither here nor there."""
    return ATOMS.issuperset(map(type, payload.values())) and all(type(key) is str for key in payload)


class _NotPlainError(Exception):
    """Found something that is made by a call when it is unpickled."""


class _Plain(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        raise _NotPlainError


def dumps_plain(value: Any, apart: list[PickleBuffer]) -> bytes | None:
    """Pickle what is made of builtin values and containers only, so that unpickling it can't fail; else None.

    The buffers in there are put `apart`.
    """
    file = io.BytesIO()
    try:
        _Plain(file, PROTOCOL, buffer_callback=apart.append).dump(value)
    except Exception:  # of too deep a nesting, too
        return None
    return file.getvalue()


def dumps(value: Any, routine: Routine | None = None, apart: list[PickleBuffer] | None = None) -> bytes:
    """Pickle a value; where it refers to the given routine, `loads` puts the one that it is given.

    What the main program defines goes by its name, where workers run the same main module and have it, too. Large
    buffers (of arrays, most often) are put into `apart`, where that is given: they are not copied.
    """
    try:
        return _dumps(_ByReference, value, routine, apart)
    except _ByValueOnlyError:
        pass
    except Exception:
        if not has_cloudpickle():
            raise
    if apart is not None:
        apart.clear()
    return _dumps(_by_value().mixed, value, routine, apart)


def dumps_apart(value: Any, routine: Routine | None = None) -> Pickled:
    """Pickle a value, large buffers apart: they stay where they lie until they are sent."""
    apart: list[PickleBuffer] = []
    data = dumps(value, routine, apart)
    if len(data) >= APART:
        return PickleBuffer(data), apart
    return (data, apart) if apart else data


def for_another(data: Pickled) -> Pickled:
    """Return a pickle for one more call: what is unpickled there has its buffers to itself.

    A pickle of both would have the same buffer but once, and what one call writes to it the other would see.
    """
    return data if isinstance(data, bytes) else (data[0], [PickleBuffer(each) for each in data[1]])


def _put_apart(apart: list[PickleBuffer], buffer: PickleBuffer) -> bool:
    """Put a buffer apart if it is large; return whether it is pickled as usual."""
    with memoryview(buffer) as view:
        small = view.nbytes < APART
    if not small:
        apart.append(buffer)
    return small


def size_of(data: Pickled) -> int:
    """Return how many bytes a pickle has, with what is apart."""
    if isinstance(data, bytes):
        return len(data)
    return sum(memoryview(each).nbytes for each in (data[0], *data[1]))


def dumps_payload(payload: dict[str, Any], whole: str) -> Pickled:
    """Pickle a payload; what can't be sent is a `ShippingError` that names its key and path."""
    try:
        return dumps_apart(payload)
    except Exception as error:
        for key, value in payload.items():
            try:
                dumps(value)
            except Exception as reason:
                raise explain(reason, whole, "key", key, value) from error
        raise explain(error, whole, "what is sent", "", payload) from error


def loads(data: Pickled, routine: Routine | None = None) -> Any:
    """Unpickle what `dumps` or `dumps_apart` made. Buffers that are apart are not copied: the value has them."""
    if isinstance(data, tuple):
        return _Unpickler(io.BytesIO(data[0]), routine, data[1]).load()
    return _Unpickler(io.BytesIO(data), routine).load()


def _dumps(
    pickler: Callable[..., Any], value: Any, routine: Routine | None, apart: list[PickleBuffer] | None = None
) -> bytes:
    file = io.BytesIO()
    pickler(file, routine, None if apart is None else functools.partial(_put_apart, apart)).dump(value)
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

    def __init__(self, file: io.BytesIO, routine: Routine | None, put_apart: PutApart = None) -> None:
        super().__init__(file, PROTOCOL, buffer_callback=put_apart)
        self._routine = routine

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, (type, FunctionType)):
            return _reduce_main(value) if value.__module__ in MAIN else NotImplemented
        reduced = _reduce(self._routine, value)
        return NotImplemented if reduced is None else reduced


def _reduce_main(value: Any) -> Any:
    """Return how what the main program defines is pickled: by its name, and by value as well where that is asked for.

    Raises where there is no such name, or no such file that a worker could run.
    """
    main = program()
    if not has_cloudpickle():
        if main is None:
            raise pickle.PicklingError(
                f"{value.__qualname__} is defined in __main__, which a worker process can't import"
            )
        return NotImplemented
    if main is None or _of_this_main(value.__qualname__) is not value:
        raise _ByValueOnlyError
    return _of_main, (main, value.__qualname__, *(_valued(value) if WITH_VALUES.get() else (None, "")))


def program() -> str | None:
    """Return what a program runs, as its main module and those of its workers say alike; None if nobody else can."""
    main: Any = sys.modules["__main__"]
    if not _is_found_by_workers(main):
        return None
    spec = getattr(main, "__spec__", None)
    return os.path.abspath(main.__file__) if spec is None else str(spec.name)


def _of_this_main(name: str) -> Any:
    """Return what the main module of this process has under a name; None if it has no such thing."""
    found: Any = sys.modules["__main__"]
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _of_main(main: str, name: str, data: bytes | None, why_not: str) -> Any:
    """Return something of the main program: this process's own, where it runs that, or what came by value."""
    found = _of_this_main(name) if program() == main else None
    if found is not None:
        return found
    if data is not None:
        return loads(data)
    if why_not:
        raise pickle.UnpicklingError(
            f"{name} of the main program ({main}) is missing in the main module of this worker, and {why_not}"
        )
    raise NotThereError(f"{name} of {main}")


_values: WeakKeyDictionary[Any, tuple[bytes | None, str]] = WeakKeyDictionary()  # of classes and functions


def _valued(value: Any) -> tuple[bytes | None, str]:
    """Return a class or function by value, pickled once; or why that can't be."""
    found = _values.get(value)
    if found is None:
        try:
            found = _dumps(_by_value().pure, value, None), ""
        except Exception as error:
            found = None, f"can't go there by value{_uses(value)}: {error}"
        _values[value] = found
    return found


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


class _Picklers(NamedTuple):
    """Picklers by value: `mixed` names what the main program has under a name, `pure` does not."""

    mixed: Callable[..., Any]
    pure: Callable[..., Any]


@functools.cache
def _by_value() -> _Picklers:
    cloudpickle: Any = importlib.import_module("cloudpickle")  # an extra: type checkers may not find it

    class Pure(cloudpickle.Pickler):  # type: ignore[misc]
        """Sends classes and functions along where a worker process could not import them."""

        def __init__(self, file: io.BytesIO, routine: Routine | None, put_apart: PutApart = None) -> None:
            super().__init__(file, PROTOCOL, put_apart)
            self._routine = routine

        def reducer_override(self, value: Any) -> Any:
            if isinstance(value, type):
                _set_up.add(value)
                return _with_slots(value, super().reducer_override(value))
            reduced = _reduce(self._routine, value)
            return super().reducer_override(value) if reduced is None else reduced

    class Mixed(Pure):
        def reducer_override(self, value: Any) -> Any:
            if isinstance(value, (type, FunctionType)) and value.__module__ in MAIN:
                with suppress(_ByValueOnlyError):
                    return _reduce_main(value)
            return super().reducer_override(value)

    return _Picklers(Mixed, Pure)


def _with_slots(cls: type, reduced: Any) -> Any:
    """Let a class be made with its slots: set later, as cloudpickle does, they make none."""
    slots = vars(cls).get("__slots__")
    if slots is None or not isinstance(reduced, tuple) or reduced[0].__name__ != "_make_skeleton_class":
        return reduced
    make, (constructor, name, bases, settings, *rest), *others = reduced
    return make, (constructor, name, bases, {**settings, "__slots__": slots}, *rest), *others


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, routine: Routine | None, apart: Sequence[Buffer] = ()) -> None:
        super().__init__(file, buffers=apart)
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
    uses = _uses(culprit) if isinstance(culprit, (type, FunctionType)) and has_cloudpickle() else ""
    said = str(reason) or type(reason).__name__
    return ShippingError(
        f"{where} ({shown.__qualname__}) can't be sent to a worker process{uses}: {said}; {ADVICE[by_name]}",
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


def _uses(value: Any) -> str:
    """Say what a class or function can't take along by value: ", since it uses the global 'LOCK' (lock)"."""
    seen: set[int] = set()
    said = ""
    for _ in range(DEPTH):
        seen.add(id(value))
        for what, used in _used(value):
            if id(used) not in seen and type(used) not in ATOMS and not _goes_by_value(used):
                said, value = f", since it uses {what} ({type(used).__name__})", used
                break
        else:
            break
    return said


def _goes_by_value(value: Any) -> bool:
    try:
        _dumps(_by_value().pure, value, None)
    except Exception:
        return False
    return True


def _used(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a class or function takes along when it goes by value, with what that is called."""
    if isinstance(value, type):
        for name, item in vars(value).items():
            function = getattr(item, "__func__", getattr(item, "fget", item))
            if not name.startswith("__") or isinstance(function, FunctionType):
                yield f"the attribute {name!r} of {value.__qualname__}", function
    elif isinstance(value, FunctionType):
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        yield from ((f"the variable {name!r}", cell.cell_contents) for name, cell in cells if _is_full(cell))
        yield from ((f"the global {name!r}", value.__globals__[name]) for name in _names(value.__code__, value))


def _names(code: CodeType, function: FunctionType) -> list[str]:
    """Return the globals that a function's code names, and that of the functions in it."""
    inner = [each for each in code.co_consts if isinstance(each, CodeType)]
    return [name for name in code.co_names if name in function.__globals__] + [
        name for each in inner for name in _names(each, function)
    ]


def _is_full(cell: CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
