"""What a tracker reads of one job, and of all jobs of a flow: their counts as they are now, and hints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from routilux_core._engine.engine import Engine
from routilux_core._engine.explain import hints
from routilux_core._engine.run import Run
from routilux_core._tracking.totals import by_routine
from routilux_core.errors import FlowStateError

if TYPE_CHECKING:
    from routilux_core.tracking import Counts


class JobSource:
    """One job."""

    def __init__(self, run: Run) -> None:
        self.run, self.engine = run, run.engine

    def counts(self) -> Counts:
        """Return what this job has counted so far."""
        from routilux_core.tracking import Counts  # loaded where somebody looks at the figures

        ledger, history = self.run.ledger, self.run.ledger.history
        with self.engine.up_to_date((self.run,)):
            return Counts(
                routines=by_routine(self.engine.slots_by_routine(), history.totals(), history.newest(), history.timed),
                timed=history.timed,
                jobs=1,
                wall=ledger.wall(),
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
        with self.engine.up_to_date():
            return self.engine.measures.counts(self.engine.slots_by_routine())

    def hints(self) -> list[str]:
        """Return what would make the flow faster."""
        with self.engine.up_to_date():
            totals = self.engine.measures.totals()
        return hints(totals, self.engine.inlets)

    def reset(self) -> None:
        """Begin anew."""
        with self.engine.up_to_date(()):
            self.engine.measures.clear()
