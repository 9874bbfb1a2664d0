"""Stands in a worker where `routilux_core.worker` does, for tests of the pool alone: a payload is a list of steps.

A step is the name of a function below, and its arguments.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

_now: dict[str, Any] = {}


def run(
    *,
    pieces: list[Any],
    send: Callable[[list[Any]], None],
    mark: Callable[[int], None],
    cancelled: Callable[[], bool],
) -> list[Any]:
    results, beside = [], []
    steps = pickle.loads(pieces[0])
    for index, (name, *arguments) in enumerate(steps):
        if cancelled():
            break
        mark(index)
        _now.update(send=send, cancelled=cancelled, came=pieces[1:], beside=beside)
        results.append(globals()[name](*arguments))
    return [pickle.dumps(results), *beside]


def close() -> None:
    path = os.environ.get("PROGRAMS_CLOSED")
    if path:
        append(path, str(os.getpid()))


def append(path: str, text: str) -> None:
    """One line in a file, whole or not at all."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, f"{text}\n".encode())
    finally:
        os.close(file)


def give(value: Any) -> Any:
    return value


def page_faults(count: int, size: int) -> int:
    """Return how many pages a second batch of buffers touches for the first time, the first one being freed."""
    import resource

    def touched() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    for _ in range(2):
        before = touched()
        buffers = [bytearray(size) for _ in range(count)]
        faults = touched() - before
        del buffers
    return faults


def pid() -> int:
    return os.getpid()


def note(path: str, text: str) -> int:
    append(path, text)
    return os.getpid()


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def wait_for(path: str) -> int:
    """Wait until somebody writes to a named pipe; says that it waits by opening it."""
    with open(path, "rb") as pipe:
        return len(pipe.read())


def begun_then_sleep(path: str, seconds: float) -> None:
    append(path, str(os.getpid()))
    time.sleep(seconds)


def leave(code: int) -> None:
    os._exit(code)


def crash() -> None:
    ctypes.string_at(0)


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop_self() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def make(size: int) -> bytes:
    return b"x" * size


def chunk(data: bytes) -> None:
    _now["send"]([data])


def send_back() -> list[str]:
    """Send back, as pieces of their own, those that came beside the steps; return what each of them is."""
    _now["beside"].extend(_now["came"])
    return [type(each).__name__ for each in _now["came"]]


def until_cancelled() -> bool:
    deadline = time.monotonic() + 30
    while not _now["cancelled"]():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def c_loop() -> None:
    """Hold the GIL for hours inside one call of C code."""
    sum(itertools.repeat(0, 10**13))


def grandchild_told(seconds: float) -> None:
    """Leave a child behind that holds every descriptor of this process open, and tell its number."""
    child = os.fork()
    if child == 0:
        try:
            time.sleep(seconds)
        finally:
            os._exit(0)
    _now["send"]([str(child).encode()])


def scribble() -> None:
    """Write what is no frame into every socket."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                os.write(int(name), b"\xff" * 64)
        except OSError:
            continue


def stop_self_later(seconds: float) -> None:
    """Have this process killed while it does something else."""
    pid = os.getpid()
    command = f"import os, time; time.sleep({seconds}); os.kill({pid}, 9)"
    subprocess.Popen([sys.executable, "-S", "-c", command], start_new_session=True)


def say(out: str, err: str) -> None:
    print(out)
    print(err, file=sys.stderr)


def shell(command: str) -> int:
    return subprocess.run(command, shell=True, check=False).returncode


def interrupts() -> Any:
    return signal.getsignal(signal.SIGINT), signal.pthread_sigmask(signal.SIG_BLOCK, set())


class SlowToUnpack:
    """Takes its time to be unpickled, as what has to be imported first does."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __setstate__(self, state: dict[str, float]) -> None:
        time.sleep(state["seconds"])


class Bomb:
    """Kills whoever unpickles it."""

    def __reduce__(self) -> Any:
        return os._exit, (7,)
