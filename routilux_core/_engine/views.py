"""What a tracker reads of one job, and of all jobs of a flow: their counts as they are now, and hints.

Loaded where somebody looks at the figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from routilux_core._engine.engine import Engine
from routilux_core._engine.explain import hints
from routilux_core._engine.run import Run
from routilux_core._tracking.history import Record, Totals
from routilux_core._tracking.times import merge
from routilux_core.errors import FlowStateError
from routilux_core.tracking import Counted, Counts


class JobSource:
    """One job."""

    def __init__(self, run: Run) -> None:
        self.run, self.engine = run, run.engine

    def counts(self) -> Counts:
        """Return what this job has counted so far."""
        ledger, history = self.run.ledger, self.run.ledger.history
        with self.engine.up_to_date((self.run,)):
            return Counts(
                routines=by_routine(slots_of(self.engine), history.totals(), history.newest(), history.timed),
                timed=history.timed,
                jobs=1,
                wall=ledger.span.seconds(),
                emitted=ledger.emitted,
            )

    def hints(self) -> list[str]:
        """Return what would make the job faster."""
        with self.engine.up_to_date((self.run,)):
            totals = self.run.ledger.history.totals()
        return hints(totals, self.engine.inlets)

    def reset(self) -> None:
        """Refuse: a job is counted from its start to its end."""
        raise FlowStateError("the tracker of a job can't be reset: reset flow.execution_tracker, which covers all jobs")


class FlowSource:
    """All jobs of a flow."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def counts(self) -> Counts:
        """Return what the jobs since the last reset have counted so far."""
        measures = self.engine.measures
        with self.engine.up_to_date():
            timed = measures.history.timed
            return Counts(
                routines=by_routine(slots_of(self.engine), measures.totals(), measures.newest(), timed),
                timed=timed,
                jobs=measures.jobs(),
                wall=measures.wall(),
                emitted=measures.sent(),
            )

    def hints(self) -> list[str]:
        """Return what would make the flow faster."""
        with self.engine.up_to_date():
            totals = self.engine.measures.totals()
        return hints(totals, self.engine.inlets)

    def reset(self) -> None:
        """Begin anew."""
        with self.engine.up_to_date(()):
            self.engine.measures.clear()


def slots_of(engine: Engine) -> dict[str, list[int]]:
    """Return the numbers of each routine's slots."""
    return {name: [inlet.number for inlet in node.inlets.values()] for name, node in engine.nodes.items()}


def by_routine(
    slots: Mapping[str, Iterable[int]], totals: Mapping[int, Totals], newest: Iterable[Record], timed: bool
) -> dict[str, Counted]:
    """Return what was counted for each routine, of which `slots` has the numbers of its slots."""
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
