"""The one thread that writes a journal: what is queued goes into one transaction, and who waits for it is let go."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple, Protocol

from routilux_core.errors import JournalError
from routilux_core.journal import Journal, Key, Mark

MOST = 256  # records in a transaction
WINDOW_S = 0.01  # that records wait for company where nobody waits for them
MOMENT_S = 0.0005  # in which another one comes, where somebody does
LONGEST_S = 0.002  # that a record waits for others then: less than half of what a transaction takes
FLEETING = ("activation", "arrival")  # kinds of rows that are written once, and deleted once


class Line(Protocol):
    """A row that is written as it was last, however often it changes: as text only then."""

    def text(self) -> str: ...


Rows = Mapping[Key, "str | Line | None"]


class Record(NamedTuple):
    """Rows that are written together; `places` of marks may be taken by other calls when that is done.

    Of a job that has `ended` all rows but its own and its record are deleted. One that is `owed` is one for which the
    thread that has queued it does not wait.
    """

    number: int
    rows: Rows
    places: Sequence[int]
    ended: str | None
    owed: bool


as_record: Callable[[tuple[Any, ...]], Record] = partial(tuple.__new__, Record)  # in half the time


class Commits:
    """Records on their way to a journal, in the order in which they are queued."""

    def __init__(self, journal: Journal, window: float = 0.0) -> None:
        self.journal = journal
        self._window = window  # seconds that a record may wait for others
        self.error: BaseException | None = None  # nothing is written any more
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._queue: deque[Record] = deque()
        self._last = self._done = 0  # numbers of records
        self._waiting: list[tuple[int, Callable[[], None]]] = []  # for which record, and what to call then
        self._free: list[int] = []  # places of marks
        self._places = 0
        self._owed = 0  # records on their way for which no thread waits
        self._without_room: deque[threading.Lock] = deque()  # of threads that wait in `take_room`
        self._is_rousing = False  # one of them, which has not looked yet
        self._mine = threading.local()  # the last record of each thread
        self._thread: threading.Thread | None = None
        self._closed = False
        self._took = 0.0  # seconds that the last transaction took

    def submit(self, rows: Rows, places: Sequence[int] = (), ended: str | None = None, *, owed: bool = False) -> int:
        """Queue a record, and return its number. Waits for nothing, and raises nothing: `wait` does both."""
        with self._lock:
            number = self._last = self._last + 1
            if owed:
                self._owed += 1
            else:
                self._mine.last = number
            self._queue.append(as_record((number, rows, places, ended, owed)))
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="routilux-journal", daemon=True)
                self._thread.start()
            elif len(self._queue) in (1, MOST):
                self._changed.notify()
            return number

    @property
    def newest(self) -> int:
        """The number of the newest record."""
        return self._last

    def wait(self, number: int) -> None:
        """Wait until a record is on disk, with all before it; raise a `JournalError` if it never will be."""
        if self._done < number:
            mine = threading.Lock()
            mine.acquire()
            if self.call_when_done(number, mine.release):
                mine.acquire()
        self.check_done(number)

    def call_when_done(self, number: int, call: Callable[[], None]) -> bool:
        """Call this when a record is on disk, or never will be, in the thread that writes; False if that is so."""
        with self._lock:
            if self._done >= number or self.error is not None or self._closed:
                return False
            self._waiting.append((number, call))
            if self._window:
                self._changed.notify()
            return True

    def check_done(self, number: int) -> None:
        """Raise a `JournalError` if a record is not on disk."""
        if self._done < number:
            self.check()
            raise JournalError(0, f"{self.journal.where} was closed before all was written")

    def wait_for_mine(self) -> None:
        """Wait for what this thread has queued last."""
        self.wait(getattr(self._mine, "last", 0))

    def check(self) -> None:
        """Raise a `JournalError` if nothing is written any more."""
        error = self.error
        if error is not None:
            number = error.errno if isinstance(error, OSError) else None
            raise JournalError(number or 0, str(error)) from error

    def take_place(self) -> int:
        """Return a place for a mark that no call has."""
        with self._lock:
            return self._next_place()

    def _next_place(self) -> int:
        # The lock is held.
        if self._free:
            return self._free.pop()
        self._places += 1
        return self._places - 1

    def take_room(self, most: int) -> int:
        """Return a place for a mark, when fewer than so many calls run, or have ended and are not on disk.

        Where nothing is owed, this waits for nothing: then each thread has no call but the one that it begins now.
        """
        while True:
            with self._lock:
                if not self._owed or self._places - len(self._free) < most or self.error is not None or self._closed:
                    self._rouse()  # there may be room for one more
                    return self._next_place()
                mine = threading.Lock()
                mine.acquire()
                self._without_room.append(mine)
            try:
                mine.acquire()  # what is owed is being written: `_write` rouses one, which rouses the next
            except BaseException:  # a Ctrl-C: whoever is next looks in its place
                with self._lock:
                    if mine in self._without_room:
                        self._without_room.remove(mine)
                    else:
                        self._is_rousing = False
                        self._rouse()
                raise
            with self._lock:
                self._is_rousing = False

    def _rouse(self) -> None:
        """Let one thread look whether there is room now: all at once would find that the first has taken it."""
        # The lock is held.
        if self._without_room and not self._is_rousing:
            self._is_rousing = True
            self._without_room.popleft().release()

    def mark(self, place: int, mark: Mark) -> None:
        """Mark that a call begins; one that can't be marked is not made, and nothing is written any more."""
        try:
            self.journal.mark(place, mark)
        except Exception as error:
            with self._changed:
                self.error = self.error or error
            self.check()

    def runs(self) -> bool:
        """Return whether a call has begun whose end is not written: it runs, or was interrupted."""
        return len(self._free) < self._places

    def close(self) -> None:
        """Write what is queued, and end."""
        with self._changed:
            self._closed = True
            thread = self._thread
            self._changed.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._closed:
                    self._changed.wait()
                if not self._queue:
                    return
                if not self._window:
                    self._let_others_come()
                elif len(self._queue) < MOST and not self._waiting and not self._closed:
                    self._changed.wait(self._window)
                some = [self._queue.popleft() for _ in range(min(MOST, len(self._queue)))]
            began = perf_counter()
            self._write(some)
            self._took = perf_counter() - began

    def _let_others_come(self) -> None:
        """Wait a moment for the records of calls that end at about the same time, while there are such, and they come.

        Else the first of them has a transaction of its own, and all others wait for two.
        """
        known, until = 0, perf_counter() + min(self._took / 2, LONGEST_S)
        while known < len(self._queue) < min(MOST, self._places - len(self._free)) and not self._closed:
            left = until - perf_counter()
            if left <= 0:
                return
            known = len(self._queue)
            self._changed.wait(min(left, MOMENT_S))

    def _write(self, some: list[Record]) -> None:
        error = self.error
        if error is None:
            rows = merged(some)
            try:
                ended = [record.ended for record in some if record.ended is not None]
                self.journal.commit({key: as_text(value) for key, value in rows.items()}, ended)
            except BaseException as broken:
                error = broken
        with self._changed:
            if error is None:
                self._done = some[-1].number
                for record in some:
                    self._free.extend(record.places)
                    self._owed -= record.owed
            else:
                self.error = error
            ready = [call for number, call in self._waiting if error is not None or number <= self._done]
            self._waiting = [each for each in self._waiting if error is None and each[0] > self._done]
            self._rouse()
        for call in ready:
            call()


def merged(some: Iterable[Record]) -> dict[Key, str | Line | None]:
    """Return what is to be written of several records. What only one brings, and a later one ends, never was there."""
    rows: dict[Key, str | Line | None] = {}
    for record in some:
        for key, value in record.rows.items():
            if value is None and key[1] in FLEETING and rows.get(key) is not None:
                del rows[key]
            else:
                rows[key] = value
    return rows


def as_text(value: str | Line | None) -> str | None:
    return value if value is None or isinstance(value, str) else value.text()
