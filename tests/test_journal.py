"""Jobs with a journal: what is left of them is on disk, and another process goes on with exactly that."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from journal.damage import SmallJournal, damaged, damaged_at_once, each_statement_raises, outcome
from journal.everything import JOB, effects, make_flow, result, state_of, work
from journal.moments import Moments, quick_folder
from places import CHECKOUT, SUPPORT
from routilux_core import ConfigurationError, Flow, FlowStateError, JournalError, Routine, event, hookimpl, slot
from routilux_core._journal.sqlite import SqliteJournal
from routilux_core.errors import SerializationError, UnknownNameError
from routilux_core.journal import Key, Mark

STRATEGIES = ("sequential", "concurrent", "asyncio", "process")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EFFECTS", str(tmp_path / "effects"))
    return tmp_path / "jobs.db"


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("durability", ["sync", "async"])
def test_a_journal_changes_nothing_of_the_result(strategy: str, durability: str, file: Path) -> None:
    with make_flow(None, strategy) as flow:
        job = flow.run("source", {"count": 6})
        expected = result(flow, job), state_of(flow, job)
    with make_flow(file, strategy, durability) as flow:
        job = work(flow, 6)
        assert (result(flow, job), state_of(flow, job)) == expected


@pytest.mark.parametrize("strategy", ["sequential", "asyncio"])
def test_a_job_is_kept_where_an_event_loop_awaits_it(strategy: str, file: Path) -> None:
    with make_flow(None, strategy) as flow:
        expected = result(flow, flow.run("source", {"count": 6}))

    async def awaited() -> dict[str, Any]:
        async with make_flow(file, strategy) as flow:
            if strategy == "asyncio":
                flow.set_execution_strategy("asyncio", 3, {"loop": "running"})
            return result(flow, await flow.arun("source", {"count": 6}, job_id=JOB))

    assert asyncio.run(awaited()) == expected
    assert asyncio.run(awaited()) == expected


def test_a_job_of_an_id_that_has_ended_is_not_done_again(file: Path) -> None:
    with make_flow(file) as flow:
        first = result(flow, work(flow, 6))
        done = effects()
        assert result(flow, work(flow, 6)) == first
    with make_flow(file) as flow:
        again = flow.execute("source", {"count": 6}, job_id=JOB)
        assert result(flow, again) == first
    assert effects() == done


def test_a_flow_without_an_id_has_the_name_of_its_journal(file: Path) -> None:
    with Flow(journal=file) as flow:
        assert flow.flow_id == "jobs"


WORLD = {"dies at": 0, "broken": False}  # outside of the routines: no journal has it


class Steps(Routine):
    """Counts to a number, a call for each step; ends the program at one of them, the first time."""

    at: int = 0
    next = event("n", "left")

    @slot
    def step(self, n: int, left: int) -> None:
        if n == WORLD["dies at"]:
            WORLD["dies at"] = 0
            raise KeyboardInterrupt
        self.at = n
        if left:
            self.emit("next", n=n + 1, left=left - 1)


def steps(file: Path) -> Flow:
    flow = Flow("steps", journal=file)
    flow.add_routine(Steps(), "steps")
    flow.connect("steps", "next", "steps", "step")
    return flow


def interrupted(file: Path) -> None:
    WORLD["dies at"] = 4
    with pytest.raises(KeyboardInterrupt), steps(file) as flow:
        flow.run("steps", {"n": 1, "left": 5}, job_id=JOB)


def test_a_job_that_was_interrupted_is_refused_by_name_until_it_is_recovered(file: Path) -> None:
    interrupted(file)
    with steps(file) as flow:
        with pytest.raises(FlowStateError, match=JOB):
            flow.execute("steps", {"n": 1, "left": 5})
        [job] = flow.recover()
        assert job.status == "completed"
        assert job.ledger.completed == 6
        assert flow.routines["steps"].at == 6
        assert flow.execute("steps", {"n": 1, "left": 1}).status == "completed"


def test_the_call_that_ran_is_in_doubt(file: Path) -> None:
    interrupted(file)
    with steps(file) as flow:
        [job] = flow.recover(JOB)
        assert [(each.routine_id, each.slot, each.key) for each in job.in_doubt] == [("steps", "step", f"{JOB}:4")]
        assert job.in_doubt[0].payload_keys == ("n", "left")


class Pays(Steps, on_crash="fail"):
    pass


def test_a_call_in_doubt_fails_where_its_routine_says_so_and_is_made_when_asked(file: Path) -> None:
    def flow_of() -> Flow:
        flow = Flow("pays", journal=file)
        flow.add_routine(Pays(), "pays")
        flow.connect("pays", "next", "pays", "step")
        return flow

    WORLD["dies at"] = 4
    with pytest.raises(KeyboardInterrupt), flow_of() as flow:
        flow.run("pays", {"n": 1, "left": 5}, job_id=JOB)
    with flow_of() as flow:
        [job] = flow.recover()
        assert job.status == "failed"
        assert "may have done its work" in str(job.errors[0].exception)
        assert flow.routines["pays"].at == 3
    with flow_of() as flow:
        assert flow.recover() == []
        [job] = flow.recover(JOB, retry_failed=True)
        assert job.status == "completed"
        assert not job.errors
        assert flow.routines["pays"].at == 6


def test_a_job_that_is_given_up_is_cancelled(file: Path) -> None:
    interrupted(file)
    with steps(file) as flow:
        job = flow.abandon(JOB)
        assert job.status == "cancelled"
        assert (job.ledger.completed, job.ledger.discarded) == (3, 1)
        assert flow.execute("steps", {"n": 1, "left": 0}).status == "completed"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_paused_job_is_recovered_as_paused(strategy: str, file: Path) -> None:
    with make_flow(None, strategy) as flow:
        job = flow.run("source", {"count": 6})
        expected = result(flow, job)
    (file.parent / "effects").unlink()
    with make_flow(file, strategy) as flow:
        job = _paused(flow)
    with make_flow(file, strategy) as flow:
        [job] = flow.recover()
        assert job.status == "paused"
        assert job.reason == "lunch"
        assert len(effects()) == 1
        job.resume()
        assert job.wait(30)
        assert result(flow, job) == expected


class Pauses:
    """Pauses all jobs of a flow when a number of calls have begun."""

    def __init__(self, flow: Flow, after: int) -> None:
        self.flow, self.after, self.calls = flow, after, itertools.count(1)
        flow._runtime.plugins.add(self)

    @hookimpl
    def routilux_activation_started(self, activation: Any) -> None:
        if next(self.calls) == self.after:
            self.flow.pause("lunch")


def _paused(flow: Flow) -> Any:
    """Return a job that is paused in its first call, when that has ended."""
    Pauses(flow, 1)
    job = flow.execute("source", {"count": 6}, job_id=JOB)
    while job.activity.running or job.ledger.completed < 1:
        time.sleep(0.001)
    return job


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_listeners_are_told_of_what_is_emitted(strategy: str, file: Path) -> None:
    told: list[tuple[str, str]] = []

    class Listens:
        @hookimpl
        def routilux_event_emitted(self, emission: Any) -> None:
            told.append((emission.routine_id, emission.event))

    with make_flow(file, strategy) as flow:
        flow._runtime.plugins.add(Listens())
        job = work(flow, 6)
        emitted = job.ledger.emitted
    assert len(told) == emitted
    assert ("report", "total") in told


class Fails(Routine):
    """Fails until it is mended."""

    seen: int = 0
    out = event("n")

    @slot
    def work(self, n: int) -> None:
        if WORLD["broken"] and n >= 2:
            raise ValueError(f"{n} can't be done yet")
        self.seen += 1
        self.emit("out", n=n)


class Counts(Routine):
    out = event("n")

    @slot
    def begin(self, count: int) -> None:
        for n in range(count):
            self.emit("out", n=n)


def failing(file: Path, policy: str, broken: bool) -> Flow:
    WORLD["broken"] = broken
    flow = Flow("failing", journal=file, error_handler=policy)
    flow.add_routine(Counts(), "counts")
    flow.add_routine(Fails(), "fails")
    flow.connect("counts", "out", "fails", "work")
    flow.add_output("fails", "out")
    return flow


@pytest.mark.parametrize("policy", ["stop", "continue"])
def test_what_has_failed_or_was_discarded_is_done_again_when_asked(policy: str, file: Path) -> None:
    with failing(file, policy, broken=True) as flow:
        job = flow.run("counts", {"count": 5}, job_id=JOB)
        assert job.status == ("failed" if policy == "stop" else "completed")
        assert len(job.errors) == (1 if policy == "stop" else 3)
    with failing(file, policy, broken=False) as flow:
        assert flow.recover() == []
        with pytest.raises(UnknownNameError):
            flow.recover("another")
        [job] = flow.recover(JOB, retry_failed=True)
        assert job.status == "completed"
        assert [each["n"] for each in job.outputs["fails.out"]] == [0, 1, 2, 3, 4]
        assert not job.errors
        assert job.ledger.completed == 6


def test_what_can_not_be_kept_fails_the_call_that_emits_it_by_path(file: Path) -> None:
    def emits() -> Any:
        return {"rows": [1, sys]}

    with Flow("bad", journal=file) as flow:
        flow.add(emits, "emits")
        job = flow.run("emits")
        assert job.status == "failed"
        assert isinstance(job.errors[0].exception, SerializationError)
        assert "payload" in str(job.errors[0].exception)
        with pytest.raises(SerializationError, match="entry_params"):
            flow.execute("emits", {"x": sys})
        assert flow.run("emits", {}).status == "failed"


def test_a_changed_flow_is_refused_by_its_differences(file: Path) -> None:
    interrupted(file)

    def changed() -> Flow:
        flow = steps(file)
        flow.add_routine(Counts(), "counts")
        return flow

    with changed() as flow:
        with pytest.raises(JournalError, match="routine 'counts' is new"):
            flow.recover()
        [job] = flow.recover(accept_changes=True)
        assert job.status == "completed"


def test_pending_work_of_a_routine_that_is_gone_is_refused(file: Path) -> None:
    interrupted(file)
    with Flow("steps", journal=file) as flow:
        flow.add_routine(Counts(), "counts")
        with pytest.raises(JournalError, match="no longer has"):
            flow.recover(accept_changes=True)
    with steps(file) as flow:  # nothing was lost by that
        assert flow.recover()[0].status == "completed"


def test_a_second_opener_is_refused_with_who_has_the_journal(file: Path) -> None:
    with steps(file) as flow:
        flow.run("steps", {"n": 1, "left": 0})
        with steps(file) as other, pytest.raises(JournalError, match="this process"):
            other.execute("steps", {"n": 1, "left": 0})
        code = f"from routilux_core import Flow\nFlow('x', journal={str(file)!r}).recover()"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert f"process {os.getpid()}" in done.stderr
    with steps(file) as other:
        assert other.execute("steps", {"n": 1, "left": 0}).status == "completed"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b"not a database" * 100), "is no SQLite file"),
        (lambda path: path.mkdir(), "is no file"),
        (lambda path: sqlite3.connect(path).execute("CREATE TABLE mine (x)").connection.close(), "something else"),
    ],
)
def test_what_is_no_journal_is_refused_and_stays(make: Callable[[Path], Any], message: str, file: Path) -> None:
    make(file)
    before = file.read_bytes() if file.is_file() else b""
    with steps(file) as flow, pytest.raises(JournalError, match=message):
        flow.execute("steps", {"n": 1, "left": 0})
    assert (file.read_bytes() if file.is_file() else b"") == before


def test_a_journal_in_a_folder_that_is_not_there_names_the_folder(tmp_path: Path) -> None:
    with steps(tmp_path / "away" / "jobs.db") as flow, pytest.raises(JournalError, match=r"no folder '.*away'"):
        flow.execute("steps", {"n": 1, "left": 0})


def test_a_newer_journal_is_refused(file: Path) -> None:
    with steps(file) as flow:
        flow.run("steps", {"n": 1, "left": 0})
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with steps(file) as flow, pytest.raises(JournalError, match="version 99"):
        flow.recover()


@pytest.mark.parametrize("settings", [{"journal": 3}, {"journal": ""}, {"journal": "x.db", "durability": "fast"}])
def test_settings_that_can_not_work_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises((ConfigurationError, UnknownNameError)):
        Flow("bad", **settings)


def test_recover_without_a_journal_is_refused() -> None:
    with Flow("none") as flow, pytest.raises(FlowStateError, match="journal="):
        flow.recover()


class Sends(Routine):
    out = event("n")

    @slot
    def begin(self) -> None:
        for n in range(100):
            self.emit("out", n=n)


class Takes(Routine, stateless=True):
    @slot
    def take(self, n: int) -> None: ...


class Doubts(SqliteJournal):
    """Knows the most calls that were ever marked, and not on disk as ended; each ends a row that was there before."""

    begun = over = most = 0

    def mark(self, place: int, mark: Mark) -> None:
        super().mark(place, mark)
        with self.lock:
            self.begun += 1
            self.most = max(self.most, self.begun - self.over)

    def commit(self, rows: Any, ended: Any = ()) -> None:
        super().commit(rows, ended)
        with self.lock:
            self.over += sum(key.kind == "activation" and value is None for key, value in rows.items())

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.lock = threading.Lock()


@pytest.mark.parametrize("workers", [1, 4])
def test_of_calls_from_which_nothing_follows_no_more_are_in_doubt_than_there_are_workers(
    workers: int, file: Path
) -> None:
    journal = Doubts(file)
    with Flow("bounded", "concurrent", workers, journal=journal) as flow:
        flow.add_routine(Sends(), "sends")
        flow.add_routine(Takes(), "takes")
        flow.connect("sends", "out", "takes", "take")
        assert flow.run("sends").ledger.completed == 101
    assert journal.begun == journal.over == 101
    assert journal.most <= workers


@pytest.mark.parametrize("capture", ["text", "payload"])
def test_the_record_of_a_job_is_what_it_serializes(capture: str, file: Path) -> None:
    with Flow("written", journal=file, capture=capture) as flow:
        flow.add_routine(Sends(), "sends")
        flow.add_routine(Takes(), "täkes")
        flow.add_routine(Takes(), "takes")
        for target in ("takes", "täkes"):
            flow.connect("sends", "out", target, "take")
        job = flow.run("sends")
    connection = sqlite3.connect(file)
    [[text]] = connection.execute("SELECT value FROM rows WHERE kind = 'record'")
    connection.close()
    assert json.loads(text) == job.serialize()


def without_checks() -> dict[str, str]:
    """Return the environment of a program that forks: a look whether the lock is held is not made for that."""
    kept = {name: value for name, value in os.environ.items() if name != "ROUTILUX_CHECK_LOCKS"}
    return {**kept, "PYTHONPATH": str(SUPPORT)}


def killed(*arguments: object) -> str:
    """Return what the program says that kills."""
    with quick_folder() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "journal.killing", str(folder), *map(str, arguments)],
            cwd=SUPPORT, env=without_checks(), capture_output=True, text=True,
        )  # fmt: skip
    return done.stdout + done.stderr


@pytest.mark.once
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_kill_at_any_step_costs_nothing(strategy: str) -> None:
    said = killed(strategy, "sync", 2, 41 if strategy == "process" else 13)
    assert said.endswith(" 0 wrong\n")
    assert int(said.split()[0]) > 3


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("durability", ["sync", "async"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_kill_at_each_step_of_60_activations_costs_nothing(strategy: str, durability: str) -> None:
    shares = os.cpu_count() or 1
    with ThreadPoolExecutor(shares) as threads:
        firsts = range(1, shares + 1)
        said = list(threads.map(lambda first: killed(strategy, durability, 21, shares, first), firsts))
    print(said)
    assert all(each.endswith(" 0 wrong\n") for each in said), said
    assert sum(int(each.split()[0]) for each in said) > 100


@pytest.mark.once
def test_a_statement_that_raises_fails_the_job_and_loses_nothing(file: Path) -> None:
    (file.parent / "raising").mkdir()
    for number, told, goes_on in each_statement_raises(file.parent / "raising", "sequential", 13):
        assert told in ("told", "completed"), number  # what raises when the journal is closed costs nothing
        assert goes_on, number


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_statement_that_raises_fails_the_job_and_loses_nothing(strategy: str, when: str, file: Path) -> None:
    (file.parent / "raising").mkdir()
    found = list(each_statement_raises(file.parent / "raising", strategy, 1, when))
    assert [each for each in found if each[1] not in ("told", "completed") or not each[2]] == []
    assert len(found) > 40


def test_a_full_disk_fails_the_job_which_goes_on_when_there_is_room(file: Path) -> None:
    with make_flow(None) as flow:
        expected = result(flow, flow.run("source", {"count": 40}))
    small = SmallJournal(file)
    with make_flow(small) as flow:
        work(flow, 1)
    small.pages = 5
    with make_flow(small) as flow:
        job = flow.run("source", {"count": 40}, job_id="large")
        assert job.status == "failed"
        assert any(isinstance(each.exception, JournalError) for each in job.errors)
        assert "recover" in str(job.errors[-1].exception)
    with make_flow(file) as flow:
        job = flow.execute("source", {"count": 40}, job_id="large")
        assert result(flow, job) == expected


def test_a_file_that_is_deleted_while_it_is_in_use_fails_the_job(file: Path) -> None:
    journal = SmallJournal(file, before=lambda count: file.unlink() if count == 40 else None)
    assert outcome(journal, "sequential") == "told"


@pytest.mark.once
def test_a_damaged_journal_is_refused_or_gives_an_equal_result(file: Path) -> None:
    (file.parent / "damaged").mkdir()
    found = damaged(file.parent / "damaged", 20, seed=1)
    assert found.keys() <= {"refused", "refused later", "equal"}


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_10_000_damaged_journals_are_refused_or_give_an_equal_result(file: Path) -> None:
    (file.parent / "damaged").mkdir()
    found = damaged_at_once(file.parent / "damaged", 10_000, seed=2)
    print(found)
    assert {"refused", "equal"} <= found.keys() <= {"refused", "refused later", "equal"}


def test_a_journal_of_version_1_is_gone_on_with(file: Path) -> None:
    with make_flow(None) as flow:
        expected = result(flow, flow.run("source", {"count": 5}))
    file.write_bytes((CHECKOUT / "tests" / "data" / "journal-1.db").read_bytes())  # of a process that was killed
    with make_flow(file) as flow:
        [job] = flow.recover()
        assert job.ledger.posted > 0
        assert job.in_doubt  # nothing says which calls ran: any of those that were pending
        assert result(flow, job) == expected


def test_of_several_that_recover_at_once_one_does(file: Path) -> None:
    file.write_bytes((CHECKOUT / "tests" / "data" / "journal-1.db").read_bytes())
    found: list[Any] = []
    with make_flow(file, "concurrent") as flow:
        threads = [threading.Thread(target=lambda: found.extend(flow.recover())) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert flow.wait_for_completion(60)
    assert [job.status for job in found] == ["completed"]


@pytest.mark.parametrize("step", [86_400, -86_400])
def test_a_clock_that_is_set_by_a_day_lets_nothing_wait_for_that(step: int, file: Path) -> None:
    file.write_bytes((CHECKOUT / "tests" / "data" / "journal-1.db").read_bytes())
    journal = SqliteJournal(file)
    journal.open(True)
    row = json.dumps({"attempt": 2, "due": time.time() - step, "delay": 0.01, "merged": False})
    [line] = [json.loads(text) for _, text in journal.read(JOB, "job")]
    pending = [key.number for key, text in journal.read(JOB, "activation") if '"log"' in text]
    line["sizes"]["retry"] = 1
    line["began_at"] = time.time() - step
    journal.commit({Key(JOB, "retry", pending[0]): row, Key(JOB, "job"): json.dumps(line)})
    journal.close(in_doubt=True)
    before = time.time()
    with make_flow(file) as flow:
        [job] = flow.recover()
        assert job.wait(60)
        assert job.status == "completed"
        assert job.started_at == line["began_at"]
        assert job.ended_at is not None
        assert job.ended_at >= max(before, job.started_at) - 1.0
        found = flow.execute("source", {"count": 5}, job_id=JOB)
        assert found.ended_at == job.ended_at


def paused_and_recovered(file: Path, strategy: str, seed: int) -> dict[str, Any]:
    """Return the result of a job that is paused at some moment, left, recovered in another flow, and resumed."""
    dice = random.Random(seed)
    with make_flow(file, strategy) as flow:
        Pauses(flow, dice.randrange(1, 30))
        job = flow.execute("source", {"count": 6}, job_id=JOB)
        while not job.wait(0.01) and job.status != "paused":
            pass  # a job that is paused while its flow is closed would be waited for
        time.sleep(dice.choice((0.0, 0.02)))  # the calls that run then end before the flow is closed, or meanwhile
    with make_flow(file, strategy) as flow:
        for each in flow.recover():
            each.resume()
        return result(flow, work(flow, 6))


def check_pauses(strategy: str, file: Path, count: int) -> None:
    with make_flow(None) as flow:
        expected = result(flow, flow.run("source", {"count": 6}))
    for seed in range(count):
        assert paused_and_recovered(file.with_name(f"{seed}.db"), strategy, seed) == expected, seed


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_pause_changes_nothing(strategy: str, file: Path) -> None:
    check_pauses(strategy, file, 2)


@pytest.fixture(params=STRATEGIES)
def moments(request: pytest.FixtureRequest) -> Moments:
    """A flow of 1,000 events in a program of its own."""
    return Moments(request.param, "sync", 350, without_checks())


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_a_kill_at_any_of_200_moments_of_1000_events_costs_nothing(moments: Moments) -> None:
    found = moments.kills(200, seed=3)
    print(found)
    assert found["gone on with"] > 100
    assert found.keys() <= {"gone on with", "had ended, or not begun"}


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_a_pause_at_any_of_200_moments_changes_nothing(moments: Moments) -> None:
    found = moments.pauses(200, seed=4)
    print(found)
    assert found["paused"] > 100
    assert found.keys() <= {"paused", "completed"}
