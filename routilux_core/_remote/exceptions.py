"""Exceptions on their way home: as themselves where that is possible, else as their name, text and traceback."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple

from routilux_core._remote.pickling import ATOMS, PROTOCOL, dumps, loads
from routilux_core._text.values import look_of
from routilux_core.errors import RemoteError, is_interrupt, text_of, trace_of

AS_ITSELF, WITHOUT_CONSTRUCTOR, AS_TEXT = range(3)
# Read and set past whatever a class of somebody else's makes of these names.
_CAUSE, _CONTEXT, _SUPPRESSES = (
    vars(BaseException)[f"__{name}__"] for name in ("cause", "context", "suppress_context")
)
LONGEST = 10_000  # letters of what can't travel, as it looks
DEEP = 8  # exceptions that led to each other, or are members of each other; what lies deeper, the traceback tells


class Encoded(NamedTuple):
    """An exception as plain data, with those that it came from."""

    how: int
    data: bytes
    name: str  # of its type
    text: str
    trace: str = ""  # its traceback, of the one that was raised last
    cause: Encoded | None = None
    context: Encoded | None = None
    suppresses: bool = False  # its context is not shown


class RemoteTraceback(Exception):
    """The cause of an exception that came from a worker process: its traceback there, as text."""

    shows_where = True

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class Shown:
    """Stands for an argument that could not be pickled, and looks like it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def encode(error: BaseException) -> Encoded:
    """Return an exception as plain data. Its round trip is tried here: nothing raises at home."""
    return _encoded(error, DEEP)._replace(trace=trace_of(error))


def decode(encoded: Encoded) -> tuple[BaseException, str]:
    """Return the exception and its traceback as text, which is the cause of the first that has no other."""
    error = first = _decoded(encoded)
    while (cause := _CAUSE.__get__(first)) is not None:
        first = cause
    _CAUSE.__set__(first, RemoteTraceback(encoded.trace))
    return error, encoded.trace


def _encoded(error: BaseException, deep: int) -> Encoded:
    how, data = _packed(error, deep)
    made = Encoded(how, data, type(error).__qualname__, text_of(error))
    cause, context = _CAUSE.__get__(error), _CONTEXT.__get__(error)
    if deep > 1 and (cause is not None or context is not None):
        return made._replace(
            cause=None if cause is None else _encoded(cause, deep - 1),
            context=None if context is None or context is cause else _encoded(context, deep - 1),
            suppresses=_SUPPRESSES.__get__(error),
        )
    return made


def _packed(error: BaseException, deep: int) -> tuple[int, bytes]:
    """Pickle an exception in the first way that keeps its type and arguments, or else its type; its text may change."""
    if _is_simple(error):
        return AS_ITSELF, pickle.dumps(error, PROTOCOL)
    second_best = (AS_TEXT, b"")
    for how in (AS_ITSELF, WITHOUT_CONSTRUCTOR):
        try:
            data = dumps(error if how == AS_ITSELF else _without_constructor(error, deep))
            again = _rebuilt(how, data)
            if type(again) is not type(error):
                continue
            if _alike(again.args, error.args):
                return how, data
        except BaseException as broken:  # a constructor may raise anything
            if is_interrupt(broken):
                raise
            continue
        second_best = how, data
    return second_best


def _is_simple(error: BaseException) -> bool:
    """Return whether it is one of Python's own, made of plain values: then its round trip needs no trial."""
    return type(error).__module__ == "builtins" and not vars(error) and ATOMS.issuperset(map(type, error.args))


def _alike(one: Any, other: Any) -> bool:
    """Return whether what came through is what was sent, by its type, and by its value where that can be compared."""
    if type(one) is not type(other):
        return False
    if isinstance(one, BaseException):
        return _alike(one.args, other.args)
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(_alike, one, other))
    by_identity: Any = object.__eq__
    try:
        return type(one).__eq__ is by_identity or bool(one == other) or bool(one != one)  # what is not a number
    except Exception:  # an array, say
        return True


def _decoded(encoded: Encoded) -> BaseException:
    error: BaseException = RemoteError(encoded.name, encoded.text, encoded.trace)
    if encoded.how != AS_TEXT:
        with suppress(Exception, SystemExit, GeneratorExit):  # it went well in the worker, but here is another process
            error = _rebuilt(encoded.how, encoded.data)
    if encoded.context is not None:
        _CONTEXT.__set__(error, _decoded(encoded.context))
    if encoded.cause is not None:
        _CAUSE.__set__(error, _decoded(encoded.cause))
    _SUPPRESSES.__set__(error, encoded.suppresses)
    return error


# -- without the constructor, whose parameters nobody knows


class _Nested(NamedTuple):
    """Stands for an exception that another one holds."""

    encoded: Encoded


def _without_constructor(error: BaseException, deep: int) -> tuple[Any, ...]:
    """Return what makes an exception of the same type without its constructor, less what can't be pickled."""
    if isinstance(error, BaseExceptionGroup):  # its `args` are what its class was called with
        made_of: Any = error.message, list(error.exceptions)
    else:
        made_of = _builtin(type(error)).__reduce__(error)[1]
    state: Any = object.__getstate__(error)
    attributes: dict[str, Any] = {}
    for part in state if isinstance(state, tuple) else (state,):  # of `__slots__`, too
        attributes.update(part or {})
    kept = {name: _kept(value, deep) for name, value in attributes.items()}
    return type(error), _all_kept(made_of, deep), _all_kept(error.args, deep), kept


def _builtin(cls: type[BaseException]) -> type[BaseException]:
    """Return the first of Python's own exceptions that a class is made of."""
    return next(each for each in cls.__mro__ if each.__module__ == "builtins")


def _all_kept(values: Iterable[Any], deep: int) -> tuple[Any, ...]:
    return tuple(_kept(each, deep) for each in values)


def _kept(value: Any, deep: int) -> Any:
    """Return what stands for a value on the way: the value, what an exception is made of, or how it looks."""
    if isinstance(value, BaseException):
        return _Nested(_encoded(value, deep - 1)) if deep > 1 else Shown(look_of(value, LONGEST))
    if type(value) in (list, tuple) and any(isinstance(each, BaseException) for each in value):
        return type(value)(_all_kept(value, deep))
    try:
        loads(dumps(value))
    except Exception:
        return Shown(look_of(value, LONGEST))
    return value


def _restored(value: Any) -> Any:
    if isinstance(value, _Nested):
        return _decoded(value.encoded)
    return type(value)(map(_restored, value)) if type(value) in (list, tuple) else value


def _rebuilt(how: int, data: bytes) -> BaseException:
    loaded = loads(data)
    if how == AS_ITSELF:
        found: BaseException = loaded
        return found
    cls, made_of, args, attributes = loaded
    builtin, made_of = _builtin(cls), _restored(made_of)
    made: BaseException = builtin.__new__(cls, *made_of)
    builtin.__init__(made, *made_of)
    made.args = _restored(args)
    for name, value in attributes.items():
        try:
            object.__setattr__(made, name, _restored(value))
        except AttributeError:  # a property has its name
            vars(made)[name] = _restored(value)
    return made
