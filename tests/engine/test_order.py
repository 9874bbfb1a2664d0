"""Order: one call of a routine with state at a time, over all jobs, in the order its direct upstream emitted."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from routilux_core import ErrorHandler, Flow, JobState, Routine, event, field, slot

pytestmark = pytest.mark.in_processes_too

MakeFlow = Callable[..., Flow]
SECONDS = 60.0


@pytest.fixture(autouse=True)
def short_switches() -> Iterator[None]:
    """Let threads take turns as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Source(Routine):
    item = event("who", "n")

    def __call__(self, who: int, count: int) -> None:
        for n in range(count):
            self.emit("item", who=who, n=n)


class Watched(Routine):
    """Has state, and would see two calls at once: it counts without a lock, and knows who is inside."""

    seen: list[tuple[int, int]] = field(factory=list)
    calls: int = 0
    inside: int = 0
    most: int = 0
    passed = event("who", "n")
    other = event("who", "n")

    @slot
    def item(self, who: int, n: int) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        before = self.calls
        self.seen.append((who, n))
        self.emit("passed", who=who, n=n)
        self.calls = before + 1
        self.inside -= 1

    @slot
    def other_item(self, who: int, n: int) -> None:
        self.item(who, n)


class Relay(Routine, stateless=True):
    passed = event("who", "n")

    @slot
    def item(self, who: int, n: int) -> None:
        self.emit("passed", who=who, n=n)


def chain(flow: Flow, length: int) -> list[Watched]:
    """Source -> watched -> watched ..."""
    links = [Watched() for _ in range(length)]
    flow.add_routine(Source(), "source")
    before, out = "source", "item"
    for number, link in enumerate(links):
        flow.add_routine(link, f"link{number}")
        flow.connect(before, out, f"link{number}", "item")
        before, out = f"link{number}", "passed"
    return links


def run(flow: Flow, entry: str = "source", **params: Any) -> JobState:
    job = flow.execute(entry, params)
    assert job.wait(SECONDS), job.explain()
    assert job.errors == []
    return job


@pytest.mark.parametrize("max_pending", [2, 64, 1024])
def test_what_one_call_emits_arrives_in_the_order_emitted(
    make_flow: MakeFlow, strategy: dict[str, Any], max_pending: int
) -> None:
    flow = make_flow(**strategy, max_pending=max_pending)
    links = chain(flow, 3)
    run(flow, who=0, count=1_000)
    expected = [(0, n) for n in range(1_000)]
    assert [link.seen == expected for link in links] == [True] * 3


def test_the_order_holds_over_several_events_and_slots(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    class Alternates(Source):
        odd = event("who", "n")

        def __call__(self, who: int, count: int) -> None:
            for n in range(count):
                self.emit("odd" if n % 2 else "item", who=who, n=n)

    flow, watched = make_flow(**strategy), Watched()
    flow.add_routine(Alternates(), "source")
    flow.add_routine(watched, "watched")
    flow.connect("source", "item", "watched", "item")
    flow.connect("source", "odd", "watched", "other_item")
    run(flow, who=0, count=500)
    assert watched.seen == [(0, n) for n in range(500)]


def test_one_call_at_a_time_from_many_upstreams(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow, watched = make_flow(**strategy), Watched()
    flow.add_routine(Source(), "source")
    flow.add_routine(watched, "watched")
    for number in range(8):
        flow.add_routine(Relay(), f"relay{number}")
        flow.connect("source", "item", f"relay{number}", "item")
        flow.connect(f"relay{number}", "passed", "watched", "item")
    run(flow, who=0, count=200)
    assert (watched.most, watched.calls, len(watched.seen)) == (1, 1_600, 1_600)
    assert sorted(watched.seen) == sorted([(0, n) for n in range(200)] * 8)


def test_one_call_at_a_time_over_all_jobs(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow = make_flow(**strategy, max_pending=16)
    links = chain(flow, 2)
    jobs = [flow.execute("source", {"who": who, "count": 200}) for who in range(6)]
    assert flow.wait_for_completion(SECONDS)
    assert [job.status for job in jobs] == ["completed"] * 6
    for link in links:
        assert (link.most, link.calls) == (1, 1_200)
        for who in range(6):
            assert [n for job, n in link.seen if job == who] == list(range(200))


def test_one_call_at_a_time_also_where_the_entry_is_called_from_many_threads(make_flow: MakeFlow) -> None:
    flow, watched = make_flow(execution_strategy="concurrent", max_workers=8), Watched()
    flow.add_routine(watched, "watched")
    start = threading.Barrier(8, timeout=SECONDS)

    def execute(who: int) -> None:
        start.wait()
        for n in range(25):
            flow.execute("watched", {"who": who, "n": n}, slot="item")

    threads = [threading.Thread(target=execute, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert flow.wait_for_completion(SECONDS)
    assert (watched.most, watched.calls) == (1, 200)
    # One thread's jobs were posted one after the other, so they arrive so.
    for who in range(8):
        assert [n for caller, n in watched.seen if caller == who] == list(range(25))


def test_sequential_is_first_come_first_served(make_flow: MakeFlow) -> None:
    flow, watched = make_flow(), Watched()
    flow.add_routine(Source(), "source")
    flow.add_routine(watched, "watched")
    for name in ("left", "right"):
        flow.add_routine(Relay(), name)
        flow.connect("source", "item", name, "item")
    flow.connect("right", "passed", "watched", "item", {"n": "n", "who": "who"})
    flow.connect("left", "passed", "watched", "item")
    job = run(flow, who=0, count=3)
    order = [(record.routine_id, record.cause) for record in job.get_execution_history()]
    assert [name for name, _ in order] == ["source", *["left", "right"] * 3, *["watched"] * 6]
    assert watched.seen == [(0, 0), (0, 0), (0, 1), (0, 1), (0, 2), (0, 2)]


def test_the_order_holds_behind_a_routine_that_retries(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    class FailsNowAndThen(Watched):
        tries: dict[int, int] = field(factory=dict)

        @slot
        def item(self, who: int, n: int) -> None:
            self.tries[n] = self.tries.get(n, 0) + 1
            if n % 7 == 0 and self.tries[n] < 3:
                raise OSError("again")
            self.emit("passed", who=who, n=n)

    flow, watched, fails = make_flow(**strategy), Watched(), FailsNowAndThen()
    fails.set_error_handler(ErrorHandler("retry", retry_delay=0.0))
    flow.add_routine(Source(), "source")
    flow.add_routine(fails, "fails")
    flow.add_routine(watched, "watched")
    flow.connect("source", "item", "fails", "item")
    flow.connect("fails", "passed", "watched", "item")
    job = flow.execute("source", {"who": 0, "count": 50})
    assert job.wait(SECONDS)
    assert watched.seen == [(0, n) for n in range(50)]
    assert job.ledger.retried == 2 * 8


def test_a_routine_of_its_own_strategy_keeps_the_order_too(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    other = "concurrent" if strategy["execution_strategy"] == "sequential" else "sequential"
    flow, watched, last = make_flow(**strategy), Watched(), Watched()
    flow.add_routine(Source(), "source")
    flow.add_routine(watched, "watched", execution_strategy=other)
    flow.add_routine(last, "last")
    flow.connect("source", "item", "watched", "item")
    flow.connect("watched", "passed", "last", "item")
    run(flow, who=0, count=300)
    assert watched.seen == last.seen == [(0, n) for n in range(300)]


class Keeps(Routine):
    """Keeps what it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    @slot
    def n(self, n: int) -> None:
        self.seen.append(n)


class Alternating(Routine):
    """Emits numbers in turn to two routines, and notes how much waited at most for one of them."""

    odd, even = event("n"), event("n")

    def __init__(self, watched: Keeps) -> None:
        super().__init__()
        self.watched, self.most = watched, 0

    @slot
    def __call__(self, count: int) -> None:
        for n in range(count):
            self.emit("even", n=n)
            self.emit("odd", n=n)
            self.most = max(self.most, n + 1 - len(self.watched.seen))


@pytest.mark.in_this_process("watches a routine of this process")
def test_what_waits_for_a_routine_is_bounded_whatever_else_is_emitted(
    make_flow: MakeFlow, strategy: dict[str, Any]
) -> None:
    odd, even = Keeps(), Keeps()
    flow, source = make_flow(**strategy, max_pending=16), Alternating(odd)
    for routine, name in ((source, "source"), (odd, "odd"), (even, "even")):
        flow.add_routine(routine, name)
    flow.connect("source", "odd", "odd", "n")
    flow.connect("source", "even", "even", "n")
    run(flow, count=10_000)
    assert [each.seen == list(range(10_000)) for each in (odd, even)] == [True, True]
    assert source.most <= 1_024


@pytest.mark.parametrize("max_pending", [1, 4, 64, 1_024])
def test_what_was_emitted_is_handled_while_the_emitter_goes_on(make_flow: MakeFlow, max_pending: int) -> None:
    class Last(Keeps):
        def __init__(self) -> None:
            super().__init__()
            self.all_there = threading.Event()

        @slot
        def n(self, n: int) -> None:
            self.seen.append(n)
            if len(self.seen) == 300:
                self.all_there.set()

    class Goes(Routine, stateless=True):
        item = event("n")

        @slot
        def __call__(self) -> None:
            for n in range(300):
                self.emit("item", n=n)
            assert last.all_there.wait(SECONDS / 2), f"{len(last.seen)} of 300 were handled"

    flow, last = make_flow(execution_strategy="concurrent", max_workers=2, max_pending=max_pending), Last()
    flow.add_routine(Goes(), "source")
    flow.add_routine(last, "last")
    flow.connect("source", "item", "last", "n")
    for _ in range(10):
        last.seen.clear()
        last.all_there.clear()
        run(flow)
        assert last.seen == list(range(300))
