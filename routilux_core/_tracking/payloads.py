"""What the calls of a job were given, where the flow keeps it (`capture="payload"`): short, and without secrets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from routilux_core._text.values import plain
from routilux_core._threads.guard import guarded

FRESH = 1000  # beyond as many as records are kept: these are told in another order than they end


class Payloads:
    """The payloads of calls that are under way, and of the newest that have ended, by the number of the activation."""

    __slots__ = ("_begun", "_ended", "_most")

    def __init__(self, size: int) -> None:
        self._most = size + FRESH
        self._begun: dict[int, dict[str, Any]] = {}
        self._ended: dict[int, dict[str, Any]] = {}

    def begin(self, number: int, payload: Mapping[str, Any]) -> None:
        """Keep what a handler is about to be called with. Any thread, without the lock."""
        self._begun[number] = plain(payload)

    @guarded
    def end(self, numbers: Iterable[int]) -> None:
        """Count calls among those that have ended, and forget the oldest of them."""
        for number in numbers:
            payload = self._begun.pop(number, None)
            if payload is not None:
                self._ended.pop(number, None)  # of an earlier attempt
                self._ended[number] = payload
        while len(self._ended) > self._most:
            del self._ended[next(iter(self._ended))]

    @guarded
    def end_of(self, number: int, arrived: Mapping[str, Any]) -> None:
        """Count a call among those that have ended; where it never began, `arrived` is what it would have got."""
        if number not in self._begun:
            self.begin(number, arrived)
        self.end((number,))

    @guarded
    def of(self, numbers: Iterable[int]) -> dict[int, dict[str, Any]]:
        """Return the payloads of these calls, as far as they are kept."""
        return {number: self._ended[number] for number in numbers if number in self._ended}
