"""Large values in a module that workers can import, and routines that are given them."""

from __future__ import annotations

import os
import threading
from pickle import PickleBuffer
from time import perf_counter
from typing import Any

from routilux_core import Routine, event, slot


class Blob:
    """Bytes that are pickled as those of an array are: beside the rest, where that goes."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Blob, (PickleBuffer(self.data),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Blob) and bytes(self.data) == bytes(other.data)

    __hash__ = object.__hash__

    @property
    def is_writable(self) -> bool:
        return not memoryview(self.data).readonly


def blob(size: int, filling: int = 1) -> Blob:
    return Blob(bytearray([filling]) * size)


PICKLED_IN: list[str] = []  # names of the threads of this process that have pickled `Slow`


class Slow:
    """Takes its time to be pickled."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        PICKLED_IN.append(threading.current_thread().name)
        until = perf_counter() + 0.003
        while perf_counter() < until:
            pass
        return Slow, ()


class Takes(Routine, stateless=True):
    """Takes what comes."""

    @slot
    def input(self, value: Any, n: int) -> None: ...


class Here(Routine, stateless=True):
    """Emits what it is given, one value after the other."""

    out = event("value", "n")

    @slot
    def values(self, values: list[Any]) -> None:
        for n, value in enumerate(values):
            self.emit("out", value=value, n=n)


class Spoils(Routine, stateless=True):
    """Looks at what it gets, changes it where that goes, and sends both home."""

    out = event("n", "seen", "value", "pid")

    @slot
    def input(self, value: Any, n: int) -> None:
        each = value[0] if isinstance(value, list) else value
        data = each.data if isinstance(each, Blob) else each
        seen = (len(data), data[0], data[-1])
        if not memoryview(data).readonly:
            data[0] = 99
        self.emit("out", n=n, seen=seen, value=value, pid=os.getpid())


class Measures(Routine, stateless=True):
    """Looks at what it gets, and tells of it."""

    out = event("n", "seen")

    @slot
    def input(self, value: Blob, n: int) -> None:
        self.emit("out", n=n, seen=(len(value.data), value.data[0], value.data[-1]))


class Grows(Routine, stateless=True):
    """Emits a value of so many bytes."""

    out = event("value")

    @slot
    def input(self, value: int) -> None:
        self.emit("out", value=blob(value, 6))


class Twice(Routine, stateless=True):
    """Tells whether two keys have one and the same value."""

    out = event("n", "same", "value")

    @slot
    def input(self, value: Any, n: int) -> None:
        self.emit("out", n=n, same=value[0] is value[1], value=value)


class Keeps(Routine):
    """Has state that is large, and changes it."""

    def __init__(self) -> None:
        super().__init__()
        self.blob = blob(1 << 18, 0)

    @slot
    def input(self, value: Any, n: int) -> None:
        self.blob.data[n] += 1


class Gathers(Routine, stateless=True):
    """Gets all values in one call."""

    out = event("sizes")

    def __init__(self) -> None:
        super().__init__()
        self.define_slot("input", handler=self.all, merge_strategy="gather")

    def all(self, value: list[Blob]) -> None:
        self.emit("out", sizes=[len(each.data) for each in value])


class HalfPickled:
    """Has a large buffer, and behind it what can't be pickled."""

    def __init__(self) -> None:
        self.blob = blob(1 << 17)
        self.lock = threading.Lock()


class Makes(Routine, stateless=True):
    """Emits values of its own, of which the second can't be pickled."""

    out = event("value")

    @slot
    def input(self, n: int) -> None:
        self.emit("out", value=blob(1 << 20, n))
        self.emit("out", value=HalfPickled())
