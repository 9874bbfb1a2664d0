"""Routines whose failures are hard to tell of, in a module that workers can import."""

from __future__ import annotations

import functools
from typing import Any

from routilux_core import Routine, event, field, slot


class Speechless(Exception):
    """Ends whoever asks what it says."""

    def __str__(self) -> str:
        raise SystemExit(4)

    __repr__ = __str__


class Noted(Exception):
    """Has notes that can't be had."""

    @property
    def __notes__(self) -> list[str]:
        raise SystemExit(5)


class Row(Routine, stateless=True):
    """Looks attributes up in a dict, as many wrappers do: KeyError instead of AttributeError."""

    data: dict[str, Any] = field(factory=dict)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.data[name]

    @slot
    def typo(self) -> None:
        undefined_name  # type: ignore[name-defined]  # noqa: B018, F821

    @slot
    def says_nothing(self) -> None:
        raise Speechless

    @slot
    def has_notes(self) -> None:
        raise Noted

    @slot
    def fails(self, n: int = 0) -> None:
        raise ValueError(n)

    @slot
    def works(self) -> None:
        pass


class Emits(Routine, stateless=True):
    out = event("n")

    @slot
    def before_it_fails(self, n: int) -> None:
        self.emit("out", n=n)
        raise ValueError(n)


def logged(function: Any) -> Any:
    """Decorate as many do, which hides what kind of function it is."""

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


class Later:
    """Something to be awaited that is neither a coroutine nor of asyncio."""

    def __await__(self) -> Any:
        yield


class Mixed(Routine):
    """Each of its handlers returns work that has yet to be done; it emits before it does."""

    out = event("n")

    async def _fetch(self, n: int) -> None:
        self.emit("out", n=-n)

    def _each(self, n: int) -> Any:
        self.emit("out", n=-n)
        yield n

    @slot
    @logged
    async def decorated_async(self, n: int) -> None:
        self.emit("out", n=-n)

    @slot
    @logged
    def decorated_generator(self, n: int) -> Any:
        self.emit("out", n=-n)
        yield n

    @slot
    @logged
    async def decorated_async_generator(self, n: int) -> Any:
        self.emit("out", n=-n)
        yield n

    @slot
    def returns_coroutine(self, n: int) -> Any:
        self.emit("out", n=n)
        return self._fetch(n)

    @slot
    def returns_generator(self, n: int, **others: Any) -> Any:
        self.emit("out", n=n)
        return self._each(n)

    @slot
    def returns_awaitable(self) -> Any:
        self.emit("out", n=1)
        return Later()


class MixedStateless(Mixed, stateless=True):
    pass


class Returns(Routine, stateless=True):
    """Returns whatever it is asked for: it is ignored."""

    kinds: tuple[Any, ...] = (0, "text", [], {}, object, b"", 1.5, {1}, (1,))

    @slot
    def n(self, n: int) -> Any:
        return self.kinds[n]

    @slot
    def iterator(self) -> Any:
        return iter([1])
