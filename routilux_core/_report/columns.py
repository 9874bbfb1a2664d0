"""The spans of a job as few bytes: by columns, as differences to what came before, in planes of bytes, deflated."""

from __future__ import annotations

import zlib
from array import array
from base64 import b64encode
from collections.abc import Sequence
from typing import Any, NamedTuple

from routilux_core._report.timeline import Span

OUTCOMES = ("completed", "failed", "skipped", "retried")  # by the number that the page knows
UNITS = (100, 1_000, 10_000, 100_000, 1_000_000)  # nanoseconds: the finest that is small enough is taken
ROOM = 11.5  # bytes for each span, as text
FREE = 6_000  # bytes that are always there


class Packed(NamedTuple):
    """Spans as text; `slots` are routine and slot by number, `unit` is what times are counted in, in nanoseconds, and
    `planes` how many bytes each value of each column has."""

    text: str
    length: int
    unit: int
    planes: list[int]
    slots: list[tuple[str, str]]

    def about(self) -> dict[str, Any]:
        """Return what a reader needs to know, but for the names."""
        return {"count": self.length, "unit": self.unit, "planes": self.planes}


def packed(spans: Sequence[Span]) -> Packed:
    """Return the spans, with times as fine as there is room for."""
    numbers: dict[tuple[str, str], int] = {}
    slots = [numbers.setdefault((span.record.routine_id, span.record.slot), len(numbers)) for span in spans]
    text, planes, unit = "", [0], UNITS[0]
    for unit in UNITS:
        data, planes = _planes(_columns(spans, slots, unit))
        text = b64encode(zlib.compress(data, 9)).decode("ascii")
        if len(text) <= FREE + ROOM * len(spans):
            break
    return Packed(text, len(spans), unit, planes, list(numbers))


def _columns(spans: Sequence[Span], slots: list[int], unit: int) -> list[list[int]]:
    """Return columns of small numbers: a call is much like the one before it, or the one before it of its slot."""
    outcomes = {name: number for number, name in enumerate(OUTCOMES)}
    ids, causes, posted, started, durations = [], [], [], [], []
    before: dict[int, tuple[int, int, int]] = {}
    began = 0
    for span, slot in zip(spans, slots, strict=True):
        start, end, post = span.started // unit, span.ended // unit, span.posted // unit
        last_id, last_cause, last_posted = before.get(slot, (0, 0, began))
        ids.append(_zigzag(span.record.id - last_id))
        causes.append(_zigzag(span.cause + 1 - last_cause))
        posted.append(_zigzag(post - last_posted))
        started.append(_zigzag(start - began))
        durations.append(end - start)
        before[slot], began = (span.record.id, span.cause + 1, post), start
    return [
        slots,
        [span.track for span in spans],
        [outcomes[span.record.outcome] for span in spans],
        [span.record.attempt for span in spans],
        ids,
        causes,
        posted,
        started,
        durations,
    ]


def _zigzag(number: int) -> int:
    return number * 2 if number >= 0 else -number * 2 - 1


def _planes(columns: list[list[int]]) -> tuple[bytes, list[int]]:
    """Return the lowest bytes of all values of the first column, then the next ones, and so on."""
    data, counts = [], []
    for column in columns:
        count = (max(column, default=0).bit_length() + 7) // 8
        values = array("Q", column)
        if _IS_BIG_ENDIAN:
            values.byteswap()
        raw = values.tobytes()
        data += [raw[plane :: values.itemsize] for plane in range(count)]
        counts.append(count)
    return b"".join(data), counts


_IS_BIG_ENDIAN = array("H", [1]).tobytes()[0] == 0
