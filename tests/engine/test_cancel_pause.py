"""Cancel and pause: nothing new starts, nothing is lost, and everything is counted."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextvars import Context
from typing import Any

import pytest

from routilux_core import ErrorHandler, Flow, JobState, Routine, event, field, slot

MakeFlow = Callable[..., Flow]
SECONDS = 20.0


class Source(Routine):
    item = event("n")

    def __call__(self, count: int) -> None:
        for n in range(count):
            self.emit("item", n=n)


class Acts(Routine):
    """Does what the test says at one number, with the flow's last job, and passes every number on."""

    seen: list[int] = field(factory=list)
    passed = event("n")

    def __init__(self, at: int, action: Callable[[], object]) -> None:
        super().__init__()
        self.at, self.action = at, action

    @slot
    def n(self, n: int) -> None:
        self.seen.append(n)
        if n == self.at:
            self.action()
        self.emit("passed", n=n)


class Collect(Routine):
    seen: list[int] = field(factory=list)

    @slot
    def n(self, n: int) -> None:
        self.seen.append(n)


class Collects(Collect):
    passed = event("n")


class Gate(Routine):
    """The first call waits for the test; all are noted."""

    seen: list[int] = field(factory=list)
    passed = event("n")

    def __init__(self) -> None:
        super().__init__()
        self.running, self.release = threading.Event(), threading.Event()

    @slot
    def n(self, n: int) -> None:
        self.running.set()
        assert self.release.wait(SECONDS)
        self.seen.append(n)
        self.emit("passed", n=n)


class Endless(Routine):
    """Goes round for ever."""

    rounds: int = 0
    again = event()

    def __init__(self, at: int = 0, action: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self.at, self.action = at, action

    @slot
    def step(self) -> None:
        self.rounds += 1
        if self.rounds == self.at:
            self.action()
        self.emit("again")


def build(flow: Flow, middle: Routine) -> Collect:
    collect = Collect()
    flow.add_routine(Source(), "source")
    flow.add_routine(middle, "middle")
    flow.add_routine(collect, "collect")
    flow.connect("source", "item", "middle", "n")
    flow.connect("middle", "passed", "collect", "n")
    return collect


def execute(flow: Flow, entry: str = "source", **params: Any) -> JobState:
    """Execute in a thread of its own, which fails the test where `execute` does not return."""
    jobs: list[JobState] = []
    thread = threading.Thread(target=lambda: jobs.append(flow.execute(entry, params)), daemon=True)
    thread.start()
    thread.join(SECONDS)
    assert jobs, f"execute has not returned after {SECONDS:g} s"
    return jobs[0]


def settled(job: JobState) -> str:
    """Wait until the job is paused and no handler of it runs; return what it says of itself then."""
    for _ in range(int(SECONDS / 0.001)):
        text = job.explain()
        if job.status == "paused" and "running now" not in text:
            return text
        assert not job.wait(0.001)
    raise AssertionError(text)


# -- cancel


@pytest.mark.parametrize("whole_flow", [True, False], ids=["flow", "job"])
def test_a_handler_may_cancel_its_own_job(make_flow: MakeFlow, strategy: dict[str, Any], whole_flow: bool) -> None:
    flow = make_flow(**strategy)
    acts = Acts(2, lambda: flow.cancel() if whole_flow else flow.job_state.cancel())
    collect = build(flow, acts)
    job = flow.execute("source", {"count": 10})
    assert job.wait(SECONDS)
    assert (job.status, job.errors, acts.seen) == ("cancelled", [], [0, 1, 2])
    # Its handler went on to its end; what it emitted then is posted and discarded.
    ledger = job.ledger
    assert (ledger.emitted, ledger.pending, ledger.balanced) == (10 + 3, 0, True)
    assert ledger.posted == 1 + 10 + 3
    assert ledger.completed == 1 + 3 + len(collect.seen)
    assert ledger.discarded == ledger.posted - ledger.completed
    assert 2 not in collect.seen


class Merges(Routine):
    """Merges by a function that waits for the test; what it emits is held until the call has succeeded."""

    passed = event("n")
    calls: int = 0

    def __init__(self) -> None:
        super().__init__()
        self.merging, self.release = threading.Event(), threading.Event()
        self.define_slot("n", self.handle, merge_strategy=self.merge)

    def merge(self, old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
        self.merging.set()
        assert self.release.wait(SECONDS)
        return {**old, **new}

    def handle(self, n: int) -> None:
        self.calls += 1


def test_cancel_does_not_wait_for_a_worker_that_has_not_committed_to_its_call(make_flow: MakeFlow) -> None:
    flow, merges = make_flow(execution_strategy="concurrent", max_workers=1), Merges()
    build(flow, merges)
    job = flow.execute("source", {"count": 1})
    assert merges.merging.wait(SECONDS)
    job.cancel()
    assert not job.wait(0)
    merges.release.set()
    assert job.wait(SECONDS)
    assert (job.status, merges.calls, job.ledger.completed, job.ledger.discarded) == ("cancelled", 0, 1, 1)


def test_a_call_that_was_dropped_before_it_began_holds_nothing_back_of_the_next_job(make_flow: MakeFlow) -> None:
    flow, merges, fan = make_flow(execution_strategy="concurrent", max_workers=1), Merges(), Source()
    collect = build(flow, merges)
    merges.set_error_handler(ErrorHandler("retry"))
    flow.add_routine(fan, "fan")
    flow.connect("fan", "item", "collect", "n")
    flow.add_routine(other := Collect(), "other")
    flow.connect("fan", "item", "other", "n")
    dropped = flow.execute("source", {"count": 1})
    assert merges.merging.wait(SECONDS)
    job = Context().run(flow.execute, "fan", {"count": 2})  # plain calls, of the same worker
    dropped.cancel()
    merges.release.set()
    assert job.wait(SECONDS)
    assert (job.status, collect.seen, other.seen) == ("completed", [0, 1], [0, 1])


def test_cancel_discards_and_counts_what_is_queued(make_flow: MakeFlow) -> None:
    flow, gate = make_flow(execution_strategy="concurrent", max_workers=2), Gate()
    collect = build(flow, gate)
    job = flow.execute("source", {"count": 10})
    assert gate.running.wait(SECONDS)
    job.cancel()
    assert job.ledger.pending <= 2  # the gate, and the source where it has not ended
    gate.release.set()
    assert job.wait(SECONDS)
    assert (job.status, gate.seen, collect.seen) == ("cancelled", [0], [])
    assert (job.ledger.posted, job.ledger.completed, job.ledger.discarded) == (12, 2, 10)


def test_cancel_ends_a_cycle(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow = make_flow(**strategy, max_pending=8)
    endless = Endless(1_000, lambda: flow.cancel())
    flow.add_routine(endless, "endless")
    flow.connect("endless", "again", "endless", "step")
    flow.connect("endless", "again", "endless", "step", {"n": "n"})
    job = flow.execute("endless")
    assert job.wait(SECONDS)
    assert (job.status, endless.rounds) == ("cancelled", 1_000)
    assert (job.ledger.completed, job.ledger.pending, job.ledger.balanced) == (1_000, 0, True)


def test_cancel_from_another_thread_ends_a_cycle(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow, spins = make_flow(**strategy), threading.Event()
    endless = Endless(1_000, spins.set)
    flow.add_routine(endless, "endless")
    flow.connect("endless", "again", "endless", "step")
    canceller = threading.Thread(target=lambda: (spins.wait(SECONDS), flow.cancel()))
    canceller.start()
    job = execute(flow, "endless")
    canceller.join()
    assert job.wait(SECONDS)
    rounds = endless.rounds
    assert (job.status, job.ledger.completed, rounds >= 1_000) == ("cancelled", rounds, True)


def test_a_handler_sees_that_its_job_was_cancelled(make_flow: MakeFlow) -> None:
    flow, running = make_flow(execution_strategy="concurrent"), threading.Event()
    seen: list[bool] = []

    class Watches(Routine):
        def __call__(self) -> None:
            seen.append(self.cancelled)
            running.set()
            while not self.cancelled:
                running.wait(0.001)
            seen.append(self.cancelled)

    flow.add_routine(Watches(), "watches")
    job = flow.execute("watches")
    assert running.wait(SECONDS)
    flow.cancel()
    assert job.wait(SECONDS)
    assert (seen, job.status) == ([False, True], "cancelled")


def test_cancel_discards_a_retry_that_waits(make_flow: MakeFlow) -> None:
    flow, failed = make_flow(execution_strategy="concurrent"), threading.Event()

    class Fails(Collect):
        @slot
        def n(self, n: int) -> None:
            super().n(n)
            failed.set()
            raise OSError("later")

    fails = Fails()
    fails.set_error_handler(ErrorHandler("retry", retry_delay=3600.0))
    flow.add_routine(fails, "fails")
    job = flow.execute("fails", {"n": 1})
    assert failed.wait(SECONDS)
    while not job.ledger.retried:
        job.wait(0.001)
    assert "'fails': 1 waiting for a retry" in job.explain()
    flow.cancel()
    assert job.wait(SECONDS)
    assert (job.status, fails.seen) == ("cancelled", [1])
    assert (job.ledger.discarded, job.ledger.pending, job.ledger.balanced) == (1, 0, True)
    # The place of the routine is free again.
    fails.set_error_handler("skip")
    assert flow.run("fails", {"n": 2}).status == "completed"
    assert fails.seen == [1, 2]


def test_a_retry_decided_just_before_the_cancel_is_discarded_and_not_taken_for_a_success(
    make_flow: MakeFlow, strategy: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    class Fails(Routine):
        def __call__(self) -> None:
            raise OSError("later")

    class Cancels(logging.Handler):
        """Logs the decision, between it and the count of the attempt, by cancelling the job."""

        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno == logging.INFO:
                flow.cancel()

    flow, cancels = make_flow(**strategy, error_handler="retry"), Cancels()
    flow.add_routine(Fails(), "fails")
    log = logging.getLogger("routilux_core")
    log.addHandler(cancels)
    try:
        with caplog.at_level(logging.INFO, logger="routilux_core"):
            job = flow.run("fails")
    finally:
        log.removeHandler(cancels)
    ledger = job.ledger
    assert (job.status, [str(failure.decision) for failure in job.errors]) == ("cancelled", ["retry"])
    assert (ledger.posted, ledger.completed, ledger.retried, ledger.discarded, ledger.pending) == (1, 0, 1, 1, 0)
    assert [record.outcome for record in job.get_execution_history()] == ["retried"]


def test_cancel_of_one_job_leaves_the_others(make_flow: MakeFlow) -> None:
    flow, gate = make_flow(execution_strategy="concurrent", max_workers=3), Gate()
    collect = build(flow, gate)
    first = flow.execute("middle", {"n": -1})
    assert gate.running.wait(SECONDS)
    second, third = (flow.execute("source", {"count": 5}) for _ in range(2))
    second.cancel()
    gate.release.set()
    assert flow.wait_for_completion(SECONDS)
    assert [job.status for job in (first, second, third)] == ["completed", "cancelled", "completed"]
    assert gate.seen == [-1, 0, 1, 2, 3, 4]
    assert collect.seen == gate.seen
    assert second.ledger.balanced


def test_cancel_after_the_end_changes_nothing(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow = make_flow(**strategy)
    build(flow, Collects())
    job = flow.execute("source", {"count": 2})
    assert job.wait(SECONDS)
    before = job.ledger
    for call in (job.cancel, flow.cancel, job.pause, flow.pause, job.resume, flow.resume):
        call()
    assert (job.status, job.ledger) == ("completed", before)


def test_a_job_can_be_cancelled_twice(make_flow: MakeFlow) -> None:
    flow, gate = make_flow(execution_strategy="concurrent"), Gate()
    build(flow, gate)
    job = flow.execute("source", {"count": 3})
    assert gate.running.wait(SECONDS)
    job.cancel()
    job.cancel()
    gate.release.set()
    assert job.wait(SECONDS)
    assert (job.status, job.ledger.pending, job.ledger.balanced) == ("cancelled", 0, True)


# -- pause and resume


@pytest.mark.parametrize("whole_flow", [True, False], ids=["flow", "job"])
def test_a_paused_job_starts_nothing_and_loses_nothing(
    make_flow: MakeFlow, strategy: dict[str, Any], whole_flow: bool
) -> None:
    flow = make_flow(**strategy)
    acts = Acts(3, lambda: flow.pause() if whole_flow else flow.job_state.pause())
    collect = build(flow, acts)
    job = execute(flow, count=10)
    assert f"{job.job_id} is paused" in settled(job)
    assert acts.seen == [0, 1, 2, 3]
    assert len(collect.seen) <= 4
    assert job.ledger.balanced
    assert job.ledger.pending >= 6
    assert job.wait(0.0) is False
    (flow if whole_flow else job).resume()
    assert job.wait(SECONDS)
    assert (job.status, acts.seen, collect.seen) == ("completed", list(range(10)), list(range(10)))
    assert (job.ledger.posted, job.ledger.completed) == (21, 21)


def test_a_job_paused_again_and_again_keeps_the_order(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow = make_flow(**strategy)

    class Pauses(Acts):
        @slot
        def n(self, n: int) -> None:
            self.at = n if n % 3 == 0 else -1
            super().n(n)

    pauses = Pauses(0, lambda: flow.job_state.pause())
    collect = build(flow, pauses)
    job = execute(flow, count=60)
    for _ in range(100):
        job.resume()
        if job.wait(0.01):
            break
    assert job.status == "completed"
    assert pauses.seen == list(range(60))
    assert collect.seen == list(range(60))


def test_pausing_from_another_thread_lets_execute_return(make_flow: MakeFlow) -> None:
    flow, gate = make_flow(), Gate()
    collect = build(flow, gate)

    def pause_while_it_runs() -> None:
        assert gate.running.wait(SECONDS)
        flow.pause()
        gate.release.set()

    pauser = threading.Thread(target=pause_while_it_runs)
    pauser.start()
    job = execute(flow, count=5)
    pauser.join()
    assert (job.status, gate.seen, collect.seen) == ("paused", [0], [])
    job.resume()
    assert job.wait(SECONDS)
    assert (job.status, collect.seen) == ("completed", [0, 1, 2, 3, 4])


def test_jobs_can_be_paused_apart(make_flow: MakeFlow) -> None:
    flow, gate = make_flow(execution_strategy="concurrent", max_workers=2), Gate()
    collect = build(flow, gate)
    first = flow.execute("source", {"count": 3})
    assert gate.running.wait(SECONDS)
    second = flow.execute("source", {"count": 3})
    first.pause()
    gate.release.set()
    assert second.wait(SECONDS)
    assert (first.status, second.status) == ("paused", "completed")
    assert gate.seen == [0, 0, 1, 2]
    first.resume()
    assert first.wait(SECONDS)
    assert (first.status, gate.seen) == ("completed", [0, 0, 1, 2, 1, 2])
    assert sorted(collect.seen) == [0, 0, 1, 1, 2, 2]


def test_a_paused_job_can_be_cancelled(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow = make_flow(**strategy)
    acts = Acts(1, lambda: flow.pause())
    build(flow, acts)
    job = execute(flow, count=5)
    settled(job)
    flow.cancel()
    assert job.wait(SECONDS)
    assert (job.status, acts.seen) == ("cancelled", [0, 1])
    assert (job.ledger.pending, job.ledger.balanced) == (0, True)


def test_a_retry_of_a_paused_job_waits_for_resume_and_keeps_its_place(
    make_flow: MakeFlow, strategy: dict[str, Any]
) -> None:
    flow = make_flow(**strategy)
    tries: list[int] = []

    class FailsOnce(Collects):
        @slot
        def n(self, n: int) -> None:
            tries.append(n)
            if tries == [0, 1]:
                flow.pause()
                raise OSError("again, please")
            self.emit("passed", n=n)

    fails = FailsOnce()
    fails.set_error_handler(ErrorHandler("retry", retry_delay=0.0))
    collect = build(flow, fails)
    job = execute(flow, count=4)
    settled(job)
    assert tries == [0, 1]
    job.resume()
    assert job.wait(SECONDS)
    assert (job.status, tries, collect.seen) == ("completed", [0, 1, 1, 2, 3], [0, 1, 2, 3])
    assert job.ledger.retried == 1


def test_a_paused_job_with_a_gather_slot_calls_it_after_resume(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow = make_flow(**strategy)
    got: list[list[int]] = []
    build(flow, Acts(2, lambda: flow.pause()))
    gathers = Routine()
    gathers.define_slot("all", lambda n: got.append(n), "gather")
    flow.add_routine(gathers, "gathers")
    flow.connect("source", "item", "gathers", "all")
    job = execute(flow, count=4)
    settled(job)
    assert got == []
    flow.resume()
    assert job.wait(SECONDS)
    assert got == [[0, 1, 2, 3]]


ALONE = [{"execution_strategy": "sequential"}, {"execution_strategy": "concurrent", "max_workers": 1}]


class Does(Routine, stateless=True):
    """Does what the test says, with everything that a handler can do."""

    sent = event("n")

    def __init__(self, action: Callable[[Does], object]) -> None:
        super().__init__()
        self.action = action

    def __call__(self) -> None:
        self.action(self)


@pytest.mark.parametrize("alone", ALONE, ids=["sequential", "concurrent"])
def test_a_pause_met_inside_an_emit_lets_nothing_run_twice(make_flow: MakeFlow, alone: dict[str, Any]) -> None:
    flow = make_flow(max_pending=1, **alone)
    jobs: dict[str, JobState] = {}
    collect = Collect()

    def pause_and_emit(routine: Does) -> None:
        routine.emit("sent", n=1)
        flow.execute("resume")
        jobs["sends"].pause()
        routine.emit("sent", n=2)  # too much waits: here the first is set aside, and the resume runs

    flow.add_routine(Does(lambda _: jobs.update(sends=flow.execute("sends"))), "begin")
    flow.add_routine(Does(pause_and_emit), "sends")
    flow.add_routine(Does(lambda _: jobs["sends"].resume()), "resume")
    flow.add_routine(collect, "collect")
    flow.connect("sends", "sent", "collect", "n")
    Context().run(flow.execute, "begin")
    assert Context().run(flow.wait_for_completion, SECONDS)
    assert sorted(collect.seen) == [1, 2]
    ledger = jobs["sends"].ledger
    assert (ledger.posted, ledger.completed, ledger.pending) == (3, 3, 0)


class FillsItself(Routine):
    """Emits three numbers to itself, and does what the test says before any of them has come."""

    seen: list[int] = field(factory=list)
    sent = event("n")

    def __init__(self, action: Callable[[], object]) -> None:
        super().__init__()
        self.action = action

    @slot
    def n(self, n: int) -> None:
        self.seen.append(n)
        if n == 0:
            self.emit("sent", n=1)
            self.emit("sent", n=2)
            self.emit("sent", n=3)
            self.action()


class Chain(Routine, stateless=True):
    """Emits to itself until the last number, and then does what the test says."""

    passed = event("n")

    def __init__(self, last: int, action: Callable[[], object]) -> None:
        super().__init__()
        self.last, self.action = last, action

    @slot
    def n(self, n: int) -> None:
        if n == self.last:
            self.action()
        else:
            self.emit("passed", n=n + 1)


@pytest.mark.parametrize("alone", ALONE, ids=["sequential", "concurrent"])
@pytest.mark.parametrize("last", [3, 4, 5])
def test_what_waited_for_its_routine_in_a_pause_keeps_its_place(
    make_flow: MakeFlow, alone: dict[str, Any], last: int
) -> None:
    flow = make_flow(max_pending=2, **alone)
    jobs: dict[str, JobState] = {}
    fills = FillsItself(lambda: jobs["fills"].pause())

    def begin(_: Does) -> None:
        jobs["fills"] = flow.execute("fills", {"n": 0})
        flow.execute("chain", {"n": 0})

    flow.add_routine(Does(begin), "begin")
    flow.add_routine(fills, "fills")
    flow.add_routine(Chain(last, lambda: jobs["fills"].resume()), "chain")
    flow.connect("fills", "sent", "fills", "n")
    flow.connect("chain", "passed", "chain", "n")
    Context().run(flow.execute, "begin")  # without variables: handlers are called without more ado
    if not Context().run(flow.wait_for_completion, 0.2):
        jobs["fills"].resume()  # the chain had ended before the pause
    assert Context().run(flow.wait_for_completion, SECONDS)
    assert fills.seen == [0, 1, 2, 3]
