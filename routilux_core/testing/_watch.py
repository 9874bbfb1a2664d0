"""Running something that may hang, and what is alive in and below this process."""

from __future__ import annotations

import faulthandler
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

T = TypeVar("T")

ROOM = 2  # threads that want to run, for each cpu: for so many the limits have room


class Hang(AssertionError):
    """A case did not end in its time; the message has the stacks of all threads."""


def in_time(work: Callable[[], T], seconds: float, label: str) -> T:
    """Return what `work` returns, called in a thread of its own; raise Hang with all stacks after `seconds`."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name=f"kit: {label}", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise Hang(f"{label} did not end within {seconds:g} s. The stacks of all threads:\n{_stacks()}")
    if errors:
        raise errors[0]
    return results[0]


def _stacks() -> str:
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file)
        file.seek(0)
        return file.read()


def crowding() -> float:
    """Return how many times longer the limits of a case have to be while this machine has so much to do; 1 at least."""
    try:
        load = os.getloadavg()[0]
    except (AttributeError, OSError):  # the system does not tell
        return 1.0
    return max(1.0, load / (ROOM * (os.cpu_count() or 1)))


def threads_alive() -> dict[int, str]:
    """Return the threads of this process, but for the kit's own: the system's number to the name."""
    return {
        thread.native_id: thread.name
        for thread in threading.enumerate()
        if thread.native_id is not None and not thread.name.startswith("kit: ")
    }


def processes_alive() -> set[int]:
    """Return the processes below this one, where the system tells; those that ended and wait to be asked for don't
    count."""
    if Path("/proc/self/stat").exists():
        return _descendants(os.getpid())
    multiprocessing = sys.modules.get("multiprocessing")
    return {child.pid for child in multiprocessing.active_children()} if multiprocessing else set()


def session_of(leader: int) -> set[int]:
    """Return the processes of a session that run, where the system tells."""
    return {pid for pid, each in _table().items() if each.session == leader}


def is_alive(pid: int) -> bool:
    """Whether a process on this machine runs."""
    stat = _stat(pid)
    if stat is not None:
        return stat.state != "Z"
    if os.name != "posix" or Path("/proc/self/stat").exists():
        return pid in processes_alive()
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _descendants(root: int) -> set[int]:
    parents = {pid: each.parent for pid, each in _table().items()}
    found = {root}
    while new := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= new
    return found - {root}


class _Stat(NamedTuple):
    state: str
    parent: int
    session: int


def _table() -> dict[int, _Stat]:
    """Return the processes of this machine that run, where the system tells."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        stat = _stat(int(folder.name))
        if stat is not None and stat.state != "Z":
            found[int(folder.name)] = stat
    return found


def _stat(pid: int) -> _Stat | None:
    """Return what Linux's table says of a process; the name before that may hold anything."""
    with suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return _Stat(fields[0], int(fields[1]), int(fields[3]))
    return None
