"""A table of flows, and everything about their jobs that must not depend on the strategy."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TypeVar

from attrs import field as attrs_field
from attrs import frozen

from routilux_core import ErrorHandler, Flow, JobState, Routine, event, field, slot

SECONDS = 20.0
Handler = TypeVar("Handler", bound=Callable[..., Any])
Answer = list[dict[str, Any]]


def routines(style: Callable[[Handler], Handler], here: str | None = None) -> SimpleNamespace:
    """Return the routines with their handlers in one style: as they are, or as coroutines, or switching greenlets.

    `here` is the strategy for those that need this process, where the strategy of the flow shares no memory with it.
    All of it is defined in here: each style has classes of its own, which are sent to workers by value.
    """

    class Refused(Exception):
        """What the handlers of these flows raise."""

    def add_up(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
        return {"n": old.get("n", 0) + new["n"]}

    class Source(Routine):
        item = event("n")

        @slot
        @style
        def count(self, count: int) -> None:
            for n in range(count):
                self.emit("item", n=n)

    class Square(Routine, stateless=True):
        squared = event("n")

        @slot
        @style
        def n(self, n: int) -> None:
            self.emit("squared", n=n * n)

    class Keep(Routine):
        total: int = 0
        seen: list[int] = field(factory=list)
        kept = event("n", "total")

        @slot
        @style
        def n(self, n: int) -> None:
            self.seen.append(n)
            self.total += n
            self.emit("kept", n=n)

    class KeepForJob(Keep, scope="job"):
        """The same, with a fresh copy for each job."""

    class Merging(Routine):
        seen: list[Any] = field(factory=list)
        merged = event("n")

        @slot(merge_strategy="append")
        @style
        def appended(self, n: list[int]) -> None:
            self.seen.append(list(n))
            self.emit("merged", n=len(n))

        @slot(merge_strategy=add_up)
        @style
        def added(self, n: int) -> None:
            self.seen.append(n)
            self.emit("merged", n=n)

        @slot(merge_strategy="gather")
        @style
        def gathered(self, n: list[int]) -> None:
            self.seen.append(sorted(n))
            self.emit("merged", n=sum(n))

    class Picky(Routine):
        """Raises at every third number, in its first `times` attempts, after it has emitted."""

        times: int = 1
        tried: Counter[int] = field(factory=Counter)
        passed = event("n")

        @slot
        @style
        def n(self, n: int) -> None:
            self.tried[n] += 1
            self.emit("passed", n=n)
            if n % 3 == 0 and self.tried[n] <= self.times:
                raise Refused(n)

    class Down(Routine):
        lower = event("n")

        @slot
        @style
        def n(self, n: int) -> None:
            if n:
                self.emit("lower", n=n - 1)

    class Acts(Routine):
        """Calls something at one number, in this process."""

        action: Callable[[], object]
        at: int = 3
        seen: list[int] = field(factory=list)
        passed = event("n")

        @slot
        @style
        def n(self, n: int) -> None:
            self.seen.append(n)
            if n == self.at:
                self.action()
            self.emit("passed", n=n)

    made = {each.__name__: each for each in locals().values() if isinstance(each, type)}
    return SimpleNamespace(**made, here=here)


# -- the flows: each adds to a flow what it is made of, runs its jobs, and returns their answer


def run(flow: Flow, *counts: int) -> Answer:
    jobs = [flow.execute("source", {"count": count}) for count in counts]
    assert flow.wait_for_completion(SECONDS), "\n".join(job.explain() for job in jobs)
    return [answer_of(job) for job in jobs]


def answer_of(job: JobState) -> dict[str, Any]:
    ledger = job.ledger
    assert ledger.balanced
    assert not ledger.pending
    outcomes = Counter((record.routine_id, record.slot, record.outcome) for record in job.get_execution_history())
    return {
        "status": job.status,
        "ledger": ledger,
        "outputs": {name: Counter(map(repr, payloads)) for name, payloads in job.outputs.items()},
        "states": job.routine_states,
        "errors": Counter((e.routine_id, e.attempt, str(e.exception), e.decision) for e in job.errors),
        "records": outcomes,
        "attributes": {
            name: (sorted(map(repr, routine.seen)), getattr(routine, "total", None))
            for name, routine in job.routines.items()
            if hasattr(routine, "seen")
        },
    }


def chain(flow: Flow, here: str | None = None, **links: tuple[Routine, str, str]) -> None:
    """Add routines behind the source, each connected to the one before by (routine, its slot, its event)."""
    before, out = "source", "item"
    for name, (routine, into, sends) in links.items():
        flow.add_routine(routine, name, execution_strategy=here if name == "acts" else None)
        flow.connect(before, out, name, into)
        flow.add_output(name, sends)
        before, out = name, sends


def fan(flow: Flow, kit: SimpleNamespace) -> Answer:
    flow.add_routine(kit.Keep(), "keep")
    for number in range(5):
        flow.add_routine(kit.Square(), f"square{number}")
        flow.connect("source", "item", f"square{number}", "n")
        flow.connect(f"square{number}", "squared", "keep", "n")
    flow.add_output("keep", "kept")
    return run(flow, 20)


def order(flow: Flow, kit: SimpleNamespace) -> Answer:
    keeps = [kit.Keep(), kit.Keep(), kit.Keep()]
    chain(flow, **{f"keep{number}": (keep, "n", "kept") for number, keep in enumerate(keeps)})
    answer = run(flow, 40)
    assert [keep.seen for keep in keeps] == [list(range(40))] * 3
    return answer


def append(flow: Flow, kit: SimpleNamespace) -> Answer:
    chain(flow, merging=(kit.Merging(), "appended", "merged"))
    return run(flow, 12, 5)


def merge(flow: Flow, kit: SimpleNamespace) -> Answer:
    chain(flow, merging=(kit.Merging(), "added", "merged"))
    return run(flow, 12)


def gather(flow: Flow, kit: SimpleNamespace) -> Answer:
    chain(
        flow,
        square=(kit.Square(), "n", "squared"),
        first=(kit.Merging(), "gathered", "merged"),
        again=(kit.Square(), "n", "squared"),
        second=(kit.Merging(), "gathered", "merged"),
    )
    return run(flow, 15, 3)


def cycle(flow: Flow, kit: SimpleNamespace) -> Answer:
    flow.add_routine(kit.Down(), "down")
    flow.connect("source", "item", "down", "n")
    flow.connect("down", "lower", "down", "n")
    flow.add_output("down", "lower")
    return run(flow, 12)


def renaming(flow: Flow, kit: SimpleNamespace) -> Answer:
    flow.add_routine(kit.Source(), "again")
    flow.add_routine(kit.Keep(), "keep")
    flow.connect("source", "item", "again", "count", {"n": "count"})
    flow.connect("again", "item", "keep", "n")
    return run(flow, 8)


def jobs(flow: Flow, kit: SimpleNamespace) -> Answer:
    kept = kit.Keep()
    chain(flow, mine=(kit.KeepForJob(), "n", "kept"), gathered=(kit.Merging(), "gathered", "merged"))
    flow.add_routine(kept, "shared")
    flow.connect("mine", "kept", "shared", "n")
    answer = run(flow, 7, 4, 9, 2)
    for each in answer:
        # What jobs at the same time leave in a routine that they share is only there when all have ended.
        each["attributes"] = {"mine": each["attributes"]["mine"], "shared": (sorted(kept.seen), kept.total)}
    return answer


def with_policy(policy: ErrorHandler, times: int = 1, count: int = 10) -> Callable[[Flow, SimpleNamespace], Answer]:
    def build(flow: Flow, kit: SimpleNamespace) -> Answer:
        picky = kit.Picky(times=times)
        picky.set_error_handler(policy)
        chain(flow, picky=(picky, "n", "passed"), keep=(kit.Keep(), "n", "kept"))
        return run(flow, count)

    return build


def stop(flow: Flow, kit: SimpleNamespace) -> Answer:
    """What the failing call emitted before may still be handled, or be discarded."""
    (answer,) = with_policy(ErrorHandler("stop"), count=1)(flow, kit)
    return [{"status": answer["status"], "errors": answer["errors"], "state": answer["states"]["picky"]}]


def cancel(flow: Flow, kit: SimpleNamespace) -> Answer:
    """The status and what had come before is the same; how much was emitted behind it need not be."""
    acts = kit.Acts(action=flow.cancel)
    chain(flow, kit.here, acts=(acts, "n", "passed"))
    (answer,) = run(flow, 30)
    assert acts.seen == [0, 1, 2, 3]
    return [{"status": answer["status"], "errors": answer["errors"], "seen": acts.seen}]


def pause(flow: Flow, kit: SimpleNamespace) -> Answer:
    paused = threading.Event()
    acts = kit.Acts(action=lambda: (flow.pause(), paused.set()))
    chain(flow, kit.here, acts=(acts, "n", "passed"), keep=(kit.Keep(), "n", "kept"))
    job = flow.execute("source", {"count": 30})
    assert paused.wait(SECONDS)
    assert not job.wait(0)
    assert job.status == "paused"
    assert acts.seen == [0, 1, 2, 3]
    flow.resume()
    assert job.wait(SECONDS), job.explain()
    assert acts.seen == list(range(30))
    return [answer_of(job)]


def nested(flow: Flow, kit: SimpleNamespace) -> Answer:
    """A handler executes another job of its own flow."""
    started: list[JobState] = []
    acts = kit.Acts(action=lambda: started.append(flow.execute("square", {"n": 5})))
    flow.add_routine(kit.Square(), "square")
    flow.add_output("square", "squared")
    chain(flow, kit.here, acts=(acts, "n", "passed"))
    answer = run(flow, 6)
    assert started[0].wait(SECONDS)
    return [*answer, answer_of(started[0])]


@frozen
class Row:
    """One flow of the table."""

    name: str
    play: Callable[[Flow, SimpleNamespace], Answer]
    expected: Callable[[Answer], bool] = attrs_field(default=lambda answer: answer[0]["status"] == "completed")


TABLE = [
    Row("fan", fan),
    Row("order", order),
    Row("append", append),
    Row("merge", merge),
    Row("gather", gather),
    Row("cycle", cycle),
    Row("renaming", renaming),
    Row("jobs", jobs),
    Row("nested", nested),
    Row("pause", pause),
    Row("cancel", cancel, lambda answer: answer[0]["status"] == "cancelled"),
    Row("stop", stop, lambda answer: answer[0]["status"] == "failed"),
    Row("continue", with_policy(ErrorHandler("continue")), lambda answer: answer[0]["ledger"].failed == 4),
    Row("skip", with_policy(ErrorHandler("skip")), lambda answer: answer[0]["ledger"].skipped == 4),
    Row(
        "retry",
        with_policy(ErrorHandler("retry", max_retries=3, retry_delay=0.001), times=2),
        lambda answer: answer[0]["ledger"].retried == 8 and len(answer[0]["outputs"]["keep.kept"]) == 10,
    ),
    Row(
        "retries used up",
        with_policy(ErrorHandler("retry", max_retries=1, retry_delay=0.0, after_retries="continue"), times=9),
        lambda answer: answer[0]["ledger"].failed == 4 and len(answer[0]["outputs"]["keep.kept"]) == 6,
    ),
]
