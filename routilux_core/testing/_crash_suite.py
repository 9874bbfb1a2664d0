"""CrashSuite: a user's own flow, stopped at every commit of its journal, and gone on with."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar

import pytest

from routilux_core import Flow, JobState, JournalError
from routilux_core._journal.sqlite import SqliteJournal
from routilux_core.journal import Journal, Key, Mark

JOB = "crash-suite"


class StoppingJournal(Journal):
    """A journal behind which the process is dead from some commit on: nothing more is written, whatever runs."""

    def __init__(self, path: Path, last: int | None = None) -> None:
        self._inner, self._last = SqliteJournal(path), last
        self.name, self.where = self._inner.name, self._inner.where
        self.commits = 0
        self.has_stopped = False

    def open(self, durable: bool) -> None:
        self._inner.open(durable)

    def commit(self, rows: Mapping[Key, str | None], ended: Sequence[str] = ()) -> None:
        if self._last is not None and self.commits >= self._last:
            self.has_stopped = True
            raise JournalError(0, f"the process has stopped behind commit {self._last}")
        self._inner.commit(rows, ended)
        self.commits += 1

    def read(self, owner: str | None = None, kind: str | None = None) -> Iterable[tuple[Key, str]]:
        return self._inner.read(owner, kind)

    def close(self, in_doubt: bool = False) -> None:
        self._inner.close(in_doubt or self._last is not None)

    def mark(self, place: int, mark: Mark) -> None:
        self._inner.mark(place, mark)

    def marks(self) -> Sequence[Mark] | None:
        return self._inner.marks()


class CrashSuite:
    """Finds handlers that may not be made again. Subclass it in a test module, and say what is tested::

        class TestPrices(CrashSuite):
            entry, params = "names", {"names": ["gold", "tin"]}

            def make_flow(self, journal):
                flow = Flow("prices", journal=journal)
                ...
                return flow

            def outside(self):  # what the flow has done outside, to be compared
                return sorted(self.folder.iterdir())

    The flow runs once to its end. Then it is stopped behind each commit of its journal: the calls that run come to
    their end, and nothing of that is kept, as in a crash at their last moment. Then it is made anew, and goes on.
    Outputs, status, and what `outside` returns have to be what they were. `begin` brings the world outside to its
    start. Where calls run at the same time, what is written in one commit differs from run to run: it goes on until the
    flow comes to its end before it is stopped.
    """

    #: The routine to start at, its parameters, and its slot, as for `Flow.execute`.
    entry: ClassVar[str] = ""
    params: ClassVar[Mapping[str, Any] | None] = None
    slot: ClassVar[str | None] = None
    #: Seconds that one run may take.
    timeout: ClassVar[float] = 60.0

    def make_flow(self, journal: Journal) -> Flow:
        """Return the flow, new, with this journal."""
        pytest.fail(f"{type(self).__name__} needs a method `make_flow(self, journal)` that returns a Flow")

    def begin(self) -> None:
        """Bring the world outside to where it is before the flow runs."""

    def outside(self) -> Any:
        """Return what the flow has done outside."""

    def test_a_crash_behind_any_commit_changes_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "crash.db"
        self.begin()
        expected = self._run(StoppingJournal(path))
        for last in itertools.count(1):
            self.begin()
            path = tmp_path / f"crash-{last}.db"
            stopped = StoppingJournal(path, last)
            self._run(stopped)
            if not stopped.has_stopped:
                break
            found = self._run(StoppingJournal(path))
            for what, value in expected.items():
                if found[what] != value and what != "in doubt":
                    again = ", ".join(found["in doubt"]) or "no calls"
                    pytest.fail(
                        f"stopped behind commit {last}, and gone on with, the {what} is "
                        f"{found[what]!r}, and not {value!r}. Made again were: {again}; let "
                        "them recognise that, by self.activation.key"
                    )

    def _run(self, journal: Journal) -> dict[str, Any]:
        with self.make_flow(journal) as flow:
            try:
                job: JobState | None = flow.execute(self.entry, self.params, slot=self.slot, job_id=JOB)
            except JournalError:  # stopped before it had begun
                job = None
            if job is not None and not job.wait(self.timeout):
                pytest.fail(f"the job was not done after {self.timeout:g} s: {job.explain()}")
        outputs: dict[str, list[str]] = {}
        if job is not None:
            outputs = {name: sorted(map(repr, payloads)) for name, payloads in job.outputs.items()}
        return {
            "status": None if job is None else job.status,
            "output": outputs,
            "world outside": deepcopy(self.outside()),
            "in doubt": [] if job is None else [f"{each.routine_id}.{each.slot} ({each.key})" for each in job.in_doubt],
        }
