"""The counts of a job and of a flow in the form that a tracker reads: by routine, over finished and running jobs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING

from routilux_core._engine.explain import hints
from routilux_core._engine.plan import Inlet
from routilux_core._tracking.history import History, Record, Totals
from routilux_core.errors import FlowStateError

if TYPE_CHECKING:
    from routilux_core._engine.engine import Engine
    from routilux_core._engine.run import Run
    from routilux_core.tracking import Counted, Counts


class JobSource:
    """One job."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def counts(self) -> Counts:
        """Return what this job has counted so far."""
        from routilux_core.tracking import Counts  # loaded where somebody looks at the figures

        run = self.run
        with run.engine.up_to_date((run,)):
            timed = run.ledger.history.timed
            routines = _by_routine(run.engine, run.ledger.history.totals(), run.ledger.history.newest(), timed)
            return Counts(routines=routines, timed=timed, jobs=1, wall=run.ledger.wall(), emitted=run.ledger.emitted)

    def hints(self) -> list[str]:
        """Return what would make the job faster."""
        with self.run.engine.up_to_date((self.run,)):
            totals = self.run.ledger.history.totals()
        return hints(totals, self.run.engine.inlets)

    def reset(self) -> None:
        """Refuse: a job is counted from its start to its end."""
        raise FlowStateError("the tracker of a job can't be reset: reset flow.execution_tracker, which covers all jobs")


class Measures:
    """What a flow's finished jobs leave behind, in memory that does not grow with their number."""

    __slots__ = ("_size", "busy", "busy_since", "emitted", "finished", "history", "running")

    def __init__(self, history_size: int) -> None:
        self._size = history_size
        self.running: set[Run] = set()
        self.clear()

    def clear(self) -> None:
        """Forget everything; what runs now is not counted any more. Lock."""
        self.running.clear()
        self.history = History(self._size)
        self.finished = self.emitted = 0
        self.busy = self.busy_since = 0.0

    def start(self, run: Run) -> None:
        """Count a job in. Lock."""
        if not self.running:
            self.busy_since = run.ledger.began
        self.running.add(run)

    def end(self, run: Run) -> None:
        """Take over what a job has counted, if it began after the last `clear`. Lock."""
        if run not in self.running:
            return
        self.running.discard(run)
        if not self.running:
            self.busy += run.ledger.ended_at - self.busy_since
        self.finished += 1
        self.emitted += run.ledger.emitted
        self.history.absorb(run.ledger.history)

    def totals(self) -> dict[int, Totals]:
        """Return the totals by slot number over finished and running jobs, as far as they are collected. Lock."""
        return self.history.totals(*(run.ledger.history for run in self.running))

    def counts(self, engine: Engine) -> Counts:
        """Return the counts of all jobs since the last `clear`, those that still run included. Lock."""
        from routilux_core.tracking import Counts

        totals = self.totals()
        records = [*self.history.newest(), *(record for run in self.running for record in run.ledger.history.newest())]
        newest = sorted(records, key=lambda record: record[8])[-self._size :] if self._size else []
        wall = self.busy + (perf_counter() - self.busy_since if self.running else 0.0)
        timed = self.history.timed
        return Counts(
            routines=_by_routine(engine, totals, newest, timed),
            timed=timed,
            jobs=self.finished + len(self.running),
            wall=wall,
            emitted=self.emitted + sum(run.ledger.emitted for run in self.running),
        )


class FlowSource:
    """All jobs of a flow."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.measures = engine, engine.measures

    def counts(self) -> Counts:
        """Return what the jobs since the last reset have counted so far."""
        with self.engine.up_to_date(self.measures.running):
            return self.measures.counts(self.engine)

    def hints(self) -> list[str]:
        """Return what would make the flow faster."""
        with self.engine.up_to_date(self.measures.running):
            totals = self.measures.totals()
        return hints(totals, self.engine.inlets)

    def reset(self) -> None:
        """Begin anew."""
        with self.engine.lock:
            self.measures.clear()


def _by_routine(
    engine: Engine, totals: Mapping[int, Totals], newest: Iterable[Record], timed: bool
) -> dict[str, Counted]:
    from routilux_core.tracking import Counted

    found = {routine_id: Counted(timed=timed) for routine_id in engine.nodes}
    for slot, total in totals.items():
        counted = found[_routine_id(engine.inlets, slot)]
        counted.completed += total.completed
        counted.failed += total.failed
        counted.skipped += total.skipped
        counted.retried += total.retried
        counted.run_time += total.run_time
        counted.queue_wait += total.queue_wait
        counted.longest = max(counted.longest, total.longest)
        counted.shortest = min(counted.shortest, total.shortest)
    for record in newest:
        found[_routine_id(engine.inlets, record[2])].newest.append(record[8] - record[7])
    return found


def _routine_id(inlets: Sequence[Inlet], slot: int) -> str:
    return inlets[slot].node.routine_id
