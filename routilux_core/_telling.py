"""What a worker tells of a task: emissions and ends of activations, in order, at once or with the reply."""

from __future__ import annotations

import os
import pickle
import threading
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any

from routilux_core._pickling import PROTOCOL
from routilux_core._relay import Relay
from routilux_core._remote_errors import Encoded

DELAY = 0.001  # seconds that an emission waits for company
IDLE = 1.0  # seconds after which the flusher's thread ends

Data = dict[str, Any] | bytes  # a payload as it is where that is plain, else pickled
Done = tuple[float, float, Encoded | None, tuple[bool, dict[str, float]] | None]  # started, ended, failure, stats
# Told of one activation: its index, what it emitted since it was last told of, and its end, if that has come.
Told = tuple[int, list[tuple[str, Data]], Done | None]
# What a message is made of: worker, its clock as of now, told, relayed, and what only the reply has.
Message = tuple[int, float, list[Told], list[tuple[str, bytes]], dict[str, Any] | None]


class Teller:
    """Gathers what a task has to tell. With `send`, and while `streams` is true, it leaves in chunks.

    If a part of an activation's emissions has been sent, its end is sent before the next one begins: so when the
    worker dies, at most one activation is half told.
    """

    def __init__(self, send: Callable[[bytes], None] | None, flusher: Flusher, relay: Relay | None) -> None:
        self.broken: BaseException | None = None
        self.streams = False
        self._send = send
        self._flusher = flusher
        self._relay = relay
        self._lock = threading.Lock()
        self._told: list[Told] = []
        self._index = 0
        self._emitted: list[tuple[str, Data]] = []
        self._since: float | None = None  # when the oldest untold emission was made
        self._half_told = False

    def begin(self, index: int, streams: bool) -> None:
        """Say which activation comes next, and whether what it emits may leave before its end."""
        with self._lock:
            self._index, self.streams = index, streams and self._send is not None
            self._half_told = False

    def emit(self, event: str, data: Data) -> None:
        with self._lock:
            self._emitted.append((event, data))
            if not self.streams:
                return
            now = perf_counter()
            if self._since is None:
                self._since = now
                self._flusher.arm(now + DELAY, self)
            elif now - self._since > DELAY:
                self._tell()

    def end(self, done: Done) -> None:
        with self._lock:
            self._told.append((self._index, self._emitted, done))
            self._emitted = []
            if self._half_told:
                self._tell()

    def flush(self, due: float) -> None:
        """Send what has waited since before `due`."""
        with self._lock:
            if self._since is not None and self._since + DELAY <= due:
                self._tell()

    def reply(self, last: dict[str, Any]) -> bytes:
        """Return the last message, with everything not told yet."""
        with self._lock:
            self.streams, self._since = False, None
            return self._message(last)

    def _tell(self) -> None:
        # The lock is held while it is sent, so that chunks stay in order.
        if self._emitted:
            self._told.append((self._index, self._emitted, None))
            self._emitted, self._half_told = [], True
        self._since = None
        if self.broken is None and self._send is not None:
            try:
                self._send(self._message(None))
            except BaseException as error:  # it is the pool's: no handler may see it
                self.broken = error

    def _message(self, last: dict[str, Any] | None) -> bytes:
        relayed = [] if self._relay is None else self._relay.taken()
        told, self._told = self._told, []
        return pickle.dumps((os.getpid(), perf_counter(), told, relayed, last), PROTOCOL)


class Flusher:
    """One thread that sends what tellers have waited with for long enough; it exists only while there is something."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._due: deque[tuple[float, Teller]] = deque()
        self._thread: threading.Thread | None = None

    def arm(self, due: float, teller: Teller) -> None:
        """Call `teller.flush` at a time of `perf_counter`; calls come with times that rise."""
        with self._changed:
            self._due.append((due, teller))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="routilux-flusher", daemon=True)
                self._thread.start()
            elif len(self._due) == 1:
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._due and not self._changed.wait(IDLE) and not self._due:
                    self._thread = None
                    return
                if not self._due:
                    continue
                due, teller = self._due[0]
                left = due - perf_counter()
                if left > 0:
                    self._changed.wait(left)
                    continue
                self._due.popleft()
            teller.flush(due)
