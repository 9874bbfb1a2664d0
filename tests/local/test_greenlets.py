"""Greenlets that take turns in one thread: each emits as itself, and none stops the others."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from typing import Any

import gevent
import gevent.event
import pytest

from routilux_core import ActivationTimeout, EmitError, Flow, JobState, Routine, event, field, slot
from strategies.greenlets import GreenletStrategy

MakeFlow = Callable[..., Flow]
SECONDS = 20.0
NOTED: ContextVar[int] = ContextVar("noted", default=-1)


class Does(Routine, stateless=True):
    """Calls what the test says, with itself and the number."""

    action: Callable[[Any, int], Any]
    sent = event("n")

    @slot
    def n(self, n: int) -> None:
        self.action(self, n)


class DoesInOrder(Does):
    """Has state: one call at a time."""


class Source(Routine):
    item = event("n")

    def __call__(self, count: int) -> None:
        for n in range(count):
            self.emit("item", n=n)


class Keep(Routine):
    seen: list[Any] = field(factory=list)

    @slot
    def n(self, n: Any) -> None:
        self.seen.append(n)


def build(make_flow: MakeFlow, does: Routine, workers: int = 50, **settings: Any) -> tuple[Flow, Keep]:
    """Wire source -> does -> keep."""
    flow, keep = make_flow(execution_strategy=GreenletStrategy(max_workers=workers), **settings), Keep()
    flow.add_routine(Source(), "source")
    flow.add_routine(does, "does")
    flow.add_routine(keep, "keep")
    flow.connect("source", "item", "does", "n")
    flow.connect("does", "sent", "keep", "n")
    return flow, keep


def run(flow: Flow, count: int) -> JobState:
    job = flow.execute("source", {"count": count})
    assert job.wait(SECONDS), job.explain()
    assert job.ledger.balanced
    return job


def test_as_many_greenlets_as_workers_meet_in_one_thread(make_flow: MakeFlow) -> None:
    inside = most = 0
    threads: set[int] = set()
    full = gevent.event.Event()

    def act(self: Does, n: int) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        threads.add(threading.get_ident())
        if inside == 40:
            full.set()
        full.wait()
        inside -= 1

    flow, _ = build(make_flow, Does(action=act), workers=40)
    assert run(flow, 40).status == "completed"
    assert (most, len(threads)) == (40, 1)
    assert threading.get_ident() not in threads


def test_interleaved_greenlets_emit_each_as_itself(make_flow: MakeFlow) -> None:
    here: set[int] = set()
    together = gevent.event.Event()

    def act(self: Does, n: int) -> None:
        here.add(n)
        self.emit("sent", n=n)
        if len(here) == 20:
            together.set()
        together.wait()
        for _ in range(n % 4):
            gevent.sleep(0)
        self.emit("sent", n=n)
        here.discard(n)

    flow, keep = build(make_flow, Does(action=act))
    job = run(flow, 200)
    causes = Counter(record.cause for record in job.get_execution_history("keep"))
    assert causes == {record.id: 2 for record in job.get_execution_history("does")}
    assert Counter(keep.seen) == dict.fromkeys(range(200), 2)


def test_the_variables_of_one_greenlets_call_are_not_anothers(make_flow: MakeFlow) -> None:
    seen: list[int] = []

    def act(self: Does, n: int) -> None:
        seen.append(NOTED.get())
        NOTED.set(n)
        gevent.sleep(0)
        assert NOTED.get() == n

    flow, _ = build(make_flow, Does(action=act))
    assert run(flow, 100).status == "completed"
    assert seen == [-1] * 100


def test_a_greenlet_that_a_handler_spawns_emits_for_it_only_with_its_context(make_flow: MakeFlow) -> None:
    def act(self: Does, n: int) -> None:
        bare = gevent.spawn(refused_to_emit, self, "bare")
        given = gevent.spawn(copy_context().run, self.emit, "sent", n="given")
        gevent.joinall([bare, given], raise_error=True)
        self.emit("sent", n=str(bare.value))

    flow, keep = build(make_flow, Does(action=act))
    assert not run(flow, 1).errors
    assert keep.seen[0] == "given"
    assert "outside a handler" in keep.seen[1]


def test_a_greenlet_that_outlives_its_handler_cant_emit_for_the_next_call(make_flow: MakeFlow) -> None:
    """One worker, one routine: the second call waits for what the first has left behind to have tried."""
    second, left = gevent.event.Event(), []

    def later(self: Does) -> str:
        second.wait()
        return refused_to_emit(self, "stolen")

    def act(self: Does, n: int) -> None:
        if n == 0:
            left.append(gevent.spawn(copy_context().run, later, self))
        else:
            second.set()
            left[0].join()
            self.emit("sent", n=left[0].value)

    flow, keep = build(make_flow, DoesInOrder(action=act), workers=1)
    assert not run(flow, 2).errors
    assert len(keep.seen) == 1
    assert "'does' was called after its handler had ended" in keep.seen[0]


def test_a_thread_of_the_hubs_pool_cant_emit_for_the_handler(make_flow: MakeFlow) -> None:
    def act(self: Does, n: int) -> None:
        pool = gevent.get_hub().threadpool
        self.emit("sent", n=pool.apply(copy_context().run, (refused_to_emit, self, "from a thread")))

    flow, keep = build(make_flow, Does(action=act))
    assert not run(flow, 1).errors
    assert "another thread" in keep.seen[0]


@pytest.mark.parametrize("kind", [Does, DoesInOrder])
def test_emitting_beyond_the_mark_stops_no_other_greenlet(
    make_flow: MakeFlow, kind: type[Does], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source far beyond its mark of 4, and handlers that wait for each other: nobody may nap in the hub's thread."""

    def nap(seconds: float) -> None:
        raise AssertionError("a nap in the thread of all greenlets")

    monkeypatch.setattr("routilux_core._local.backpressure.sleep", nap)

    def act(self: Does, n: int) -> None:
        gevent.sleep(0)
        self.emit("sent", n=n)

    flow, keep = build(make_flow, kind(action=act), workers=5, max_pending=4)
    job = run(flow, 1_000)
    assert job.ledger.completed == 2_001
    assert sorted(keep.seen) == list(range(1_000))


def test_sequential_in_a_greenlet_still_runs_in_its_caller(make_flow: MakeFlow) -> None:
    flow, keep = make_flow(), Keep()
    flow.add_routine(Source(), "source")
    flow.add_routine(keep, "keep")
    flow.connect("source", "item", "keep", "n")
    greenlet = gevent.spawn(flow.run, "source", {"count": 5})
    greenlet.join()
    assert greenlet.value.status == "completed"
    assert keep.seen == list(range(5))
    gevent.get_hub().destroy(destroy_loop=True)


def refused_to_emit(routine: Routine, n: str) -> str:
    """Try to emit, and return what the refusal says."""
    with pytest.raises(EmitError) as refused:
        routine.emit("sent", n=n)
    return str(refused.value)


def test_calls_in_greenlets_are_ended_by_cancel_with_kill(make_flow: MakeFlow) -> None:
    begun, ended = threading.Event(), []

    def waits(routine: Any, n: int) -> None:
        if n == 9:
            begun.set()
        try:
            gevent.sleep(10 * SECONDS)
        finally:
            ended.append(n)

    flow, _ = build(make_flow, Does(action=waits))
    job = flow.execute("source", {"count": 10})
    assert begun.wait(SECONDS)
    job.cancel(kill=True)
    assert job.wait(SECONDS), job.explain()
    assert sorted(ended) == list(range(10))
    assert (job.status, job.ledger.failed, job.ledger.balanced) == ("cancelled", 10, True)
    assert {type(each.exception) for each in job.errors} == {gevent.GreenletExit}


def test_a_call_in_a_greenlet_is_ended_when_its_time_is_over(
    make_flow: MakeFlow, caplog: pytest.LogCaptureFixture
) -> None:
    ended = threading.Event()

    class Limited(Does, timeout=0.05):
        """Its calls may not take long."""

    def waits(routine: Any, n: int) -> None:
        try:
            gevent.sleep(10 * SECONDS if n == 3 else 0)
        except gevent.GreenletExit:
            ended.set()
            raise

    flow, _ = build(make_flow, Limited(action=waits), error_handler="continue")
    job = flow.execute("source", {"count": 6})
    assert job.wait(SECONDS), job.explain()
    assert (job.status, [type(each.exception) for each in job.errors]) == ("completed", [ActivationTimeout])
    assert ended.wait(SECONDS)
    assert flow.execute("source", {"count": 2}).wait(SECONDS)
    assert "has raised" not in caplog.text
