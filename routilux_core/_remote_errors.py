"""Exceptions on their way home: as themselves where that is possible, else as their name, text and traceback."""

from __future__ import annotations

from typing import Any

from routilux_core._pickling import dumps, loads
from routilux_core.errors import RemoteError, text_of, trace_of

AS_ITSELF, WITHOUT_CONSTRUCTOR, AS_TEXT = range(3)
Encoded = tuple[int, bytes, str, str, str]  # how, pickled, name of the type, text, traceback


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
    name, text = type(error).__qualname__, text_of(error)
    trace = trace_of(error)
    for how, make in ((AS_ITSELF, _as_itself), (WITHOUT_CONSTRUCTOR, _without_constructor)):
        try:
            data = dumps(make(error))
            again = _rebuild(how, data)
            if type(again) is type(error) and text_of(again) == text:
                return how, data, name, text, trace
        except BaseException:  # a constructor may raise anything
            continue
    return AS_TEXT, b"", name, text, trace


def decode(encoded: Encoded) -> tuple[BaseException, str]:
    """Return the exception and its traceback as text, which is its cause, too."""
    how, data, name, text, trace = encoded
    error: BaseException = RemoteError(name, text, trace)
    if how != AS_TEXT:
        try:
            error = _rebuild(how, data)
        except BaseException:  # it went well in the worker, but here is another process
            error = RemoteError(name, text, trace)
    error.__cause__ = RemoteTraceback(trace)
    return error, trace


def _rebuild(how: int, data: bytes) -> BaseException:
    loaded = loads(data)
    if how == AS_ITSELF:
        found: BaseException = loaded
        return found
    cls, args, attributes = loaded
    made: BaseException = cls.__new__(cls)
    made.args = args
    vars(made).update(attributes)
    return made


def _as_itself(error: BaseException) -> BaseException:
    return error


def _without_constructor(error: BaseException) -> tuple[Any, ...]:
    """Return what makes an exception of the same type without its constructor, less what can't be pickled."""
    args = tuple(each if _travels(each) else Shown(repr(each)) for each in error.args)
    return type(error), args, {name: value for name, value in vars(error).items() if _travels(value)}


def _travels(value: Any) -> bool:
    try:
        loads(dumps(value))
    except Exception:
        return False
    return True
