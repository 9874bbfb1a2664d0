"""How many cpus this process may use: those it is bound to, and what its control group may spend of them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path


def cpus(root: Path = Path("/")) -> int:
    """Return the number of cpus, at least 1; a part of one counts as a whole. `root` is where /proc and /sys are."""
    if hasattr(os, "process_cpu_count"):  # from Python 3.13 on; it can be told another number
        there = os.process_cpu_count() or 1
    elif hasattr(os, "sched_getaffinity"):
        there = len(os.sched_getaffinity(0))
    else:
        there = os.cpu_count() or 1
    return max(1, min([there, *map(math.ceil, _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """Yield how many cpus each control group around this process may spend, where one has a limit."""
    for line in _lines(root / "proc/self/cgroup"):
        _, kinds, path = (*line.split(":", 2), "", "")[:3]
        if not kinds:  # version 2
            for group in _upwards(root / "sys/fs/cgroup", path):
                yield from _share(*(*_lines(group / "cpu.max"), "")[0].split())
        elif "cpu" in kinds.split(","):
            for group in _upwards(root / "sys/fs/cgroup" / kinds, path):
                yield from _share(*_lines(group / "cpu.cfs_quota_us"), *_lines(group / "cpu.cfs_period_us"))


def _upwards(top: Path, path: str) -> Iterator[Path]:
    """Yield a group's folder and those around it; in a container the outermost is its own."""
    here = top / path.strip("/")
    yield from (each for each in (here, *here.parents) if each == top or top in each.parents)


def _share(*numbers: str) -> Iterator[float]:
    """Yield quota by period, where both are numbers: "max", or -1, is no limit."""
    if len(numbers) == 2 and all(each.isdigit() for each in numbers) and int(numbers[1]):
        yield int(numbers[0]) / int(numbers[1])


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().split("\n")[:-1] or [""]
    except (OSError, ValueError):  # there are no such groups here
        return []
