"""A program that is interrupted at random moments, and judges itself: `python signalled.py STRATEGY KIND COUNT SEED`.

`KIND` is the name of an exception that a signal handler raises in the main thread, or "calls": then the handler calls
the flow and its job. After each interruption the job has to end with its books in order, and the next one has to run.
It prints one line of JSON, with what went wrong, if anything did.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import random
import signal
import sys
import threading
import time
import traceback
from types import FrameType
from typing import Any

from routilux_core import Flow, FlowStateError, JobState, Routine, ShippingError, event, slot

EVENTS = 200
PATIENCE = 10.0  # seconds
LONGEST = 0.004  # seconds to the signal: some come when the job is over
# Each pool that a signal has shut down is followed by a new one: spawned workers would take the most of the time.
FORKED = {"start_method": "forkserver"}


class TimeLimit(Exception):
    """What the time limits of task queues and test runners raise."""


EXCEPTIONS: dict[str, type[BaseException]] = {
    each.__name__: each for each in (KeyboardInterrupt, SystemExit, TimeLimit, GeneratorExit)
}


class Source(Routine):
    out = event("i")

    def __call__(self, count: int) -> None:
        for i in range(count):
            self.emit("out", i=i)


class Pass(Routine, stateless=True):
    out = event("i")

    @slot
    def go(self, i: int) -> None:
        self.emit("out", i=i)


class Count(Routine):
    seen: int = 0

    @slot
    def go(self, i: int) -> None:
        self.seen += 1


def make_flow(strategy: str, **options: Any) -> Flow:
    workers = None if strategy == "sequential" else 2
    flow = Flow("signalled", strategy, workers, strategy_options=options, max_pending=64)
    flow.add_routine(Source(), "source")
    flow.add_routine(Pass(), "pass")
    flow.add_routine(Count(), "count")
    flow.connect("source", "out", "pass", "go")
    flow.connect("pass", "out", "count", "go")
    flow.connect("source", "out", "count", "go")
    flow.run("source", {"count": 3})
    return flow


class Trials:
    """Jobs of one flow, each with a signal at a random moment."""

    def __init__(self, strategy: str, kind: str, seed: int) -> None:
        self.dice = random.Random(seed)
        self.kind = kind
        self.flow = make_flow(strategy, **(FORKED if strategy == "process" else {}))
        self.armed = False
        self.hits = self.rounds = 0
        self.refused = 0
        self.where = ""
        self.jobs: list[JobState] = []  # executed by the signal handler
        self.wrong: list[str] = []
        signal.signal(signal.SIGALRM, self.on_signal)

    def on_signal(self, _number: int, frame: FrameType | None) -> None:
        if not self.armed:
            return
        self.armed = False
        self.hits += 1
        stack = reversed(traceback.extract_stack(frame)[-4:])
        self.where = " < ".join(f"{os.path.basename(each.filename)}:{each.lineno} {each.name}" for each in stack)
        if self.kind != "calls":
            raise EXCEPTIONS[self.kind]
        name = self.dice.choice(sorted(CALLS))
        self.where = f"{name} at {self.where}"
        try:
            CALLS[name](self)
        except FlowStateError:  # it would have waited for itself
            self.refused += 1

    def once(self) -> None:
        """Run a job, interrupted, and look at what it leaves behind."""
        flow, before = self.flow, self.flow.job_state
        self.where, self.armed = "not interrupted", True
        try:
            signal.setitimer(signal.ITIMER_REAL, self.dice.uniform(1e-5, LONGEST))
            flow.run("source", {"count": EVENTS})
        except tuple(EXCEPTIONS.values()):
            pass
        except ShippingError as error:  # it came while something was pickled
            if not isinstance(error.__cause__, TimeLimit):
                raise
        self.armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        for job in (flow.job_state, *self.jobs):
            if job is not None and job is not before:
                self.check(job)
        self.jobs.clear()
        self.check_next()

    def check(self, job: JobState) -> None:
        if not job.wait(PATIENCE):
            self.fail(f"the {job.status} job hangs: {job.explain()}")
        ledger = job.ledger
        if not ledger.balanced or ledger.pending or min(ledger.completed, ledger.discarded) < 0:
            self.fail(f"the books of the {job.status} job: {ledger}")
        if job.status == "completed" and self.hits == 0 and ledger.completed != 1 + 3 * EVENTS:
            self.fail(f"completed, but {ledger}")

    def check_next(self) -> None:
        count = self.flow.routines["count"]
        before: int = count.seen  # type: ignore[attr-defined]
        job = self.flow.run("source", {"count": 3})
        found = (job.status, job.ledger.completed, count.seen - before)  # type: ignore[attr-defined]
        if found != ("completed", 10, 6):
            self.fail(f"the next job: {found}")

    def fail(self, what: str) -> None:
        self.wrong.append(f"{what}, after {self.where}")
        self.end()

    def end(self) -> None:
        print(json.dumps({"hits": self.hits, "refused": self.refused, "wrong": self.wrong}), flush=True)
        os._exit(1 if self.wrong else 0)


def last(trials: Trials) -> JobState:
    job = trials.flow.job_state
    assert job is not None
    return job


def execute(trials: Trials) -> None:
    trials.jobs.append(trials.flow.execute("source", {"count": 3}))


def pause_and_resume(trials: Trials) -> None:
    trials.flow.pause()
    trials.flow.resume()


CALLS: dict[str, Any] = {
    "cancel": lambda trials: trials.flow.cancel(),
    "cancel of the job": lambda trials: last(trials).cancel(),
    "pause and resume": pause_and_resume,
    "execute": execute,
    "ledger": lambda trials: last(trials).ledger,
    "errors": lambda trials: last(trials).errors,
    "outputs": lambda trials: last(trials).outputs,
    "explain": lambda trials: last(trials).explain(),
    "states": lambda trials: last(trials).routine_states,
    "history": lambda trials: len(last(trials).get_execution_history()),
    "tracker": lambda trials: trials.flow.execution_tracker.get_flow_performance(),
    "record": lambda trials: last(trials).serialize(),
    "wait": lambda trials: last(trials).wait(0.001),
    "wait for the flow": lambda trials: trials.flow.wait_for_completion(0.001),
    "shutdown": lambda trials: trials.flow.shutdown(wait=False),
    "statistics": lambda trials: trials.flow.routines["count"].stats(),
}


def watch(trials: Trials) -> None:
    """Tell of a call that does not return."""
    while True:
        seen = trials.rounds
        time.sleep(2 * PATIENCE)
        if trials.rounds == seen:
            faulthandler.dump_traceback()
            trials.fail(f"hangs: {last(trials).explain()}")


def main() -> None:
    strategy, kind, count, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    logging.disable(logging.CRITICAL)
    trials = Trials(strategy, kind, seed)
    threading.Thread(target=watch, args=(trials,), daemon=True).start()
    while trials.hits < count:
        trials.once()
        trials.rounds += 1
    trials.end()


if __name__ == "__main__":
    main()
