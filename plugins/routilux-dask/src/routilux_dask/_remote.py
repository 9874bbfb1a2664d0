"""What runs in the worker processes of the cluster: `run` for each task, and a few words before and after."""

from __future__ import annotations

import os
import tempfile
from collections import OrderedDict
from typing import NamedTuple

from routilux_core import worker
from routilux_dask._journal import CHUNK, REPLY, Entry, Journal, Story, remove, stories

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


def hello(pool: str, keep: int) -> Hello:
    """Get ready for the tasks of a pool, which has at most `keep` of them here whose end it does not know."""
    desk = _desks.get(pool)
    if desk is None:
        desk = _desks.setdefault(pool, Desk(keep))
    return Hello(desk.token, os.getpid(), desk.journal.directory)


def run(pool: str, token: str, number: int, payload: bytes) -> list[bytes]:
    """Run a task, and return its chunks and, as the last, its reply."""
    desk = _desks.get(pool)
    entry = desk.journal.begin(number) if desk is not None and desk.token == token else None
    if desk is None or entry is None:
        raise NotMineError(f"task {number} of pool {pool} was not sent to process {os.getpid()}")
    told: list[bytes] = []

    def send(chunk: bytes, entry: Entry = entry) -> None:
        entry.write(CHUNK, chunk)
        told.append(chunk)

    try:
        reply = worker.run(payload, send, mark=entry.mark, cancelled=lambda: number in desk.cancelled)
        entry.write(REPLY, reply)
    finally:
        entry.close()
        desk.cancelled.pop(number, None)
    return [*told, reply]


def cancel(pool: str, number: int) -> None:
    """Let a task stop before its next activation, if it is here or comes here."""
    desk = _desks.get(pool)
    if desk is not None:
        desk.cancelled[number] = None
        while len(desk.cancelled) > MOST_CANCELLED:
            desk.cancelled.popitem(last=False)


def leave(pool: str, for_good: bool) -> None:
    """Forget a pool; where the process ends with it, close what `per_worker` made."""
    desk = _desks.pop(pool, None)
    if desk is not None:
        desk.journal.remove()
    if for_good:
        worker.close()


def inherit(directory: str, numbers: list[int]) -> list[Story] | None:
    """Tell of the tasks of a process that has died on this machine, and remove what it left."""
    found = stories(directory, numbers)
    if found is not None:
        remove(directory)
    return found
