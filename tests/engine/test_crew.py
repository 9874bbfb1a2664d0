"""Whether another worker is wanted: where threads share what waits, only where it helps."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from routilux_core import Flow, Routine, event, slot
from routilux_core._engine import crew as crew_module
from routilux_core._engine.crew import AGAIN_S, LOOK_S, SOME, Crew, Pace
from routilux_core._engine.plan import SHORT_S
from routilux_core._engine.scheduler import lanes_are_safe
from routilux_core._threads.guard import new_lock

PATIENCE = 20.0  # seconds, for what takes some milliseconds

short = SimpleNamespace(short_calls=2, emits_fast=False)
unknown = SimpleNamespace(short_calls=0, emits_fast=False)
emitting = SimpleNamespace(short_calls=0, emits_fast=True)


class Hand:
    """A worker, as far as a crew knows it."""

    shares_thread = False

    def __init__(self) -> None:
        self.made = 0
        self.seat = SimpleNamespace(pace=Pace())

    def untold(self) -> int:
        return self.made


class Place:
    """A scheduler, as far as its crew knows it, with a clock that stands still, and lanes that hold inlets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, workers: int) -> None:
        self.now = 100.0
        monkeypatch.setattr(crew_module, "perf_counter", lambda: self.now)
        self.lane: deque[Any] = deque()
        self.ready = SimpleNamespace(
            first=deque(), queue=deque(), lane=self.lane, shared=True, solo=False, backlog=lambda: len(self.lane)
        )
        self.hands: set[Any] = set()
        self.looks: list[tuple[float, Any]] = []
        timers = SimpleNamespace(add=self._add_look)
        self.deferred: list[Any] = []
        self.engine: Any = SimpleNamespace(timers=timers, deferred=self.deferred)
        self._numbers = itertools.count(1)
        self.crew = Crew(self)
        self.crew.workers = workers

    def submit_worker(self) -> None:
        raise AssertionError("only asked for")

    def _add_look(self, delay: float, call: Any) -> Any:
        self.looks.append((delay, call))
        return SimpleNamespace(
            cancel=self.looks.clear
        )  # there is one at a time, and one that has come is there no more

    def post(self, *inlets: Any) -> None:
        self.lane.extend((inlet, {}, None, next(self._numbers), 0, 0.0) for inlet in inlets)

    def come(self) -> Hand:
        """Let a worker begin its loop."""
        hand = Hand()
        self.hands.add(hand)
        self.crew.begin(hand.seat.pace)
        self.deferred.clear()
        self.crew.recruiting = False
        return hand

    def makes(self, hand: Hand, calls: int, seconds: float) -> None:
        hand.made += calls
        self.now += seconds

    def is_called(self) -> bool:
        """Ask for a worker, and return whether one was called."""
        before = len(self.deferred)
        self.crew.want_worker()
        return len(self.deferred) > before

    def look(self) -> bool:
        """Let the look come that was set, and return whether it has called a worker."""
        [(delay, call)] = self.looks
        assert delay == LOOK_S
        self.looks.clear()
        before = len(self.deferred)
        call()
        return len(self.deferred) > before


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with new_lock():
        yield Place(monkeypatch, workers=4)


def busy(place: Place) -> Hand:
    """Return a worker that has just shown that it is at short calls."""
    hand = place.come()
    place.makes(hand, 100, 100 * SHORT_S / 4)
    return hand


def test_what_nobody_knows_is_worth_a_worker(place: Place) -> None:
    busy(place)
    place.post(unknown, short)
    assert place.is_called()


def test_behind_a_worker_at_short_calls_nobody_is_called_for_another(place: Place) -> None:
    busy(place)
    place.post(short, short)
    assert not place.is_called()
    assert place.crew.held
    assert len(place.looks) == 1
    assert not place.is_called(), "and it is looked at once"
    assert len(place.looks) == 1


@pytest.mark.parametrize("calls", [0, SOME - 1, int(LOOK_S / SHORT_S / 2)])
def test_behind_one_that_takes_its_time_somebody_is(place: Place, calls: int) -> None:
    hand = place.come()
    place.makes(hand, calls, LOOK_S)
    place.post(short)
    assert place.is_called()


def test_the_look_calls_one_when_nothing_goes_on(place: Place) -> None:
    hand = busy(place)
    place.post(short, short)
    assert not place.is_called()
    place.makes(hand, 100, LOOK_S)
    place.lane.popleft()
    assert not place.look(), "it is still at short calls, and has taken one"
    place.makes(hand, 0, LOOK_S)
    place.lane.popleft()
    place.post(short)
    assert place.look(), "it is in one call"
    assert not place.crew.held


def test_the_look_calls_one_when_nothing_was_taken(place: Place) -> None:
    hand = busy(place)
    place.post(short, short)
    assert not place.is_called()
    place.makes(hand, 1000, LOOK_S)  # it emits all the while, and takes nothing
    assert place.look()


def test_the_look_calls_nobody_where_nothing_waits(place: Place) -> None:
    busy(place)
    place.post(short)
    assert not place.is_called()
    place.lane.clear()
    place.now += LOOK_S
    assert not place.look()
    assert not place.crew.held
    assert not place.looks


def test_who_begins_a_long_call_has_the_next_one_called(place: Place) -> None:
    hand = busy(place)
    place.post(short, short)
    assert not place.is_called()
    place.crew.begin_long(hand.seat.pace)
    assert place.deferred == [place.submit_worker]
    assert not place.looks


@pytest.mark.parametrize("begins_with", [short, emitting])
def test_who_begins_with_what_is_known_to_go_on_fast_is_trusted_until_the_look(place: Place, begins_with: Any) -> None:
    place.post(begins_with)
    place.come()
    place.lane[0] = (short, *place.lane[0][1:])  # what it has emitted
    assert not place.is_called()
    place.now += LOOK_S
    assert place.look(), "it has done nothing since"


def test_who_begins_with_what_nobody_knows_is_not(place: Place) -> None:
    place.post(unknown)
    place.come()
    place.lane[0] = (short, *place.lane[0][1:])
    assert place.is_called()


def test_when_the_last_one_leaves_the_next_is_called(place: Place) -> None:
    hand = busy(place)
    place.post(short, short)
    assert not place.is_called()
    place.hands.remove(hand)
    place.crew.step_out()
    assert place.deferred == [place.submit_worker]
    assert not place.crew.held
    assert not place.looks


def test_one_of_two_at_short_calls_is_spare(place: Place) -> None:
    first, second = busy(place), place.come()
    place.post(short, short)
    place.now += AGAIN_S
    first.made += 100
    second.made += 100
    assert place.crew.is_spare(second.seat.pace)
    assert not place.crew.is_spare(first.seat.pace), "one at a time"
    place.hands.remove(second)
    place.crew.step_out()
    assert place.crew.held
    place.now += AGAIN_S
    first.made += 100
    assert not place.crew.is_spare(first.seat.pace), "it is the only one"


def test_a_thread_that_waits_for_the_interpreter_does_not_stand_still(place: Place) -> None:
    hand = busy(place)
    place.post(short, short)
    assert not place.is_called()
    place.makes(hand, 0, LOOK_S / 2)
    place.come()
    assert not place.is_called()


def test_where_workers_share_no_lane_all_of_them_help(place: Place) -> None:
    place.ready.shared = False
    busy(place)
    place.post(short, short)
    assert place.is_called()


# -- flows


class Counts(Routine, stateless=True):
    """Emits very many, and more when all of these have been handled."""

    out = event("n")

    @slot
    def trigger(self, many: int, more: int) -> None:
        for n in range(many):
            self.emit("out", n=n)
        for n in range(more):
            self.emit("out", n=-1 - n)
            assert handled.wait(PATIENCE), "what a quick emitter waits for was not handled"


class Handles(Routine, stateless=True):
    """One of its calls waits until another one has been made."""

    blocks_at: int = 0
    out = event("n")

    @slot
    def n(self, n: int) -> None:
        if n == self.blocks_at:
            begun.set()
            assert handled.wait(PATIENCE), "what waits behind a call that blocks was not handled"
        elif n < 0 or begun.is_set():
            handled.set()


begun, handled = threading.Event(), threading.Event()


@pytest.mark.parametrize("workers", [2, 8])
@pytest.mark.parametrize("blocks_at", [1000, 5000])
def test_what_waits_behind_a_call_that_blocks_gets_a_worker(workers: int, blocks_at: int) -> None:
    with Flow(execution_strategy="concurrent", max_workers=workers) as flow:
        flow.add_routine(Counts(), "source")
        flow.add_routine(Handles(blocks_at=blocks_at), "handles")
        flow.connect("source", "out", "handles", "n")
        for _ in range(5):
            begun.clear()
            handled.clear()
            assert flow.run("source", {"many": 8000, "more": 0}).status == "completed"


@pytest.mark.parametrize("workers", [2, 8])
def test_what_an_emitter_waits_for_gets_a_worker(workers: int) -> None:
    with Flow(execution_strategy="concurrent", max_workers=workers) as flow:
        flow.add_routine(Counts(), "source")
        flow.add_routine(Handles(blocks_at=-1000), "handles")
        flow.connect("source", "out", "handles", "n")
        for _ in range(5):
            begun.clear()
            handled.clear()
            assert flow.run("source", {"many": 8000, "more": 3}).status == "completed"


@pytest.mark.skipif(not lanes_are_safe(), reason="without a GIL every worker helps")
def test_threads_that_are_not_wanted_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    spare = 0
    is_spare = Crew.is_spare

    def counted(self: Crew, pace: Pace) -> bool:
        nonlocal spare
        found = is_spare(self, pace)
        spare += found
        return found

    monkeypatch.setattr(Crew, "is_spare", counted)
    with Flow(execution_strategy="concurrent", max_workers=8) as flow:
        flow.add_routine(Counts(), "source")
        flow.add_routine(Handles(blocks_at=-1), "handles")
        flow.connect("source", "out", "handles", "n")
        for _ in range(20):
            assert flow.run("source", {"many": 20_000, "more": 0}).status == "completed"
            if spare:
                break
    assert spare
