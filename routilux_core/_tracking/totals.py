"""The counts of finished and running jobs: sums of what their ledgers have."""

from __future__ import annotations

from operator import itemgetter
from time import perf_counter

from routilux_core._engine.ledger import LedgerCounts
from routilux_core._threads.guard import guarded
from routilux_core._tracking.history import History, Record, Totals


class Measures:
    """What a flow's finished jobs leave behind, in memory that does not grow with their number."""

    __slots__ = ("_size", "busy", "busy_since", "emitted", "finished", "history", "running")

    def __init__(self, history_size: int) -> None:
        self._size = history_size
        self.running: set[LedgerCounts] = set()  # of jobs that have begun since the last `clear`
        self.clear()

    def clear(self) -> None:
        """Forget everything; what runs now is not counted any more. Under the lock, or where nobody has this yet."""
        self.running.clear()
        self.history = History(self._size)
        self.finished = self.emitted = 0
        self.busy = self.busy_since = 0.0

    @guarded
    def start(self, ledger: LedgerCounts) -> None:
        """Count a job in."""
        if not self.running:
            self.busy_since = ledger.span.began
        self.running.add(ledger)

    @guarded
    def end(self, ledger: LedgerCounts) -> None:
        """Take over what a job has counted, if it began after the last `clear`."""
        if ledger not in self.running:
            return
        self.running.discard(ledger)
        if not self.running:
            self.busy += ledger.span.ended - self.busy_since
        self.finished += 1
        self.emitted += ledger.emitted
        self.history.absorb(ledger.history)

    @guarded
    def totals(self) -> dict[int, Totals]:
        """Return the totals by slot number over finished and running jobs, as far as they are collected."""
        return self.history.totals(*(ledger.history for ledger in self.running))

    @guarded
    def newest(self) -> list[Record]:
        """Return the newest records of all of them, by the time at which they ended."""
        records = [*self.history.newest(), *(record for ledger in self.running for record in ledger.history.newest())]
        return sorted(records, key=itemgetter(8))[-self._size :] if self._size else []

    @guarded
    def jobs(self) -> int:
        """Return how many there are."""
        return self.finished + len(self.running)

    @guarded
    def wall(self) -> float:
        """Return the seconds in which any of them ran."""
        return self.busy + (perf_counter() - self.busy_since if self.running else 0.0)

    @guarded
    def sent(self) -> int:
        """Return how many emissions they have sent."""
        return self.emitted + sum(ledger.emitted for ledger in self.running)
