"""Calls at a later time, made by one thread that exists only while something waits.

Where the system gives no thread, those who wait for a job keep the time, and workers that have nothing else to do.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable
from time import monotonic

from routilux_core._threads.guard import guarded
from routilux_core.seconds import stretch

FEW = 64  # cancelled timers that are not worth a look


class Timer:
    """One call to be made; `cancel` it under the lock that the timers share."""

    __slots__ = ("_timers", "call", "when")

    def __init__(self, timers: Timers, when: float, call: Callable[[], None]) -> None:
        self._timers = timers
        self.when = when
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Never make the call."""
        if self.call is not None:
            self.call = None
            self._timers.dead += 1


class Timers:
    """A heap of timers, guarded by a lock given from above, under which calls are made."""

    def __init__(self, lock: threading.RLock, after: Callable[[], None], alarm: Callable[[], None]) -> None:
        self._lock = lock
        self._changed = threading.Condition(lock)
        self._after = after  # called after each round, without the lock
        self._alarm = alarm  # called with the lock where there is no thread, so that others keep the time
        self.dead = 0  # how many of the heap were cancelled
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        return sum(timer.call is not None for _, _, timer in self._heap)

    @guarded
    def add(self, delay: float, call: Callable[[], None]) -> Timer:
        """Make the call after `delay` seconds."""
        timer = Timer(self, monotonic() + delay, call)
        if self.dead > FEW and 2 * self.dead > len(self._heap):
            self._bury()
        heapq.heappush(self._heap, (timer.when, next(self._order), timer))
        if self._thread is None:
            self._start()
        elif self._heap[0][2] is timer:
            self._changed.notify()
        return timer

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="routilux-timers", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the system gives no more threads
            self._thread = None
            self._alarm()

    @guarded
    def mend(self) -> None:
        """Start the thread again if something waits and starting it was interrupted."""
        if self._heap and self._thread is not None and not self._thread.is_alive():
            self._start()

    def keep_time(self, seconds: float) -> bool:
        """Make the calls that are due, or will be within some seconds, in place of the thread. Outside the lock.

        Return False where nobody has to: there is a thread, or nothing to wait for.
        """
        if self._thread is not None or not self._heap:  # without the lock: those who ask do so again
            return False
        with self._changed:
            left = self._seconds_left()
            if self._thread is not None or left is None:
                return False
            if left > 0:
                self._changed.wait(min(left, seconds))
            self._fire()
            if self._thread is None and self._heap:
                self._start()  # there may be one by now
        self._after()
        return True

    def begin_anew(self) -> None:
        """Wait for what is left, with another thread: this is the child of a fork."""
        self._changed = threading.Condition(self._lock)  # whoever waits for the old one is not here
        self._thread = None
        if self._heap:
            self._start()

    def _bury(self) -> None:
        """Forget what was cancelled: the time limits of calls are, mostly, long before they are due."""
        self._heap[:] = [entry for entry in self._heap if entry[2].call is not None]
        heapq.heapify(self._heap)
        self.dead = 0

    @guarded
    def wake(self) -> None:
        """Let the thread see that timers were cancelled, and end if none is left."""
        self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._wait():
                    self._thread = None
                    return
                self._fire()
            try:
                self._after()
            except BaseException:  # what was called for is nobody else's to do: other timers still need this thread
                from routilux_core._text.log import log

                log.exception("thread %r: what a timer has called for raised", threading.current_thread().name)

    def _wait(self) -> bool:
        """Wait for the next call that is due; return False when nothing is left to wait for."""
        while (left := self._seconds_left()) is not None:
            if left <= 0:
                return True
            self._changed.wait(stretch(left))
        return False

    def _seconds_left(self) -> float | None:
        """Return the seconds until the next call, None if there is none."""
        heap = self._heap
        while heap and heap[0][2].call is None:
            heapq.heappop(heap)
            self.dead -= 1
        return heap[0][0] - monotonic() if heap else None

    def _fire(self) -> None:
        now = monotonic()
        while self._heap and self._heap[0][0] <= now:
            timer = heapq.heappop(self._heap)[2]
            call, timer.call = timer.call, None
            if call is None:
                self.dead -= 1
            else:
                call()
