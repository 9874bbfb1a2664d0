"""Messages as Dask carries them: what is large lies beside its pickles, and is not copied at each of its stations."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from contextlib import suppress
from pickle import PickleBuffer
from typing import Any, cast

from routilux_core.strategy import Piece

WITH_BUFFERS = 5  # the pickle protocol that has them
HUGE = 1 << 22  # bytes from which on pages of 2 MB are asked for: the first touch of a page costs more than its copy
MADVISE_HUGE: int | None = getattr(mmap, "MADV_HUGEPAGE", None)


class Parcel:
    """The pieces of a message. Where it arrives, they are views of what Dask has received them into."""

    __slots__ = ("pieces",)

    def __init__(self, *pieces: Piece) -> None:
        self.pieces = pieces

    @property
    def size(self) -> int:
        return sum(memoryview(each).nbytes for each in self.pieces)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return Parcel, tuple(map(_exported if protocol >= WITH_BUFFERS else bytes, self.pieces))

    def __sizeof__(self) -> int:
        """Return the bytes that Dask counts it for, which looks after the memory of its workers."""
        return super().__sizeof__() + self.size


Message = Parcel | bytes


def packed(pieces: Sequence[Piece]) -> Message:
    """Return a message for Dask: a small one, which has one piece, as the bytes that it is."""
    first, *beside = pieces
    return Parcel(*pieces) if beside or not isinstance(first, bytes) else first


def unpacked(message: Message) -> Sequence[Piece]:
    """Return the pieces of a message that has arrived, each in memory of its own.

    What is made of them may live long, and be written to. The views show what Dask has read at once, which may have
    other messages in it, or is the sender's own where worker and sender are one process.
    """
    return list(map(_copied, message.pieces)) if isinstance(message, Parcel) else [message]


def _copied(piece: Piece) -> Piece:
    """Return a copy that is no view: see `_exported` for what a handler could do with one."""
    size = memoryview(piece).nbytes
    if size < HUGE or MADVISE_HUGE is None:
        return bytearray(piece)
    place = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # a fork has a copy of its own
    with suppress(OSError):  # a system without such pages
        place.madvise(MADVISE_HUGE)
    place[:] = piece
    return cast(Piece, place)


def _exported(piece: Piece) -> PickleBuffer:
    """Return a piece for Dask to send. A view is not exported itself, but what it shows.

    Where an exported view is in a circle, the collector of CPython 3.11 and of early 3.12 takes what it shows away,
    and the process crashes. An array of `ctypes` holds a view without exporting it.
    """
    if not isinstance(piece, memoryview):
        return PickleBuffer(piece)
    if piece.readonly:
        return PickleBuffer(bytes(piece))
    return PickleBuffer((ctypes.c_ubyte * piece.nbytes).from_buffer(piece))
