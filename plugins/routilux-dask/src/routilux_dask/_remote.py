"""What runs in the worker processes of the cluster: `run` for each task, and a few words before and after."""

from __future__ import annotations

import os
import tempfile
import threading
from collections import OrderedDict
from functools import partial
from typing import NamedTuple

from routilux_core import worker
from routilux_core.strategy import Piece
from routilux_dask._journal import CHUNK, REPLY, Entry, Journal, Story, remove, stories
from routilux_dask._parcel import Message, packed, unpacked

MOST_CANCELLED = 10_000  # numbers remembered of tasks that were cancelled and have not come here (yet)


class Hello(NamedTuple):
    """A worker process as it introduces itself."""

    token: str
    pid: int
    directory: str


class NotMineError(RuntimeError):
    """A task came to a process that it was not sent to: another one has its address now, or took it over."""


class Desk:
    """What this process keeps for one pool."""

    def __init__(self, keep: int) -> None:
        self.token = os.urandom(8).hex()
        self.journal = Journal(tempfile.mkdtemp(prefix="routilux-dask-"), keep)
        self.cancelled: OrderedDict[int, None] = OrderedDict()


_desks: dict[str, Desk] = {}
_lock = threading.Lock()
_running = 0  # tasks of all pools


def hello(pool: str, keep: int) -> Hello:
    """Get ready for the tasks of a pool, which has at most `keep` of them here whose end it does not know."""
    with _lock:
        desk = _desks.get(pool)
        if desk is None:
            desk = _desks[pool] = Desk(keep)
    return Hello(desk.token, os.getpid(), desk.journal.directory)


def run(pool: str, token: str, number: int, message: Message) -> list[Message]:
    """Run a task, and return its chunks and, as the last, its reply."""
    desk = _desks.get(pool)
    entry = desk.journal.begin(number) if desk is not None and desk.token == token else None
    if desk is None or entry is None:
        raise NotMineError(f"task {number} of pool {pool} was not sent to process {os.getpid()}")
    told: list[Message] = []

    def tell(kind: bytes, pieces: list[Piece], entry: Entry = entry) -> None:
        told.append(packed(pieces))
        entry.tell(kind, told[-1])

    _count(1)
    try:
        reply = worker.run(
            pieces=unpacked(message),
            send=partial(tell, CHUNK),
            mark=entry.mark,
            cancelled=lambda: number in desk.cancelled,
        )
        tell(REPLY, reply)
    finally:
        entry.close()
        desk.cancelled.pop(number, None)
        _count(-1)
    return told


def cancel(pool: str, number: int) -> None:
    """Let a task stop before its next activation, if it is here or comes here."""
    desk = _desks.get(pool)
    if desk is not None:
        desk.cancelled[number] = None
        while len(desk.cancelled) > MOST_CANCELLED:
            desk.cancelled.popitem(last=False)


def give_back(pool: str, number: int) -> bool:
    """Return whether a task has not begun here; then it never will."""
    desk = _desks.get(pool)
    return desk is not None and desk.journal.take(number)


def leave(pool: str) -> None:
    """Forget a pool. With the last one, what `per_worker` made is closed."""
    with _lock:
        desk = _desks.pop(pool, None)
    if desk is not None:
        desk.journal.remove()
        _count(0)


def _count(more: int) -> None:
    global _running
    with _lock:
        _running += more
        unused = not _running and not _desks
    if unused:
        worker.close()


def inherit(directory: str, numbers: list[int]) -> list[Story] | None:
    """Tell of the tasks of a process that has died on this machine, and remove what it left."""
    found = stories(directory, numbers)
    if found is not None:
        remove(directory)
    return found
