"""What a journal has of one job while it runs: each activation that ends is one record, in causal order.

The engine says what happens, most of it under its lock, in the same step in which it numbers, counts or discards. So
the order of the records is the order of the engine's steps, and whatever prefix of them is on disk, it is a state in
which the job could have been.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from threading import get_ident
from time import perf_counter, time
from typing import Any, NamedTuple
from zlib import crc32

from routilux_core._engine.ending import announce_end
from routilux_core._engine.engine import logger
from routilux_core._engine.plan import INLET, NUMBER, PAYLOAD, Inlet, Item, Node, Outlet, rename
from routilux_core._engine.roles import Held, Locked
from routilux_core._engine.run import Run
from routilux_core._journal.commits import Commits, Line
from routilux_core._journal.texts import failure_document, payload_text, plain_text, state_text, written_text
from routilux_core._routines.frame import CURRENT
from routilux_core._routines.merge_strategies import MERGES
from routilux_core._routines.signature import Payload
from routilux_core._text.compact import compact
from routilux_core._threads.guard import guarded
from routilux_core._tracking.history import COMPLETED, DISCARDED, FAILED, RETRIED, SKIPPED
from routilux_core.error_handling import ErrorStrategy, Failure
from routilux_core.errors import JournalError
from routilux_core.job import ROUTINE_STATES
from routilux_core.journal import InDoubt, Key, Mark
from routilux_core.routine import Routine
from routilux_core.serialization.jobs import job_to_text

LARGE = 1 << 20  # characters of a routine's state, which is written again after each of its calls
APPEND = MERGES["append"].function
RING = 100  # of the newest failures that were retried or skipped
MOST_FAILURES = 10_000  # kept of those that count

Rows = dict[Key, "str | Line | None"]

# `Key` and `Mark` of tuples: a call makes several, and the constructor of a named tuple takes twice the time.
as_key: Callable[[tuple[str, str, int, str]], Key] = partial(tuple.__new__, Key)
as_mark: Callable[[tuple[int, int, int]], Mark] = partial(tuple.__new__, Mark)


class JobLine(NamedTuple):
    """The row of a job: its counts, as they are after the records up to now."""

    flow_id: str
    status: str  # running, paused; failed or cancelled where it was stopped; then what it ended as
    reason: str
    began_at: float
    posted: int
    over: int
    failed: int
    skipped: int
    discarded: int
    retried: int
    sent: int
    unconnected: int
    gathered: int
    last: int  # the number of the newest activation
    arrivals: int  # numbers of arrivals at gather slots, of outputs, of failures, of retried or skipped attempts
    outputs: int
    failures: int
    attempts: int
    completed: list[str]  # routines of which calls have completed
    decided: dict[str, str]  # and the gravest decision for each of which calls have failed
    sizes: dict[str, int]  # rows by kind

    def text(self) -> str:
        return compact(self._asdict())


class Standing(NamedTuple):
    """How a job stands at a record: what its row is made of, once in a transaction."""

    flow_id: str
    status: str
    reason: str
    began_at: float
    counts: dict[str, int]
    completed: list[str]
    decided: dict[str, str]
    sizes: dict[str, int]

    def text(self) -> str:
        sizes = {kind: count for kind, count in self.sizes.items() if count}
        head: tuple[Any, ...] = (self.flow_id, self.status, self.reason, self.began_at)
        return JobLine._make((*head, *self.counts.values(), self.completed, self.decided, sizes)).text()


COUNTED = JobLine._fields[4:-3]
as_standing: Callable[[tuple[Any, ...]], Standing] = partial(tuple.__new__, Standing)


Target = tuple[Inlet, Payload, str]  # one delivery of an emission, with the text of its payload
Placed = tuple[Inlet, Payload, int]  # an activation, or an arrival at a gather slot, with its number, not in its queue


class Kept(NamedTuple):
    """A call that has succeeded, in the journal: the record that has to be on disk before its emissions go on, or 0."""

    record: int
    prepared: list[tuple[Outlet, Payload, str, list[Target]]]
    placed: list[Placed]
    node: Node
    number: int


class Counted(NamedTuple):
    """What a call has done to the counters of its stateless routine: whether it reset them, and what it added then."""

    reset: bool
    added: dict[str, float]


class Told(NamedTuple):
    """What is known of a failure before it is counted: its document, and what the routine keeps by then."""

    document: dict[str, Any]
    kept: Rows
    counted: Counted | None
    node: Node


class Book:
    """The journal's side of one job."""

    def __init__(
        self, run: Run, commits: Commits, flow_id: str, waits: bool, shared: dict[str, str], entry: Inlet
    ) -> None:
        self.run, self.commits, self.flow_id, self.waits, self.entry = run, commits, flow_id, waits, entry
        self.job: Any = None  # the JobState, whose record is kept at the end
        self.ended: Callable[[str, bool], None] = lambda job_id, again: None  # who is told then
        self.shared = shared  # the last text of the state of each routine that all jobs of the flow share
        self.own: dict[str, str] = {}  # and of those with `scope="job"`
        self.counts = dict.fromkeys(COUNTED, 0)
        self.sizes: Counter[str] = Counter()
        self.completed: list[str] = []
        self.decided: dict[str, str] = {}
        self.status, self.reason = "running", ""
        self.slots: dict[Inlet, list[int]] = {}  # numbers of what has arrived at gather slots, and was not called with
        self.calls: dict[int, list[int]] = {}  # of what each call of a gather slot was called with
        self.kept: dict[str, int] = {}  # rows of what slots have merged, by name
        self.in_doubt: list[InDoubt] = []
        self.appends = itertools.count(1)  # numbers of what slots have appended
        self.appended: set[int] = set()  # activations that have appended theirs, and are not over
        self._counted: dict[int, Counted] = {}  # by calls made elsewhere, whose ends are being noted
        self._told: dict[int, Told] = {}  # failures that are decided about just now, by activation
        self._early: set[int] = set()  # activations that have stopped the job, and are in the journal as failed
        self._places: dict[int, int] = {}  # of marks, by activation
        self._unsafe: dict[int, int] = {}  # activations that are not on disk, and the record in which they will be
        self._stopper: int | None = None
        self._heads: dict[Inlet, str] = {}
        self._warned: set[str] = set()
        self.job_crc = crc32(run.job_id.encode())  # which its marks have
        self._row_of_job = Key(run.job_id, "job")
        self._ender: int | None = None  # the thread that writes the end
        self._was_aside = False  # it was asked for in an event loop's thread, which is not to wait
        self._ended = False
        self.detached = False

    # -- a call (no lock)

    def text_of(self, node: Node, outlet: Outlet, data: Payload) -> str:
        """Return what a handler emits as text; what can't be kept fails the call that emits it."""
        return plain_text(data) or written_text(
            data, f"routine {node.routine_id!r}, event {outlet.name!r}: what was emitted"
        )

    def begin(self, item: Item) -> bool:
        """Note that a call begins, when all that it comes from is on disk, which this waits for.

        False where the job has left the journal, and is about to be stopped: nobody would know of the call.
        """
        if self.detached:
            return False
        try:
            if self.waits:
                self.commits.wait_for_mine()
            if self._unsafe:
                self.commits.wait(self.needs(item))
            if self.waits and item[NUMBER] not in self._places:
                self._places[item[NUMBER]] = self.commits.take_room(item[INLET].node.scheduler.crew.workers)
        except BaseException:
            self.detach()
            raise
        return self.enter(item)  # it may have left while this has waited

    def needs(self, item: Item) -> int:
        """Return the record that has to be on disk before an activation is called; 0 if there is none, or not again."""
        return self._unsafe.pop(item[NUMBER], 0)

    def enter(self, item: Item) -> bool:
        """Note that a call begins, of which all that it comes from is on disk; False as for `begin`."""
        if self.detached:
            return False
        count_calls(item[INLET].node.routine)
        self._mark(item)
        return True

    def ship(self, items: Iterable[Item]) -> None:
        """Note that calls are about to begin in another process, when all that they come from is on disk."""
        for item in items:
            if self.detached:
                return
            try:
                self.commits.wait(self.needs(item))
            except BaseException:
                self.detach()
                raise
            self._mark(item)

    def _mark(self, item: Item) -> None:
        number = item[NUMBER]
        try:
            if self.commits.error is not None:
                self.commits.check()
            place = self._places.get(number)
            if place is None:
                place = self._places[number] = self.commits.take_place()
            self.commits.mark(place, as_mark((self.job_crc, number, self.run.retries.attempt(number))))
        except BaseException:
            self.detach()
            raise

    def count(self, item: Item, reset: bool, added: dict[str, float]) -> None:
        """Take what a call in another process has done to the counters of its routine, before its end is noted."""
        self._counted[item[NUMBER]] = Counted(reset, added)

    def _counted_by(self, number: int) -> Counted | None:
        if self._counted and (counted := self._counted.pop(number, None)) is not None:
            return counted
        added = counted_here()
        return Counted(False, added) if added else None

    def settled(self) -> None:
        """Where the disk is waited for, wait for what this thread has noted last. Whether that failed, others say."""
        if self.waits and not self.detached:
            with contextlib.suppress(JournalError):
                self.commits.wait_for_mine()

    def complete(self, item: Item, held: Iterable[Held], step: Locked | None = None) -> list[Inlet]:
        """Keep what came of a call that has succeeded, and let what it has emitted go on; return where that went.

        Where it has to be on disk first, this waits for that: where nothing follows from it, the next call of whatever
        thread does, as soon as there is no room for that, see `begin`. `step` is the lock alone for who has another one
        already, and does later what follows from a step; who makes calls elsewhere has no `begin`, and waits here.
        """
        kept = self.keep(item, held, step, owed=step is None)
        if kept.record:
            try:
                self.commits.wait(kept.record)
            except BaseException:
                self.detach()
                raise
        return self.send_on(kept, step)

    def keep(self, item: Item, held: Iterable[Held], step: Locked | None = None, *, owed: bool = False) -> Kept:
        """Queue the record of a call that has succeeded; what it has emitted goes on then, or when that is on disk.

        Nobody has to wait for one that may be `owed`, if it has left nothing from which another call could begin.
        """
        run, number, node = self.run, item[NUMBER], item[INLET].node
        prepared = [(*each, self._targets(*each)) for each in held]
        rows, counted = self._kept_by(item), self._counted_by(number)
        owed = owed and self.waits and not prepared and not rows and counted is None
        placed: list[Placed] = []
        with step or run.engine.step():
            if self.detached:
                self._send_anyway(prepared, number)
                return Kept(0, [], [], node, number)
            try:
                for outlet, _, text, targets in prepared:
                    placed += self._place(rows, outlet, text, targets, number)
                if counted is not None:
                    self._count(rows, node, counted)
                self._finish(rows, item, COMPLETED)
                record = self._submit(rows, (number,), owed=owed)
                if not self.waits:
                    self._post(prepared, placed, number)
                if owed or not self.waits:
                    record = 0
            except BaseException:  # it is in the journal, or not: the next process knows
                self.detach()
                raise
        return Kept(record, prepared, placed, node, number)

    def send_on(self, kept: Kept, step: Locked | None = None) -> list[Inlet]:
        """Let go on what a call has emitted, if it has not: it is on disk, or never will be; return where it went."""
        if kept.record:
            try:
                self.commits.check_done(kept.record)
                if kept.prepared:
                    with step or self.run.engine.step():
                        self._post(kept.prepared, kept.placed, kept.number)
            except BaseException:
                self.detach()
                raise
        if (listeners := self.run.told_in_detail()) is not None:
            now = perf_counter()
            for outlet, data, _, _ in kept.prepared:
                listeners.event_emitted(kept.node, outlet, kept.number, now, data)
        return [inlet for inlet, _, _ in kept.placed]

    def newest(self) -> int:
        """Return the newest record, which was queued for a call that has ended, where the next one waits for it."""
        return self.commits.newest if self.waits else 0

    def when_done(self, record: int, call: Callable[[], None]) -> bool:
        """Call this, in another thread, when a record is on disk, or never will be; False if that is so already."""
        return self.commits.call_when_done(record, call)

    def failing(self, item: Item, failure: Failure) -> None:
        """Take what the journal is to know of a call that has failed, before it is decided about under the lock."""
        if self.detached:
            return
        try:
            kept = self._kept_by(item, failed=True)
        except Exception:  # what can't be saved in there has failed the call, or is lost with it
            kept = {}
        number, node = item[NUMBER], item[INLET].node
        self._told[number] = Told(failure_document(failure), kept, self._counted_by(number), node)

    def _targets(self, outlet: Outlet, data: Payload, text: str) -> list[Target]:
        made = []
        for inlet, mapping in outlet.targets:
            payload = data if mapping is None else rename(data, mapping)
            renamed = text if mapping is None else payload_text(payload, "what was emitted")
            made.append((inlet, payload, renamed))
        return made

    def _kept_by(self, item: Item, failed: bool = False) -> Rows:
        """Return the rows of what a call has changed beside its emissions. Its routine's permit is held."""
        inlet, run = item[INLET], self.run
        node, rows = inlet.node, Rows()
        if inlet.merge is not None:
            self._keep_merged(rows, item, failed)
        settings = node.routine.__routilux_settings__
        if node.unmade is not None:
            return rows  # the copy for the job could not be made
        if settings.stateless:
            return rows
        known, key = self._state_of(node)
        text = state_text(node.routine, node.routine_id)
        if known.get(node.routine_id) != text:
            rows[key] = known[node.routine_id] = text
            if len(text) > LARGE and node.routine_id not in self._warned:
                self._warned.add(node.routine_id)
                logger().warning(
                    "job %s: the state of routine %r is %d characters, which the journal writes again after each "
                    "of its calls: keep large data in files, and their names in the routine",
                    *(run.job_id, node.routine_id, len(text)),
                )
        return rows

    @guarded
    def _count(self, rows: Rows, node: Node, counted: Counted) -> None:
        """Note what a call has added to the counters of a stateless routine: others may run just now."""
        known, key = self._state_of(node)
        stats = {} if counted.reset else json.loads(known.get(node.routine_id, '{"stats":{}}'))["stats"]
        for name, more in counted.added.items():
            stats[name] = stats.get(name, 0) + more
        rows[key] = known[node.routine_id] = compact({"stats": stats})

    def _state_of(self, node: Node) -> tuple[dict[str, str], Key]:
        """Return the states among which that of a routine is, the job's own or those that all share, and its row."""
        if node.routine.__routilux_settings__.scope == "job":
            return self.own, Key(self.run.job_id, "state", 0, node.routine_id)
        return self.shared, Key(self.flow_id, "shared", 0, node.routine_id)

    def _keep_merged(self, rows: Rows, item: Item, failed: bool) -> None:
        inlet, number = item[INLET], item[NUMBER]
        name = f"{inlet.node.routine_id}.{inlet.name}"
        if failed and number not in self.run.retries.merged:
            return  # it has failed before anything was merged
        head = f'{{"routine":{compact(inlet.node.routine_id)},"slot":{compact(inlet.name)},"merged":'
        what = f"what slot {name!r} has merged"
        if inlet.merge is APPEND:
            if number not in self.appended:
                self.appended.add(number)
                rows[Key(self.run.job_id, "appended", next(self.appends), name)] = (
                    f"{head}{payload_text(item[PAYLOAD], what)}}}"
                )
        else:
            text = payload_text(self.run.slots.merged.get(inlet, {}), what)
            rows[Key(self.run.job_id, "merged", 0, name)] = f"{head}{text}}}"

    # -- what follows from it (lock)

    @guarded
    def _place(self, rows: Rows, outlet: Outlet, text: str, targets: list[Target], cause: int) -> list[Placed]:
        """Number what an emission leads to, and note it in a record."""
        counts, run, placed = self.counts, self.run, []
        counts["sent"] += 1
        for inlet, payload, payload_as_text in targets:
            if inlet.node.per_job:
                inlet = run.node_for(inlet.node).inlets[inlet.name]
            if inlet.gathers:
                counts["gathered"] += 1
                counts["arrivals"] += 1
                if not run.stopped:
                    rows[Key(run.job_id, "arrival", counts["arrivals"])] = self._row(inlet, cause, payload_as_text)
                    placed.append((inlet, payload, counts["arrivals"]))
                continue
            number = next(run.numbers)
            counts["posted"] += 1
            counts["last"] = number
            rows[as_key((run.job_id, "activation", number, ""))] = self._row(inlet, cause, payload_as_text)
            if run.stopped:
                self._discard(rows, number)
            else:
                placed.append((inlet, payload, number))
        if outlet.outputs and not run.stopped:
            for name in outlet.outputs:
                counts["outputs"] += 1
                rows[Key(run.job_id, "output", counts["outputs"], name)] = text
        elif not outlet.targets:
            counts["unconnected"] += 1
        return placed

    def _row(self, inlet: Inlet, cause: int, text: str) -> str:
        head = self._heads.get(inlet)
        if head is None:
            head = f'{{"routine":{compact(inlet.node.routine_id)},"slot":{compact(inlet.name)},"cause":'
            self._heads[inlet] = head
        return f'{head}{cause},"payload":{text}}}'

    @guarded
    def _post(
        self, prepared: list[tuple[Outlet, Payload, str, list[Target]]], placed: list[Placed], cause: int
    ) -> None:
        """Let what is in the journal go on; what was stopped meanwhile is discarded there, too."""
        run, now = self.run, perf_counter()
        run.ledger.sent += len(prepared)
        if run.stopped:
            numbers = [number for inlet, _, number in placed if not inlet.gathers]
            run.ledger.gathered += len(placed) - len(numbers)
            run.ledger.last += len(numbers)
            run.ledger.placed += len(numbers)
            run.ledger.discard(len(numbers))
            self.discard(numbers)
            return
        for inlet, payload, number in placed:
            if inlet.gathers:
                run.ledger.gathered += 1
                self.slots.setdefault(inlet, []).append(number)
                run.slots.gather(inlet, payload, cause if run.keeps_causes else 0)
            else:
                run.post_numbered(inlet, payload, number, cause, now)
        for outlet, data, _, _ in prepared:
            run.collect(outlet, data)

    @guarded
    def _send_anyway(self, prepared: list[tuple[Outlet, Payload, str, list[Target]]], cause: int) -> None:
        """Let a job that has left the journal count what it emits: it was stopped here, and does nothing more."""
        for outlet, data, _, _ in prepared:
            self.run.send(outlet, data, cause, perf_counter())

    @guarded
    def _finish(self, rows: Rows, item: Item, outcome: int) -> None:
        """Note the end of an activation; what has failed, or was discarded, stays, to be posted again."""
        job_id, number, counts = self.run.job_id, item[NUMBER], self.counts
        counts["over"] += 1
        self.appended.discard(number)
        if number in self.run.retries.attempts:
            rows[Key(job_id, "retry", number)] = None
        if outcome in (FAILED, DISCARDED):
            counts["failed" if outcome == FAILED else "discarded"] += 1
            rows[Key(job_id, "fate", number)] = "failed" if outcome == FAILED else "discarded"
            return
        if outcome == SKIPPED:
            counts["skipped"] += 1
        elif item[INLET].node.routine_id not in self.completed:
            self.completed = [*self.completed, item[INLET].node.routine_id]
        rows[as_key((job_id, "activation", number, ""))] = None
        for arrival in self.calls.pop(number, ()):
            rows[Key(job_id, "arrival", arrival)] = None

    @guarded
    def _discard(self, rows: Rows, number: int) -> None:
        self.counts["over"] += 1
        self.counts["discarded"] += 1
        rows[Key(self.run.job_id, "fate", number)] = "discarded"

    @guarded
    def _submit(self, rows: Rows, over: Iterable[int] = (), ended: str | None = None, *, owed: bool = False) -> int:
        """Queue a record, with the counts as they are now. Calls that are over need their marks no longer then."""
        sizes = self.sizes
        for key, value in rows.items():
            if key[1] == "activation":
                sizes["activation"] += -1 if value is None else 1
            elif key.owner == self.run.job_id and key.kind not in ("job", "record"):
                self._measure(key, value is not None)
        rows[self._row_of_job] = self.standing()
        own = self._places
        places = [own.pop(number) for number in over if number in own]
        return self.commits.submit(rows, places, ended, owed=owed)

    def _measure(self, key: Key, put: bool) -> None:
        """Count the rows of each kind: of what is lost in a damaged file, the row of the job knows."""
        if key.kind in ("state", "merged"):
            name = f"{key.kind} {key.name}"
            if name not in self.kept:
                self.kept[name] = 1
                self.sizes[key.kind] += 1
        elif key.kind == "attempt":
            self.sizes["attempt"] = min(self.counts["attempts"], RING)
        elif key.kind == "retry":
            known = f"retry {key.number}"
            if put and known not in self.kept:
                self.kept[known] = 1
                self.sizes["retry"] += 1
            elif not put and self.kept.pop(known, 0):
                self.sizes["retry"] -= 1
        else:
            self.sizes[key.kind] += 1 if put else -1

    @guarded
    def standing(self) -> Standing:
        """Return how the job stands."""
        began_at, sizes = self.run.ledger.span.began_at, dict.copy(self.sizes)
        counts = self.counts.copy()
        return as_standing(
            (self.flow_id, self.status, self.reason, began_at, counts, self.completed, self.decided, sizes)
        )

    @guarded
    def decide(self, failure: Failure, state: str | None) -> None:
        """Note what was decided about a failure; STOP follows in the same step."""
        told = self._told.get(failure.activation)
        if told is not None and failure.decision is not None:
            told.document["decision"] = failure.decision.value
        if state is not None:
            self._note_state(failure.routine_id, state)
        self._stopper = failure.activation if failure.decision is ErrorStrategy.STOP else None

    def _note_state(self, routine_id: str, state: str) -> None:
        before = self.decided.get(routine_id, state)
        self.decided = {**self.decided, routine_id: max(before, state, key=ROUTINE_STATES.index)}

    @guarded
    def settle(self, item: Item, outcome: int, delay: float) -> None:
        """Note the end of a call that has not simply completed: it is over, or waits for another attempt."""
        number = item[NUMBER]
        told = self._told.pop(number, None)
        if self.detached:
            return
        if number in self._early:
            self._early.discard(number)
            return
        rows: Rows = {} if told is None else dict(told.kept)
        if told is not None:
            self._add_failure(rows, item[INLET].node, told)
        if outcome == RETRIED:
            self.counts["retried"] += 1
            merged = number in self.run.retries.merged
            attempt = self.run.retries.attempt(number)  # the next one
            data = {"attempt": attempt, "due": time() + delay, "delay": delay, "merged": merged}
            rows[Key(self.run.job_id, "retry", number)] = compact(data)
        elif outcome != COMPLETED:
            self._finish(rows, item, outcome)
        else:
            return  # what completed is in the journal already
        record = self._submit(rows, (number,))
        if outcome == RETRIED and self.waits:
            self._unsafe[number] = record

    def _add_failure(self, rows: Rows, node: Node, told: Told) -> None:
        if told.counted is not None:
            self._count(rows, node, told.counted)
        order = self.counts["failures"] + self.counts["attempts"]
        text = compact({"order": order, "failure": told.document})
        if told.document["decision"] in ("stop", "continue"):
            if self.counts["failures"] < MOST_FAILURES:
                self.counts["failures"] += 1
                rows[Key(self.run.job_id, "failure", self.counts["failures"])] = text
        else:
            self.counts["attempts"] += 1
            rows[Key(self.run.job_id, "attempt", self.counts["attempts"] % RING)] = text

    @guarded
    def gather(self, number: int, inlet: Inlet) -> None:
        """Note that a gather slot is called, with everything that has arrived."""
        if self.detached:
            return
        arrivals = self.calls[number] = self.slots.pop(inlet, [])
        self.counts["posted"] += 1
        self.counts["last"] = number
        where = f'"routine":{compact(inlet.node.routine_id)},"slot":{compact(inlet.name)}'
        row = f'{{{where},"cause":0,"gathered":{compact(arrivals)}}}'
        self._unsafe[number] = self._submit({Key(self.run.job_id, "activation", number): row})

    @guarded
    def stop(self, status: str, gone: Iterable[int]) -> None:
        """Note that the job was stopped, by a failure or by `cancel`, and what is discarded therefore."""
        if self.detached:
            return
        self.status, rows = status, Rows()
        stopper, self._stopper = self._stopper, None
        told = None if stopper is None else self._told.get(stopper)
        if stopper is not None and told is not None:
            self._told.pop(stopper)
            self._early.add(stopper)
            rows.update(told.kept)
            self._add_failure(rows, told.node, told)
            self.counts["over"] += 1
            self.counts["failed"] += 1
            rows[Key(self.run.job_id, "fate", stopper)] = "failed"
        numbers = list(gone)
        for number in numbers:
            self._discard(rows, number)
        self._submit(rows, numbers)

    @guarded
    def discard(self, numbers: Iterable[int]) -> None:
        """Note what was discarded since the job was stopped."""
        rows, gone = Rows(), list(numbers)
        for number in gone:
            self._discard(rows, number)
        if rows and not self.detached:
            self._submit(rows, gone)

    @guarded
    def pause(self, status: str, reason: str) -> None:
        """Note that the job is paused, or goes on."""
        if not self.detached:
            self.status, self.reason = status, reason
            self._submit({})

    # -- the end

    def doubts(self) -> list[InDoubt]:
        return list(self.in_doubt)

    def detach(self) -> None:
        """Write nothing of the job any more: it ends here, and not in the journal. Another process goes on with it."""
        self.detached = True

    def end(self) -> bool:
        """Write the record of a job that has ended, and wait for it; False where another thread does so. No lock."""
        me, engine, aside = get_ident(), self.run.engine, False
        with engine.step():
            if self.detached or self._ended:
                return True
            if self._ender not in (None, me):
                return False
            if not self._was_aside and runs_a_loop():
                self._was_aside = aside = True
            else:
                self._ender = me
        if aside:
            engine.aside.do(partial(announce_end, self.run))
            return False
        try:
            self._write_end()
        except JournalError as error:
            self._fail(error)
        except BaseException:
            self.detach()
            raise
        self._ended = True
        return True

    def _write_end(self) -> None:
        run = self.run
        try:
            seen = self.job._seen
            document = job_to_text(self.job, run.ledger.final)
            self.job._seen = seen
        except Exception as error:
            raise JournalError(0, f"the record of job {run.job_id} can't be kept: {error}") from error
        with run.engine.step():
            self.status = run.ledger.final
            rows: Rows = {Key(run.job_id, "record"): document}
            ended = None
            if not self.sizes["fate"]:  # else what has failed may be done again
                ended = run.job_id
                self.sizes.clear()
            record = self._submit(rows, ended=ended)
        self.commits.wait(record)
        self.ended(run.job_id, ended is None)

    def _fail(self, error: JournalError) -> None:
        """Let a job fail whose end can't be written: it is not in the journal."""
        run = self.run
        with run.engine.step():
            run.fail_with(error, self.entry)
        self.detached = True


def runs_a_loop() -> bool:
    """Return whether this thread runs an event loop."""
    asyncio = sys.modules.get("asyncio")
    try:
        return asyncio is not None and asyncio.get_running_loop() is not None
    except RuntimeError:
        return False


class CallStats(dict[str, float]):
    """The counters of a stateless routine, of which each call knows what it has added itself."""

    def __setitem__(self, name: str, value: float) -> None:
        self._note(name, value - self.get(name, 0))
        super().__setitem__(name, value)

    def pop(self, name: str, default: Any = None) -> Any:
        self._note(name, -self.get(name, 0))
        return super().pop(name, default)

    def _note(self, name: str, more: float) -> None:
        call = getattr(CURRENT.get(), "call", None)
        if call is not None:
            call.counted = call.counted or {}
            call.counted[name] = call.counted.get(name, 0) + more


def counted_here() -> dict[str, float]:
    """Return what the call in this thread has added to the counters of its routine, since this was asked last."""
    call = getattr(CURRENT.get(), "call", None)
    counted: dict[str, float] = {}
    if call is not None and call.counted:
        counted, call.counted = call.counted, None
    return counted


def count_calls(routine: Routine) -> None:
    """Let the calls of a stateless routine know what they add to its counters."""
    internals = routine._routilux
    if type(internals.stats) is dict and routine.__routilux_settings__.stateless:
        with internals.lock:
            internals.stats = CallStats(internals.stats)
