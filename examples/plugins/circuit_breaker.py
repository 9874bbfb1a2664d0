"""An error plugin that spares the calls of a routine while it fails all the time.

flow = Flow(plugins=[CircuitBreaker(limit=5, seconds=30)])
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from time import monotonic

from routilux_core import Activation, ActivationRecord, Decision, Failure, JobState, NotAdmitted, hookimpl


class Circuit:
    """What is known of one routine."""

    def __init__(self) -> None:
        self.failures = 0  # in a row
        self.opened: float | None = None  # when it was, or when the last trial began
        self.trial: tuple[str, int] | None = None  # job and activation of the one call that is let through


class CircuitBreaker:
    """After `limit` failures of a routine in a row it is not called for so many seconds: what it is given is skipped.

    Then one call is let through. If that succeeds, all are again; else so many seconds begin anew. `instead` is what is
    decided about the others: "skip", "continue", "stop", or "retry", which asks again a tenth of `seconds` later.
    What is done about a call that was made and failed, the error handlers of the routine and of the flow decide.
    """

    def __init__(
        self, limit: int = 5, seconds: float = 30.0, instead: str = "skip", clock: Callable[[], float] = monotonic
    ) -> None:
        self._limit, self._seconds, self._clock = limit, seconds, clock
        self._instead = Decision(instead, seconds / 10)
        self._lock = threading.Lock()  # hooks come from several threads
        self._circuits: defaultdict[str, Circuit] = defaultdict(Circuit)

    def is_open(self, routine_id: str) -> bool:
        """Return whether the calls of a routine are spared now."""
        with self._lock:
            return self._circuits[routine_id].opened is not None

    @hookimpl
    def routilux_admit(self, activation: Activation) -> Decision | None:
        with self._lock:
            circuit = self._circuits[activation.routine_id]
            if circuit.opened is None:
                return None
            if self._clock() - circuit.opened < self._seconds:
                return self._instead
            # A trial that is never heard of is followed by another one, as late.
            circuit.opened, circuit.trial = self._clock(), (activation.job_id, activation.id)
            return None

    @hookimpl
    def routilux_failure_decided(self, failure: Failure) -> None:
        if isinstance(failure.exception, NotAdmitted):  # no news: nothing was called
            return
        with self._lock:
            circuit = self._circuits[failure.routine_id]
            circuit.failures += 1
            if circuit.failures >= self._limit:
                circuit.opened, circuit.trial = self._clock(), None

    @hookimpl
    def routilux_activations_finished(self, job: JobState, records: Sequence[ActivationRecord]) -> None:
        with self._lock:
            for record in records:
                if record.outcome == "completed":
                    self._succeeded(self._circuits[record.routine_id], (job.job_id, record.id))

    def _succeeded(self, circuit: Circuit, call: tuple[str, int]) -> None:
        # What had begun before it was opened says nothing of now.
        if circuit.opened is None or circuit.trial == call:
            circuit.failures, circuit.opened, circuit.trial = 0, None, None
