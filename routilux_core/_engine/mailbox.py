"""A routine's mailbox: how many of its calls may run at once, and what waits for that."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, Final

from routilux_core._threads.guard import guarded

UNLIMITED: Final = 1 << 29  # small enough for CPython's fast integers


class Mailbox:
    """The permits of one routine: `free` are left of `limit`. Who finds none waits, in order of arrival.

    Here alone is decided whether a call may start, and only here permits are written; the engine's lock guards that.
    Where calls are not `limited`, nobody counts them.

    Two things happen without the lock. Anybody may read `free`, to see whether it is worth asking. And where workers
    share a lane, emitters append to `waiting`, and look at `free` behind that. Whoever gives a permit back does it the
    other way round: first `free`, then a second look at `waiting`. So one of the two sees the other, and nothing is
    left lying beside a free permit. It is this order of two plain steps that needs the GIL.
    """

    __slots__ = ("free", "limit", "limited", "waiting")

    def __init__(self, limit: int = UNLIMITED) -> None:
        self.limit = self.free = limit
        self.limited = limit != UNLIMITED
        self.waiting: deque[Any] = deque()  # activations

    @guarded
    def acquire(self) -> bool:
        """Take a permit if one is free, and return whether that is so."""
        if not self.free:
            return False
        if self.limited:
            self.free -= 1
        return True

    @guarded
    def release(self, first: deque[Any]) -> None:
        """Give a permit back: with it, whoever has waited longest comes into `first`."""
        if self.waiting:
            first.append(self.waiting.popleft())
        elif self.limited:
            self.free += 1
            if self.waiting:  # posted since, without the lock, by somebody who may have seen no permit
                self.admit(first)

    @guarded
    def admit(self, first: deque[Any]) -> None:
        """Let what waits have the permits that are free: it comes into `first`, with them."""
        while self.free and self.waiting:
            self.free -= 1
            first.append(self.waiting.popleft())  # in one line: an exception in between would lose it

    @guarded
    def put_back(self, items: Iterable[Any]) -> None:
        """Let activations wait, in the order given, before all that do."""
        self.waiting.extendleft(reversed(list(items)))

    @guarded
    def recount(self, held: int) -> None:
        """Work out what is free from the permits that are out, as far as that can be seen."""
        if self.limited:
            self.free = max(0, self.limit - held)
