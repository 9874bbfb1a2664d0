"""A journal in one SQLite file, with a small file beside it that says who has it, and which calls run."""

from __future__ import annotations

import contextlib
import errno
import itertools
import mmap
import os
import sqlite3
import struct
import threading
import weakref
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ctypes import py_object, pythonapi
from pathlib import Path
from typing import Any, NamedTuple

from routilux_core.errors import JournalError
from routilux_core.journal import KEPT, Journal, Key, Mark

APPLICATION_ID = 0x52784A31  # "RxJ1"
VERSION = 1

Row = tuple[str, str, int, str, str, int]

TABLE = """
CREATE TABLE rows (
    owner TEXT NOT NULL, kind TEXT NOT NULL, number INTEGER NOT NULL, name TEXT NOT NULL,
    value TEXT NOT NULL, crc INTEGER NOT NULL,
    PRIMARY KEY (owner, kind, number, name)
) WITHOUT ROWID
"""
CLOSED = Key("", "closed")
# How many there were: of a log that is damaged SQLite takes what is before, and says nothing.
COMMITS = Key("", "commits")
PUT = "INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?, ?, ?)"
# Several rows in one step: between two, the thread lets go of the interpreter, and has to wait for it again.
AT_ONCE = 32
PUTS = [f"{PUT}{', (?, ?, ?, ?, ?, ?)' * more}" for more in range(AT_ONCE)]
DELETE_RUN = "DELETE FROM rows WHERE owner = ? AND kind = ? AND number BETWEEN ? AND ? AND name = ?"
FORGET = f"DELETE FROM rows WHERE owner = ? AND kind NOT IN ({', '.join('?' * len(KEPT))})"
READ = "SELECT owner, kind, number, name, value, crc FROM rows"
DELETE = "DELETE FROM rows WHERE owner = ? AND kind = ? AND number = ? AND name = ?"


class SqliteJournal(Journal):
    """One file, `path`, beside which SQLite keeps `path-wal`, and this class `path-running`, while a flow has it open.

    One connection has the file for itself. That fences off others, and where there is only one connection, none of the
    bugs of SQLite's log occur that need two.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.where = f"journal {self.path!r}"
        self.name = Path(self.path).stem
        self._connection: Any = None
        self._running: Running | None = None
        self._commits = 0
        self._process = 0

    def connect(self) -> Any:
        """Return a connection of its own to the file."""
        return sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)

    def open(self, durable: bool) -> None:
        if self._connection is not None:
            raise self._held(os.getpid())
        self._check_file()
        try:
            self._connection = self.connect()
            self._process = os.getpid()
            self._lock(durable)
        except sqlite3.Error as error:
            self._drop()
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise self._held(owner_of(f"{self.path}-running")) from error
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_NOTADB:
                raise JournalError(
                    errno.EINVAL, f"{self.where} is no SQLite file, or is damaged; it stays as it is: give another path"
                ) from error
            raise self._broken("can't be opened", error) from error
        except OSError as error:
            self._drop()
            raise error if isinstance(error, JournalError) else self._broken("can't be opened", error) from error
        except BaseException:
            self._drop()
            raise
        _opened.add(self)

    def _check_file(self) -> None:
        if os.path.exists(self.path) and not os.path.isfile(self.path):
            raise JournalError(errno.EINVAL, f"{self.where} is no file: give the path of one, which may not exist yet")
        folder = os.path.dirname(os.path.abspath(self.path))
        if not os.path.isdir(folder):
            raise JournalError(errno.ENOENT, f"{self.where} can't be made: there is no folder {folder!r}")
        for beside in ("-running", "-wal"):
            if size_of(self.path + beside) and not size_of(self.path):
                raise JournalError(
                    errno.ENOENT,
                    f"{self.where} is gone, or empty, but {self.path + beside!r} says that it was in use: put it back, "
                    "or delete what is left beside it to begin anew",
                )

    def _lock(self, durable: bool) -> None:
        """Have the file alone, see that it is a journal of this version, and begin the file beside it."""
        run = self._connection.execute
        run("PRAGMA locking_mode = EXCLUSIVE")
        is_new = self._is_new()
        if not is_new:
            self._check_format()
        [[mode]] = run("PRAGMA journal_mode = WAL")
        if mode != "wal":
            raise JournalError(
                errno.ENOTSUP,
                f"{self.where} is on a file system on which SQLite can't keep a write-ahead log (it would use "
                f"{mode!r}): put it on a local disk",
            )
        run(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        run("BEGIN IMMEDIATE")
        if is_new:
            run(f"PRAGMA application_id = {APPLICATION_ID}")
            run(f"PRAGMA user_version = {VERSION}")
            run(TABLE)
        was_closed = is_new or run(DELETE, CLOSED).rowcount > 0
        self._running = self._begin_running(was_closed)
        run("COMMIT")  # behind that: who dies in between leaves a journal that was closed, and of which no call has run

    def _begin_running(self, was_closed: bool) -> Running:
        """Begin the file beside, when what the last process has noted there was compared with what is here."""
        path = f"{self.path}-running"
        noted = self._checked(f"{READ} WHERE owner = ? AND kind = ?", [COMMITS.owner, COMMITS.kind])
        self._commits = next((int(value) for _, value in noted), 0)
        left = left_in(path)
        if left.commits > self._commits:
            raise JournalError(
                errno.EIO,
                f"{self.where} is damaged: of {left.commits} transactions the last {left.commits - self._commits} are "
                f"missing, perhaps because {self.path + '-wal'!r} is: restore copies of both, or delete {path!r} to do "
                "again what is missing",
            )
        return Running(path, [] if was_closed else left.marks, self._commits)

    def _is_new(self) -> bool:
        """Return whether there is nothing in the file, which may have been made by a process that died over it."""
        run = self._connection.execute
        [[application]] = run("PRAGMA application_id")
        [[tables]] = run("SELECT count(*) FROM sqlite_master")
        return not (application or tables)

    def _check_format(self) -> None:
        [[application]] = self._connection.execute("PRAGMA application_id")
        [[version]] = self._connection.execute("PRAGMA user_version")
        if application != APPLICATION_ID:
            raise JournalError(errno.EINVAL, f"{self.where} is an SQLite file of something else, and stays as it is")
        if version > VERSION:
            raise JournalError(
                errno.EINVAL,
                f"{self.where} has version {version} of the format, and this routilux-core reads up to version "
                f"{VERSION}: install a newer one",
            )
        if version < 1:
            raise JournalError(errno.EINVAL, f"{self.where} has version {version} of the format, which there never was")

    def commit(self, rows: Mapping[Key, str | None], ended: Sequence[str] = ()) -> None:
        self._check_process()
        gone = runs_of(key for key, value in rows.items() if value is None)
        commits = str(self._commits + 1)
        put = [(*key, value, crc_of(key, value)) for key, value in rows.items() if value is not None]
        put.append((*COMMITS, commits, crc_of(COMMITS, commits)))
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            if gone:
                self._connection.executemany(DELETE_RUN, gone)
            self._put(put)
            if ended:
                self._connection.executemany(FORGET, [(owner, *KEPT) for owner in ended])
            self._connection.execute("COMMIT")
            self._commits += 1
            self._check_there()
            if self._running is not None:
                self._running.note_commits(self._commits)
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                self._connection.rollback()
            raise self._broken("can't be written", error) from error

    def _put(self, rows: list[Row]) -> None:
        for first in range(0, len(rows), AT_ONCE):
            some = rows[first : first + AT_ONCE]
            self._connection.execute(PUTS[len(some) - 1], list(itertools.chain.from_iterable(some)))

    def _check_there(self) -> None:
        """Refuse to go on with a file that nobody will find again."""
        try:
            os.stat(self.path)
        except OSError as error:
            raise self._broken("was deleted or moved while it was in use", error) from error

    def read(self, owner: str | None = None, kind: str | None = None) -> Iterable[tuple[Key, str]]:
        self._check_process()
        asked = [(f"{name} = ?", value) for name, value in (("owner", owner), ("kind", kind)) if value is not None]
        where = " AND ".join(clause for clause, _ in asked)
        query = f"{READ} {where and 'WHERE ' + where} ORDER BY owner, kind, number, name"
        return [row for row in self._checked(query, [value for _, value in asked]) if row[0] != COMMITS]

    def _checked(self, query: str, values: list[str]) -> Iterator[tuple[Key, str]]:
        try:
            for *parts, value, crc in self._connection.execute(query, values):
                key = Key(*parts)
                kinds = [type(each) for each in (*parts, value, crc)]
                if kinds != [str, str, int, str, str, int] or crc_of(key, value) != crc:
                    raise JournalError(
                        errno.EIO,
                        f"{self.where} is damaged: row {tuple(key)!r} does not have its checksum; it stays as it is: "
                        "restore a copy of it",
                    )
                yield key, value
        except (sqlite3.Error, UnicodeError) as error:
            raise self._broken("can't be read", error) from error

    def close(self, in_doubt: bool = False) -> None:
        connection, running = self._connection, self._running
        self._connection = self._running = None
        if connection is not None and self._process == os.getpid():
            try:
                if not in_doubt:
                    connection.execute(PUT, (*CLOSED, "", crc_of(CLOSED, "")))
            except sqlite3.Error:  # it was full, say, which has been told
                in_doubt = True
            if running is not None:  # before the lock is given back: then there may be one of somebody else
                running.close(removes=not in_doubt)
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def mark(self, place: int, mark: Mark) -> None:
        if self._running is not None:
            self._running.write(place, mark)

    def marks(self) -> Sequence[Mark] | None:
        return None if self._running is None else self._running.found

    def _drop(self) -> None:
        connection, running = self._connection, self._running
        self._connection = self._running = None
        if running is not None:
            running.close(removes=False)
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def leave(self) -> None:
        """Never close the connection: this is a fork, and that would take the log away from its parent."""
        if self._connection is not None:
            pythonapi.Py_IncRef(py_object(self._connection))

    def _check_process(self) -> None:
        if self._connection is None:
            raise JournalError(errno.EBADF, f"{self.where} is closed")
        if self._process != os.getpid():
            raise JournalError(errno.EBADF, f"{self.where} is open in process {self._process}, of which this is a fork")

    def _held(self, pid: int) -> JournalError:
        who = {0: "another process", os.getpid(): f"this process ({pid}), perhaps for another flow"}
        return JournalError(
            errno.EBUSY,
            f"{self.where} is in use by {who.get(pid, f'process {pid}')}: a journal is open once; wait for its end, or "
            "give this flow a journal of its own",
        )

    def _broken(self, what: str, error: Exception) -> JournalError:
        return JournalError(
            getattr(error, "errno", None) or errno.EIO,
            f"{self.where} {what}: {error}; the file stays as it is: when its disk and its rights are in order again, "
            "flow.recover() goes on with what is left",
        )


def size_of(path: str) -> int:
    """Return how long a file is; 0 where there is none, or none any more."""
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def runs_of(keys: Iterable[Key]) -> list[tuple[str, str, int, int, str]]:
    """Return keys with the first and the last number of those in a row, which are deleted together."""
    found: list[tuple[str, str, int, int, str]] = []
    for owner, kind, name, number in sorted((key[0], key[1], key[3], key[2]) for key in keys):
        if found:
            last = found[-1]
            if last[3] == number - 1 and last[0] == owner and last[1] == kind and last[4] == name:
                found[-1] = (owner, kind, last[2], number, name)
                continue
        found.append((owner, kind, number, number, name))
    return found


def crc_of(key: Key, value: str) -> int:
    """Return the checksum of a row, its key included."""
    return zlib.crc32(f"{key[0]}\0{key[1]}\0{key[2]}\0{key[3]}\0{value}".encode())


_opened: weakref.WeakSet[SqliteJournal] = weakref.WeakSet()


def _after_fork() -> None:
    for journal in _opened:
        journal.leave()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Running:
    """The file beside: who has the journal, how often it was written, and a place for each call that runs.

    It outlives the process, not the machine: its head has the boot of that, and after another boot the rest may not be
    whole.
    """

    HEAD = struct.Struct("<8sQ16s?I")  # magic, process, boot, whether it has all marks, checksum
    COUNT = struct.Struct("<QI")  # a number, checksum
    PLACE = struct.Struct("<IQII")  # job, number, attempt, checksum
    MAGIC = b"RxRuns2\n"
    COMMITS, BYTES = 64, 80  # where the counts are, of commits, and of the bytes of this file
    SIZE = 96  # bytes of all that; behind it the places, each `PLACE`
    LEAST = 1 << 14  # bytes of the file, which doubles

    def __init__(self, path: str, marks: Sequence[Mark] | None, commits: int) -> None:
        self._path = path
        self.found = marks
        head = (self.MAGIC, os.getpid(), boot(), self.found is not None)
        # Those that were found come first, and stay: this process may die before it has made any of their calls.
        kept = b"".join(self.PLACE.pack(*mark, _crc_of(mark)) for mark in self.found or ())
        self._first = self.SIZE + len(kept)
        beside = f"{path}.{os.getpid()}.tmp"
        with open(beside, "wb") as file:
            file.write(self.HEAD.pack(*head, _crc(*head)).ljust(self.SIZE, b"\0") + kept)
        os.replace(beside, path)  # in one step: whoever comes next finds all of it
        self._file = os.open(path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
        self._lock = threading.Lock()
        try:
            self._map = self._grown(self._first)
            self.note_commits(commits)
        except BaseException:
            os.close(self._file)
            raise

    def write(self, place: int, mark: Mark) -> None:
        # Into memory that is the file's: it outlives the process, and no other thread gets the interpreter meanwhile.
        # Of a mark that is half written when the process dies, the call had not begun.
        at = self._first + place * self.PLACE.size
        content = (*mark, _crc_of(mark))
        try:
            self.PLACE.pack_into(self._map, at, *content)
        except struct.error:  # it is too short
            with self._lock:
                if at + self.PLACE.size > len(self._map):
                    self._map = self._grown(at)  # who still writes to the old one writes to the same pages
            self.PLACE.pack_into(self._map, at, *content)

    def note_commits(self, number: int) -> None:
        self.COUNT.pack_into(self._map, self.COMMITS, number, _crc(number))

    def _grown(self, least: int) -> mmap.mmap:
        """Return the file, longer than so many bytes. What is added is written, not just said: the disk may be full."""
        size, now = self.LEAST, os.fstat(self._file).st_size
        while size <= least + self.PLACE.size:
            size *= 2
        os.lseek(self._file, now, os.SEEK_SET)
        left = size - now
        while left:
            left -= os.write(self._file, bytes(left))
        made = mmap.mmap(self._file, size)
        self.COUNT.pack_into(made, self.BYTES, size, _crc(size))
        return made

    def close(self, removes: bool) -> None:
        self._map.close()
        with contextlib.suppress(OSError):
            os.close(self._file)
            if removes:
                os.unlink(self._path)


def _crc(*parts: object) -> int:
    return zlib.crc32(repr(parts).encode())


def _crc_of(mark: Mark) -> int:
    """Return what `_crc` does for a mark, which each call has, in less than half the time."""
    return zlib.crc32(b"(%d, %d, %d)" % mark)


def boot() -> bytes:
    """Return what tells this boot of the machine from others; nothing where the system does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return bytes.fromhex(file.read().strip().replace("-", ""))
    except (OSError, ValueError):
        return bytes(16)


class Head(NamedTuple):
    """Who has a journal, in which boot of the machine, and whether all marks are there."""

    pid: int
    boot: bytes
    whole: bool


def _head_of(raw: bytes) -> Head | None:
    if len(raw) < Running.SIZE:
        return None
    magic, pid, when, whole, crc = Running.HEAD.unpack_from(raw)
    return Head(pid, when, whole) if magic == Running.MAGIC and crc == _crc(magic, pid, when, whole) else None


class Left(NamedTuple):
    """What a process has left in the file beside its journal."""

    commits: int  # that were written; 0 where that is not known
    marks: list[Mark] | None  # None where there are none, or where some may be missing


def left_in(path: str) -> Left:
    """Return what the last process has left, as far as it is whole."""
    try:
        with open(path, "rb") as file:
            raw = file.read()
    except OSError:
        return Left(0, None)
    head = _head_of(raw)
    if head is None or head.boot != boot():
        return Left(0, None)
    return Left(_count_in(raw, Running.COMMITS) or 0, _marks_in(raw) if head.whole else None)


def _count_in(raw: bytes, at: int) -> int | None:
    number, crc = Running.COUNT.unpack_from(raw, at)
    return int(number) if crc == _crc(number) else None


def _marks_in(raw: bytes) -> list[Mark] | None:
    if _count_in(raw, Running.BYTES) != len(raw):
        return None
    found = []
    for at in range(Running.SIZE, len(raw) - Running.PLACE.size + 1, Running.PLACE.size):
        *parts, crc = Running.PLACE.unpack_from(raw, at)
        mark = Mark(*parts)
        if crc == _crc_of(mark):
            found.append(mark)
        elif any((*mark, crc)):  # else nobody has had the place
            return None
    return found


def owner_of(path: str) -> int:
    """Return the process that has a journal open, as the file beside it says; 0 where that can't be told."""
    try:
        with open(path, "rb") as file:
            head = _head_of(file.read(Running.SIZE))
    except OSError:
        return 0
    return 0 if head is None else head.pid
