"""The counts of finished and running jobs, by routine: sums of what their ledgers have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from time import perf_counter
from typing import TYPE_CHECKING

from routilux_core._engine.ledger import LedgerCounts
from routilux_core._threads.guard import guarded
from routilux_core._tracking.history import History, Record, Totals
from routilux_core._tracking.times import merge

if TYPE_CHECKING:
    from routilux_core.tracking import Counted, Counts


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
            self.busy_since = ledger.began
        self.running.add(ledger)

    @guarded
    def end(self, ledger: LedgerCounts) -> None:
        """Take over what a job has counted, if it began after the last `clear`."""
        if ledger not in self.running:
            return
        self.running.discard(ledger)
        if not self.running:
            self.busy += ledger.ended_at - self.busy_since
        self.finished += 1
        self.emitted += ledger.emitted
        self.history.absorb(ledger.history)

    @guarded
    def totals(self) -> dict[int, Totals]:
        """Return the totals by slot number over finished and running jobs, as far as they are collected."""
        return self.history.totals(*(ledger.history for ledger in self.running))

    @guarded
    def counts(self, slots: Mapping[str, Iterable[int]]) -> Counts:
        """Return the counts of all jobs since the last `clear`, those that still run included."""
        from routilux_core.tracking import Counts

        totals = self.totals()
        records = [*self.history.newest(), *(record for ledger in self.running for record in ledger.history.newest())]
        newest = sorted(records, key=lambda record: record[8])[-self._size :] if self._size else []
        wall = self.busy + (perf_counter() - self.busy_since if self.running else 0.0)
        timed = self.history.timed
        return Counts(
            routines=by_routine(slots, totals, newest, timed),
            timed=timed,
            jobs=self.finished + len(self.running),
            wall=wall,
            emitted=self.emitted + sum(ledger.emitted for ledger in self.running),
        )


def by_routine(
    slots: Mapping[str, Iterable[int]], totals: Mapping[int, Totals], newest: Iterable[Record], timed: bool
) -> dict[str, Counted]:
    """Return what was counted for each routine, of which `slots` has the numbers of its slots."""
    from routilux_core.tracking import Counted  # loaded where somebody looks at the figures

    found = {routine_id: Counted(timed=timed) for routine_id in slots}
    owners = {number: found[routine_id] for routine_id, numbers in slots.items() for number in numbers}
    for slot, total in totals.items():
        counted = owners[slot]
        counted.completed += total.completed
        counted.failed += total.failed
        counted.skipped += total.skipped
        counted.retried += total.retried
        counted.run_time += total.run_time
        counted.queue_wait += total.queue_wait
        counted.longest = max(counted.longest, total.longest)
        counted.shortest = min(counted.shortest, total.shortest)
        merge(total.times, counted.times)
    for record in newest:
        owners[record[2]].newest.append(record[8] - record[7])
    return found
