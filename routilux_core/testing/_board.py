"""What the kit's handlers tell, and are told, in whichever process they run: files in a folder.

Files, because they are all that a thread here and a process there, under any pool, have in common.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from time import monotonic, sleep

from attrs import frozen

LOOK = 0.002  # seconds between two looks at a file


@frozen
class Note:
    """One line of a file: who wrote it, and what. Threads by the system's number: Python gives the number of one that
    ended to the next."""

    pid: int
    thread: int
    text: str


def note(folder: str, name: str, text: object = "") -> None:
    """Add a line. Lines of several processes don't mix: each is one write to a file that is open for appending."""
    line = f"{os.getpid()} {threading.get_native_id()} {text}\n".encode()
    file = os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(file, line)
    finally:
        os.close(file)


def notes(folder: str, name: str) -> list[Note]:
    """Return the lines so far, oldest first."""
    try:
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return []
    found = [line.split(" ", 2) for line in lines]
    return [Note(int(pid), int(thread), text) for pid, thread, text in found]


def until(condition: Callable[[], bool], seconds: float, sleep: Callable[[float], None] = sleep) -> bool:
    """Look until the condition holds, and return whether it did within so many seconds."""
    deadline = monotonic() + seconds
    while not condition():
        if monotonic() > deadline:
            return False
        sleep(LOOK)
    return True


async def until_awaited(condition: Callable[[], bool], seconds: float) -> bool:
    """Look until the condition holds, and let others run between two looks."""
    import asyncio

    deadline = monotonic() + seconds
    while not condition():
        if monotonic() > deadline:
            return False
        await asyncio.sleep(LOOK)
    return True


def open_gate(folder: str, name: str = "gate") -> None:
    """Let everyone pass who waits at a gate, or comes to it."""
    note(folder, name, "open")


def gate_is_open(folder: str, name: str = "gate") -> bool:
    return os.path.exists(os.path.join(folder, name))


class Party:
    """Calls that wait until so many of them are here at the same time: entered when one comes, left when it goes.

    Once they have met, everyone who is still here, or comes later, knows.
    """

    def __init__(self, folder: str, name: str, size: int) -> None:
        self._folder, self._name, self._size = folder, name, size

    def __enter__(self) -> Party:
        note(self._folder, self._name, "comes")
        return self

    def __exit__(self, *_: object) -> None:
        note(self._folder, self._name, "goes")

    def has_met(self) -> bool:
        flag = f"{self._name}-met"
        if not notes(self._folder, flag):
            if _present(self._folder, self._name) < self._size:
                return False
            note(self._folder, flag)
        return True


def _present(folder: str, name: str) -> int:
    return sum(1 if each.text == "comes" else -1 for each in notes(folder, name))


def most_at_once(folder: str, name: str) -> int:
    """Return how many were between their "comes" and their "goes" at the same time, at most."""
    most = present = 0
    for each in notes(folder, name):
        present += 1 if each.text == "comes" else -1
        most = max(most, present)
    return most
