"""The end of a job: set once, and waited for without polling."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from time import monotonic
from typing import TypeVar

T = TypeVar("T")

STRETCH = 0.25  # seconds that the main thread waits at a time


class Completion:
    """Set once, when a job has ended; wakes whoever waits, at once.

    It has no lock of its own, which a signal handler could find held by the thread that it interrupted, and an
    exception could leave held. Who waits is listed first and then looks; who sets does so first and then looks at the
    list. Each is taken from a list once, and `set` may be called again where it was interrupted.
    """

    def __init__(self) -> None:
        self._set = self._nudged = False
        self._waiters: list[threading.Lock] = []  # one for each, held until this is set
        self._callbacks: list[Callable[[], None]] = []

    def is_set(self) -> bool:
        return self._set

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until set, and return whether it is. In the main thread a Ctrl-C ends it, too.

        A signal that comes just before that thread begins to sleep does not wake it: so it sleeps in stretches.
        """
        waiter = threading.Lock()
        waiter.acquire()
        self._waiters.append(waiter)
        try:
            if not (self._set or self._nudged):
                self._sleep(waiter, timeout)
            self._nudged = False
            return self._set
        finally:
            with suppress(ValueError):
                self._waiters.remove(waiter)

    def _sleep(self, waiter: threading.Lock, timeout: float | None) -> None:
        if threading.current_thread() is not threading.main_thread():
            waiter.acquire(timeout=-1 if timeout is None else min(max(0.0, timeout), threading.TIMEOUT_MAX))
            return
        deadline = float("inf") if timeout is None else monotonic() + timeout
        while not waiter.acquire(timeout=max(0.0, min(STRETCH, deadline - monotonic()))):
            if monotonic() >= deadline:
                return

    def nudge(self) -> None:
        """Let those who wait look around: their wait returns, or the next one does, though this is not set."""
        self._nudged = True
        for waiter in _taken(self._waiters):
            waiter.release()

    def set(self) -> None:
        self._set = True
        for waiter in _taken(self._waiters):
            waiter.release()
        self._call_back()

    def _call_back(self) -> None:
        for callback in _taken(self._callbacks):
            callback()

    def add_callback(self, callback: Callable[[], None], /) -> None:
        """Call back when set: at once if that was before. The callback must not block."""
        self._callbacks.append(callback)
        if self._set:
            self._call_back()

    def remove_callback(self, callback: Callable[[], None], /) -> None:
        with suppress(ValueError):
            self._callbacks.remove(callback)


def _taken(entries: list[T]) -> Iterator[T]:
    """Take one after the other out of a list, of which other threads may take, too."""
    while entries:
        try:
            yield entries.pop(0)
        except IndexError:  # another thread was faster
            return
