"""What a case works with: the strategy under test, flows that run under it, and what its handlers noted."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any

import attrs
import pytest

from routilux_core.flow import Flow
from routilux_core.job import JobState
from routilux_core.routine import Routine
from routilux_core.strategy import Capabilities, ExecutionStrategy, WorkerPool
from routilux_core.testing._board import Note, notes, open_gate, until
from routilux_core.testing._patient import AWAITING, Gated, Patient, Turn
from routilux_core.testing._routines import Forward
from routilux_core.testing._spy import Capture, Errand, KitHost, Log, SpyStrategy, spied
from routilux_core.testing._watch import Hang, crowding, in_time


class Bench:
    """The strategy under test, and what a case builds with it. Closed by the fixture, with a deadline of its own."""

    def __init__(
        self, strategy: Any, folder: str, deadline: float, workers: int | None, sleep: Callable[[float], None]
    ) -> None:
        self._strategy = strategy
        self._sleep = sleep
        self.folder = folder
        longer = crowding()
        self.deadline = deadline * longer
        self.patience = self.deadline / 2  # seconds for one thing to happen: then the case says what did not
        self.moment = min(deadline / 4, 5.0) * longer  # for what is done at once, even where a machine is busy
        self._end = monotonic() + self.deadline
        self.capabilities: Capabilities = self.make().capabilities
        self.workers = workers or (4 if self.capabilities.shares_memory else 2)
        self._flows: list[Flow] = []
        self._pools: list[WorkerPool] = []

    @property
    def rest(self) -> float:
        """The seconds that a case may still wait, with enough left to say what did not happen."""
        return max(0.0, self._end - monotonic() - self.deadline / 10)

    # -- the strategy

    def make(self, max_workers: int | None = None) -> ExecutionStrategy:
        """Return the strategy under test, with a number of workers."""
        given = self._strategy
        if isinstance(given, str):
            return Flow(execution_strategy=given, max_workers=max_workers)._runtime.default.strategy  # as users get it
        if isinstance(given, ExecutionStrategy):
            return attrs.evolve(given, max_workers=max_workers)
        made = given(max_workers=max_workers)
        assert isinstance(made, ExecutionStrategy), f"the fixture `strategy` made {made!r}, not an ExecutionStrategy"
        return made

    def open(self, max_workers: int | None = None) -> WorkerPool:
        """Open a pool without an engine."""
        pool = self.make(max_workers or self.workers).open(KitHost())
        self._pools.append(pool)
        return pool

    def errand(self, log: Log) -> Errand:
        """Return a task that a pool can run without an engine."""
        return Errand(log, payload=b"" if self.capabilities.shares_memory else self._payload)

    def turn(self, log: Log, n: int, seconds: float | None = None) -> Errand:
        """Return a task like that, which notes that it was begun, and waits at the gate for so many seconds at most."""
        seconds = self.patience if seconds is None else seconds
        if self.capabilities.shares_memory:
            return Errand(log, turn=Turn(self.folder, seconds, self._sleep, n))
        return Errand(log, payload=self.payload(self.patient(Gated, seconds), n))

    @functools.cached_property
    def _payload(self) -> bytes:
        return self.payload(Forward(), 1)

    def payload(self, routine: Routine, n: int) -> bytes:
        """Return what the engine ships for one call of a routine: caught by a pool that runs nothing."""
        pool = Capture()

        class Captures(SpyStrategy):
            __slots__ = ()
            name = "captures"
            capabilities = attrs.evolve(self.capabilities, max_batch=1)

            def open(self, host: Any) -> WorkerPool:
                return pool

        with Flow(execution_strategy=Captures(inner=self.make(), log=Log()), error_handler="continue") as flow:
            flow.add_routine(routine, "caught")
            flow.run("caught", {"n": n})
        return pool.payloads[0]

    # -- flows

    def flow(self, routines: dict[str, Routine], *wires: str, **settings: Any) -> Flow:
        """Return a flow of these routines; a wire is "source.event target.slot". Every event `out` is an output."""
        settings.setdefault("execution_strategy", self.make(self.workers))
        flow = Flow(**settings)
        self._flows.append(flow)
        for name, routine in routines.items():
            flow.add_routine(routine, name)
        for wire in wires:
            (source, event), (target, slot) = (end.split(".") for end in wire.split())
            flow.connect(source, event, target, slot)
        for name, routine in routines.items():
            if "out" in routine._routilux.events:
                flow.add_output(name, "out")
        return flow

    def patient(self, kind: type[Patient], seconds: float, **fields: Any) -> Patient:
        """Return a routine that waits for so many seconds at most, in the way that lets others run meanwhile."""
        kind = AWAITING.get(kind, kind) if self.capabilities.coroutines else kind
        return kind(folder=self.folder, patience=seconds, sleep=self._sleep, **fields)

    def spied(self, log: Log) -> ExecutionStrategy:
        """Return the strategy under test with a spy around it: one activation for each task."""
        return spied(self.make(self.workers), log)

    def ended(self, job: JobState) -> bool:
        """Wait for a job, with patience."""
        return job.wait(min(self.patience, self.rest))

    def finished(self, job: JobState) -> JobState:
        """Wait for a job that has to complete, and return it."""
        assert self.ended(job), f"the job did not end within {self.patience:g} s: {job.explain()}"
        errors = "; ".join(f"{each.routine_id}: {each.exception!r}" for each in job.errors)
        assert job.status == "completed", f"the job is {job.status}: {errors}"
        return job

    # -- what handlers noted

    def notes(self, name: str) -> list[Note]:
        """Return what handlers noted in one file."""
        return notes(self.folder, name)

    def noted(self, name: str, count: int) -> bool:
        """Wait until handlers have noted so much in one file, with patience."""
        return until(lambda: len(notes(self.folder, name)) >= count, min(self.patience, self.rest))

    def begun(self, count: int = 1) -> None:
        """Wait until so many calls that note it have begun."""
        assert self.noted("entered", count), f"not {count} calls were begun within {self.patience:g} s"

    def open_gate(self, name: str = "gate") -> None:
        """Let handlers pass."""
        open_gate(self.folder, name)

    def in_background(self, work: Callable[..., Any], *args: Any) -> Background:
        """Start a call in a thread of its own: under some strategies `execute` returns when the job has ended."""
        return Background(work, args, self.patience)

    # -- the end

    def close(self) -> None:
        """Shut down everything; what does not end is left behind, so that the next case can run."""
        self.open_gate()
        with suppress(Hang, Exception):
            in_time(self._close, self.patience + 2.0, "closing")

    def _close(self) -> None:
        for flow in self._flows:
            flow.cancel()
            flow.shutdown(timeout=1.0)
        for pool in self._pools:
            with suppress(Exception):
                pool.close(cancel=True, timeout=1.0)


class Background:
    """A call in a thread of its own."""

    def __init__(self, work: Callable[..., Any], args: tuple[Any, ...], patience: float) -> None:
        self._work, self._args, self._patience = work, args, patience
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="kit: background", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._work(*self._args)
        except BaseException as error:
            self._error = error

    def has_ended(self, seconds: float) -> bool:
        """Wait for the end of the call for some seconds; raise what it raised, and return whether it has ended."""
        self._thread.join(seconds)
        if self._error is not None:
            raise self._error
        return not self._thread.is_alive()

    def ended(self) -> None:
        """Wait for the end of the call, with patience, and raise what it raised."""
        assert self.has_ended(self._patience), f"a call did not return within {self._patience:g} s: {self._work}"


def case(method: Callable[[Any, Bench], None]) -> Callable[[Any, Bench], None]:
    """Run a case with a deadline: a strategy that hangs fails the case with the stacks of all threads.

    One that the suite exempts is skipped with the reason given there.
    """

    @functools.wraps(method)
    def run(self: Any, bench: Bench) -> None:
        if method.__name__ in self.exempt:
            pytest.skip(f"exempt: {self.exempt[method.__name__]}")
        in_time(lambda: method(self, bench), bench.deadline, method.__name__)

    return run


def needs(holds: bool, what: str) -> None:
    """Skip a case that a strategy with these capabilities promises nothing about."""
    if not holds:
        pytest.skip(f"the strategy does not declare {what}")
