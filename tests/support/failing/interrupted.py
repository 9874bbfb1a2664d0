"""Routines that count their calls in a file, and do or say something at certain calls. Workers import this module.

The first thing that each handler does is to append its thread to a list: what `cancel` has promised is judged by that
where memory is shared. The file has all calls of all processes, a line of WIDTH bytes for each.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import get_ident
from typing import Any

from routilux_core import Routine, event, slot

WIDTH = 16
ENTERED: list[int] = []  # the thread of each call in this process
INSIDE: dict[tuple[str, int], Callable[[], object]] = {}  # folder and call -> what is done in it, in this process


def enter(folder: str, moments: tuple[int, ...]) -> None:
    """Note a call of a handler; at the moments, do what was asked for, or tell those who wait."""
    number = note(f"{folder}/calls")
    act = INSIDE.get((folder, number))
    if act is not None:
        act()
    elif number in moments:
        tell(f"{folder}/pipe", moments.index(number))


def note(path: str) -> int:
    """Append a line, and return its number, which is that of the call."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, f"{os.getpid():>{WIDTH - 1}}\n".encode())
        return os.lseek(file, 0, os.SEEK_CUR) // WIDTH
    finally:
        os.close(file)


def tell(path: str, index: int) -> None:
    pipe = os.open(path, os.O_WRONLY)
    try:
        os.write(pipe, bytes([index]))
    finally:
        os.close(pipe)


class Source(Routine, stateless=True):
    item = event("n", "folder", "moments")

    def __call__(self, count: int, folder: str, moments: Any) -> None:
        ENTERED.append(get_ident())
        enter(folder, moments)
        for n in range(count):
            self.emit("item", n=n, folder=folder, moments=moments)


class Work(Routine, stateless=True):
    """Fails for some numbers, always."""

    done = event("n", "folder", "moments")

    @slot
    def item(self, n: int, folder: str, moments: Any) -> None:
        ENTERED.append(get_ident())
        enter(folder, moments)
        if n % 50 == 7:
            raise ConnectionError(n)
        self.emit("done", n=n, folder=folder, moments=moments)


class Keep(Routine):
    seen: int = 0

    @slot
    def item(self, n: int, folder: str, moments: Any) -> None:
        ENTERED.append(get_ident())
        enter(folder, moments)
        self.seen += 1
