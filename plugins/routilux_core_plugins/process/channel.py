"""Frames over a pair of sockets: the parent's end never blocks, the worker's end does.

A frame is a kind, the number of the batch that it belongs to, the length of its body, and the body. What is large
comes before the frame that it belongs to: a frame with the lengths of these buffers, and the bytes of each. They are
sent from where they lie, and received where they stay.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections import deque
from collections.abc import Sequence

from routilux_core.strategy import Piece
from routilux_core_plugins.process.memory import Memory, memory

HEAD = struct.Struct("<IIQ")
LENGTH = struct.Struct("<Q")
READY, BATCH, TIMED, BEGUN, CHUNK, REPLY, STOP, LENGTHS = range(1, 9)  # TIMED: a batch whose beginning is told
ONE_READ = 1 << 18  # bytes of a large frame that may be read or sent at a time before the others get their turn
SMALL = 1 << 16  # a body below this is copied into one piece with its head: that saves a call of the system

Frame = tuple[int, int, list[Piece]]  # kind, number, the body and the buffers that are beside it
NOTHING: tuple[Piece, ...] = (b"",)


class BrokenChannelError(Exception):
    """What came through a channel makes no sense, or can't be stored."""


class ParentEnd:
    """The parent's end. `put` and `flush` are called under the pool's lock, `read` by its supervisor only."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.at_end = False  # the other side has closed, or is gone
        self._out: deque[memoryview] = deque()
        self._mute = False
        self._in = bytearray()
        self._filling: _Places | None = None  # what is received straight to its place
        self._beside: list[Piece] = []  # what has come for the next frame

    @property
    def waits(self) -> bool:
        """Whether something is left that could not be sent yet."""
        return bool(self._out)

    def put(self, kind: int, number: int, pieces: Sequence[Piece] = NOTHING) -> None:
        """Send a frame, or as much of it as goes without waiting; `flush` sends the rest."""
        self._out.extend(_written(kind, number, pieces))
        self.flush()

    def flush(self) -> None:
        """Send what goes without waiting. A worker that is gone is not found out here, but by its end."""
        out, left = self._out, ONE_READ
        while out and left > 0 and not self._mute:
            try:
                sent = self.sock.send(out[0][:left])
            except BlockingIOError:
                return
            except OSError:
                self._mute = True
                break
            left -= sent
            if sent == len(out[0]):
                out.popleft()
            else:
                out[0] = out[0][sent:]
        if self._mute:
            out.clear()

    def read(self) -> list[Frame]:
        """Return the frames that are complete by now, without waiting."""
        frames: list[Frame] = []
        if self._receive() and self._filling is None:
            self._split(frames)
        elif self._filling is not None and self._filling.is_full():
            self._filled(frames)
        return frames

    def read_all(self) -> list[Frame]:
        """Return what a worker that is gone has left behind."""
        frames: list[Frame] = []
        while self._receives():
            frames += self.read()
        return frames

    def close(self) -> None:
        """Give the socket back."""
        self._out.clear()
        self.sock.close()

    def _receives(self) -> bool:
        try:
            return not self.at_end and bool(self.sock.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def _receive(self) -> bool:
        """Read once; return whether something came."""
        try:
            if self._filling is not None:
                got = self._filling.receive(self.sock)
            else:
                data = self.sock.recv(SMALL)  # of a large frame the rest is read straight to its place
                self._in += data
                got = len(data)
        except BlockingIOError:
            return False
        except OSError:
            got = 0
        self.at_end = not got
        return bool(got)

    def _split(self, frames: list[Frame]) -> None:
        """Cut what has come into frames; the rest of what is large is read straight to its place from now on."""
        data, at = self._in, 0
        while self._filling is None and len(data) - at >= HEAD.size:
            kind, number, length = HEAD.unpack_from(data, at)
            if not READY <= kind <= LENGTHS:
                raise BrokenChannelError(f"a frame of the unknown kind {kind}")
            end = at + HEAD.size + length
            if end <= len(data):
                self._take(frames, kind, number, bytes(memoryview(data)[at + HEAD.size : end]))
                at = end
            elif length >= SMALL:
                self._filling = _Places([length], kind, number)
                at += HEAD.size
            else:
                break
            while self._filling is not None:
                at += self._filling.take(data, at)
                if not self._filling.is_full():
                    break
                self._filled(frames)
        del data[:at]

    def _take(self, frames: list[Frame], kind: int, number: int, body: Piece) -> None:
        """Take a whole frame; where it has lengths, what follows is as many buffers for the next one."""
        if kind == LENGTHS:
            self._filling = _Places([length for (length,) in LENGTH.iter_unpack(body)])
        else:
            frames.append((kind, number, [body, *self._beside]))
            self._beside = []

    def _filled(self, frames: list[Frame]) -> None:
        filling, self._filling = self._filling, None
        assert filling is not None, "nothing is being filled"
        if filling.kind:
            self._take(frames, filling.kind, filling.number, memoryview(filling.places[0]))
        else:
            self._beside = list(filling.places)


class _Places:
    """Memory for what is large, filled in its order: for the body of a frame, or (no kind) for buffers beside one."""

    def __init__(self, lengths: Sequence[int], kind: int = 0, number: int = 0) -> None:
        self.kind, self.number = kind, number
        self.places = [_memory(length) for length in lengths]
        self._at = self._filled = 0  # the place that is being filled, and how many of its bytes are there
        self._count(0)  # the first ones may be empty: nothing is received for these

    def take(self, data: bytearray, at: int) -> int:
        """Take what is in `data` from there on; return how much that was."""
        begun = at
        while at < len(data) and not self.is_full():
            place = self.places[self._at]
            count = min(len(data) - at, len(place) - self._filled)
            place[self._filled : self._filled + count] = data[at : at + count]
            at += count
            self._count(count)
        return at - begun

    def receive(self, sock: socket.socket) -> int:
        with memoryview(self.places[self._at]) as view:
            got = sock.recv_into(view[self._filled : self._filled + ONE_READ])
        self._count(got)
        return got

    def _count(self, more: int) -> None:
        self._filled += more
        while not self.is_full() and self._filled == len(self.places[self._at]):
            self._at, self._filled = self._at + 1, 0

    def is_full(self) -> bool:
        return self._at == len(self.places)


def _memory(length: int) -> Memory:
    try:
        return memory(length)
    except (MemoryError, OverflowError) as error:
        raise BrokenChannelError(f"a frame of {length:,} bytes, for which there is no memory") from error


def _written(kind: int, number: int, pieces: Sequence[Piece]) -> list[memoryview]:
    """Return what has to be sent for a frame. Nothing large is copied."""
    body, *beside = pieces
    size = memoryview(body).nbytes
    head = HEAD.pack(kind, number, size)
    frame = [head + body] if size < SMALL else [head, body]
    if beside:
        lengths = b"".join(LENGTH.pack(memoryview(each).nbytes) for each in beside)
        frame = [HEAD.pack(LENGTHS, number, len(lengths)) + lengths, *beside, *frame]
    return [memoryview(each) for each in frame]


class WorkerEnd:
    """The worker's end: it waits until a frame is sent, or has come. That is never long: the parent always reads."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        sock.set_inheritable(False)
        self._sock = sock
        self._lock = threading.Lock()

    def send(self, kind: int, number: int, pieces: Sequence[Piece] = NOTHING) -> None:
        """Send a frame; frames of several threads don't mix."""
        frame = _written(kind, number, pieces)
        with self._lock:
            for each in frame:
                self._sock.sendall(each)

    def receive(self) -> Frame:
        """Return the next frame; `EOFError` when the parent is gone."""
        beside: list[Piece] = []
        kind, number, length = HEAD.unpack(self._exactly(HEAD.size))
        if kind == LENGTHS:
            for (size,) in LENGTH.iter_unpack(self._exactly(length)):
                beside.append(memory(size))
                self._fill(beside[-1])
            kind, number, length = HEAD.unpack(self._exactly(HEAD.size))
        return kind, number, [self._exactly(length), *beside]

    def _exactly(self, length: int) -> bytes:
        if not length:
            return b""
        first = self._sock.recv(length, socket.MSG_WAITALL)
        if len(first) == length:
            return first
        body = bytearray(length)
        body[: len(first)] = first
        self._fill(body, len(first))
        return bytes(body)

    def _fill(self, place: Piece, filled: int = 0) -> None:
        with memoryview(place) as view:
            while filled < len(view):
                got = self._sock.recv_into(view[filled:], 0, socket.MSG_WAITALL)
                if not got:
                    raise EOFError
                filled += got
