"""What the parent knows of one worker process, and of the batches that it has."""

from __future__ import annotations

import contextlib
import os
import socket
from collections import deque
from time import monotonic
from typing import Any

from routilux_core import ActivationTimeout, Task, WorkerLost
from routilux_core_plugins.process.channel import BATCH, STOP, TIMED, BrokenChannelError, Frame, ParentEnd
from routilux_core_plugins.process.child import CANCEL, MARK, UNPACKING, WORDS, start

GRACE = 5.0  # seconds that a worker gets to close its resources and to end
EXIT_CODE_S = 2.0  # that a fork server gets to tell how one has ended


class Batch:
    """A task on its way: in the queue, or with a worker as its batch of this number."""

    __slots__ = ("begun", "cancelled", "deadline", "expired", "killed", "losses", "number", "task")

    def __init__(self, task: Task) -> None:
        self.task = task
        self.number = 0
        self.losses = 0  # workers that were lost when this was their next, and none of it had begun
        self.begun = False  # that is told where its time is limited
        self.deadline: float | None = None
        self.cancelled = False  # if its worker is lost, it goes to another one, which does not begin it either
        self.expired = False
        self.killed = False


class Worker:
    """One worker process. Its batches are done in order; the first is the one that runs.

    What it is given and told changes under the pool's lock; the supervisor alone starts, reads and buries it.
    """

    def __init__(self, method: str, runner: str, words: Any, slot: int, patience: float) -> None:
        ours, theirs = socket.socketpair()
        try:
            self.process = start(method, theirs, words, slot, runner)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self.pid = self.process.pid or 0
        self.slot = slot
        self.channel = ParentEnd(ours)
        self.end = _watch_of(self.pid, self.process.sentinel)
        self.batches: deque[Batch] = deque()
        self.known: frozenset[str] = frozenset()
        self.done = 0  # activations
        self.ready = False
        self.leaving = False  # it gets no further batches
        self.retired = False  # it was asked to end
        self.reason: str | None = None  # why it was killed
        self.started = monotonic()
        self.deadline: float | None = self.started + patience  # for its start, or for its end
        self._patience = patience
        self._words = memoryview(words).cast("B").cast("Q")[slot * WORDS : (slot + 1) * WORDS]
        self._words[MARK] = 0
        self._numbers = 0

    @property
    def is_open(self) -> bool:
        """Whether it can be given a batch."""
        return self.ready and not self.leaving

    def give(self, batch: Batch) -> None:
        """Send a batch, without what this worker has kept of earlier ones. Under the roster's lock."""
        pieces = batch.task.pieces(self.known)
        parts = batch.task.parts
        if not parts <= self.known:
            self.known |= parts
        self._numbers += 1
        batch.number = self._numbers
        batch.begun, batch.deadline = False, None
        self._words[CANCEL + batch.number % 2] = batch.number if batch.cancelled else 0
        self.batches.append(batch)
        self.channel.put(BATCH if batch.task.timeout is None else TIMED, batch.number, pieces)

    def tell_to_stop_before_the_next(self, batch: Batch) -> None:
        """Let the worker see that a batch is cancelled. Under the roster's lock."""
        batch.cancelled = True
        self._words[CANCEL + batch.number % 2] = batch.number

    def retire(self) -> None:
        """Ask an idle worker to end. Under the roster's lock."""
        self.leaving = self.retired = True
        self.deadline = monotonic() + GRACE
        self.channel.put(STOP, 0)

    def kill(self, reason: str) -> None:
        """End it at once, before it is buried. Under the roster's lock."""
        if self.reason is None:
            self.reason = reason
        self.leaving = True
        self.deadline = None
        self.process.kill()

    def check(self, now: float) -> float | None:
        """End the worker when a deadline is over; return the next one."""
        if self.deadline is not None and now >= self.deadline:
            self.kill("did not end when asked to" if self.ready else f"not ready after {now - self.started:.3g} s")
        first = self.batches[0] if self.batches else None
        if first is None or first.task.timeout is None or self.reason is not None:
            return self.deadline
        if first.deadline is None and not self.channel.waits:
            first.deadline = now + self._patience  # to import what the call needs, which is not the call's time
        if first.deadline is not None and now >= first.deadline:
            first.killed, first.expired = not first.begun, first.begun
            self.kill("its call ran too long" if first.begun else f"no call had begun after {self._patience:.3g} s")
        return _earlier(self.deadline, first.deadline)

    def begin_call(self) -> None:
        """Start the clock of the batch that runs: its call has begun."""
        first = self.batches[0]
        if first.task.timeout is not None and not first.begun:
            first.begun, first.deadline = True, monotonic() + first.task.timeout

    def last_words(self) -> list[Frame]:
        """Return what a worker that is gone had sent."""
        with contextlib.suppress(BrokenChannelError):
            return self.channel.read_all()
        return []

    def index_in(self, batch: Batch) -> int | None:
        """Return the index of the activation of a batch that it began last; None if it has begun none."""
        number, index = divmod(self._words[MARK], 1 << 32)
        return index if number == batch.number and index != UNPACKING else None

    def fate(self) -> str:
        """Say how it ended."""
        code = self.exit_code()
        if self.reason is not None:
            return self.reason
        if code is None:
            return "ended"
        return f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"

    def exit_code(self) -> int | None:
        """Return the code with which it ended; None where somebody else has fetched it."""
        if self.process.exitcode is None:
            self.process.join(EXIT_CODE_S)  # a fork server passes it on a little later
        return self.process.exitcode

    def error_for(self, batch: Batch) -> Exception:
        """Return what the activation fails with that ran when this worker ended."""
        if batch.expired:
            return ActivationTimeout(
                f"the call ran longer than its time-out of {batch.task.timeout:g} s; "
                f"worker process {self.pid} was ended with it"
            )
        return WorkerLost(worker=self.pid, reason=self.fate())

    def close(self) -> None:
        """Close what leads to it."""
        self.channel.close()
        if self.end != self.process.sentinel:
            os.close(self.end)

    def release(self) -> None:
        """Give back what the system holds for it."""
        self._words.release()
        self.close()
        with contextlib.suppress(ValueError):  # somebody else has fetched its exit code
            self.process.close()


def _earlier(one: float | None, other: float | None) -> float | None:
    return min((each for each in (one, other) if each is not None), default=None)


def _watch_of(pid: int, sentinel: int) -> int:
    """Return a descriptor that tells the end of a process.

    The sentinel of `multiprocessing` is a pipe, which a child of the worker may hold open after the worker's death.
    """
    if hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):
            return os.pidfd_open(pid)
    return sentinel
