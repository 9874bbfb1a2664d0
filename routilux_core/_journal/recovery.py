"""One job taken up again from the rows that a journal has of it."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from time import perf_counter, time
from typing import Any

from routilux_core._engine.failures import OUTCOMES, STATES, carry_out, decide
from routilux_core._engine.plan import CAUSES, GATHERED, INLET, NUMBER, POSTED, Inlet, Item
from routilux_core._engine.run import Run
from routilux_core._journal.book import COUNTED, Book, JobLine, Rows
from routilux_core._journal.texts import Reading
from routilux_core._text.printable import printable
from routilux_core._tracking.history import FAILED
from routilux_core.error_handling import Decision, ErrorStrategy, Failure
from routilux_core.errors import CallInDoubt, JournalError
from routilux_core.job import FINAL_STATUSES
from routilux_core.journal import InDoubt, Key, Mark, key_of
from routilux_core.serialization.converter import structure
from routilux_core.serialization.jobs import JobReader
from routilux_core.serialization.problems import ROOT, reported
from routilux_core.serialization.schema import FailureRecord

BEYOND = 1_000_000  # more calls than can have begun since the last commit


def rows_by_owner(rows: Iterable[tuple[Key, str]]) -> dict[str, list[tuple[Key, str]]]:
    """Return the rows of each job; what a flow has is none of theirs, though a job may have its name."""
    found: dict[str, list[tuple[Key, str]]] = {}
    for key, text in rows:
        if key.kind not in ("flow", "document", "shared"):
            found.setdefault(key.owner, []).append((key, text))
    return found


class SavedJob:
    """The rows of one job, by kind."""

    def __init__(self, job_id: str, rows: Iterable[tuple[Key, str]], reading: Reading) -> None:
        self.job_id, self.reading = job_id, reading
        self.kinds: dict[str, dict[Key, str]] = defaultdict(dict)
        for key, text in rows:
            self.kinds[key.kind][key] = text
        if not self.kinds["job"]:
            raise JournalError(0, f"{reading.where} has no job {printable(job_id)}")
        self.line = JobLine(**reading.load(self.kinds["job"][Key(job_id, "job")]))
        self.check()

    @property
    def has_ended(self) -> bool:
        """Whether its record is there."""
        return bool(self.kinds["record"])

    def check(self) -> None:
        """Compare what is there with what the row of the job says."""
        line = self.line
        counted = {kind: len(rows) for kind, rows in self.kinds.items() if rows and kind not in ("job", "record")}
        if counted != line.sizes:
            self._refuse(f"it has the rows {counted}, and should have {line.sizes}")
        pending = len(self.kinds["activation"]) - len(self.kinds["fate"])
        if line.posted - line.over != pending:
            self._refuse(f"{line.posted - line.over} activations should be pending, and {pending} are")
        if line.status not in ("running", "paused", *FINAL_STATUSES):
            self._refuse(f"its status is {line.status!r}")

    def _refuse(self, why: str) -> None:
        raise JournalError(
            0,
            f"{self.reading.where} is damaged: job {printable(self.job_id)}: {why}; it stays as it is: restore a copy",
        )

    def numbers(self, kind: str) -> dict[int, Any]:
        """Return rows of a kind, read as JSON, by number."""
        return {key.number: self.reading.load(text) for key, text in self.kinds[kind].items()}


class Recovery:
    """Gives a run everything that its job had, and lets it go on."""

    def __init__(self, saved: SavedJob, run: Run, book: Book) -> None:
        self.saved, self.run, self.book = saved, run, book
        self.reading, self.engine = saved.reading, run.engine
        self.rows: Rows = {}  # that are written first
        self.pending = saved.numbers("activation")
        self.arrivals, self.waiting = saved.numbers("arrival"), saved.numbers("retry")
        self.fates = {key.number for key in saved.kinds["fate"]}
        self.line = saved.line

    def restore(self, retry_failed: bool, ends_as: str | None, marks: Sequence[Mark] | None) -> list[Item]:
        """Bring the books to what they were; return what is to be queued. Nothing of the job runs yet."""
        self._books(marks)
        failures = self._failures()
        if retry_failed:
            failures = self._take_fates_back(failures)
        self._ledger(failures)
        for key, text in self.saved.kinds["output"].items():
            payload = self._payload(self.reading.load(text), f"an output {key.name!r}")
            self.run.ledger.collected.setdefault(key.name, []).append(payload)
        status = ends_as or (None if retry_failed else self._stopped_as())
        if status is not None:
            self._end(status)
            return []
        self._states()
        self._slots()
        items = [self._item(number, row) for number, row in sorted(self.pending.items()) if number not in self.fates]
        self._in_doubt(items, marks)
        self.book.status = "running" if retry_failed else self.line.status
        if self.book.status == "paused":
            self.run.paused = self.run.halted = True
            self.run.ledger.reason = self.book.reason
        return items

    def _stopped_as(self) -> str | None:
        return self.line.status if self.line.status in FINAL_STATUSES else None

    def _books(self, marks: Sequence[Mark] | None) -> None:
        line, book, run = self.line, self.book, self.run
        for name in COUNTED:
            book.counts[name] = getattr(line, name)
        book.completed, book.decided, book.reason = line.completed, line.decided, line.reason
        book.sizes = Counter(line.sizes)
        for kind in ("state", "merged", "retry"):
            for key in self.saved.kinds[kind]:
                book.kept[f"retry {key.number}" if kind == "retry" else f"{kind} {key.name}"] = 1
        numbers = [key.number for key in self.saved.kinds["appended"]]
        book.appends = itertools.count(max(numbers, default=0) + 1)
        book.counts["last"] = self._last_begun(marks)
        run.numbers = itertools.count(book.counts["last"] + 1)
        run.ledger.span.began_at = line.began_at

    def _last_begun(self, marks: Sequence[Mark] | None) -> int:
        """Return a number that no newer call had: under `async` some have begun that are not on disk.

        Theirs are never given again: who was called with a key would take another call for the same one.
        """
        if marks is None:
            return self.line.last + BEYOND
        return max(self.line.last, *(mark.number for mark in marks if mark.job == self.book.job_crc), 0)

    def _failures(self) -> list[tuple[Key, int, Failure]]:
        found = []
        for kind in ("failure", "attempt"):
            for key, text in self.saved.kinds[kind].items():
                data = self.reading.load(text)
                with reported(f"a failure of job {self.run.job_id} can't be read") as problems:
                    record = structure(data["failure"], FailureRecord, problems)
                    reader = JobReader(self.reading.known, problems)
                    failure = None if record is None else reader._error(record, self.run.job_id, ROOT)
                assert failure is not None
                found.append((key, data["order"], failure))
        return sorted(found, key=lambda each: each[1])

    def _take_fates_back(self, failures: list[tuple[Key, int, Failure]]) -> list[tuple[Key, int, Failure]]:
        """Let what has failed, or was discarded, be pending again; its failures are taken back."""
        counts = self.book.counts
        for key, fate in self.saved.kinds["fate"].items():
            self.rows[key] = None
            counts["over"] -= 1
            counts[fate] -= 1
        again = {number: self.pending[number]["routine"] for number in self.fates}
        left = []
        for key, order, failure in failures:
            if key.kind == "failure" and failure.activation in again:
                self.rows[key] = None
            else:
                left.append((key, order, failure))
        decided = {name: state for name, state in self.book.decided.items() if name not in again.values()}
        for _, _, failure in left:
            if failure.routine_id in again.values() and failure.decision is not None:
                decided[failure.routine_id] = STATES.get(failure.decision, "skipped")
        self.book.decided, self.fates = decided, set()
        self.rows[Key(self.run.job_id, "record")] = None
        return left

    def _ledger(self, failures: list[tuple[Key, int, Failure]]) -> None:
        ledger, counts = self.run.ledger, self.book.counts
        ledger.last = ledger.placed = counts["posted"]
        ledger.over, ledger.failed, ledger.skipped = counts["over"], counts["failed"], counts["skipped"]
        ledger.discarded, ledger.retried, ledger.sent = counts["discarded"], counts["retried"], counts["sent"]
        ledger.unconnected, ledger.gathered = counts["unconnected"], counts["gathered"]
        ledger.decided = {**dict.fromkeys(self.book.completed, "completed"), **self.book.decided}
        counted = sum(key.kind == "failure" for key, _, _ in failures)
        ledger.failures.resume([failure for _, _, failure in failures], counted, counts["attempts"])

    def _end(self, status: str) -> None:
        """Discard what is pending of a job that was stopped already, or is given up."""
        numbers = [number for number in self.pending if number not in self.fates]
        self.run.stopped, self.run.ledger.final, self.book.status = True, status, status
        self.run.ledger.over += len(numbers)
        self.run.ledger.discarded += len(numbers)
        for number in numbers:
            self.book.counts["over"] += 1
            self.book.counts["discarded"] += 1
            self.rows[Key(self.run.job_id, "fate", number)] = "discarded"

    def _inlet(self, data: Mapping[str, Any]) -> Inlet:
        node = self.engine.nodes.get(data["routine"])
        if node is None or data["slot"] not in node.inlets:
            raise JournalError(
                0,
                f"job {printable(self.run.job_id)}: work is left for routine {printable(data['routine'])!r}, slot "
                f"{printable(data['slot'])!r}, which the flow no longer has: put it back, or flow.abandon() the job",
            )
        if node.per_job:
            node = self.run.node_for(node)
        return node.inlets[data["slot"]]

    def _payload(self, data: Any, what: str) -> dict[str, Any]:
        return self.reading.payload(data, f"job {printable(self.run.job_id)}: {what}")

    def _states(self) -> None:
        for key, text in self.saved.kinds["state"].items():
            node = self.engine.nodes.get(key.name)
            if node is None or not node.per_job:
                continue  # the flow was changed
            twin = self.run.node_for(node)
            twin.make()
            self.reading.give_state(twin.routine, key.name, self.reading.load(text))
            self.book.own[key.name] = text

    def _slots(self) -> None:
        slots = self.run.slots
        for text in self.saved.kinds["merged"].values():
            data = self.reading.load(text)
            slots.merged[self._inlet(data)] = self._payload(data["merged"], "what a slot has merged")
        for text in self.saved.kinds["appended"].values():  # in the order of their numbers
            data = self.reading.load(text)
            inlet = self._inlet(data)
            merge = inlet.merge
            if merge is None:
                continue  # the flow was changed
            slots.merged[inlet] = merge(slots.merged.get(inlet, {}), self._payload(data["merged"], "what was appended"))
        called = {number for row in self.pending.values() for number in row.get("gathered", ())}
        for number, data in self.arrivals.items():
            if number in called:
                continue
            inlet = self._inlet(data)
            slots.arrivals.setdefault(inlet, []).append(self._payload(data["payload"], "what has arrived"))
            if data["cause"] and self.run.keeps_causes:
                slots.causes.setdefault(inlet, []).append(data["cause"])
            self.book.slots.setdefault(inlet, []).append(number)

    def _item(self, number: int, row: Mapping[str, Any]) -> Item:
        inlet = self._inlet(row)
        if "gathered" in row:
            mine = [self.arrivals[each] for each in row["gathered"]]
            payloads = [self._payload(each["payload"], "what has arrived") for each in mine]
            self.book.calls[number] = list(row["gathered"])
            payload: dict[str, Any] = {GATHERED: payloads, CAUSES: tuple(each["cause"] for each in mine)}
        else:
            payload = self._payload(row["payload"], f"activation {number}")
        return inlet, payload, self.run, number, row["cause"], perf_counter()

    def _in_doubt(self, items: list[Item], marks: Sequence[Mark] | None) -> None:
        for inlet, payload, _, number, _, _ in items:
            again = self.waiting.get(number)
            mark = Mark(self.book.job_crc, number, 1 if again is None else again["attempt"])
            if marks is None or mark in marks:
                keys = dict.fromkeys(key for each in payload.get(GATHERED, (payload,)) for key in each)
                key = key_of(self.run.job_id, number)
                self.book.in_doubt.append(InDoubt(inlet.node.routine_id, inlet.name, key, tuple(keys)))

    def queue(self, items: list[Item]) -> list[Item]:
        """Queue what is left, in the order posted; return what is not to be called again by itself. Under the lock."""
        run, refused = self.run, []
        doubted = {each.key for each in self.book.in_doubt}
        now = time()
        for item in items:
            inlet, payload, _, number, cause, posted = item
            again = self.waiting.get(number)
            if again is not None and again["merged"]:
                run.retries.merged.add(number)
                self.book.appended.add(number)
            settings = inlet.node.routine.__routilux_settings__
            if settings.on_crash == "fail" and key_of(run.job_id, number) in doubted:
                refused.append(item)
            elif again is not None and number not in self.fates:
                # The clock may have been set meanwhile: nothing waits for longer than it was to.
                left = min(max(0.0, again["due"] - now), again["delay"])
                run.retries.take_up(item, again["attempt"], left)
            else:
                run.put(inlet, payload, number, cause, posted)
        return refused

    def refuse(self, items: list[Item]) -> None:
        """Let calls fail that ran when the process died, and are not to be made twice. Outside the lock."""
        run = self.run
        for item in items:
            node = item[INLET].node
            error = CallInDoubt(
                f"routine {node.routine_id!r}, slot {item[INLET].name!r}: the call ran when its process died, and may "
                f"have done its work; its key was {key_of(run.job_id, item[NUMBER])!r}. on_crash='fail' keeps it from "
                "being made again by itself: flow.recover(job_id, retry_failed=True) does it"
            )
            failure, decision = run.ledger.failure(item, error), Decision(ErrorStrategy.STOP)
            try:
                decision = decide(failure, run)
                if decision.strategy is ErrorStrategy.RETRY:
                    decision = Decision(failure.policy.after_retries)
                decision = carry_out(run, item, failure, decision)
            finally:
                with self.engine.step(run):
                    outcome = OUTCOMES.get(decision.strategy, FAILED)
                    run.ledger.record(item, outcome, 0, item[POSTED], item[POSTED])
                    run.settle(item, outcome, 0.0, permit=False)
