"""What a worker process keeps from task to task: routines, environments, resources, and what sends for it."""

from __future__ import annotations

import atexit
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

from routilux_core._remote.logs import Relay
from routilux_core._remote.reporter import Flusher
from routilux_core._threads.resources import Resources

MOST_PARTS = 4096
MOST_BYTES = 256 << 20


class Batch(Protocol):
    """A task that runs."""

    def leave(self) -> None: ...


class Process:
    """What a worker process keeps from task to task."""

    def __init__(self) -> None:
        self.token = f"{os.getpid()}-{os.urandom(8).hex()}"  # says whether work comes from this very process
        self.pid = os.getpid()
        self.running: set[Batch] = set()
        self.serves = False  # whether it runs what other processes send
        self.resources = Resources()
        self.relay = Relay()
        self.flusher = Flusher()
        self._parts: OrderedDict[str, tuple[int, Any]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._closes = False

    def close_at_exit(self) -> None:
        """Close the resources when the process ends, if nobody has before."""
        if not self._closes:
            self._closes = True
            atexit.register(self.resources.close_everywhere)

    def part(self, key: str, data: bytes | None, make: Callable[[bytes], Any]) -> Any:
        """Return what was made of a part, from memory or from what came with the task; None if neither has it."""
        with self._lock:
            if key in self._parts:
                self._parts.move_to_end(key)
                return self._parts[key][1]
        if data is None:
            return None
        # Without the lock: modules of others are imported in here, and may wait for a thread that runs another task. So
        # two threads may make the same part. The first that is done is kept; each goes on with its own.
        made = make(data)
        with self._lock:
            if key not in self._parts:
                self._parts[key] = len(data), made
                self._bytes += len(data)
            while len(self._parts) > MOST_PARTS or (self._bytes > MOST_BYTES and len(self._parts) > 1):
                self._bytes -= self._parts.popitem(last=False)[1][0]
            return made


_process = Process()


def _after_fork() -> None:
    """Let the tasks that run know that this process is a fork, which a handler has made: they are not its own."""
    # The old process's record, on purpose: `process()` would make a new one, which knows of no task.
    # A copy, and no lock: the threads that might change the set have not come along.
    for batch in list(_process.running):
        batch.leave()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def process() -> Process:
    """Return what this process keeps; a forked one starts anew, since locks and threads don't survive the fork."""
    global _process
    if _process.pid != os.getpid():
        _process = Process()
    return _process
