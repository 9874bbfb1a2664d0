"""Strategies that make the order of activations a test's own choice: to find races, and to replay them."""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, ClassVar

from attrs import field, frozen

from routilux_core._runtime.pools import SchedulerHost
from routilux_core.errors import FlowStateError, UnknownNameError
from routilux_core.records import ActivationRecord
from routilux_core.strategy import Capabilities, Done, ExecutionStrategy, Host, Task, Waiting, WorkerPool

ONE_AT_A_TIME = Capabilities(shares_memory=True, parallel=False)
Which = str | Waiting | ActivationRecord


@frozen
class ShuffledStrategy(ExecutionStrategy):
    """One thread, and a seeded order among what may run: `Flow(execution_strategy=ShuffledStrategy(7))`.

    The order is one that the engine allows: what one call emits reaches a routine with state in the order emitted, and
    everything else may overtake. The same seed gives the same order, where the flow does the same; what waits for a
    retry comes when its delay is over, so use a delay of 0 or a minute, but nothing in between.
    """

    name: ClassVar[str] = "shuffled"
    contract: ClassVar[int] = 2
    capabilities: ClassVar[Capabilities] = ONE_AT_A_TIME
    seed: int = 0

    def open(self, host: Host) -> WorkerPool:
        chance = random.Random(self.seed)
        return _CallerPool(lambda waiting: chance.randrange(len(waiting)))


class _CallerPool(WorkerPool):
    """Runs tasks in the thread that waits."""

    in_caller = True

    def __init__(self, chooser: Callable[[Sequence[Waiting]], int | None]) -> None:
        self.chooser = chooser
        self._tasks: deque[Task] = deque()
        self._changed = threading.Condition()

    def submit(self, task: Task) -> None:
        with self._changed:
            self._tasks.append(task)
            self._changed.notify()

    def wait(self, done: Done, timeout: float | None) -> bool:
        deadline = None if timeout is None else monotonic() + timeout
        done.add_callback(self._wake)
        try:
            while (task := self._next(done, deadline)) is not None:
                task()
        finally:
            done.remove_callback(self._wake)
        return done.is_set()

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> None:
        with self._changed:
            self._tasks.clear()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _next(self, done: Done, deadline: float | None) -> Task | None:
        """Return the next task, or None when `done` is set or the time is over."""
        with self._changed:
            while not done.is_set():
                if self._tasks:
                    return self._tasks.popleft()
                left = None if deadline is None else deadline - monotonic()
                if left is not None and left <= 0:
                    return None
                self._changed.wait(left)
            return None


@frozen
class ManualStrategy(ExecutionStrategy):
    """Nothing runs until the test says so, and which: `strategy.step("aggregate")`.

    `Flow.execute` returns at once, and waiting runs nothing: it returns at once, whether the job has ended or not. For
    one flow at a time; where several had it, for the one that opened its pool last.
    """

    name: ClassVar[str] = "manual"
    contract: ClassVar[int] = 2
    capabilities: ClassVar[Capabilities] = ONE_AT_A_TIME
    _pools: list[_ManualPool] = field(factory=list, init=False, eq=False, repr=False)

    def open(self, host: Host) -> WorkerPool:
        pool = _ManualPool(host)
        self._pools[:] = [pool]
        return pool

    @property
    def pending(self) -> list[Waiting]:
        """The activations that may run now, oldest first; empty before the first `execute`."""
        return self._pools[0].pending() if self._pools else []

    def step(self, which: Which | None = None) -> Waiting:
        """Run one activation in this thread, and return it: the oldest, the oldest of a routine by id, or just that.

        A record of another run's history means the same activation of this run: so an order is taken step by step.
        """
        pending = self.pending
        chosen = _chosen(pending, which)
        self._pools[0].run(chosen)
        return chosen

    def run_all(self) -> list[Waiting]:
        """Run everything, oldest first, until nothing may run, and return it in that order."""
        ran = []
        while self.pending:
            ran.append(self.step())
        return ran


class _ManualPool(WorkerPool):
    """Keeps the task that the engine hands it until a test asks for a step."""

    in_caller = True

    def __init__(self, host: Any) -> None:
        if not isinstance(host, SchedulerHost):
            raise TypeError(f"ManualStrategy needs the engine's own host, to see what waits; not {host!r}")
        self.chooser = self._choose
        self._host = host
        self._tasks: deque[Task] = deque()
        self._wanted: Waiting | None = None

    def submit(self, task: Task) -> None:
        self._tasks.append(task)

    def wait(self, done: Done, timeout: float | None) -> bool:
        return done.is_set()

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> None:
        self._tasks.clear()

    def pending(self) -> list[Waiting]:
        return self._host.waiting()

    def run(self, wanted: Waiting) -> None:
        self._wanted = wanted
        try:
            self._tasks.popleft()()
        except IndexError:
            raise FlowStateError("a step was asked for inside a step: an activation runs already") from None
        finally:
            self._wanted = None

    def _choose(self, waiting: Sequence[Waiting]) -> int | None:
        wanted = self._wanted
        for index, each in enumerate(waiting):
            if wanted is not None and (each.job_id, each.id) == (wanted.job_id, wanted.id):
                return index
        return None


def _chosen(pending: list[Waiting], which: Which | None) -> Waiting:
    """Return what a test asks for, among what may run."""
    if not pending:
        raise FlowStateError("there is nothing to step: no activation may run now")
    for each in pending:
        if which is None or which == each.routine_id or _is(each, which):
            return each
    asked = which if isinstance(which, str) else f"activation {which.id} of {which.routine_id!r}" if which else ""
    raise UnknownNameError("pending activation", asked, {each.routine_id for each in pending}, "see strategy.pending")


def _is(each: Waiting, which: Which) -> bool:
    if isinstance(which, Waiting):
        return (each.job_id, each.id) == (which.job_id, which.id)
    return isinstance(which, ActivationRecord) and (each.id, each.routine_id) == (which.id, which.routine_id)
