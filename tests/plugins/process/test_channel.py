"""Frames through a pair of sockets, both ends in this process."""

from __future__ import annotations

import random
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from routilux_core_plugins.process import channel
from routilux_core_plugins.process.channel import BATCH, CHUNK, REPLY, ParentEnd, WorkerEnd
from routilux_core_plugins.process.memory import HUGE

SECONDS = 30.0
SIZES = (0, 1, 100, (1 << 16) - 1, 1 << 16, (1 << 16) + 1, 300_000)


@pytest.fixture
def ends() -> Iterator[tuple[ParentEnd, WorkerEnd]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ParentEnd(ours), WorkerEnd(theirs)


def frames_of(seed: int) -> list[tuple[int, int, list[bytes]]]:
    """Return frames with buffers of all sizes beside them, the empty ones first, last, and alone."""
    draw = random.Random(seed)
    found = [(CHUNK, 0, [b"", b""]), (REPLY, 1, [b"head", b"", b"", b"x"]), (CHUNK, 2, [b"x" * 70_000, b""])]
    for number in range(3, 25):
        pieces = [draw.randbytes(draw.choice(SIZES)) for _ in range(draw.randrange(1, 5))]
        found.append((draw.choice((CHUNK, REPLY)), number, pieces))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_what_a_worker_sends_arrives_whole_and_in_order(ends: tuple[ParentEnd, WorkerEnd], seed: int) -> None:
    parent, worker = ends
    sent = frames_of(seed)
    sending = threading.Thread(target=lambda: [worker.send(*frame) for frame in sent])
    sending.start()
    got: list[channel.Frame] = []
    while len(got) < len(sent):
        assert select.select([parent.sock], [], [], SECONDS)[0]
        got += parent.read()
        assert not parent.at_end
    sending.join()
    assert [(kind, number, [bytes(each) for each in pieces]) for kind, number, pieces in got] == sent
    assert all(isinstance(each, bytearray) for *_, pieces in got for each in pieces[1:])


def test_what_the_parent_sends_arrives_whole_and_in_order(ends: tuple[ParentEnd, WorkerEnd]) -> None:
    parent, worker = ends
    sent = frames_of(7)
    got: list[channel.Frame] = []
    receiving = threading.Thread(target=lambda: got.extend(worker.receive() for _ in sent))
    receiving.start()
    for frame in sent:
        parent.put(*frame)
    while parent.waits:
        assert select.select([], [parent.sock], [], SECONDS)[1]
        parent.flush()
    receiving.join(SECONDS)
    assert [(kind, number, [bytes(each) for each in pieces]) for kind, number, pieces in got] == sent
    assert all(isinstance(each, bytearray) for *_, pieces in got for each in pieces[1:])


def test_more_buffers_than_their_lengths_fit_into_one_read_arrive(ends: tuple[ParentEnd, WorkerEnd]) -> None:
    parent, worker = ends
    pieces = [b"head", *(bytes([n % 256]) for n in range(20_000))]
    sending = threading.Thread(target=worker.send, args=(REPLY, 1, pieces))
    sending.start()
    got: list[channel.Frame] = []
    while not got:
        assert select.select([parent.sock], [], [], SECONDS)[0]
        got += parent.read()
    sending.join()
    assert list(map(bytes, got[0][2])) == pieces


def test_a_small_frame_leaves_in_one_piece() -> None:
    assert len(channel._written(BATCH, 1, [b"x" * 1000])) == 1
    assert len(channel._written(BATCH, 1, [b"x" * 100_000])) == 2


def test_what_is_so_large_that_it_has_pages_of_its_own_arrives_whole_and_can_be_written_to(
    ends: tuple[ParentEnd, WorkerEnd],
) -> None:
    parent, worker = ends
    sent = [b"head", b"a" * 70_000, random.Random(5).randbytes(HUGE + 1), b""]
    answered: list[channel.Frame] = []

    def answer() -> None:
        answered.append(worker.receive())
        worker.send(REPLY, 1, answered[0][2])

    answering = threading.Thread(target=answer)
    answering.start()
    parent.put(BATCH, 1, sent)
    got: list[channel.Frame] = []
    while not got:
        assert select.select([parent.sock], [parent.sock] if parent.waits else [], [], SECONDS)
        parent.flush()
        got += parent.read()
    answering.join()
    for _, _, pieces in (answered[0], got[0]):
        assert [bytes(each) for each in pieces] == sent
        memoryview(pieces[2])[:1] = b"x"


COLLECTS_A_CIRCLE = """
import gc, sys
from pickle import PickleBuffer
from weakref import ref
from routilux_core_plugins.process.memory import memory

class Circle:
    def __init__(self, *parts): self.parts, self.me = parts, self

place = memory(int(sys.argv[1]))
circle = Circle(place, PickleBuffer(place))
watched = ref(circle)
del place, circle
gc.collect()
assert watched() is None
"""


@pytest.mark.parametrize("size", [100, HUGE], ids=["small", "huge"])
def test_a_collected_circle_with_what_has_arrived_harms_nothing(size: int) -> None:
    done = subprocess.run([sys.executable, "-c", COLLECTS_A_CIRCLE, str(size)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr  # CPython 3.11 ends by signal 11 if that was a view
