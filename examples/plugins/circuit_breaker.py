"""An error plugin that skips what a routine is given while it fails all the time.

flow = Flow(plugins=[CircuitBreaker(limit=5, seconds=30)])
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from time import monotonic

from routilux_core import ActivationRecord, Decision, Failure, hookimpl


class CircuitBreaker:
    """After `limit` failures of a routine in a row, further ones are skipped for so many seconds, and not tried again.

    Before that, and for all else, it has no opinion: the error handlers of the routine and of the flow decide.
    """

    def __init__(self, limit: int = 5, seconds: float = 30.0, clock: Callable[[], float] = monotonic) -> None:
        self._limit, self._seconds, self._clock = limit, seconds, clock
        self._lock = threading.Lock()
        self._failures: Counter[str] = Counter()
        self._opened: dict[str, float] = {}

    def is_open(self, routine_id: str) -> bool:
        """Return whether failures of a routine are skipped now."""
        with self._lock:
            return self._is_open(routine_id)

    def _is_open(self, routine_id: str) -> bool:
        opened = self._opened.get(routine_id)
        if opened is not None and self._clock() - opened >= self._seconds:  # the next failure decides anew
            del self._opened[routine_id]
            self._failures[routine_id] = self._limit - 1
        return routine_id in self._opened

    @hookimpl
    def routilux_handle_error(self, failure: Failure) -> Decision | None:
        with self._lock:
            if self._is_open(failure.routine_id):
                return Decision("skip")
            self._failures[failure.routine_id] += 1
            if self._failures[failure.routine_id] < self._limit:
                return None
            self._opened[failure.routine_id] = self._clock()
        return Decision("skip")

    @hookimpl
    def routilux_activations_finished(self, records: Sequence[ActivationRecord]) -> None:
        with self._lock:
            for record in records:
                if record.outcome == "completed" and record.routine_id not in self._opened:
                    self._failures.pop(record.routine_id, None)
