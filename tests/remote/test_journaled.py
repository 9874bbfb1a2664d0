"""Calls that travel, under a journal: what comes home is kept, whatever becomes of workers and of the job."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from routilux_core import Flow, Routine, event, field, slot
from routilux_core.errors import CallInDoubt, SerializationError
from shipped.routines import Source
from shipped.strategies import Mortal

MakeFlow = Callable[..., Flow]
SECONDS = 30.0
COUNT = 60


class Doubles(Routine, stateless=True, on_worker_lost="retry"):
    """Counts its calls; one of them waits, if a test says so."""

    waits_at: ClassVar[int | None] = None
    has_come: ClassVar[threading.Event] = threading.Event()
    may_go: ClassVar[threading.Event] = threading.Event()
    done = event("n")

    @slot
    def n(self, n: int) -> None:
        self.increment_stat("calls")
        if n == self.waits_at:
            self.has_come.set()
            assert self.may_go.wait(SECONDS)
        self.emit("done", n=2 * n)


class Adds(Routine, on_worker_lost="retry"):
    total: int = 0
    seen: list[int] = field(factory=list)

    @slot
    def n(self, n: int) -> None:
        self.total += n
        self.seen.append(n)


def doubling(
    make_flow: MakeFlow, file: Path, durability: str, doubles: Routine | None = None, **settings: Any
) -> tuple[Flow, Mortal]:
    strategy = Mortal(max_workers=3, max_worker_losses=1000, **settings)
    flow = make_flow("doubling", strategy, journal=file, durability=durability)
    flow.add_routine(Source(), "source")
    flow.add_routine(doubles or Doubles(), "doubles")
    flow.add_routine(Adds(), "adds")
    flow.connect("source", "item", "doubles", "n")
    flow.connect("doubles", "done", "adds", "n")
    flow.add_output("doubles", "done")
    return flow, strategy


def check_all_is_done(flow: Flow, job: Any) -> None:
    check_all_was_added(flow, job)
    assert sorted(each["n"] for each in job.results("doubles.done")) == [2 * n for n in range(COUNT)]
    assert flow.routines["doubles"].stats() == {"calls": COUNT}


def check_all_was_added(flow: Flow, job: Any) -> None:
    assert job.wait(SECONDS), job.explain()
    assert job.status == "completed"
    adds: Any = flow.routines["adds"]
    assert sorted(adds.seen) == [2 * n for n in range(COUNT)]
    assert adds.total == COUNT * (COUNT - 1)
    assert job.ledger.completed == 1 + 2 * COUNT


@pytest.mark.parametrize(("durability", "says_which"), [("sync", True), ("async", False)])
def test_lost_workers_cost_nothing(make_flow: MakeFlow, tmp_path: Path, durability: str, says_which: bool) -> None:
    file = tmp_path / "jobs.db"
    flow, _ = doubling(make_flow, file, durability, deaths=0.05, seed=5, says_which=says_which)
    job = flow.execute("source", {"count": COUNT}, job_id="one")
    check_all_is_done(flow, job)
    flow.shutdown()
    assert not Path(f"{file}-running").exists()  # no call is in doubt
    flow, _ = doubling(make_flow, file, durability)
    assert flow.execute("source", {"count": COUNT}, job_id="one").ledger == job.ledger
    assert flow.recover() == []


def test_calls_travel_one_by_one_where_the_disk_is_waited_for(make_flow: MakeFlow, tmp_path: Path) -> None:
    flow, strategy = doubling(make_flow, tmp_path / "sync.db", "sync")
    check_all_is_done(flow, flow.execute("source", {"count": COUNT}))
    assert {size for size, _ in strategy.sizes} == {1}
    assert max(away for _, away in strategy.sizes) <= 3
    flow, strategy = doubling(make_flow, tmp_path / "async.db", "async")
    check_all_is_done(flow, flow.execute("source", {"count": COUNT}))
    assert max(size for size, _ in strategy.sizes) > 1


@pytest.mark.parametrize("durability", ["sync", "async"])
def test_what_a_cancel_has_discarded_is_done_when_it_is_asked_for(
    make_flow: MakeFlow, tmp_path: Path, durability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Doubles, "waits_at", 20)
    Doubles.has_come.clear()
    Doubles.may_go.clear()
    flow, _ = doubling(make_flow, tmp_path / "jobs.db", durability)
    job = flow.execute("source", {"count": COUNT}, job_id="one")
    assert Doubles.has_come.wait(SECONDS)
    job.cancel()
    Doubles.may_go.set()
    assert job.wait(SECONDS), job.explain()
    assert job.status == "cancelled"
    assert job.ledger.discarded > 0
    assert job.ledger.balanced
    flow.shutdown()
    assert not Path(f"{tmp_path / 'jobs.db'}-running").exists()
    flow, _ = doubling(make_flow, tmp_path / "jobs.db", durability)
    [job] = flow.recover("one", retry_failed=True)
    check_all_was_added(flow, job)


class DoublesOnce(Doubles, stateless=True, on_worker_lost="retry", on_crash="fail"):
    pass


def test_what_was_with_a_worker_when_the_program_died_is_in_doubt(
    make_flow: MakeFlow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make() -> Flow:
        return doubling(make_flow, tmp_path / "jobs.db", "sync", doubles=DoublesOnce())[0]

    monkeypatch.setattr(Doubles, "waits_at", 20)
    Doubles.has_come.clear()
    Doubles.may_go.clear()
    flow = make()
    flow.execute("source", {"count": COUNT}, job_id="one")
    assert Doubles.has_come.wait(SECONDS)
    flow._runtime.detach()  # from here on nothing is kept, as after a crash
    Doubles.may_go.set()
    flow.shutdown()
    flow = make()
    [job] = flow.recover()
    assert job.wait(SECONDS), job.explain()
    in_doubt = {each.key for each in job.in_doubt}
    assert "one:22" in in_doubt
    assert len(in_doubt) <= 3  # workers
    assert job.status == "failed"
    assert any(isinstance(each.exception, CallInDoubt) for each in job.errors)
    flow.shutdown()
    flow = make()
    [job] = flow.recover("one", retry_failed=True)
    check_all_was_added(flow, job)
    assert flow.routines["doubles"].stats() == {"calls": COUNT}  # what was in doubt was not counted with another call


class Plain:
    """What can be pickled, and not saved."""


class EmitsPlain(Routine, stateless=True):
    out = event("it")

    @slot
    def n(self, n: int) -> None:
        self.emit("out", it=[Plain()])


def test_what_can_not_be_kept_fails_the_call_that_has_emitted_it(make_flow: MakeFlow, tmp_path: Path) -> None:
    flow = make_flow("plain", Mortal(max_workers=1), journal=tmp_path / "jobs.db")
    flow.add_routine(EmitsPlain(), "emits")
    job = flow.run("emits", {"n": 1}, timeout=SECONDS)
    assert job.status == "failed"
    [failure] = job.errors
    assert isinstance(failure.exception, SerializationError)
    assert "event 'out'" in str(failure.exception)
    assert "it" in str(failure.exception)
