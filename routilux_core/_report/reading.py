"""What is read of a running job, ten times a second: its ledger, what runs now, and how fast it goes."""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import NamedTuple

from routilux_core._report.picture import shortened
from routilux_core._text.printable import printable
from routilux_core.job import JobState

RATE_OVER_S = 2.0  # what a rate is measured over
NAMES = 4  # routines that are named as running


class Reading(NamedTuple):
    """How a job stands: activations done and pending, done in a second, calls that run by routine, and so on."""

    job: str
    status: str
    done: int
    pending: int
    rate: float
    running: dict[str, int]
    errors: int
    retrying: int

    @property
    def counts(self) -> str:
        """What is said of it, but for the job and what is done. Totals grow, so there are no percentages."""
        parts = [f"{self.pending:,} pending"] if self.pending else []
        if self.rate:
            parts.append(f"{self.rate:,.3g}/s" if self.rate < 100 else f"{self.rate:,.0f}/s")
        if self.errors:
            parts.append(f"{self.errors:,} error{'s' if self.errors > 1 else ''}")
        if self.retrying:
            parts.append(f"{self.retrying:,} waiting for a retry")
        busiest = sorted(self.running.items(), key=lambda each: -each[1])[:NAMES]
        names = ", ".join(f"{shortened(name, 24)}{f' ×{count}' if count > 1 else ''}" for name, count in busiest)
        return " · ".join([*parts, *([f"running {names}"] if names else [])])

    @property
    def line(self) -> str:
        """All that is said of it in one line."""
        counts = f" · {self.counts}" if self.counts else ""
        return f"{printable(self.job[:80])} {self.status}: {self.done:,} done{counts}"


class Reader:
    """Reads one job again and again."""

    def __init__(self, job: JobState) -> None:
        self.job = job
        self._began = monotonic()
        self._before: deque[tuple[float, int]] = deque([(self._began, 0)])

    def read(self) -> Reading:
        """Return how the job stands now; of one that has ended the rate is that of all of it."""
        ledger, activity, status, now = self.job.ledger, self.job.activity, self.job.status, monotonic()
        done = ledger.posted - ledger.pending
        self._before.append((now, done))
        while len(self._before) > 2 and now - self._before[1][0] > RATE_OVER_S:
            self._before.popleft()
        since, had = self._before[0] if status in ("running", "paused") else (self._began, 0)
        return Reading(
            job=self.job.job_id,
            status=status,
            done=done,
            pending=ledger.pending,
            rate=(done - had) / (now - since) if now > since else 0.0,
            running=activity.running,
            errors=ledger.failed + ledger.skipped,
            retrying=activity.retrying,
        )
