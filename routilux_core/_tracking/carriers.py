"""What plugins send along with the tasks of a job: written here, and entered around each task in its worker."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from routilux_core._engine.run import Run
from routilux_core._text.log import log
from routilux_core.errors import is_interrupt


class Carriers:
    """The carriers of jobs, each as bytes: written once, when the first task of its job is packed."""

    __slots__ = ("_dumps", "_written")

    def __init__(self, dumps: Callable[[Any], bytes]) -> None:
        self._dumps = dumps
        self._written: dict[str, bytes] = {}

    def of(self, run: Run) -> bytes:
        """Return what goes along with each task of a job; nothing where no plugin sends anything."""
        if run.listeners is None or not run.listeners.carries:
            return b""
        # Without the lock. Two threads may write the same carrier at once: the plugins are asked once.
        written = self._written.get(run.job_id)
        if written is None:
            written = self._written[run.job_id] = self._pickled(run.job_id, run.listeners.carried())
        return written

    def forget(self) -> None:
        """Let go of what was written, where no job runs."""
        self._written.clear()

    def _pickled(self, job_id: str, carried: list[tuple[str, Any]]) -> bytes:
        whole = []
        for plugin, each in carried:
            try:
                whole.append(self._dumps(each))
            except BaseException as error:  # of whatever kind: it is the plugin's own
                if is_interrupt(error):
                    raise
                log.warning("plugin %r, routilux_carry: what goes along with job %s can't be pickled", plugin, job_id)
                log.debug("plugin %r, routilux_carry: %r", plugin, error, exc_info=error)
        return self._dumps((job_id, whole)) if whole else b""


_told: deque[tuple[str, str]] = deque(maxlen=64)  # jobs, and what failed, of which this process has logged


@contextlib.contextmanager
def entered(carrier: bytes, loads: Callable[[bytes], Any]) -> Iterator[None]:
    """Run a task in its worker with what plugins have sent along. One that fails is logged, and left out."""
    managers: list[AbstractContextManager[object]] = []
    job_id, whole = loads(carrier)
    for each in whole:
        with _logged(job_id, "entered"):
            manager = loads(each)()
            manager.__enter__()
            managers.append(manager)
    try:
        yield
    finally:  # what handlers raise does not come by here: the task has it
        for manager in reversed(managers):
            with _logged(job_id, "left"):
                manager.__exit__(None, None, None)


@contextlib.contextmanager
def _logged(job_id: str, what: str) -> Iterator[None]:
    """Log what is raised, once for a job: its next task would say the same."""
    try:
        yield
    except BaseException as error:
        if is_interrupt(error):
            raise
        if (job_id, what) in _told:
            return
        _told.append((job_id, what))
        text = "job %s: what a plugin has sent along (routilux_carry) could not be %s here: %r"
        log.warning(text, job_id, what, error, exc_info=error)
