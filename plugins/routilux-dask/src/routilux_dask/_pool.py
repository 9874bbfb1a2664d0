"""The pool of strategy `dask`, as the engine sees it: any thread may call it."""

from __future__ import annotations

import threading
import weakref
from time import monotonic

from routilux_core import Host, Task, WorkerPool
from routilux_dask._link import Link, Settings


class DaskPool(WorkerPool):
    """Gives tasks to the thread that talks with the cluster. Closed when it is forgotten."""

    def __init__(self, settings: Settings, host: Host) -> None:
        self._link = Link(settings, host)
        self._link.open()
        self._forget = weakref.finalize(self, self._link.stop, True, 0.0)
        self._forget.atexit = False

    @property
    def workers(self) -> int:  # type: ignore[override]
        """As many as the cluster has threads now, and `max_workers` at most."""
        return self._link.size

    def submit(self, task: Task) -> None:
        if not self._link.take(task):
            task.fail(RuntimeError("the pool is closed"))

    def cancel(self, task: Task) -> bool:
        """Take a task back that has not left; one that has is told to stop before its next activation."""
        return self._link.take_back(task)

    def after_fork(self) -> None:
        self._link.leave()

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> None:
        deadline = None if timeout is None else monotonic() + timeout
        self._link.stop(cancel, timeout)
        for thread in self._link.threads:
            if thread is not threading.current_thread() and thread.ident is not None:
                thread.join(None if deadline is None else max(0.0, deadline - monotonic()))
