"""What a journal says of files that were cut, changed or taken away, and of a disk that takes no more."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from journal.damage import COUNT, killed, limited, put_back
from journal.everything import JOB, effects, make_flow, result, work
from journal.moments import quick_folder
from places import CHECKOUT, SUPPORT
from routilux_core import ErrorHandler, ErrorStrategy, Flow, JournalError, Routine, event, slot
from routilux_core._journal.sqlite import SqliteJournal
from routilux_core.journal import Key, Mark

pytestmark = pytest.mark.once

STRATEGIES = ("sequential", "concurrent")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EFFECTS", str(tmp_path / "effects"))
    return tmp_path / "jobs.db"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5000])


def changed(at: int) -> Callable[[Path], Any]:
    """Return what changes a bit of a file."""

    def change(path: Path) -> None:
        raw = path.read_bytes()
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 8]) + raw[at + 1 :])

    return change


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, bytes]]:
    """The files of a job whose process was killed."""
    folder = tmp_path_factory.mktemp("killed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EFFECTS", str(folder / "effects"))
        patch.delenv("ROUTILUX_CHECK_LOCKS", raising=False)
        yield killed(folder)


@pytest.mark.parametrize("damage", [Path.unlink, cut, changed(16), changed(30_000)])
def test_a_log_of_which_something_is_missing_is_refused(
    damage: Callable[[Path], Any], left: dict[str, bytes], file: Path
) -> None:
    put_back(file.parent, left)
    damage(Path(f"{file}-wal"))
    for _ in range(2):
        with make_flow(file) as flow, pytest.raises(JournalError, match=r"transactions the last .* missing"):
            flow.recover()


def test_what_is_missing_is_done_again_when_asked(left: dict[str, bytes], file: Path) -> None:
    with make_flow(None) as flow:
        expected = result(flow, flow.run("source", {"count": COUNT}))
    put_back(file.parent, left)
    cut(Path(f"{file}-wal"))
    Path(f"{file}-running").unlink()
    with make_flow(file) as flow:
        [job] = flow.recover()
        assert job.wait(30)
        assert result(flow, job) == expected


@pytest.mark.parametrize("damage", [Path.unlink, cut, changed(84), changed(98)])
def test_where_marks_may_be_missing_all_that_is_pending_is_in_doubt(
    damage: Callable[[Path], Any], left: dict[str, bytes], file: Path
) -> None:
    put_back(file.parent, left)
    begun = {line.split()[0] for line in effects()}
    with make_flow(file) as flow:
        [job] = flow.recover()
        known = [each.key for each in job.in_doubt]
        job.wait(30)
    put_back(file.parent, left)
    damage(Path(f"{file}-running"))
    with make_flow(file) as flow:
        [job] = flow.recover()
        assert {each.key for each in job.in_doubt} > set(known)
        job.wait(30)
        new = {line.split()[0] for line in effects()} - begun
        numbers = sorted(int(key.rpartition(":")[2]) for key in new)
        assert numbers[-1] > 1_000_000  # some may have begun that nobody knows of: a key is given once


class Full(SqliteJournal):
    """A journal beside which there is no room for marks."""

    def mark(self, place: int, mark: Mark) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


class Adds(Routine):
    total: int = 0
    added = event("n")

    @slot
    def add(self, n: int) -> None:
        self.total += n
        self.emit("added", n=n)


@pytest.mark.parametrize("kilobytes", [4, 40, 80])
def test_where_a_file_may_be_no_longer_the_job_fails_and_goes_on_when_it_may(kilobytes: int, file: Path) -> None:
    assert limited(file.parent, "sequential", kilobytes * 1024) == ("told", True)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_however_long_a_file_may_be_nothing_is_lost(strategy: str, file: Path) -> None:
    found = [limited(file.parent, strategy, 1000 * number) for number in range(1, 200)]
    assert {told for told, _ in found} == {"told", "completed"}
    assert all(goes_on for _, goes_on in found)


@pytest.mark.parametrize(("folder_mode", "mode"), [(0o777, 0o444), (0o555, 0o666), (0o777, 0o000), (0o555, None)])
def test_what_may_not_be_written_is_refused_and_stays(folder_mode: int, mode: int | None) -> None:
    with quick_folder() as folder:
        file = folder / "jobs.db"
        if mode is not None:
            with Flow("everything", journal=file) as flow:
                flow.add_routine(Adds(), "adds")
                flow.run("adds", {"n": 1})
            file.chmod(mode)
        before = {each.name: each.read_bytes() for each in folder.iterdir() if mode}
        folder.chmod(folder_mode)
        done = subprocess.run(
            [sys.executable, "-m", "journal.guest", str(folder), "3"],
            cwd=SUPPORT,
            env={**os.environ, "PYTHONPATH": str(SUPPORT), "EFFECTS": os.devnull},
            capture_output=True,
            text=True,
        )
        folder.chmod(0o777)
        assert done.stdout.startswith("refused: journal"), done.stderr
        assert str(file) in done.stdout
        assert {each.name: each.read_bytes() for each in folder.iterdir() if mode} == before


@pytest.mark.parametrize("lock", ["BEGIN", "BEGIN IMMEDIATE"])
def test_a_file_that_a_tool_reads_or_writes_is_refused_until_it_has_done(lock: str, file: Path) -> None:
    with make_flow(file) as flow:
        expected = result(flow, work(flow, 1))
        tool = sqlite3.connect(file, timeout=0)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            tool.execute("SELECT count(*) FROM rows")
        tool.close()
    tool = sqlite3.connect(file, isolation_level=None)
    tool.execute(lock)
    tool.execute("SELECT count(*) FROM rows").fetchall()
    with make_flow(file) as flow, pytest.raises(JournalError, match="in use by another process"):
        work(flow, 1)
    tool.close()
    with make_flow(file) as flow:
        assert result(flow, work(flow, 1)) == expected


def test_of_several_processes_that_recover_at_once_one_does(file: Path) -> None:
    file.write_bytes((CHECKOUT / "tests" / "data" / "journal-1.db").read_bytes())
    programs = [
        subprocess.Popen(
            [sys.executable, "-m", "journal.program", str(file), "sequential", "5", "sync"],
            cwd=SUPPORT,
            env={**os.environ, "PYTHONPATH": str(SUPPORT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    recovered = 0
    for program in programs:
        said, error = program.communicate()
        if program.returncode:
            assert "is in use by process" in error or "is in use by another process" in error
        else:
            recovered += json.loads(said.splitlines()[-1])["recovered"]
    assert recovered == 1
    assert set(Counter(effects()).values()) == {1}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("policy", [ErrorStrategy.CONTINUE, ErrorStrategy.RETRY])
def test_a_call_that_can_not_be_marked_is_not_made(strategy: str, policy: ErrorStrategy, file: Path) -> None:
    def make(journal: Any) -> Flow:
        flow = Flow("adds", strategy, journal=journal)
        adds = Adds()
        adds.set_error_handler(ErrorHandler(policy))
        flow.add_routine(adds, "adds")
        return flow

    with make(Full(file)) as flow:
        job = flow.run("adds", {"n": 3}, job_id=JOB)
        assert job.status == "failed"
        assert [type(each.exception) for each in job.errors] == [JournalError]
        assert flow.routines["adds"].total == 0
    with make(file) as flow:
        [job] = flow.recover()
        assert job.wait(30)
        assert job.status == "completed"
        assert flow.routines["adds"].total == 3


CALLED: dict[str, set[str]] = {}  # by key
ORDER = ["a", "b", "c"]


class Letters(Routine):
    letter = event("name")

    @slot
    def begin(self) -> None:
        for name in ORDER:
            self.emit("letter", name=name)


class Takes(Routine, stateless=True):
    was_called = threading.Event()

    @slot
    def take(self, name: str) -> None:
        CALLED.setdefault(self.activation.key, set()).add(name)
        self.was_called.set()


class Loses(SqliteJournal):
    """A journal that loses what came after its first commit, when calls have been made that came from that."""

    commits = 0

    def commit(self, rows: Mapping[Key, str | None], ended: Sequence[str] = ()) -> None:
        self.commits += 1
        if self.commits > 1:
            assert Takes.was_called.wait(60)
            raise OSError(errno.EIO, "I/O error")
        super().commit(rows, ended)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_key_is_never_given_to_another_call(strategy: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(journal: Any) -> Flow:
        flow = Flow("letters", strategy, journal=journal, durability="async")
        flow.add_routine(Letters(), "letters")
        flow.add_routine(Takes(), "takes")
        flow.connect("letters", "letter", "takes", "take")
        return flow

    CALLED.clear()
    Takes.was_called.clear()
    with make(Loses(file)) as flow:
        assert flow.run("letters", job_id=JOB).status == "failed"
    assert CALLED
    monkeypatch.setattr(f"{__name__}.ORDER", ["c", "b", "a"])
    with make(file) as flow:
        [job] = flow.recover()
        assert job.wait(30)
        assert job.status == "completed"
    assert {key: len(names) for key, names in CALLED.items()} == dict.fromkeys(CALLED, 1)
    assert set().union(*CALLED.values()) == {"a", "b", "c"}
