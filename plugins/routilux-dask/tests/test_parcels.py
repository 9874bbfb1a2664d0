"""Messages with large buffers: on their way, collected, and noted by a worker that dies."""

from __future__ import annotations

import gc
import pickle
from pathlib import Path
from typing import Any
from weakref import ref

from distributed.protocol import deserialize, serialize
from routilux_dask._journal import CHUNK, REPLY, Journal, stories
from routilux_dask._parcel import HUGE, Parcel, packed, unpacked


class Circle:
    """Only the collector finds it."""

    def __init__(self, *held: Any) -> None:
        self.held = (self, *held)


def as_dask_carries(parcel: Parcel) -> Parcel:
    carried: Parcel = deserialize(*serialize(parcel))
    return carried


def test_what_has_one_small_piece_stays_bytes() -> None:
    assert packed([b"head"]) == b"head"
    assert unpacked(b"head") == [b"head"]


def test_what_arrives_is_whole_writable_and_memory_of_its_own() -> None:
    sent = [
        b"head",
        bytearray(b"\x01") * 70_000,
        memoryview(bytes(9)),
        memoryview(bytearray(b"\x02") * HUGE),
        bytearray(),
    ]
    carried = as_dask_carries(as_dask_carries(Parcel(*sent)))
    arrived = unpacked(carried)
    assert [bytes(each) for each in arrived] == [bytes(each) for each in sent]
    for each in arrived[1:4]:
        each[0] = 7  # type: ignore[index]
    assert [bytes(each) for each in carried.pieces] == [bytes(each) for each in sent]


def test_a_collected_circle_with_a_parcel_on_its_way_harms_nothing() -> None:
    carried = as_dask_carries(Parcel(b"head", bytearray(100_000)))
    _, frames = serialize(carried)
    circle = Circle(carried, frames)
    watched = ref(circle)
    del carried, frames, circle
    gc.collect()  # CPython 3.11 ends here if a view was exported
    assert watched() is None


def test_a_journal_has_what_was_told_with_buffers_and_not_what_is_long(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path), keep=9)
    for number, length in ((1, 100_000), (2, HUGE)):
        entry = journal.begin(number)
        assert entry is not None
        entry.mark(3)
        entry.tell(CHUNK, b"plain")
        entry.tell(REPLY, Parcel(b"head", bytearray(length)))
        entry.close()
    short, long = stories(str(tmp_path), [1, 2]) or []
    assert (short.at, short.chunks) == (3, (b"plain",))
    assert isinstance(short.reply, Parcel)
    assert [bytes(each) for each in short.reply.pieces] == [b"head", bytes(100_000)]
    assert (long.at, long.chunks, long.reply) == (None, (b"plain",), None)
    assert pickle.loads(pickle.dumps(short.reply, 4)).size == short.reply.size
