"""What a worker process notes of its tasks in files, so that its death leaves no doubt about what it had begun.

One file for each task. A record is a kind (1 byte), a length (4 bytes) and data: what was told as it is, or, with its
kind in capitals, a pickled parcel. What the process has written is in the system's hands, so it outlives a SIGKILL.
Whoever creates the file owns the task: the worker that begins it, or the one that reads after the worker's death, which
then knows that it was not begun and will not be.
"""

from __future__ import annotations

import os
import pickle
import struct
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple

from routilux_dask._parcel import WITH_BUFFERS, Message, Parcel

MARK, CHUNK, REPLY, GAP = b"m", b"c", b"r", b"?"
MOST = 1 << 20  # bytes of a chunk or reply that are worth noting
MOST_TAKEN = 1000  # tasks that were taken from a worker and might still come to it
_HEAD = struct.Struct("!cI")
_INDEX = struct.Struct("!I")


class Story(NamedTuple):
    """What is known of a task: whether it was begun, where it was, what it had told, and how it ended."""

    begun: bool
    at: int | None = 0  # None: nobody knows
    chunks: tuple[Message, ...] = ()
    reply: Message | None = None


NOT_BEGUN = Story(begun=False)
IN_DOUBT = Story(begun=True, at=None)


class Journal:
    """The files of one worker process for one pool. The newest are kept: the pool knows the end of older ones."""

    def __init__(self, directory: str, keep: int) -> None:
        self.directory = directory
        self._keep = keep
        self._written: deque[int] = deque()
        self._taken: deque[int] = deque()

    def begin(self, number: int) -> Entry | None:
        """Open the file of a task; None if the task was taken from this worker."""
        try:
            entry = Entry(
                os.open(_path(self.directory, number), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            )
        except FileExistsError:
            return None
        self._written.append(number)
        while len(self._written) > self._keep:
            _remove(_path(self.directory, self._written.popleft()))
        return entry

    def take(self, number: int) -> bool:
        """Take a task from this process, if it has not begun it; then it never will."""
        if _story(_path(self.directory, number)).begun:
            return False
        self._taken.append(number)
        while len(self._taken) > MOST_TAKEN:
            _remove(_path(self.directory, self._taken.popleft()))
        return True

    def remove(self) -> None:
        """Remove everything."""
        remove(self.directory)


class Entry:
    """The open file of one task."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._size = 0
        self._whole = True

    def mark(self, index: int) -> None:
        self._write(MARK, _INDEX.pack(index))

    def tell(self, kind: bytes, message: Message) -> None:
        """Note a chunk or a reply, where it is worth it."""
        if not isinstance(message, Parcel):
            self._write(kind, message)
        elif self._whole:
            self._write(kind.upper(), pickle.dumps(message, WITH_BUFFERS) if message.size <= MOST else None)

    def _write(self, kind: bytes, data: bytes | None) -> None:
        """Write a record; what is None, or too long, is not noted."""
        if not self._whole:
            return
        self._whole = data is not None and len(data) <= MOST and self._put(_HEAD.pack(kind, len(data)) + data)
        if not self._whole:
            self._leave_gap()

    def _put(self, record: bytes) -> bool:
        """Write a record, or nothing of it."""
        with suppress(OSError):  # the disk is full: the work goes on
            if os.write(self._file, record) == len(record):
                self._size += len(record)
                return True
            os.ftruncate(self._file, self._size)
        return False

    def _leave_gap(self) -> None:
        """Say that more was told than is noted here: what was noted before still counts."""
        gap = _HEAD.pack(GAP, 0)
        if not self._put(gap):  # for want of room
            os.ftruncate(self._file, 0)
            self._size = 0
            self._put(gap)

    def close(self) -> None:
        os.close(self._file)


def stories(directory: str, numbers: Iterable[int]) -> list[Story] | None:
    """Take the tasks of a dead worker from it, and tell what it had done; None where its files can't be seen."""
    if not os.path.isdir(directory):
        return None
    return [_story(_path(directory, number)) for number in numbers]


def remove(directory: str) -> None:
    """Remove a journal; what can't be removed stays."""
    with suppress(OSError):
        for name in os.listdir(directory):
            _remove(os.path.join(directory, name))
        os.rmdir(directory)


def _story(path: str) -> Story:
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as taken:
            taken.write(b"-")
        return NOT_BEGUN
    except FileExistsError:
        pass
    except OSError:
        return IN_DOUBT
    with open(path, "rb") as file:
        return _read(file.read())


def _read(data: bytes) -> Story:
    if data.startswith(b"-"):
        return NOT_BEGUN
    story, place = Story(begun=True), 0
    while place + _HEAD.size <= len(data):
        kind, length = _HEAD.unpack_from(data, place)
        place += _HEAD.size
        part: Any = data[place : place + length]
        if len(part) < length:
            break
        place += length
        if kind in (CHUNK.upper(), REPLY.upper()):
            kind, part = kind.lower(), pickle.loads(part)
        if kind == GAP:
            return story._replace(at=None)
        if kind == MARK:
            story = story._replace(at=_INDEX.unpack(part)[0])
        elif kind == CHUNK:
            story = story._replace(chunks=(*story.chunks, part))
        else:
            story = story._replace(reply=part)
    return story


def _path(directory: str, number: int) -> str:
    return os.path.join(directory, str(number))


def _remove(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)
