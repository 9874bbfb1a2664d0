"""A flow that uses all that a journal keeps, and notes what it does outside in a file to which is only appended."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from quickest import keywords
from routilux_core import ErrorHandler, ErrorStrategy, Failure, Flow, JobState, Routine, event, field, hookimpl, slot
from routilux_core.journal import Journal

JOB = "job-1"


def note(routine: Routine, what: str) -> None:
    """Do something outside: append a line, in one step of the system."""
    activation = routine.activation
    line = f"{activation.key} {activation.attempt} {what}\n".encode()
    file = os.open(os.environ["EFFECTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line)
    finally:
        os.close(file)


class Source(Routine):
    sent: int = 0
    item = event("n")

    @slot
    def begin(self, count: int) -> None:
        note(self, "begin")
        for n in range(count):
            self.sent += 1
            self.emit("item", n=n)


class Flaky(Routine, stateless=True):
    """Fails at its first attempt now and then, and is tried again a little later."""

    done = event("n", "twice")

    @slot
    def work(self, n: int) -> None:
        note(self, f"work {n}")
        self.increment_stat("calls")
        if n % 5 == 2 and self.activation.attempt == 1:
            raise OSError(f"{n} is not there yet")
        self.emit("done", n=n, twice=2 * n)


class AwaitedFlaky(Flaky, stateless=True):
    @slot
    async def work(self, n: int) -> None:
        await asyncio.sleep(0.001 * (n % 3))
        Flaky.work(self, n)


class Doubtful(Routine):
    """Fails for good now and then; its job goes on."""

    seen: list[int] = field(factory=list)
    fine = event("n")

    @slot
    def check(self, n: int) -> None:
        note(self, f"check {n}")
        self.seen.append(n)
        if n % 7 == 3:
            raise ValueError(f"{n} is wrong")
        self.emit("fine", n=n)


class AwaitedDoubtful(Doubtful):
    @slot
    async def check(self, n: int) -> None:
        await asyncio.sleep(0)
        Doubtful.check(self, n)


class Log(Routine, scope="job"):
    """Sees everything so far at each call; each job has its own."""

    lengths: list[int] = field(factory=list)

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self.define_slot("add", self.add, merge_strategy="append")

    def add(self, n: list[int]) -> None:
        note(self, f"add {n[-1]}")
        self.lengths.append(len(n))


class Report(Routine):
    """Is called once, with everything."""

    total = event("sum", "count")

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self.define_slot("all", self.all, merge_strategy="gather")

    def all(self, twice: list[int]) -> None:
        note(self, "report")
        self.emit("total", sum=sum(twice), count=len(twice))


def workers_of(strategy: str) -> int:
    """Return how many calls run at a time, at most."""
    return {"sequential": 1, "process": 2}.get(strategy, 3)


@contextmanager
def noting_into(path: str) -> Iterator[None]:
    os.environ["EFFECTS"] = path
    yield


class Notes:
    """Lets worker processes know where effects are noted: they may have been started before."""

    @hookimpl
    def routilux_carry(self, job: JobState) -> Callable[[], AbstractContextManager[None]]:
        return partial(noting_into, os.environ["EFFECTS"])


def make_flow(journal: Journal | Path | str | None, strategy: str = "sequential", durability: str = "sync") -> Flow:
    settings: dict[str, Any] = keywords(strategy, None if strategy == "sequential" else workers_of(strategy))
    settings["plugins"] = [Notes()] if strategy == "process" else []
    flow = Flow("everything", **settings, journal=journal, durability=durability)
    awaits = strategy == "asyncio"
    retry = ErrorHandler(ErrorStrategy.RETRY, max_retries=3, retry_delay=0.01)
    for routine_id, routine, policy in (
        ("source", Source(), None),
        ("flaky", AwaitedFlaky() if awaits else Flaky(), retry),
        ("doubtful", AwaitedDoubtful() if awaits else Doubtful(), ErrorHandler(ErrorStrategy.CONTINUE)),
        ("log", Log(), None),
        ("report", Report(), None),
    ):
        routine.set_error_handler(policy)
        flow.add_routine(routine, routine_id)
    flow.connect("source", "item", "flaky", "work")
    flow.connect("flaky", "done", "doubtful", "check")
    flow.connect("flaky", "done", "report", "all")
    flow.connect("doubtful", "fine", "log", "add")
    flow.add_output("doubtful", "fine")
    flow.add_output("report", "total")
    return flow


def work(flow: Flow, count: int) -> JobState:
    """Execute the job, or go on with it; return it when it has ended."""
    job = flow.execute("source", {"count": count}, job_id=JOB)
    assert job.wait(60)
    return job


def result(flow: Flow, job: JobState) -> dict[str, Any]:
    """Return what has to be the same however often the process has died."""
    outputs = {name: sorted(map(repr, payloads)) for name, payloads in job.outputs.items()}
    ledger = job.ledger
    return {
        "status": job.status,
        "outputs": outputs,
        "ledger": {name: getattr(ledger, name) for name in type(ledger).__slots__ if not name.startswith("_")},
        "states": job.routine_states,
        "errors": sorted(map(_shown, job.errors)),
    }


def _shown(failure: Failure) -> str:
    text = str(failure.exception).split(": ")[-1]  # one that was read says of what type it was
    return f"{failure.routine_id} {failure.attempt} {failure.decision} {text}"


def state_of(flow: Flow, job: JobState) -> dict[str, Any]:
    """Return what the routines of a job that ran here hold."""
    routines: Any = job.routines
    return {
        "sent": routines["source"].sent,
        "calls": routines["flaky"].stats(),
        "seen": sorted(routines["doubtful"].seen),
        "lengths": routines["log"].lengths,
    }


def effects() -> list[str]:
    """Return the lines noted so far."""
    try:
        return Path(os.environ["EFFECTS"]).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
