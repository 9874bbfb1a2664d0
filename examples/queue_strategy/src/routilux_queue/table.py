"""The table that pool and workers share: each statement is a transaction, so nobody sees half of one."""

from __future__ import annotations

import sqlite3
import threading
from typing import Any

CREATE = """
CREATE TABLE setup (preparation BLOB, ready INTEGER);
CREATE TABLE tasks (number INTEGER PRIMARY KEY, payload BLOB, worker INTEGER, stop INTEGER, reply BLOB, error TEXT);
CREATE INDEX waiting ON tasks (worker, number);
"""
TAKE = """
UPDATE tasks SET worker = ? WHERE number = (SELECT min(number) FROM tasks WHERE worker IS NULL)
RETURNING number, payload
"""


class Table:
    """A connection to it. Any thread may use it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(path, timeout=60.0, isolation_level=None, check_same_thread=False)
        self._do("PRAGMA synchronous = OFF")  # it lives no longer than the program

    def _do(self, statement: str, *values: Any) -> list[Any]:
        with self._lock:
            return self._connection.execute(statement, values).fetchall()

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    # -- the pool

    def create(self, preparation: bytes) -> None:
        self._do("PRAGMA journal_mode = WAL")
        self._connection.executescript(CREATE)
        self._do("INSERT INTO setup VALUES (?, 0)", preparation)

    def put(self, number: int, payload: bytes) -> None:
        self._do("INSERT INTO tasks (number, payload, stop) VALUES (?, ?, 0)", number, payload)

    def take_back(self, number: int) -> bool:
        """Take a task out that no worker has; tell the one that has it to begin nothing more of it."""
        if self._do("DELETE FROM tasks WHERE number = ? AND worker IS NULL RETURNING number", number):
            return True
        self._do("UPDATE tasks SET stop = 1 WHERE number = ?", number)
        return False

    def owner(self, number: int) -> int:
        """Return the process that has a task; 0 if none has."""
        rows = self._do("SELECT worker FROM tasks WHERE number = ? AND worker NOT NULL", number)
        return rows[0][0] if rows else 0

    def take_ended(self) -> list[tuple[int, bytes | None, str | None]]:
        ended = "reply NOT NULL OR error NOT NULL"
        if not self._do(f"SELECT 1 FROM tasks WHERE {ended} LIMIT 1"):  # to look costs less than to write
            return []
        return self._do(f"DELETE FROM tasks WHERE {ended} RETURNING number, reply, error")

    def take_lost(self, worker: int) -> list[int]:
        """Take out what a worker that is gone had taken, and has not ended."""
        rows = self._do(
            "DELETE FROM tasks WHERE worker = ? AND reply IS NULL AND error IS NULL RETURNING number", worker
        )
        return [row[0] for row in rows]

    def is_ready(self) -> bool:
        return bool(self._do("SELECT 1 FROM setup WHERE ready"))

    # -- a worker

    def preparation(self) -> bytes:
        [(preparation,)] = self._do("SELECT preparation FROM setup")
        return bytes(preparation)

    def note_ready(self) -> None:
        self._do("UPDATE setup SET ready = 1")

    def take(self, worker: int) -> tuple[int, bytes] | None:
        if not self._do("SELECT 1 FROM tasks WHERE worker IS NULL LIMIT 1"):
            return None
        rows = self._do(TAKE, worker)
        return rows[0] if rows else None

    def is_stopped(self, number: int) -> bool:
        return bool(self._do("SELECT 1 FROM tasks WHERE number = ? AND stop", number))

    def finish(self, number: int, reply: bytes | None, error: str | None) -> None:
        self._do("UPDATE tasks SET reply = ?, error = ? WHERE number = ?", reply, error, number)
