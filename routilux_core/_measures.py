"""The counts of a job and of a flow in the form that a tracker reads: by routine, over finished and running jobs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING

from routilux_core._explain import hints
from routilux_core._history import Note, Totals
from routilux_core._plan import Inlet
from routilux_core.errors import FlowStateError
from routilux_core.tracking import Counted, Counts

if TYPE_CHECKING:
    from routilux_core._dispatch import Dispatcher
    from routilux_core._run import Run

Ring = Iterable[Note]


class JobSource:
    """One job."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def counts(self) -> Counts:
        """Return what this job has counted so far."""
        run = self.run
        with run.hub.lock:
            routines = _by_routine(run.hub, run.totals, [list(run.notes)])
            return Counts(routines=routines, jobs=1, wall=run.wall(), emitted=run.emitted)

    def hints(self) -> list[str]:
        """Return what would make the job faster."""
        with self.run.hub.lock:
            totals = dict(self.run.totals)
        return hints(totals)

    def reset(self) -> None:
        """Refuse: a job is counted from its start to its end."""
        raise FlowStateError("the tracker of a job can't be reset: reset flow.execution_tracker, which covers all jobs")


class Measures:
    """What a flow's finished jobs leave behind, in memory that does not grow with their number.

    Their totals are added up by slot. Their rings are kept until newer ones hold as many records as one job keeps.
    """

    __slots__ = (
        "busy",
        "busy_since",
        "emitted",
        "finished",
        "inlets",
        "kept",
        "ring_size",
        "rings",
        "running",
        "totals",
    )

    def __init__(self, inlets: Sequence[Inlet], ring_size: int) -> None:
        self.inlets = inlets  # by number
        self.ring_size = ring_size
        self.running: set[Run] = set()
        self.clear()

    def clear(self) -> None:
        """Forget everything; what runs now is not counted any more. Lock."""
        self.running.clear()
        self.totals: dict[Inlet, Totals] = {}
        self.rings: deque[deque[Note]] = deque()
        self.finished = self.emitted = self.kept = 0
        self.busy = self.busy_since = 0.0

    def start(self, run: Run) -> None:
        """Count a job in. Lock."""
        if not self.running:
            self.busy_since = run.began
        self.running.add(run)

    def end(self, run: Run) -> None:
        """Take over what a job has counted, if it began after the last `clear`. Lock."""
        if run not in self.running:
            return
        self.running.discard(run)
        if not self.running:
            self.busy += run.over - self.busy_since
        self.finished += 1
        self.emitted += run.emitted
        for inlet, totals in run.totals.items():
            _add(self.totals, self.inlets[inlet.number], totals)
        if run.notes:
            self.rings.append(run.notes)
            self.kept += len(run.notes)
            while self.kept - len(self.rings[0]) >= self.ring_size:
                self.kept -= len(self.rings.popleft())

    def counts(self, hub: Dispatcher) -> Counts:
        """Return the counts of all jobs since the last `clear`, those that still run included. Lock."""
        totals = self.all_totals()
        rings = [*self.rings, *(run.notes for run in self.running)]
        newest = sorted((note for ring in rings for note in ring), key=lambda note: note[8])[-self.ring_size :]
        wall = self.busy + (perf_counter() - self.busy_since if self.running else 0.0)
        return Counts(
            routines=_by_routine(hub, totals, [newest] if self.ring_size else ()),
            jobs=self.finished + len(self.running),
            wall=wall,
            emitted=self.emitted + sum(run.emitted for run in self.running),
        )

    def all_totals(self) -> dict[Inlet, Totals]:
        """Return the totals by slot over finished and running jobs. Lock."""
        totals: dict[Inlet, Totals] = {}
        for part in (self.totals, *(run.totals for run in self.running)):
            for inlet, each in part.items():
                _add(totals, self.inlets[inlet.number], each)
        return totals


class FlowSource:
    """All jobs of a flow."""

    def __init__(self, hub: Dispatcher) -> None:
        self.hub, self.measures = hub, hub.measures

    def counts(self) -> Counts:
        """Return what the jobs since the last reset have counted so far."""
        with self.hub.lock:
            return self.measures.counts(self.hub)

    def hints(self) -> list[str]:
        """Return what would make the flow faster."""
        with self.hub.lock:
            totals = self.measures.all_totals()
        return hints(totals)

    def reset(self) -> None:
        """Begin anew."""
        with self.hub.lock:
            self.measures.clear()


def _add(sums: dict[Inlet, Totals], inlet: Inlet, part: Totals) -> None:
    """Add totals to those of a slot: of a routine itself, not of a job's own copy of it."""
    total = sums.get(inlet)
    if total is None:
        total = sums[inlet] = Totals()
    total.completed += part.completed
    total.failed += part.failed
    total.skipped += part.skipped
    total.retried += part.retried
    total.run_time += part.run_time
    total.queue_wait += part.queue_wait
    total.longest = max(total.longest, part.longest)
    total.shortest = min(total.shortest, part.shortest)


def _by_routine(hub: Dispatcher, totals: Mapping[Inlet, Totals], rings: Iterable[Ring]) -> dict[str, Counted]:
    found = {routine_id: Counted() for routine_id in hub.nodes}
    for inlet, total in totals.items():
        counted = found[inlet.node.routine_id]
        counted.completed += total.completed
        counted.failed += total.failed
        counted.skipped += total.skipped
        counted.retried += total.retried
        counted.run_time += total.run_time
        counted.queue_wait += total.queue_wait
        counted.longest = max(counted.longest, total.longest)
        counted.shortest = min(counted.shortest, total.shortest)
    for ring in rings:
        for note in ring:
            found[hub.inlets[note[2]].node.routine_id].newest.append(note[8] - note[7])
    return found
