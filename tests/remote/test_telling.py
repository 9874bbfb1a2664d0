"""What a worker tells while a task runs: nothing is lost, doubled or put down to another activation."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from routilux_core._remote import reporter
from routilux_core._remote.reporter import Flusher, Reporter
from routilux_core._remote.wire import Last, new_label, read_report

LABEL = new_label("batch-1")


class Parent:
    """Takes messages in as the parent of a worker does."""

    def __init__(self) -> None:
        self.ended = 0
        self.heard: list[tuple[int, str, int]] = []  # emissions: of which activation, event, and its number
        self.last_heard = 0  # emissions by the end of the last activation that was told to have ended
        self.messages = 0
        self._lock = threading.Lock()  # a message is heard as a whole: nobody sees a part of it

    def take(self, message: bytes) -> None:
        with self._lock:
            self._take(message)

    def _take(self, message: bytes) -> None:
        first, before, _, ends, upto, names, data, _, _ = read_report(message, LABEL).told
        assert (first, before) == (self.ended, len(self.heard))
        assert len(ends) == len(upto)
        assert upto == sorted(upto)
        for index, (name, each) in enumerate(zip(names, data, strict=True)):
            activation = first + sum(count <= index for count in upto)
            self.heard.append((activation, name, each["n"]))
        if upto:
            self.last_heard = before + upto[-1]
        self.ended += len(ends)
        self.messages += 1

    @property
    def half_told(self) -> bool:
        with self._lock:
            return len(self.heard) > self.last_heard


@pytest.fixture
def quick_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.stress
@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_two_threads_tell_each_emission_once_and_an_end_before_the_next_begins(
    quick_switches: None, monkeypatch: pytest.MonkeyPatch, alone: bool, seed: int
) -> None:
    monkeypatch.setattr(reporter, "FIRST_CHUNK", 5)
    monkeypatch.setattr(reporter, "LARGEST_CHUNK", 40)
    parent, numbers, made = Parent(), random.Random(seed), []
    teller = Reporter(LABEL, parent.take, Flusher(), None, alone)
    over = threading.Event()

    def flush() -> None:
        while not over.is_set():
            teller.flush()

    flusher = threading.Thread(target=flush)
    flusher.start()
    try:
        for activation in range(600):
            assert not parent.half_told
            for n in range(numbers.choice((0, 1, 1, 3, 60))):
                name = "other" if n == 50 else "made"
                made.append((activation, name, n))
                teller.data.append({"n": n})
                teller.names.append(name)
                if len(teller.names) > teller.mark:
                    teller.look()
            teller.upto.append(len(teller.names))
            teller.ends.append(float(activation))
            if teller.half_told:
                teller.end_half_told()
    finally:  # it would spin beside every later test, and keep the interpreter alive
        over.set()
        flusher.join()
    parent.take(teller.reply(Last()))
    assert parent.heard == made
    assert parent.ended == 600
    assert parent.messages > 10


def test_a_source_is_heard_before_it_has_ended_without_a_look_at_a_clock() -> None:
    parent = Parent()
    teller = Reporter(LABEL, parent.take, Flusher(), None, alone=True)
    for n in range(reporter.FIRST_CHUNK):
        teller.data.append({"n": n})
        teller.names.append("made")
        if len(teller.names) > teller.mark:
            teller.look()
    assert len(parent.heard) == reporter.FIRST_CHUNK


def test_without_a_channel_everything_comes_with_the_reply() -> None:
    parent = Parent()
    teller = Reporter(LABEL, None, Flusher(), None, alone=True)
    for n in range(10_000):
        teller.data.append({"n": n})
        teller.names.append("made")
        assert len(teller.names) <= teller.mark
    parent.take(teller.reply(Last()))
    assert len(parent.heard) == 10_000


def emits_one(parent: Parent, flusher: Flusher, alone: bool) -> Reporter:
    """Return the teller of a task whose first call has emitted, and goes on."""
    teller = Reporter(LABEL, parent.take, flusher, None, alone)
    teller.data.append({"n": 1})
    teller.names.append("made")
    teller.look()
    return teller


class CountedFlusher(Flusher):
    """Counts how often its thread goes to sleep."""

    waits = 0

    def _wait(self, seconds: float) -> None:
        self.waits += 1
        super()._wait(seconds)


def test_short_tasks_that_follow_each_other_seldom_wake_the_flusher() -> None:
    parent, flusher = Parent(), CountedFlusher()
    started = time.perf_counter()
    for _ in range(500):
        teller = emits_one(parent, flusher, alone=False)
        teller.upto.append(1)
        teller.ends.append(1.0)
        teller.reply(Last())
    assert flusher.waits <= 3 + (time.perf_counter() - started) / reporter.PATIENCE
    assert parent.messages == 0, "all of it is in the replies"


def test_what_a_batch_emits_is_told_while_a_call_of_it_goes_on() -> None:
    parent, flusher = Parent(), Flusher()
    for _ in range(2):  # the second time, the flusher's thread is there, and asleep
        told, parent.ended, parent.heard = parent.messages, 0, []
        emits_one(parent, flusher, alone=False)
        deadline = time.monotonic() + 10.0
        while parent.messages == told and time.monotonic() < deadline:
            time.sleep(0.001)
        assert parent.heard == [(0, "made", 1)]


def test_the_flushers_thread_ends_where_nothing_is_left_and_comes_again() -> None:
    parent, flusher = Parent(), Flusher()
    for _ in range(2):
        teller = emits_one(parent, flusher, alone=True)
        thread = flusher._thread
        assert thread is not None
        teller.reply(Last())
        thread.join(10.0)
        assert not thread.is_alive()
        assert flusher._thread is None
