"""What a `JobState` asks of its job: to be read, waited for, paused and cancelled, from any thread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from routilux_core._engine.ending import announce_end_again
from routilux_core._engine.plan import INLET, JOB
from routilux_core._engine.run import Run
from routilux_core._routines.frame import check_outside, here
from routilux_core._routines.signature import Payload
from routilux_core._threads.visits import Visit
from routilux_core.error_handling import Failure, LeftOut
from routilux_core.job import Activity, Stream
from routilux_core.journal import InDoubt
from routilux_core.routine import Routine
from routilux_core.seconds import check_patience

if TYPE_CHECKING:
    from routilux_core.records import ActivationRecord, Ledger
    from routilux_core.tracking import Source


class JobControl:
    """One job, as its user sees and steers it. What the engine does with it is `run`."""

    __slots__ = ("run",)

    def __init__(self, run: Run) -> None:
        self.run = run

    # -- what it shows

    def status(self) -> str:
        # Without the lock: `final` does not change any more once `finished` is set, and that is read first.
        if self.run.ledger.finished:
            return self.run.ledger.final
        return "paused" if self.run.paused else "running"

    def errors(self) -> list[Failure]:
        with self.run.engine.up_to_date((self.run,)):
            return self.run.ledger.failures.kept()

    def left_out(self) -> LeftOut:
        return self.run.ledger.failures.left_out()

    def outputs(self) -> dict[str, list[Payload]]:
        with self.run.engine.up_to_date((self.run,)):
            return {name: list(payloads) for name, payloads in self.run.ledger.collected.items()}

    def ledger(self) -> Ledger:
        from routilux_core.records import Ledger

        run = self.run
        with run.engine.up_to_date((run,)):
            return Ledger(
                posted=run.ledger.last,
                completed=run.ledger.over - run.ledger.failed - run.ledger.skipped - run.ledger.discarded,
                failed=run.ledger.failed,
                skipped=run.ledger.skipped,
                discarded=run.ledger.discarded,
                pending=run.ledger.pending,
                retried=run.ledger.retried,
                emitted=run.ledger.emitted,
                unconnected=run.ledger.unconnected,
                gathered=run.ledger.gathered,
            )

    def routines(self) -> Mapping[str, Routine]:
        engine = self.run.engine
        with engine.up_to_date((self.run,)):
            own = {node.routine_id: twin.routine for node, twin in self.run.own.items()}
            return {name: own.get(name, node.routine) for name, node in engine.nodes.items()}

    def routine_states(self) -> dict[str, str]:
        engine = self.run.engine
        with engine.up_to_date((self.run,)):
            inlets, totals = engine.inlets, self.run.ledger.history.totals()
            states = {inlets[slot].node.routine_id: "completed" for slot, total in totals.items() if total.completed}
            return {**states, **self.run.ledger.decided}

    def history_of(self, routine_id: str | None) -> list[ActivationRecord]:
        from routilux_core._tracking.records import activation_records

        inlets = self.run.engine.inlets
        with self.run.engine.up_to_date((self.run,)):
            newest, kept = self.run.ledger.history.newest(), self.run.ledger.payloads
            payloads = {} if kept is None else kept.of(record[0] for record in newest)
        name = lambda number: (inlets[number].node.routine_id, inlets[number].name)  # noqa: E731
        found = activation_records(newest, name, payloads=payloads)
        return [record for record in found if routine_id in (None, record.routine_id)]

    def source(self) -> Source:
        from routilux_core._engine.views import JobSource

        return JobSource(self.run)

    def activity(self) -> Activity:
        run, engine = self.run, self.run.engine
        with engine.up_to_date((run,)):
            items = [item for scheduler in engine.schedulers for item in scheduler.in_hand() if item[JOB] is run]
            return Activity(Counter(item[INLET].node.routine_id for item in items), len(run.retries.waiting))

    def times(self) -> tuple[float | None, float | None]:
        span = self.run.ledger.span
        return span.began_at, span.ended_at()

    def in_doubt(self) -> list[InDoubt]:
        return [] if self.run.book is None else self.run.book.doubts()

    def late_emissions(self) -> int:
        return self.run.ledger.late

    def explain(self) -> str:
        from routilux_core._engine.explain import explain

        return explain(self.run, self.status())

    # -- how it is steered

    def wait(self, timeout: float | None) -> bool:
        run, engine = self.run, self.run.engine
        check_outside(engine, "JobState.wait")
        announce_end_again(run)
        if not run.ending.done.is_set():
            engine.visits.check_uninterrupted("JobState.wait")
            engine.check_may_wait("JobState.wait", "await job.done()")
        return engine.wait([run], check_patience(timeout, "the timeout of JobState.wait"))

    async def done(self, timeout: float | None) -> bool:
        from routilux_core._threads.awaiting import check_loop, in_thread, until_set

        run, engine, frame = self.run, self.run.engine, here()
        patience = check_patience(timeout, "the timeout of JobState.done")
        check_loop("JobState.done", "job.wait()")
        if run.ending.done.is_set():
            return True
        engine.check_fork()
        if frame is not None:  # listed first, then a look: of two that wait for each other, one sees the other
            run.ending.waiters.append(frame)
        try:
            check_outside(engine, "JobState.done")
            if engine.works_in_caller():
                return await in_thread(partial(engine.wait, [run], patience))
            return await until_set(run.ending.done, patience)
        finally:
            if frame is not None:
                run.ending.waiters.remove(frame)

    def stream(self, names: tuple[str, ...]) -> Stream:
        from routilux_core._engine.streaming import OutputStream

        return OutputStream(self.run, names)

    def reason(self) -> str:
        return self.run.ledger.reason

    def pause(self, reason: str = "") -> None:
        run, engine = self.run, self.run.engine
        if engine.visits.is_interrupted():
            return engine.visits.put_off(self.pause, reason)
        with Visit(engine):
            with engine.step():
                if run.stopped or run.ended:
                    return None
                run.paused = run.halted = True
                run.ledger.reason = reason
                run.refresh_flags()
                if run.book is not None:
                    run.book.pause("paused", reason)
                at_rest = run.ending.at_rest
            if at_rest is not None:
                at_rest.set()
        return None

    def resume(self) -> None:
        run, engine = self.run, self.run.engine
        if engine.visits.is_interrupted():
            return engine.visits.put_off(self.resume)
        with Visit(engine), engine.step():
            if run.paused:
                run.paused = run.halted = False
                run.unpark()
                if run.book is not None:
                    run.book.pause("running", "")
        return None

    def cancel(self, kill: bool = False, reason: str = "") -> None:
        engine = self.run.engine
        # Without the lock, which a signal handler may come in the middle of. One plain store: of two who give a reason
        # at once, one has the last word.
        if reason and not self.run.ledger.finished:
            self.run.ledger.reason = reason
        if engine.visits.is_interrupted():
            return engine.visits.put_off(self.cancel, kill, reason)
        self.run.abort(kill)
        return None


def drive(run: Run, timeout: float | None) -> None:
    """Wait in the thread that called `execute`, which does the work, until the job has ended or is paused.

    With a timeout of 0 no longer than there is work for it.
    """
    rest = run.engine.rest_of(run)
    if rest is None:
        return
    run.ending.done.add_callback(rest.set)
    run.engine.wait([run], timeout, rest)
    run.ending.at_rest = None


def begin(run: Run) -> None:
    """Tell listeners that the job begins, and let its entry run. Outside the lock."""
    if run.listeners is not None and run.listeners.starts:
        run.listeners.job_started()
        with run.engine.step():
            if not (run.paused or run.stopped):
                run.halted = False
                run.unpark()
