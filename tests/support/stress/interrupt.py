"""Random cancels and pauses of random flows: at seeded moments, from other threads and inside handlers."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import sleep

from attrs import frozen

from routilux_core import Flow, JobState
from stress import inside
from stress.draw import draw
from stress.harness import Difference, Seen, Stage, differences, job_differences, leftovers, quiet_log
from stress.model import Answer, JobAnswer, answer_of, freeze
from stress.plan import mix
from stress.watch import switching_often, watched

LIMIT = 30.0  # seconds for one flow, which takes a fraction of one
AT_ONCE = 1  # calls in each thread that may begin after `cancel` or `pause` has returned: it had committed to that one
LONGEST_PAUSE = 0.003  # seconds


@frozen
class Moment:
    """What happens when so many handlers have been entered."""

    entered: int
    action: str  # cancel, pause (and resume), or "pause, cancel": without resume
    inside: bool  # in the handler that is entered as that number; else in a thread of its own
    whole_flow: bool
    pause: float  # seconds


def moments_of(seed: int, calls: int) -> list[Moment]:
    """Draw the moments of a seed: one, or up to three, of which the last may be a cancel."""
    dice = random.Random(mix(seed, calls))
    many = dice.choice((1, 1, 2, 3))
    entered = sorted(dice.sample(range(1, calls), many))
    actions = ["pause"] * (many - 1) + [dice.choice(("cancel", "cancel", "pause, cancel", "pause"))]
    return [
        Moment(number, action, dice.random() < 0.5, dice.random() < 0.5, dice.uniform(0.0, LONGEST_PAUSE))
        for number, action in zip(entered, actions, strict=True)
    ]


class Interrupter:
    """Does what the moments say, on one stage."""

    def __init__(self, stage: Stage, moments: list[Moment]) -> None:
        self.stage = stage
        self.world = stage.world
        self.moments = moments
        self.done: Counter[str] = Counter()  # what happened, by action
        self.in_pauses: Counter[int] = Counter()  # handlers entered in a pause, by thread
        self.over = False
        self.errors: list[BaseException] = []
        self.threads: list[threading.Thread] = []

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Wait for the moments while a block runs, and for the threads behind it."""
        for moment in self.moments:
            if moment.inside:
                self.world.inside[moment.entered] = lambda moment=moment: self.act(moment)
            else:
                alarm = self.world.alarms[moment.entered] = threading.Event()
                self.start(lambda moment=moment, alarm=alarm: alarm.wait() and self.act(moment))
        try:
            yield
        finally:
            self.over = True  # the moments that have not come never will
            for alarm in self.world.alarms.values():
                alarm.set()
            for thread in self.threads:
                thread.join()
        if self.errors:
            raise self.errors[0]

    def start(self, work: Callable[[], object]) -> None:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                self.errors.append(error)

        thread = threading.Thread(target=run, name="interrupts", daemon=True)
        self.threads.append(thread)
        thread.start()

    def act(self, moment: Moment) -> None:
        if self.over:
            return
        target, jobs = self.target(moment)
        if moment.action == "cancel":
            target.cancel()
            self.world.close(jobs)
        else:
            target.pause()
            if len(self.moments) == 1:  # else another moment may have resumed it by now
                self.world.close(jobs)
            self.start(lambda: self.end_pause(moment, target, jobs))
        with self.world.lock:
            self.done[moment.action] += 1

    def target(self, moment: Moment) -> tuple[Flow | JobState, list[int]]:
        """Return what is interrupted, and the numbers of its jobs that have called a handler."""
        jobs = self.stage.jobs.copy()
        if not moment.whole_flow and jobs:
            number = sorted(jobs)[moment.entered % len(jobs)]
            return jobs[number], [number]
        with self.world.lock:
            return self.stage.flow, [number for number, _ in self.world.calls]

    def end_pause(self, moment: Moment, target: Flow | JobState, jobs: list[int]) -> None:
        sleep(moment.pause)
        with self.world.lock:
            for number in jobs:
                self.in_pauses += self.world.closed.pop(number, Counter())
        if moment.action == "pause":
            target.resume()
        else:
            target.cancel()
            self.world.close(jobs)

    @property
    def after_cancel(self) -> Counter[int]:
        """Handlers entered after `cancel()` had returned, by thread."""
        with self.world.lock:
            return sum(self.world.closed.values(), Counter())


def check_interrupted(seed: int, events: int, limit: float = LIMIT) -> Counter[str]:
    """Interrupt the flow of a seed, look at all that has to hold all the same, and return what was done to it."""
    plan = draw(seed, most=2 * events, least=events * 9 // 10, waves=1)
    answer = answer_of(plan)
    assert answer is not None
    stage = Stage(plan)
    moments = moments_of(seed, sum(sum(job.calls.values()) for job in answer.jobs.values()))
    interrupter = Interrupter(stage, moments)
    label = f"seed {seed}, {moments}"
    with switching_often(), quiet_log():
        with interrupter.at_work():
            watched(stage.run, limit, f"{label}: the run, before shutdown")
        found = list(leftovers(stage))
        watched(stage.flow.shutdown, limit, f"{label}: shutdown")
    found = [*stage.world.breaches, *interrupted_differences(stage, answer), *found, *inside.idle_pools(stage.flow)]
    found += late_calls(interrupter)
    if found:
        raise Difference("\n".join([label, *found[:20]]))
    return interrupter.done


def late_calls(interrupter: Interrupter) -> Iterator[str]:
    for what, calls in (("cancel", interrupter.after_cancel), ("pause", interrupter.in_pauses)):
        if max(calls.values(), default=0) > AT_ONCE:
            yield f"handlers entered after {what} had returned, by thread: {dict(calls)}"


def interrupted_differences(stage: Stage, answer: Answer) -> Iterator[str]:
    """Compare with the answer: all of it where every job completed, else what a cancelled job may not exceed."""
    cancelled = {number for number, seen in stage.seen.items() if seen.status == "cancelled"}
    if stage.seen.keys() != stage.jobs.keys():
        yield f"jobs that have not ended: {stage.jobs.keys() ^ stage.seen.keys()}"
    elif not cancelled:
        yield from differences(stage, answer)
    elif strange := stage.jobs.keys() - answer.jobs.keys():
        yield f"jobs that nobody executes: {strange}"
    else:
        for number, seen in stage.seen.items():
            check = cancelled_differences if number in cancelled else job_differences
            for text in check(stage, seen, answer.jobs[number]):
                yield f"job {number}: {text}"


def cancelled_differences(stage: Stage, seen: Seen, expected: JobAnswer) -> Iterator[str]:
    ledger, number = seen.ledger, expected.job.number
    ended = ledger.completed + ledger.failed + ledger.skipped + ledger.retried
    called = Counter({index: count for (job, index), count in stage.world.calls.items() if job == number})
    if sum(called.values()) != ended:
        yield f"{sum(called.values())} handlers called, the ledger has {ended}"
    if not ledger.balanced or ledger.pending:
        yield f"does not balance: {ledger}"
    if len(seen.records) != ended:
        yield f"{len(seen.records)} records of {ended} calls"
    if surplus := called - expected.calls:
        yield f"handlers called too often: {dict(surplus)}"
    for name, payloads in seen.outputs.items():
        if surplus := Counter(map(freeze, payloads)) - Counter(map(freeze, expected.outputs[name])):
            yield f"output {name}: {sum(surplus.values())} payloads too many"
    if len(seen.errors) != ledger.failed + ledger.skipped + ledger.retried:
        yield f"{len(seen.errors)} errors, {ledger}"
