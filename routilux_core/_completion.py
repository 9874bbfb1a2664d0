"""The end of a job: set once, and waited for without polling."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic

STRETCH = 0.25  # seconds that the main thread waits at a time


class Completion:
    """Set once, when a job has ended; wakes whoever waits, at once.

    Made of plain locks: a Ctrl-C between two statements of a `threading.Event` keeps the event's own lock for ever.
    """

    def __init__(self) -> None:
        self._set = self._nudged = False
        self._waiters: list[threading.Lock] = []  # one for each, held until this is set
        self._callbacks: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    def is_set(self) -> bool:
        return self._set

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until set, and return whether it is. In the main thread a Ctrl-C ends it, too.

        A signal that comes just before that thread begins to sleep does not wake it: so it sleeps in stretches.
        """
        waiter = threading.Lock()
        waiter.acquire()
        with self._lock:
            if self._set or self._nudged:
                self._nudged = False
                return self._set
            self._waiters.append(waiter)
        try:
            self._sleep(waiter, timeout)
            return self._set
        finally:
            with self._lock:
                if waiter in self._waiters:
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
        with self._lock:
            waiters, self._waiters = self._waiters, []
            self._nudged = True
        for waiter in waiters:
            waiter.release()

    def set(self) -> None:
        with self._lock:
            self._set = True
            waiters, self._waiters = self._waiters, []
            callbacks, self._callbacks = self._callbacks, []
        for waiter in waiters:
            waiter.release()
        for callback in callbacks:
            callback()

    def add_callback(self, callback: Callable[[], None], /) -> None:
        """Call back when set: at once if that was before. The callback must not block."""
        with self._lock:
            if not self._set:
                self._callbacks.append(callback)
                return
        callback()

    def remove_callback(self, callback: Callable[[], None], /) -> None:
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)
