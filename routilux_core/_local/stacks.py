"""Where another thread is at this moment.

`sys._current_frames` gives objects that stay true only where nothing but the running thread ends a frame: in CPython
3.11 a thread may be switched while a frame is made or cleared, and without the GIL at any time; the object then points
to memory that is used for something else. The report that `faulthandler` writes makes no objects, and is written in one
go under the GIL.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

from routilux_core._routines.frame import has_gil

FRAMES_ARE_SAFE = has_gil() and sys.version_info >= (3, 12)
_THREAD = r"(?:Thread|Current thread) 0x([0-9a-f]+) "
_PLACE = r'  File "(.*)", line (\d+|\?\?\?) in (.*)'


class Place(NamedTuple):
    """A line of a function; line 0 where it is not known."""

    file: str
    line: int
    function: str


def places_of(thread: int) -> list[Place]:
    """Return where a thread is, the newest first, and at most a hundred; nothing where that can't be told."""
    if not has_gil():
        return []
    return _read(thread, _report())


def stack_of(thread: int) -> str:
    """Return where a thread is, as a traceback shows it; nothing where that can't be told."""
    try:
        return _stack_of(thread)
    except Exception:  # the lines come from loaders, which may be anybody's
        return ""


def _stack_of(thread: int) -> str:
    import traceback

    if FRAMES_ARE_SAFE:
        frame = sys._current_frames().get(thread)
        return "" if frame is None else "".join(traceback.format_stack(frame))
    oldest_first = [(file, line, function, None) for file, line, function in reversed(places_of(thread))]
    return "".join(traceback.StackSummary.from_list(oldest_first).format())


def _report() -> str:
    import faulthandler
    import tempfile

    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read().decode(errors="replace")


def _read(thread: int, report: str) -> list[Place]:
    import re

    found: list[Place] = []
    mine = False
    for line in report.splitlines():
        if head := re.match(_THREAD, line):
            mine = int(head[1], 16) == thread
        elif mine and (place := re.fullmatch(_PLACE, line)):
            found.append(Place(place[1], int(place[2]) if place[2].isdigit() else 0, place[3]))
    return found
