"""Routines that go wrong in every way, in a module that workers can import."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from routilux_core import Routine, event, field, slot

OTHERS = 10
BAD = 5  # the number of the bad activation
SIZE = 64 << 20


class TwoArguments(Exception):
    """Can't be rebuilt from its `args`."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


class NeverBack(Exception):
    """Unpickling it raises."""

    def __reduce__(self) -> Any:
        return _raise, ("never back",)


class Unpicklable(Exception):
    """Pickling it raises."""

    def __init__(self) -> None:
        super().__init__(threading.Lock())


def _raise(text: str) -> None:
    raise RuntimeError(text)


def _killed_soon(seconds: float) -> None:
    """Have this process killed while it goes on."""
    command = f"import os, time; time.sleep({seconds}); os.kill({os.getpid()}, 9)"
    subprocess.Popen([sys.executable, "-S", "-c", command])


class Source(Routine, stateless=True):
    """Emits the work; under the fault "argument", what it sends the bad one can't be pickled."""

    item = event("n", "fault", "seconds")

    @slot
    def trigger(self, fault: str, seconds: float) -> None:
        for n in range(OTHERS):
            argument: Any = threading.Lock() if fault == "argument" and n == BAD else fault if n == BAD else ""
            self.emit("item", n=n, fault=argument, seconds=seconds)


class Work(Routine, stateless=True):
    """Notes its call, then does what it is told."""

    calls: str
    done = event("n", "result")

    @slot
    def input(self, n: int, fault: str, seconds: float) -> None:
        note(self.calls, n)
        time.sleep(0.005)  # long enough for a batch of its own
        result: Any = b""
        if fault == "exit":
            os._exit(3)
        elif fault == "segfault":
            ctypes.string_at(0)
        elif fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault == "killed while it returns":
            _killed_soon(seconds)
            result = bytes(SIZE)
        elif fault == "memory":
            result = bytes(1 << 60)
        elif fault == "result":
            result = threading.Lock()
        elif fault == "exception":
            raise Unpicklable
        elif fault == "two arguments":
            raise TwoArguments("this", "that")
        elif fault == "never back":
            raise NeverBack
        self.emit("done", n=n, result=result)


class OnlyThere:
    """Can be unpickled where it was pickled, and nowhere else."""

    def __reduce__(self) -> Any:
        return _only_in, (os.getpid(),)


def _only_in(pid: int) -> OnlyThere:
    if pid != os.getpid():
        raise RuntimeError("not here")
    return OnlyThere()


class Keeps(Routine):
    """Has state; what it emits for the bad one can't be unpickled at home."""

    seen: list[int] = field(factory=list)
    done = event("n", "thing")

    @slot
    def input(self, n: int) -> None:
        self.seen.append(n)
        self.emit("done", n=n, thing=OnlyThere() if n == BAD else n)


class Many(Routine):
    """Emits numbers."""

    item = event("n")

    def __call__(self, first: int, last: int) -> None:
        for n in range(first, last):
            self.emit("item", n=n)


def note(path: str, n: int) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, f"{n}\n".encode())
    os.close(file)
