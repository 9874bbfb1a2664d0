"""Frames over a pair of sockets: the parent's end never blocks, the worker's end does.

A frame is a kind, the number of the batch that it belongs to, the length of its body, and the body.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections import deque

HEAD = struct.Struct("<IIQ")
READY, BATCH, TIMED, BEGUN, CHUNK, REPLY, STOP = range(1, 8)  # TIMED: a batch whose beginning is told
ONE_READ = 1 << 18  # bytes of a large frame that may be read or sent at a time before the others get their turn
SMALL = 1 << 16  # a body below this is copied into one piece with its head: that saves a call of the system

Frame = tuple[int, int, bytes]  # kind, number, body


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
        self._large: _Large | None = None

    @property
    def waits(self) -> bool:
        """Whether something is left that could not be sent yet."""
        return bool(self._out)

    def put(self, kind: int, number: int, body: bytes = b"") -> None:
        """Send a frame, or as much of it as goes without waiting; `flush` sends the rest."""
        head = HEAD.pack(kind, number, len(body))
        pieces = [head + body] if len(body) < SMALL else [head, body]
        self._out.extend(map(memoryview, pieces))
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
        if self._receive() and self._large is None:
            self._split(frames)
        elif self._large is not None and self._large.is_full():
            frames.append(self._large.frame())
            self._large = None
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
            if self._large is not None:
                got = self._large.receive(self.sock)
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
        """Cut what has come into frames; the rest of a large one is read straight to its place from now on."""
        data, at = self._in, 0
        while len(data) - at >= HEAD.size:
            kind, number, length = HEAD.unpack_from(data, at)
            if not READY <= kind <= REPLY:
                raise BrokenChannelError(f"a frame of the unknown kind {kind}")
            end = at + HEAD.size + length
            if end > len(data):
                if length >= SMALL:
                    self._large = _Large(kind, number, length, data[at + HEAD.size :])
                    at = len(data)
                break
            frames.append((kind, number, bytes(memoryview(data)[at + HEAD.size : end])))
            at = end
        del data[:at]


class _Large:
    """A frame that is longer than what one read brings."""

    def __init__(self, kind: int, number: int, length: int, begun: bytearray) -> None:
        self._head = kind, number
        try:
            self._body = bytearray(length)
        except (MemoryError, OverflowError) as error:
            raise BrokenChannelError(f"a frame of {length:,} bytes, for which there is no memory") from error
        self._filled = len(begun)
        self._body[: len(begun)] = begun

    def receive(self, sock: socket.socket) -> int:
        with memoryview(self._body) as view:
            got = sock.recv_into(view[self._filled : self._filled + ONE_READ])
        self._filled += got
        return got

    def is_full(self) -> bool:
        return self._filled == len(self._body)

    def frame(self) -> Frame:
        return *self._head, bytes(self._body)


class WorkerEnd:
    """The worker's end: it waits until a frame is sent, or has come. That is never long: the parent always reads."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        sock.set_inheritable(False)
        self._sock = sock
        self._lock = threading.Lock()

    def send(self, kind: int, number: int, body: bytes = b"") -> None:
        """Send a frame; frames of several threads don't mix."""
        head = HEAD.pack(kind, number, len(body))
        with self._lock:
            if len(body) < SMALL:
                self._sock.sendall(head + body)
            else:
                self._sock.sendall(head)
                self._sock.sendall(body)

    def receive(self) -> Frame:
        """Return the next frame; `EOFError` when the parent is gone."""
        kind, number, length = HEAD.unpack(self._exactly(HEAD.size))
        return kind, number, self._exactly(length)

    def _exactly(self, length: int) -> bytes:
        if not length:
            return b""
        first = self._sock.recv(length, socket.MSG_WAITALL)
        if len(first) == length:
            return first
        body = bytearray(first)
        while first and len(body) < length:
            first = self._sock.recv(length - len(body), socket.MSG_WAITALL)
            body += first
        if len(body) < length:
            raise EOFError
        return bytes(body)
