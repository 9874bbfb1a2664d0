"""Routines that fail as they are told, and note each call in a file, in a module that workers can import."""

from __future__ import annotations

import os
from typing import Any

from routilux_core import Routine, event, slot

ERRORS: dict[str, type[BaseException]] = {
    kind.__name__: kind
    for kind in (
        *(ConnectionError, ValueError, SystemExit),
        *(KeyboardInterrupt, GeneratorExit, MemoryError, RecursionError),
    )
}


def note(path: str, line: str) -> int:
    """Append a line to a file, and return how often it is there now."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, f"{line}\n".encode())
    finally:
        os.close(file)
    with open(path) as noted:
        return noted.read().split("\n").count(line)


def fail_as_told(routine: Routine, order: dict[str, Any]) -> None:
    """Note the call; emit first or last; fail if this is one of the first `fails` calls."""
    times = note(order["calls"], "bad")
    if order["emits_first"]:
        routine.emit("out", order=order)
    if times <= order["fails"]:
        raise ERRORS[order["error"]]("as told")
    if not order["emits_first"]:
        routine.emit("out", order=order)


class Start(Routine, stateless=True):
    out = event("order")

    def __call__(self, order: Any) -> None:
        note(order["calls"], "other")
        self.emit("out", order=order)


class Pass(Routine, stateless=True):
    out = event("order")

    @slot
    def input(self, order: Any) -> None:
        note(order["calls"], "other")
        self.emit("out", order=order)


class End(Routine):
    @slot
    def input(self, order: Any) -> None:
        note(order["calls"], "end")


class BadEntry(Routine):
    out = event("order")

    def __call__(self, order: Any) -> None:
        fail_as_told(self, order)


class BadEntryWithout(Routine, stateless=True):
    out = event("order")

    def __call__(self, order: Any) -> None:
        fail_as_told(self, order)


class BadSlot(Routine):
    out = event("order")

    @slot
    def input(self, order: Any) -> None:
        fail_as_told(self, order)


class BadSlotWithout(Routine, stateless=True):
    out = event("order")

    @slot
    def input(self, order: Any) -> None:
        fail_as_told(self, order)


class BadJoin(Routine):
    out = event("order")

    @slot(merge_strategy="gather")
    def input(self, order: Any) -> None:
        fail_as_told(self, order[0])


class BadJoinWithout(Routine, stateless=True):
    out = event("order")

    @slot(merge_strategy="gather")
    def input(self, order: Any) -> None:
        fail_as_told(self, order[0])


class Numbers(Routine, stateless=True):
    """Emits numbers; the first one apart."""

    first = event("n")
    item = event("n")

    def __call__(self, count: int) -> None:
        self.emit("first", n=0)
        for n in range(1, count):
            self.emit("item", n=n)


class Noted(Routine, stateless=True):
    """Notes the number; fails for one of them, always or once."""

    calls: str
    bad: int = -1
    once: bool = False

    @slot
    def n(self, n: int) -> None:
        times = note(self.calls, str(n))
        if n == self.bad and (times == 1 or not self.once):
            raise ConnectionError(n)
