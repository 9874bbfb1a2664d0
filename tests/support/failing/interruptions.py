"""Cancels and pauses at seeded moments of a job, under any bundled strategy, and what has to hold all the same."""

from __future__ import annotations

import itertools
import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from time import sleep
from types import FrameType
from typing import Any

from attrs import frozen

import failing.interrupted as routines
from quickest import keywords
from routilux_core import ErrorHandler, Flow, JobState
from stress.watch import switching_often, watched

LIMIT = 30.0  # seconds for one job, which takes a fraction of one
LONGEST_PAUSE = 0.003  # seconds
OVER = 255  # is sent through the pipe when the job has ended
HANDLERS = {routines.Source.__call__.__code__, routines.Work.item.__code__, routines.Keep.item.__code__}


class LateStart(AssertionError):
    """More handlers were entered after `cancel()` had returned than workers can have committed to."""


@frozen
class Moment:
    """What is done when so many handlers have been entered."""

    entered: int
    action: str  # cancel, pause (and resume), or "pause, cancel": without resume
    inside: bool  # in the handler that is entered as that number; else in a thread of its own
    whole_flow: bool
    pause: float  # seconds


def moments_of(seed: int, calls: int, shared: bool) -> list[Moment]:
    """Draw up to three moments, of which the last may be a cancel; in a handler only where memory is shared."""
    dice = random.Random(f"{seed} {calls}")
    entered = sorted(dice.sample(range(1, calls), dice.choice((1, 1, 2, 3))))
    actions = ["pause"] * (len(entered) - 1) + [dice.choice(("cancel", "cancel", "pause, cancel", "pause"))]
    return [
        Moment(number, action, shared and dice.random() < 0.5, dice.random() < 0.5, dice.uniform(0.0, LONGEST_PAUSE))
        for number, action in zip(entered, actions, strict=True)
    ]


def make_flow(strategy: str) -> Flow:
    retry = ErrorHandler("retry", max_retries=1, retry_delay=0.001, after_retries="skip")
    workers = None if strategy == "sequential" else 2 if strategy == "process" else 6
    flow = Flow("interrupted", **keywords(strategy, workers))
    flow.add_routine(routines.Source(), "source")
    work = routines.Work()
    work.set_error_handler(retry)
    flow.add_routine(work, "work")
    flow.add_routine(routines.Keep(), "keep")
    flow.connect("source", "item", "work", "item")
    flow.connect("work", "done", "keep", "item")
    return flow


class Trial:
    """One job, interrupted."""

    def __init__(self, flow: Flow, folder: Path, seed: int, events: int) -> None:
        self.flow = flow
        self.shared = flow.execution_strategy != "process"
        self.count = events // 2  # each is sent twice
        self.folder = folder
        self.moments = moments_of(seed, 2 * self.count, self.shared)
        self.label = f"seed {seed} under {flow.execution_strategy}, {self.moments}"
        self.calls, self.pipe = folder / "calls", folder / "pipe"
        self.calls.touch()
        os.mkfifo(self.pipe)
        self.end = os.open(self.pipe, os.O_RDWR)  # never at its end
        self.ready = threading.Event()
        self.job: JobState | None = None
        self.done: list[str] = []
        self.cancelled_at: list[int] = []  # handlers entered when `cancel` had returned
        self.errors: list[BaseException] = []

    # -- what is done

    def entered(self) -> int:
        return len(routines.ENTERED) if self.shared else self.lines()

    def lines(self) -> int:
        return self.calls.stat().st_size // routines.WIDTH

    def act(self, moment: Moment) -> None:
        target: Any = self.flow if moment.whole_flow else self.flow.job_state
        if moment.action == "cancel":
            self.cancel(target)
        else:
            target.pause()
            if moment.inside:
                threading.Thread(target=self.go_on, args=(moment, target)).start()
            else:
                self.go_on(moment, target)
        self.done.append(moment.action)

    def go_on(self, moment: Moment, target: Any) -> None:
        sleep(moment.pause)  # for as long as the pause is drawn
        if moment.action == "pause":
            target.resume()
        else:
            self.cancel(target)

    def cancel(self, target: Any) -> None:
        target.cancel()
        self.cancelled_at.append(self.entered())

    def listen(self) -> None:
        """Act when a handler tells so, until the job is over."""
        try:
            while (index := os.read(self.end, 1)[0]) != OVER:
                self.act(self.moments[index])
        except BaseException as error:
            self.errors.append(error)

    # -- the job

    def run(self) -> None:
        inside = {(str(self.folder), each.entered): each for each in self.moments if each.inside}
        for place, moment in inside.items():
            routines.INSIDE[place] = lambda moment=moment: self.act(moment)
        listener = threading.Thread(target=self.listen, name="interrupts")
        listener.start()
        try:
            order = {
                "count": self.count,
                "folder": str(self.folder),
                "moments": tuple(each.entered for each in self.moments),
            }
            self.job = self.flow.execute("source", order)
            assert self.job.wait(LIMIT), self.job.explain()
        finally:
            os.write(self.end, bytes([OVER]))
            listener.join()
            os.close(self.end)
            for place in inside:
                del routines.INSIDE[place]
        if self.errors:
            raise self.errors[0]

    def check(self) -> None:
        """Look at what has to hold; the job has ended, and so has another one of the same pool behind it."""
        job = self.job
        assert job is not None
        ledger, called = job.ledger, self.lines()
        ended = ledger.completed + ledger.failed + ledger.skipped + ledger.retried
        assert called == ended, f"{self.label}: {called} handlers called, the ledger has {ended}: {ledger}"
        assert ledger.balanced, f"{self.label}: {ledger}"
        assert ledger.pending == 0, f"{self.label}: {ledger}"
        if "cancel" not in "".join(self.done):
            failing = len(range(7, self.count, 50))
            counts = (job.status, ledger.skipped, ledger.retried, ledger.completed, ledger.discarded)
            assert counts == ("completed", failing, failing, 1 + 2 * (self.count - failing), 0), (
                f"{self.label}: {ledger}"
            )
        if self.cancelled_at and self.is_late(self.cancelled_at[0]):
            late = self.entered() - self.cancelled_at[0]
            raise LateStart(f"{self.label}: {late} handlers were entered after cancel() had returned")

    def is_late(self, entered: int) -> bool:
        """Return whether a worker has entered more, since so many were entered, than what it had committed to then."""
        if self.shared:
            return max(Counter(routines.ENTERED[entered:]).values(), default=0) > 1
        return self.lines() - entered > self.flow.max_workers


@contextmanager
def interrupted_often(seed: int) -> Iterator[None]:
    """Let threads that start meanwhile take turns often, also where a handler is entered, before its first line.

    That is the gap between the last look whether a job was cancelled and the call.
    """
    dice, often = random.Random(seed), itertools.count()

    def on_call(frame: FrameType, event: str, _: Any) -> None:
        if frame.f_code in HANDLERS and next(often) % 3 == 0:
            sleep(dice.choice((0.0, 0.0002)))

    before = threading.gettrace()
    threading.settrace(on_call)  # type: ignore[arg-type]
    try:
        with switching_often():
            yield
    finally:
        threading.settrace(before)  # type: ignore[arg-type]


def interrupt(strategy: str, seeds: range, events: int, folder: Path, check: Callable[[Trial], None]) -> list[str]:
    """Interrupt a job for each seed; return what was done. Pools of processes serve all of them."""
    done: list[str] = []
    shared = make_flow(strategy) if strategy == "process" else None
    try:
        for seed in seeds:
            flow = shared or make_flow(strategy)
            place = folder / f"{strategy}-{seed}"
            place.mkdir()
            del routines.ENTERED[:]
            trial = Trial(flow, place, seed, events)
            with interrupted_often(seed) if shared is None else nullcontext():
                watched(trial.run, LIMIT, trial.label)
                if shared is None:
                    watched(flow.shutdown, LIMIT, f"{trial.label}: shutdown")
            check(trial)
            done += trial.done
    finally:
        if shared is not None:
            shared.shutdown()
    return done
