"""What runs in a worker process, and how such a process is started."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess
from multiprocessing.process import BaseProcess
from typing import Any

from routilux_core import ConfigurationError
from routilux_core.strategy import Piece
from routilux_core_plugins.process.channel import BATCH, BEGUN, CHUNK, READY, REPLY, TIMED, WorkerEnd

# A worker's words in the memory that it shares with its parent; a cache line, so that workers don't slow each other.
WORDS = 8
MARK, CANCEL = 0, 1  # what runs: batch << 32 | index; and the numbers of cancelled batches, in CANCEL + number % 2
UNPACKING = 0xFFFF_FFFF  # the index while a batch has come, and none of its activations has begun
PR_SET_PDEATHSIG = 1
WORKER = "routilux-worker-"  # what the names of workers begin with
KEPT = (32 << 20) - (1 << 16)  # bytes: a little less than the most that the C library moves its thresholds to


class WorkerProcess(BaseProcess):
    """A process that a forked copy of the parent does not try to join at its own exit: that would be an error."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.owner = os.getpid()

    def join(self, timeout: float | None = None) -> None:
        if self.owner == os.getpid():
            super().join(timeout)


class SpawnedWorker(WorkerProcess, SpawnProcess):
    """A fresh interpreter."""


if sys.platform == "win32":
    KINDS: dict[str, type[WorkerProcess]] = {"spawn": SpawnedWorker}
else:
    from multiprocessing.context import ForkServerProcess

    class ForkServerWorker(WorkerProcess, ForkServerProcess):
        """A fork of a process that has one thread only."""

    KINDS = {"spawn": SpawnedWorker, "forkserver": ForkServerWorker}


def check_start_method(value: Any) -> str:
    """Return the name of a start method that works here; anything else is refused."""
    if value == "fork":
        raise ConfigurationError(
            "start_method 'fork' is refused: it copies locks that other threads hold, and workers hang; "
            "use 'spawn', or 'forkserver' for a quicker start"
        )
    if value not in KINDS:
        raise ConfigurationError(f"start_method has to be one of {', '.join(map(repr, KINDS))}, not {value!r}")
    return str(value)


def start(method: str, sock: socket.socket, words: Any, slot: int, runner: str) -> WorkerProcess:
    """Start a worker process. It lives no longer than the thread that calls this."""
    resource_tracker.ensure_running()  # else the start does it, and unblocks the signal that is blocked here
    parent = 0 if method == "forkserver" else os.getpid()
    process = KINDS[method](target=main, args=(sock, words, slot, runner, parent), name=f"{WORKER}{slot}")
    with _interrupts_blocked(), _without_a_missing_main():
        process.start()
    return process


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Let the new process begin with SIGINT blocked: a Ctrl-C must not end it before it can ignore it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _without_a_missing_main() -> Iterator[None]:
    """Hide the main module's path where there is no such file (a program from stdin): workers can't run it again."""
    module = sys.modules.get("__main__")
    path = getattr(module, "__file__", None)
    if path is None or os.path.exists(path) or getattr(module, "__spec__", None) is not None:
        yield
        return
    del module.__file__  # type: ignore[union-attr]
    try:
        yield
    finally:
        module.__file__ = path  # type: ignore[union-attr]


def main(sock: socket.socket, words: Any, slot: int, runner: str, parent: int) -> None:
    """Work for the parent until it says stop, or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; the parent decides
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    _end_with_the_parent(parent)
    _keep_what_is_freed()
    module = importlib.import_module(runner)
    channel = WorkerEnd(sock)
    try:
        channel.send(READY, 0)
        _serve(channel, memoryview(words).cast("B").cast("Q")[slot * WORDS : (slot + 1) * WORDS], module.run)
    except (EOFError, ConnectionError):
        pass  # the parent is gone
    finally:
        module.close()
        sock.close()


def _serve(channel: WorkerEnd, words: memoryview, run: Callable[..., list[Piece]]) -> None:
    while True:
        kind, number, pieces = channel.receive()
        if kind not in (BATCH, TIMED):
            return
        words[MARK] = number << 32 | UNPACKING
        channel.send(REPLY, number, _run(run, pieces, number, words, channel, kind == TIMED))
        del pieces
        _flush()


def _run(
    run: Callable[..., list[Piece]],
    pieces: list[Piece],
    number: int,
    words: memoryview,
    channel: WorkerEnd,
    timed: bool,
) -> list[Piece]:
    def send(chunk: list[Piece]) -> None:
        channel.send(CHUNK, number, chunk)

    base, flag = number << 32, CANCEL + number % 2

    def mark(index: int) -> None:
        words[MARK] = base | index

    def tell_begun(index: int) -> None:
        mark(index)
        channel.send(BEGUN, number)

    def cancelled() -> bool:
        return words[flag] == number

    return run(pieces=pieces, send=send, mark=tell_begun if timed else mark, cancelled=cancelled)


def _flush() -> None:
    """Let nothing that a handler printed be lost with a worker that is ended later."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def _keep_what_is_freed() -> None:
    """Have the C library keep freed memory for the next call, and not give it back to the system each time.

    Glibc gives back 128 KB at the top of its heap until a larger block was freed that it had mapped: one of this size
    here. The first touch of a new page costs several times the copy of what is received into it.
    """
    bytes(KEPT)  # from `calloc`, and untouched when it is freed: this takes microseconds


def _end_with_the_parent(parent: int) -> None:
    """Have this process killed when the thread that started it ends, or see to it here as well as that goes.

    Only the system can end a process that is in a C loop. Under `forkserver` it tells of the death of the fork server
    alone, which lives for as long as one of its workers does: so a thread waits for the program itself.
    """
    if sys.platform == "linux" and _set_death_signal() and parent:
        if os.getppid() != parent:  # it died before the signal was set
            _die()
        return
    threading.Thread(target=_watch, name="routilux-parent-watch", daemon=True).start()


def _set_death_signal() -> bool:
    try:
        import ctypes

        return bool(ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) == 0)
    except Exception:  # a system of its own kind
        return False


def _watch() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        _die()


def _die() -> None:
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
