"""Memory for what is large: each piece of it has its own, from the system, and goes back there when nobody has it."""

from __future__ import annotations

import mmap
from contextlib import suppress
from typing import cast

HUGE = 1 << 22  # bytes from which on pages of 2 MB are asked for: the first touch of a page costs more than its copy
MADVISE_HUGE: int | None = getattr(mmap, "MADV_HUGEPAGE", None)

Memory = bytearray | memoryview


def memory(length: int) -> Memory:
    """Return so many bytes that can be written to; `MemoryError` where the system has not as many.

    A handler may get them, and do with them what it likes. So they are no view: the collector of CPython 3.11 and of
    early 3.12 clears a view in a circle though something there still shows it, and the process crashes.
    """
    if length < HUGE or MADVISE_HUGE is None:
        return bytearray(length)
    try:
        place = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # a fork has a copy of its own
    except (OSError, OverflowError) as error:
        raise MemoryError(f"{length:,} bytes") from error
    with suppress(OSError):  # a system without such pages
        place.madvise(MADVISE_HUGE)
    return cast("Memory", place)  # as good as any
