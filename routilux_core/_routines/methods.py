"""The methods of a class: what can be a handler, and under which name one was found, whatever it is called itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial, partialmethod, singledispatchmethod
from types import FunctionType, MethodType
from typing import Any

Code = Callable[..., Any]

_NOT_THE_USERS_OWN = ("routilux_core.routine", "builtins")  # where Routine and object are defined
_DESCRIBED = (staticmethod, classmethod, partialmethod, singledispatchmethod)


def method_of(cls: type, name: str) -> Any:
    """Return what a class of the user's own has under a name, if it can be a handler; None if not."""
    if name.startswith("__") and name != "__call__":
        return None
    found = _code_of(cls, name)
    return None if isinstance(found, type) else found


def hides(cls: type, name: str) -> bool:
    """Whether an attribute of this name would stand where the class has code: a method, or a class inside it."""
    return _code_of(cls, name) is not None


def _code_of(cls: type, name: str) -> Any:
    for base in cls.__mro__:
        if name in vars(base) and base.__module__ not in _NOT_THE_USERS_OWN:
            found = vars(base)[name]
            return found if callable(found) or isinstance(found, _DESCRIBED) else None
    return None


def bound(owner: Any, name: str) -> Code:
    """Return a method of an object's class, bound: no attribute of the object can take its place."""
    found = method_of(type(owner), name)
    if found is None:
        raise AttributeError(f"{type(owner).__name__} has no method {name!r}", name=name, obj=owner)
    made: Code = found.__get__(owner, type(owner)) if hasattr(type(found), "__get__") else found
    return made


def joined(function: Code, owner: Any) -> Code:
    """Return a function bound to an object of which no class has it as a method: pickle knows no name for the type."""
    return MethodType(function, owner)


def name_of(owner: Any, code: Any) -> str | None:
    """Return the name under which an object's class has a method; None if this is no method of it.

    It goes by what is found there, not by the `__name__`: a decorator may have left another one.
    """
    for name in _candidates(type(owner), code):
        if method_of(type(owner), name) is not None and _same(bound(owner, name), code, owner):
            return name
    return None


def _candidates(cls: type, code: Any) -> Iterator[str]:
    given = getattr(code, "__name__", None)
    if type(given) is str:
        yield given
    for base in cls.__mro__:
        yield from (name for name, value in [*vars(base).items()] if callable(value) or isinstance(value, _DESCRIBED))


def _same(made: Any, code: Any, owner: Any) -> bool:
    """Whether binding a method has made the same as was made before."""
    if made is code:
        return True
    if type(made) is not type(code):
        return False
    if isinstance(made, MethodType):
        return made.__self__ is code.__self__ and made.__func__ is code.__func__
    if isinstance(made, partial):  # of a partialmethod
        return _same(made.func, code.func, owner) and made.args == code.args and made.keywords == code.keywords
    dispatches = dispatcher_of(code)
    return dispatches is not None and dispatches is dispatcher_of(made) and _leads_to(code, owner)


def dispatcher_of(code: Any) -> singledispatchmethod[Any] | None:
    """Return the `singledispatchmethod` that a function was bound from, if any."""
    found = getattr(getattr(code, "register", None), "__self__", None)
    return found if isinstance(found, singledispatchmethod) else None


def _leads_to(code: Any, owner: Any) -> bool:
    cells = code.__closure__ if isinstance(code, FunctionType) else None
    return any(cell.cell_contents is owner for cell in cells or ())
