"""A flow's journal: opened and checked, what is in it, how jobs begin in it, and how they are taken up again."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

from routilux_core._engine.engine import Engine
from routilux_core._engine.plan import Inlet
from routilux_core._engine.run import Run
from routilux_core._engine.wiring import Wiring
from routilux_core._journal.book import Book, Rows
from routilux_core._journal.commits import WINDOW_S, Commits
from routilux_core._journal.recovery import Recovery, SavedJob, rows_by_owner
from routilux_core._journal.texts import Reading, differences, outline, payload_text, renamed, state_text
from routilux_core._text.compact import compact
from routilux_core._text.printable import printable
from routilux_core.errors import FlowStateError, JournalError, SerializationError
from routilux_core.job import JobState
from routilux_core.journal import Journal, Key
from routilux_core.serialization.snapshot import SavedFlow

Types = Iterable[type | ModuleType]


class Keeper:
    """The journal of a flow. All but `detach` is called by one thread at a time, which has the flow's `opening`."""

    def __init__(self, journal: Journal, waits: bool) -> None:
        self.journal, self.waits = journal, waits
        self.saved: Callable[[], SavedFlow] | None = None  # what a file holds of the flow
        self.commits: Commits | None = None
        self.live: dict[str, tuple[Run, JobState]] = {}  # jobs that were begun, or taken up, since it was opened
        self.unfinished: dict[str, str] = {}  # those that have not ended, and the flow of each
        # And those that have, each with its flow, and whether there is something that has failed or was discarded.
        self.finished: dict[str, tuple[str, bool]] = {}
        self.shared: dict[str, str] = {}  # the last state of each routine that all jobs of the flow share
        self._outline: dict[str, Any] | None = None  # of the flow, as the journal has it
        self._marks: Any = None
        self._restored = False
        self._process = 0

    # -- opened, closed

    def open(self, flow_id: str) -> Commits:
        """Open the journal, if it is not open, and look through all of it."""
        commits = self.commits
        if commits is not None and self._process != os.getpid():
            raise JournalError(
                0, f"{self.journal.where} is open in process {self._process}, of which this is a fork: use another one"
            )
        if commits is not None and commits.error is None:
            return commits
        self.close()
        try:
            self.journal.open(self.waits)
        except JournalError:
            raise
        except Exception as error:
            raise JournalError(0, f"{self.journal.where} can't be opened: {error!r}") from error
        try:
            self._look_through(flow_id)
        except BaseException:
            self.journal.close(in_doubt=True)
            raise
        self.commits, self._process = Commits(self.journal, 0.0 if self.waits else WINDOW_S), os.getpid()
        atexit.register(self._exit)
        return self.commits

    def _look_through(self, flow_id: str) -> None:
        reading = Reading((), self.journal.where)
        rows = self._read()
        self.unfinished, self.finished, self.live = {}, {}, {}
        self.shared, self._outline, self._restored = {}, None, False
        known: int | None = None
        for owner, mine in rows_by_owner(rows).items():
            if any(key.kind == "job" for key, _ in mine):
                saved = SavedJob(owner, mine, reading)
                if saved.has_ended:
                    self.finished[owner] = (saved.line.flow_id, bool(saved.kinds["fate"]))
                else:
                    self.unfinished[owner] = saved.line.flow_id
        for key, text in rows:
            if key.kind == "flow" and key.owner == flow_id:
                self._outline = reading.load(text)
            elif key.kind == "shared" and key.owner == flow_id:
                self.shared[key.name] = text
            elif key.kind == "jobs":
                known = int(text)
        if (known or 0) != self._count():
            raise JournalError(
                0,
                f"{self.journal.where} is damaged: it should have {known or 0} jobs, and has {self._count()}; it "
                "stays as it is: restore a copy of it",
            )
        self._marks = self.journal.marks()

    def _count(self) -> int:
        return len(self.unfinished) + len(self.finished)

    def _read(self, owner: str | None = None, kind: str | None = None) -> Iterable[tuple[Key, str]]:
        try:
            return list(self.journal.read(owner, kind))
        except JournalError:
            raise
        except Exception as error:
            raise JournalError(0, f"{self.journal.where} can't be read: {error!r}") from error

    def close(self) -> None:
        """Write what is queued, and let others have the journal."""
        commits, self.commits = self.commits, None
        if commits is not None and self._process == os.getpid():
            atexit.unregister(self._exit)
            commits.close()
            # Calls that the last process has left stay in doubt until their jobs have ended.
            left = bool(self.unfinished) and self._marks != []
            self.journal.close(in_doubt=commits.runs() or left)

    def _exit(self) -> None:
        """The interpreter exits: what runs can be recovered, and what is queued is written."""
        self.detach()
        self.close()

    def detach(self) -> None:
        """Leave the jobs that run in the journal as they are, whatever becomes of them here."""
        for run, _ in list(self.live.values()):
            if run.book is not None and not run.ended:
                run.book.detach()

    # -- jobs

    def left(self, flow_id: str, failed: bool = False) -> list[str]:
        """Return the jobs of a flow that have not ended, and that nobody has taken up; `failed` ones, too, if asked."""
        found = [name for name, flow in self.unfinished.items() if flow == flow_id and name not in self.live]
        return found + [name for name, (flow, again) in self.finished.items() if failed and again and flow == flow_id]

    def ended(self, job_id: str, again: bool) -> None:
        """A job has ended, and its record is there. Any thread."""
        flow_id = self.unfinished.pop(job_id)
        self.finished[job_id] = (flow_id, again)
        self.live.pop(job_id, None)

    def find(self, flow_id: str, job_id: str) -> JobState | str | None:
        """Return a job that runs or has ended; its id if it is to be taken up; None if there is none."""
        self.open(flow_id)
        if job_id in self.live:
            return self.live[job_id][1]
        owner = self.unfinished.get(job_id) or self.finished.get(job_id, (None,))[0]
        if owner not in (None, flow_id):
            raise JournalError(0, f"{self.journal.where}: job {printable(job_id)} is one of flow {owner!r}")
        if owner is None:
            return None
        return self.record(job_id) if job_id in self.finished else job_id

    def record(self, job_id: str, types: Types = ()) -> JobState:
        """Return the record of a job that has ended."""
        reading = Reading(types, self.journal.where)
        [(_, text)] = self._read(job_id, "record")
        return JobState.deserialize(reading.load(text))

    def start(self, wiring: Wiring, run: Run, job: JobState, entry: Inlet, payload: Mapping[str, Any]) -> None:
        """Have a job begin in the journal: when this returns, it is there."""
        flow_id = wiring.graph.flow_id
        commits = self.open(flow_id)
        left = self.left(flow_id)
        if left:
            names = ", ".join(printable(name) for name in left[:10])
            raise FlowStateError(
                f"{self.journal.where} has {len(left)} jobs of flow {flow_id!r} that have not ended ({names}): "
                "flow.recover() goes on with them, flow.abandon(job_id) gives one up; then execute again"
            )
        book = self._book(commits, run, job, flow_id, entry)
        number = 1
        if entry.node.per_job:
            entry = run.node_for(entry.node).inlets[entry.name]
        text = payload_text(payload, f"entry_params for {entry.node.routine_id}.{entry.name}: what was given")
        rows = self._flow_rows(wiring, run.engine)
        if entry.gathers:
            book.counts["gathered"] = book.counts["arrivals"] = number
            book.slots[entry] = [number]
        else:
            book.counts["posted"] = book.counts["last"] = number
        kind = "arrival" if entry.gathers else "activation"
        rows[Key(run.job_id, kind, number)] = book._row(entry, 0, text)
        rows[Key("", "jobs")] = str(self._count() + 1)
        self.unfinished[run.job_id] = flow_id
        self.live[run.job_id] = (run, job)
        with run.engine.step():
            record = book._submit(rows)
        try:
            commits.wait(record)
        except BaseException:
            book.detach()
            raise

    def _book(self, commits: Commits, run: Run, job: JobState, flow_id: str, entry: Inlet) -> Book:
        book = Book(run, commits, flow_id, self.waits, self.shared, entry)
        book.job, book.ended = job, self.ended
        run.book = book
        run.refresh_flags()
        return book

    def _document(self) -> str | None:
        """Return the flow as it is saved, for who goes on with it by a command; None where it can't be saved."""
        from routilux_core.serialization import flow_to_dict

        try:
            return None if self.saved is None else compact(flow_to_dict(self.saved()))
        except SerializationError:
            return None

    def _flow_rows(self, wiring: Wiring, engine: Engine) -> Rows:
        """Return what the journal is to know of the flow: what it looks like, and the state that its jobs share."""
        flow_id, rows, now = wiring.graph.flow_id, Rows(), outline(wiring.graph)
        if now != self._outline:
            rows[Key(flow_id, "flow")] = compact(now)
            rows[Key(flow_id, "document")] = self._document()
            self._outline = now
        if engine.runs:
            return rows  # what they share is in the journal, and may be changing
        shared = {}
        for name, routine in wiring.graph.routines.items():
            settings = routine.__routilux_settings__
            if settings.scope == "job":
                if not settings.stateless:
                    state_text(routine, name)  # each job begins with it: what can't be saved is found before
            elif not settings.stateless:
                shared[name] = state_text(routine, name)
            elif routine.stats():
                shared[name] = compact({"stats": routine.stats()})
        for name in self.shared.keys() - shared.keys():
            rows[Key(flow_id, "shared", 0, name)] = None
        for name, text in shared.items():
            if self.shared.get(name) != text:
                rows[Key(flow_id, "shared", 0, name)] = text
        self.shared.clear()
        self.shared.update(shared)
        self._restored = True
        return rows

    # -- taken up again

    def check_flow(self, wiring: Wiring, accept_changes: bool) -> None:
        """Refuse a flow that is not the one that its jobs were begun in, and say what is different."""
        if self._outline is None or accept_changes:
            return
        found = differences(self._outline, outline(wiring.graph))
        if found:
            lines = "".join(f"\n  {each}" for each in found)
            raise JournalError(
                0,
                f"flow {wiring.graph.flow_id!r} has changed since its jobs were begun, as {self.journal.where} has it:"
                f"{lines}\nPut it back, or recover(accept_changes=True), which needs the routines and slots of what is "
                "pending",
            )

    def reading(self, wiring: Wiring, types: Types) -> Reading:
        """Return what reads values of the jobs of a flow, whose classes may have another module now."""
        was = self._outline
        return Reading(types, self.journal.where, None if was is None else renamed(was, outline(wiring.graph)))

    def share(self, wiring: Wiring, reading: Reading) -> None:
        """Give the routines the state that the jobs of the flow share, once."""
        if self._restored or self.live:
            return
        routines = wiring.graph.routines
        for name, routine in routines.items():
            settings = routine.__routilux_settings__
            keeps = not settings.stateless and settings.scope == "flow"
            was_there = self._outline is not None and name in self._outline["routines"]
            if keeps and was_there and name not in self.shared:
                raise JournalError(0, f"{self.journal.where} is damaged: the state of routine {name!r} is missing")
        for name, text in self.shared.items():
            if name in routines:
                reading.give_state(routines[name], name, reading.load(text))
        self._restored = True

    def take_up(
        self,
        wiring: Wiring,
        run: Run,
        job: JobState,
        reading: Reading,
        retry_failed: bool,
        ends_as: str | None = None,
    ) -> tuple[Recovery, list[Any]]:
        """Bring a run to where its job was; what is to be queued then is returned."""
        commits = self.open(wiring.graph.flow_id)
        saved = SavedJob(run.job_id, self._read(run.job_id), reading)
        nodes = run.engine.nodes.values()
        entry = next(inlet for node in nodes for inlet in node.inlets.values())
        book = self._book(commits, run, job, wiring.graph.flow_id, entry)
        recovery = Recovery(saved, run, book)
        try:
            items = recovery.restore(retry_failed, ends_as, self._marks)
            with run.engine.step():
                record = book._submit(recovery.rows)
            commits.wait(record)
        except BaseException:
            book.detach()
            raise
        run.refresh_flags()
        if self.finished.pop(run.job_id, None):
            self.unfinished[run.job_id] = wiring.graph.flow_id
        self.live[run.job_id] = (run, job)
        return recovery, items
