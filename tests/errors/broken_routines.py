"""Routines whose failures are hard to tell of, in a module that workers can import."""

from __future__ import annotations

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
