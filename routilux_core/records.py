"""What a job tells of itself when it is asked: its ledger, and a record of each attempt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen


@frozen(kw_only=True)
class Ledger:
    """The count of everything in a job: `posted = completed + failed + skipped + discarded + pending`.

    These count activations. Beside them: `retried` attempts, `emitted` calls of `emit`, `unconnected` emissions that
    nothing is connected to, and `gathered` arrivals at gather slots (their one call is an activation).
    """

    posted: int
    completed: int
    failed: int
    skipped: int
    discarded: int
    pending: int
    retried: int
    emitted: int
    unconnected: int
    gathered: int

    @property
    def balanced(self) -> bool:
        """Whether every activation posted is accounted for."""
        return self.posted == self.completed + self.failed + self.skipped + self.discarded + self.pending


@frozen(kw_only=True)
class ActivationRecord:
    """One attempt at one call of a handler. Times are seconds of `time.perf_counter`; `cause` is the activation that
    emitted what started this one, None for the entry. `outcome` is completed, failed, skipped or retried.
    """

    id: int
    cause: int | None
    routine_id: str
    slot: str
    attempt: int
    outcome: str
    worker: int
    posted: float
    started: float
    ended: float
    extra: Mapping[str, Any] = field(factory=dict, repr=False)

    @property
    def payload(self) -> Mapping[str, Any] | None:
        """What the handler was given, where the flow keeps it: `Flow(capture="payload")`; else None.

        Numbers and strings of up to 200 letters are as they were. Of longer strings it has the beginning, and of other
        objects what they look like, as a string of that length. Fields that are marked as secret are left out.
        """
        return self.extra.get("payload")

    @property
    def run_time(self) -> float:
        """Seconds in the handler."""
        return self.ended - self.started

    @property
    def queue_wait(self) -> float:
        """Seconds between the emission and the start."""
        return self.started - self.posted
