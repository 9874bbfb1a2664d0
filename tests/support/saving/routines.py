"""The routines of random flows: every way to keep something, and every kind of slot, handler and merge."""

from __future__ import annotations

import datetime
import enum
import pathlib
import typing
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

import attrs
from attrs import field

from routilux_core import Routine, event, slot


class Colour(enum.Enum):
    RED = "r"
    GREEN = "g"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2
    RUN = 4


class Pair(typing.NamedTuple):
    left: int
    right: str = ""


@dataclass(frozen=True)
class Point:
    x: int
    y: float = 0.0


@attrs.define
class Box:
    corner: Point
    tags: set[str] = field(factory=set)
    _hidden: int = 0
    inner: Box | None = None
    weight: float = field(default=1.0, converter=lambda value: value * 1.0)
    made: int = field(init=False, default=7)


class Counts(Routine):
    """Has a field of every kind, and counts its calls."""

    text: str = ""
    number: int = 0
    ratio: float = 0.5
    flag: bool = False
    maybe: int | None = None
    rows: list[Any] = field(factory=list)
    table: dict[str, Any] = field(factory=dict)
    fixed: tuple[Any, ...] = ()
    names: frozenset[str] = frozenset()
    when: datetime.datetime | None = None
    span: datetime.timedelta = datetime.timedelta(0)
    where: pathlib.PurePosixPath = pathlib.PurePosixPath("a")
    raw: bytes = b""
    price: Decimal = Decimal(0)
    key: UUID = UUID(int=0)
    colour: Colour = Colour.RED
    rights: Rights = Rights.READ
    box: Box | None = None
    pair: Pair = Pair(0)
    choice: typing.Literal["a", "b"] = "a"
    anything: Any = None
    doubled: int = field(default=1, converter=lambda value: 2 * value)
    made: int = field(init=False, default=5)
    _private: int = 3
    output = event("ttl", "seen")

    def __attrs_post_init__(self) -> None:
        self.calls = 0

    @slot
    def input(self, ttl: int, seen: tuple[str, ...] = ()) -> None:
        self.calls += 1
        self.increment_stat("calls")
        if ttl > 0:
            self.emit("output", ttl=ttl - 1, seen=(*seen, f"{self.text}{self.number}{self.calls}"))

    @slot
    def other(self, ttl: int, seen: tuple[str, ...] = ()) -> None:
        self.last = seen
        self.input(ttl, ())


class Free(Routine, stateless=True, concurrency=3, timeout=60.0):
    word: str = "free"
    output = event("ttl", "seen")

    @slot
    def input(self, ttl: int, seen: tuple[str, ...] = ()) -> None:
        if ttl > 0:
            self.emit("output", ttl=ttl - 1, seen=(*seen, self.word))


class Collects(Routine, type_name="saving/collects"):
    output = event("ttl", "seen")

    @slot(merge_strategy="gather")
    def input(self, ttl: list[int], seen: list[Any]) -> None:
        self.total = (sorted(ttl), len(seen))
        self.emit("output", ttl=0, seen=tuple(map(str, sorted(ttl))))


def keep_both(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Merge; declared by a class, it is no method of it."""
    return {**old, **new, "seen": (*old.get("seen", ()), *new.get("seen", ()))}


class Appends(Routine, scope="job"):
    output = event("ttl", "seen")

    @slot(merge_strategy="append")
    def input(self, ttl: list[int], seen: list[Any] | None = None) -> None:
        self.emit("output", ttl=min(ttl) - 1 if min(ttl) > 0 else 0, seen=(str(len(ttl)),)) if ttl[-1] > 0 else None

    @slot(merge_strategy=keep_both)
    def other(self, ttl: int, seen: tuple[str, ...] = ()) -> None:
        if ttl > 0:
            self.emit("output", ttl=ttl - 1, seen=seen)


class Echo(Routine):
    """Its slot and its event have one name."""

    def __init__(self) -> None:
        super().__init__()
        self.define_slot("same", self.handle)
        self.define_event("same", ["ttl", "seen"])

    def handle(self, ttl: int, seen: Any = ()) -> None:
        if ttl > 0:
            self.emit("same", ttl=ttl - 1, seen=("echo", str(seen)))


class Old(Routine):
    """Its own constructor defines its slots, events and attributes."""

    def __init__(self, key: Any, slots: int, merge: str) -> None:
        super().__init__()
        self.key = key
        self.seen: set[Any] = set()
        chosen = {"last": self.last_wins, "both": self.both}.get(merge, merge)
        for number in range(slots):
            self.define_slot("input" if not number else f"input {number}", self.process, chosen)
        self.define_event("output", ["ttl"])
        self.define_event("ünlike")

    @staticmethod
    def last_wins(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
        return {**old, **new}

    def both(self, old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
        return keep_both(old, new)

    def process(self, ttl: Any, seen: Any = ()) -> None:
        left = ttl[-1] if isinstance(ttl, list) else ttl
        self.seen.add((left, str(seen)))
        if left > 0:
            self.emit("output" if left % 2 else "ünlike", ttl=left - 1, seen=("old", repr(self.key)))
