"""What a worker tells of a task: emissions and ends of activations, in order, at once or with the reply."""

from __future__ import annotations

import heapq
import itertools
import os
import pickle
import threading
from collections.abc import Callable
from time import perf_counter
from typing import Any

from routilux_core._pickling import PROTOCOL
from routilux_core._relay import Relay
from routilux_core._remote_errors import Encoded

DELAY = 0.001  # seconds that an emission waits for company while its handler runs
PATIENCE = 0.005  # seconds that it waits when its handler has ended: others are about to, too
IDLE = 0.1  # seconds after which the flusher's thread ends

Data = dict[str, Any] | bytes  # a payload as it is where that is plain, else pickled
Emitted = list[tuple[str, Data]]
Stats = tuple[bool, dict[str, float]]  # whether the counters were reset, and what was added since
# Told of one activation: its index, what it emitted since it was last told of; then its start, end, failure and
# counters, all None where it has not ended.
Told = tuple[int, Emitted, float | None, float, Encoded | None, Stats | None]
# What a message is made of: worker, its clock as of now, told, relayed, and what only the reply has.
Message = tuple[int, float, list[Told], list[tuple[str, bytes]], dict[str, Any] | None]


class Teller:
    """Gathers what a task has to tell. With `send`, what streaming activations emit leaves in chunks.

    If a part of an activation's emissions has been sent, its end is sent before the next one begins: so when the
    worker dies, at most one activation is half told.
    """

    def __init__(self, send: Callable[[bytes], None] | None, flusher: Flusher, relay: Relay | None) -> None:
        self.broken: BaseException | None = None
        self.streams = send is not None
        self._send = send
        self._flusher = flusher
        self._relay = relay
        self._lock = threading.Lock()
        self._told: list[Told] = []
        self._index = -1  # of the activation that streams now
        self._emitted: Emitted = []  # by it, and not told
        self._since: float | None = None  # when the oldest emission that was not sent was made
        self._by = -1  # the activation that made it
        self._half_told = False

    def emit(self, index: int, event: str, data: Data) -> None:
        """Take what a streaming activation emits."""
        with self._lock:
            self._index = index
            self._emitted.append((event, data))
            now = perf_counter()
            if self._since is None:
                self._since, self._by = now, index
                self._flusher.arm(now + DELAY, self)
            elif now - self._since > (DELAY if self._by == index else PATIENCE):
                self._tell()

    def end(
        self,
        index: int,
        emitted: Emitted,
        started: float,
        ended: float,
        failure: Encoded | None = None,
        stats: Stats | None = None,
    ) -> None:
        """Take the end of an activation; `emitted` is what it did not stream."""
        if not self.streams:
            self._told.append((index, emitted, started, ended, failure, stats))
            return
        with self._lock:
            if self._emitted:
                emitted, self._emitted = self._emitted, []
            self._told.append((index, emitted, started, ended, failure, stats))
            self._index = -1
            if self._half_told:
                self._tell()
                self._half_told = False

    def flush(self, due: float) -> None:
        """Send what has waited for long enough, or come again."""
        with self._lock:
            if self._since is None or self._since + DELAY > due:
                return  # what it was for has left
            late = self._since + PATIENCE
            if self._by == self._index or due >= late:
                self._tell()
            else:
                self._flusher.arm(late, self)

    def reply(self, last: dict[str, Any]) -> bytes:
        """Return the last message, with everything not told yet."""
        with self._lock:
            self._since = None
            return self._message(last)

    def _tell(self) -> None:
        # The lock is held while it is sent, so that chunks stay in order.
        if self._emitted:
            self._told.append((self._index, self._emitted, None, 0.0, None, None))
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
        self._due: list[tuple[float, int, Teller]] = []
        self._order = itertools.count()
        self._thread: threading.Thread | None = None

    def arm(self, due: float, teller: Teller) -> None:
        """Call `teller.flush` at a time of `perf_counter`, or a little later."""
        with self._changed:
            heapq.heappush(self._due, (due, next(self._order), teller))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="routilux-flusher", daemon=True)
                self._thread.start()
            elif self._due[0][2] is teller:
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._due and not self._changed.wait(IDLE) and not self._due:
                    self._thread = None
                    return
                if not self._due:
                    continue
                due, _, teller = self._due[0]
                left = due - perf_counter()
                if left > 0:
                    self._changed.wait(left)
                    continue
                heapq.heappop(self._due)
            teller.flush(due)
