"""Execution strategies: where handlers run, how many at a time, and what happens when an executor breaks."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from attrs import field as attrs_field
from attrs import frozen

from routilux_core import (
    Capabilities,
    ConfigurationError,
    ErrorStrategy,
    ExecutionStrategy,
    Flow,
    Host,
    JobState,
    Routine,
    StrategyError,
    Task,
    WorkerPool,
    event,
    field,
    slot,
)

MakeFlow = Callable[..., Flow]
SECONDS = 20.0


class Source(Routine):
    item = event("n")

    def __call__(self, count: int) -> None:
        for n in range(count):
            self.emit("item", n=n)


class Meter:
    """How many calls are inside at once; with a barrier, that many have to be before any goes on."""

    def __init__(self, together: int = 1) -> None:
        self.barrier = threading.Barrier(together, timeout=SECONDS)
        self.threads: set[int] = set()
        self.inside = self.most = self.calls = 0
        self._lock = threading.Lock()

    def call(self) -> None:
        with self._lock:
            self.calls += 1
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.threads.add(threading.get_ident())
        self.barrier.wait()
        with self._lock:
            self.inside -= 1


class Measured(Routine):
    """Has state."""

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self.meter = meter

    @slot
    def n(self, n: int) -> None:
        self.meter.call()


class Parallel(Measured, stateless=True):
    """Keeps nothing."""


class Bounded(Measured, stateless=True, concurrency=3):
    """Keeps nothing, and runs three times at once at most."""


def build(flow: Flow, *targets: Routine) -> None:
    flow.add_routine(Source(), "source")
    for number, target in enumerate(targets):
        flow.add_routine(target, f"target{number}")
        flow.connect("source", "item", f"target{number}", "n")


def run(flow: Flow, entry: str = "source", **params: Any) -> JobState:
    job = flow.execute(entry, params)
    assert job.wait(SECONDS), job.explain()
    return job


# -- the two that come with it


def test_sequential_runs_everything_in_the_callers_thread(make_flow: MakeFlow) -> None:
    flow, meters = make_flow(execution_strategy="sequential", max_workers=4), [Meter(), Meter()]
    build(flow, Parallel(meters[0]), Measured(meters[1]))
    job = flow.execute("source", {"count": 5})
    assert job.status == "completed"
    assert [meter.threads for meter in meters] == [{threading.get_ident()}] * 2
    assert [(meter.most, meter.calls) for meter in meters] == [(1, 5)] * 2


def test_concurrent_returns_at_once_and_runs_in_other_threads(make_flow: MakeFlow) -> None:
    flow, meter = make_flow(execution_strategy="concurrent"), Meter(2)
    build(flow, Measured(meter))
    job = flow.execute("source", {"count": 1})
    assert job.status == "running"  # the handler waits for this thread to come to the barrier
    meter.barrier.wait()
    assert job.wait(SECONDS)
    assert threading.get_ident() not in meter.threads


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_stateless_calls_use_all_workers_and_no_more(make_flow: MakeFlow, workers: int) -> None:
    flow, meter = make_flow(execution_strategy="concurrent", max_workers=workers), Meter(workers)
    build(flow, Parallel(meter))
    run(flow, count=workers * 6)
    assert (meter.most, meter.calls) == (workers, workers * 6)
    assert len(meter.threads) <= workers


def test_different_routines_with_state_run_side_by_side(make_flow: MakeFlow) -> None:
    flow, meter = make_flow(execution_strategy="concurrent", max_workers=5), Meter(5)
    build(flow, *[Measured(meter) for _ in range(5)])
    run(flow, count=3)
    assert (meter.most, meter.calls) == (5, 15)


def test_a_routine_with_state_has_one_call_at_a_time(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow, meter = make_flow(**strategy), Meter()
    build(flow, Measured(meter))
    run(flow, count=200)
    assert (meter.most, meter.calls) == (1, 200)


def test_concurrency_bounds_the_parallel_calls(make_flow: MakeFlow) -> None:
    flow, meter = make_flow(execution_strategy="concurrent", max_workers=8), Meter(3)
    build(flow, Bounded(meter))
    run(flow, count=60)
    assert (meter.most, meter.calls) == (3, 60)


def test_concurrency_bounds_over_all_jobs_together(make_flow: MakeFlow) -> None:
    flow, meter = make_flow(execution_strategy="concurrent", max_workers=8), Meter(3)
    build(flow, Bounded(meter))
    jobs = [flow.execute("source", {"count": 12}) for _ in range(4)]
    assert flow.wait_for_completion(SECONDS)
    assert [job.status for job in jobs] == ["completed"] * 4
    assert (meter.most, meter.calls) == (3, 48)


def test_a_worker_is_free_for_others_while_a_bound_is_reached(make_flow: MakeFlow) -> None:
    # Three bounded calls and one other have to meet: with four workers that needs the fourth free for the other.
    flow, meter = make_flow(execution_strategy="concurrent", max_workers=4), Meter(4)
    build(flow, Bounded(meter), Parallel(meter))
    run(flow, count=12)
    assert meter.calls == 24


def test_no_number_of_workers_is_the_strategys_own_default(make_flow: MakeFlow) -> None:
    flow, meter = make_flow(execution_strategy="concurrent"), Meter(4)
    assert flow.max_workers is None
    build(flow, Parallel(meter))
    run(flow, count=8)
    assert meter.calls == 8


@pytest.mark.parametrize("other", ["sequential", "concurrent"])
def test_a_routine_may_run_under_a_strategy_of_its_own(
    make_flow: MakeFlow, strategy: dict[str, Any], other: str
) -> None:
    flow, own, common = make_flow(**strategy), Meter(), Meter()
    flow.add_routine(Source(), "source")
    flow.add_routine(Parallel(own), "own", execution_strategy=other)
    flow.add_routine(Parallel(common), "common")
    for name in ("own", "common"):
        flow.connect("source", "item", name, "n")
    run(flow, count=10)
    assert (own.calls, common.calls) == (10, 10)
    here = {threading.get_ident()}
    for meter, name in ((own, other), (common, strategy["execution_strategy"])):
        assert (meter.threads == here) is (name == "sequential")
    # Switching the rest does not move it.
    flow.set_execution_strategy("sequential")
    own.threads.clear()
    run(flow, count=3)
    assert (own.threads == here) is (other == "sequential")


def test_threads_end_with_the_pool(make_flow: MakeFlow) -> None:
    flow, meter = make_flow(execution_strategy="concurrent", max_workers=3), Meter(3)
    build(flow, Parallel(meter))
    run(flow, count=3)
    assert meter.threads <= {thread.ident for thread in threading.enumerate()}
    flow.shutdown()
    assert not meter.threads & {thread.ident for thread in threading.enumerate()}


# -- strategies of others


class ThreadForEach(WorkerPool):
    """A thread for each task; keeps what was submitted."""

    def __init__(self, workers: int, host: Host) -> None:
        self.workers, self.host = workers, host
        self.tasks: list[Task] = []
        self.threads: list[threading.Thread] = []
        self.closed = 0
        self.broken: BaseException | None = None

    def submit(self, task: Task) -> None:
        self.tasks.append(task)
        if self.broken is not None:
            task.fail(self.broken)
            return
        thread = threading.Thread(target=task)
        self.threads.append(thread)
        thread.start()

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> None:
        self.closed += 1
        for thread in self.threads:
            thread.join(timeout)


@frozen(kw_only=True)
class ForEachStrategy(ExecutionStrategy):
    """Third-party strategies look like this; the list is for the test."""

    name: ClassVar[str] = "for-each"
    capabilities: ClassVar[Capabilities] = Capabilities(shares_memory=True)
    opened: list[ThreadForEach] = attrs_field(factory=list, eq=False, repr=False)
    error: Exception | None = None

    def open(self, host: Host) -> WorkerPool:
        if self.error is not None:
            raise self.error
        self.opened.append(ThreadForEach(self.max_workers or 2, host))
        return self.opened[-1]


def test_a_strategy_object_runs_a_flow(make_flow: MakeFlow) -> None:
    strategy, meter = ForEachStrategy(max_workers=4), Meter(4)
    flow = make_flow(execution_strategy=strategy)
    assert (flow.execution_strategy, flow.max_workers) == ("for-each", 4)
    build(flow, Parallel(meter))
    for _ in range(3):
        assert run(flow, count=8).status == "completed"
    assert (meter.most, meter.calls) == (4, 24)
    flow.shutdown()
    assert [pool.closed for pool in strategy.opened] == [1]


def test_the_numbers_of_a_strategy_object_are_its_own(make_flow: MakeFlow) -> None:
    with pytest.raises(ConfigurationError, match="max_workers"):
        ForEachStrategy(max_workers=0)
    with pytest.raises(ConfigurationError, match="set them on"):
        Flow(execution_strategy=ForEachStrategy(), max_workers=2)
    with pytest.raises(ConfigurationError, match="not 3"):
        Flow(execution_strategy=3)  # type: ignore[arg-type]
    flow = make_flow(execution_strategy="concurrent", max_workers=3)
    flow.set_execution_strategy(ForEachStrategy(max_workers=2))
    assert flow.max_workers == 2


def test_an_option_that_a_strategy_does_not_have_is_refused(make_flow: MakeFlow) -> None:
    flow = make_flow()
    with pytest.raises(ConfigurationError, match=r"'concurrent'.*'colour'"):
        Flow(execution_strategy="concurrent", strategy_options={"colour": "blue"})
    with pytest.raises(ConfigurationError, match=r"'concurrent'.*'colour'"):
        flow.set_execution_strategy("concurrent", strategy_options={"colour": "blue"})
    assert flow.execution_strategy == "sequential"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_batch": "64"}, "max_batch has to be a whole number from 1, not '64'"),
        ({"max_batch": 0}, "max_batch has to be a whole number from 1, not 0"),
        ({"max_batch": -5}, "max_batch has to be a whole number from 1, not -5"),
        ({"max_batch": True}, "max_batch has to be a whole number from 1, not True"),
        ({"batch_seconds": float("nan")}, "batch_seconds has to be a number of seconds above 0, not nan"),
        ({"ahead_below": "0"}, "ahead_below has to be a number of seconds above 0, not '0'"),
        ({"ahead_below": False}, "ahead_below has to be a number of seconds above 0, not False"),
        ({"parallel": "yes"}, "parallel has to be True or False, not 'yes'"),
        ({"streams": 1}, "streams has to be True or False, not 1"),
        ({"shares_memory": None}, "shares_memory has to be True or False, not None"),
    ],
)
def test_capabilities_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        Capabilities(**{"shares_memory": False, **settings})
    assert Capabilities(shares_memory=True, ahead_below=0).ahead_below == 0.0


class NoPool:
    """Has what a pool has, and is none."""

    workers = 1

    def submit(self, task: Task) -> None: ...

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> None: ...


@frozen(kw_only=True)
class OpensStrategy(ExecutionStrategy):
    """Opens whatever it was given."""

    name: ClassVar[str] = "opens"
    capabilities: ClassVar[Capabilities] = Capabilities(shares_memory=True)
    what: Any = attrs_field(eq=False)

    def open(self, host: Host) -> WorkerPool:
        return self.what  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("what", "message"),
    [(None, "`open` returned None"), (NoPool(), "`open` returned <"), (4, "`open` returned 4, not a WorkerPool")],
)
def test_what_open_returns_has_to_be_a_pool(make_flow: MakeFlow, what: Any, message: str) -> None:
    flow = make_flow(execution_strategy=OpensStrategy(what=what))
    build(flow, Parallel(Meter()))
    with pytest.raises(StrategyError, match=f"'opens' could not be opened: {message}"):
        flow.execute("source", {"count": 2})
    assert flow.wait_for_completion(SECONDS)


@pytest.mark.parametrize("workers", ["4", 0, -1, 2.0, True, None, float("nan"), 10**9])
def test_a_pool_without_a_number_of_workers_is_refused_and_closed(make_flow: MakeFlow, workers: Any) -> None:
    pool = ThreadForEach(1, None)  # type: ignore[arg-type]
    pool.workers = workers
    flow = make_flow(execution_strategy=OpensStrategy(what=pool))
    build(flow, Parallel(Meter()))
    with pytest.raises(StrategyError, match=r"its pool has workers=.*a whole number from 1 to 1,000,000"):
        flow.execute("source", {"count": 2})
    assert pool.closed == 1
    flow.set_execution_strategy("sequential")
    assert run(flow, count=2).status == "completed"


def test_a_pool_that_says_nonsense_of_its_workers_later_keeps_what_it_had(
    make_flow: MakeFlow, caplog: pytest.LogCaptureFixture
) -> None:
    strategy, meter = ForEachStrategy(), Meter()
    flow = make_flow(execution_strategy=strategy)
    build(flow, Parallel(meter))
    run(flow, count=2)
    [pool] = strategy.opened
    pool.workers = "many"  # type: ignore[assignment]
    pool.host.workers_changed()
    assert "its pool has workers='many'" in caplog.text
    assert run(flow, count=2).status == "completed"


def test_a_strategy_object_that_states_another_contract_is_refused() -> None:
    @frozen(kw_only=True)
    class Older(ForEachStrategy):
        contract: ClassVar[int] = 1

    with pytest.raises(StrategyError, match=r"'for-each' was made for version 1 of the strategy contract"):
        Flow(execution_strategy=Older())


def test_the_old_pool_is_closed_when_the_strategy_changes(make_flow: MakeFlow) -> None:
    strategy, meter = ForEachStrategy(), Meter()
    flow = make_flow(execution_strategy=strategy)
    build(flow, Parallel(meter))
    run(flow, count=2)
    flow.set_execution_strategy("sequential")
    assert strategy.opened[0].closed == 1
    run(flow, count=2)
    assert meter.calls == 4


def test_a_strategy_that_cannot_be_opened_says_so_and_another_one_runs(make_flow: MakeFlow) -> None:
    strategy, meter = ForEachStrategy(error=OSError("no such cluster")), Meter()
    flow = make_flow(execution_strategy=strategy)
    build(flow, Parallel(meter))
    with pytest.raises(StrategyError, match=r"'for-each' could not be opened.*no such cluster"):
        flow.execute("source", {"count": 2})
    assert flow.wait_for_completion(SECONDS)
    flow.set_execution_strategy("sequential")
    assert run(flow, count=2).status == "completed"
    assert meter.calls == 2


def test_a_pool_that_breaks_fails_the_job_and_the_next_job_opens_another(make_flow: MakeFlow) -> None:
    strategy, meter = ForEachStrategy(), Meter()
    flow = make_flow(execution_strategy=strategy)
    build(flow, Parallel(meter))
    run(flow, count=2)
    strategy.opened[0].broken = OSError("the cluster is gone")
    job = run(flow, count=2)
    assert (job.status, job.ledger.pending, job.ledger.balanced) == ("failed", 0, True)
    (failure,) = job.errors
    assert (failure.routine_id, failure.decision) == ("source", ErrorStrategy.STOP)
    assert "the cluster is gone" in str(failure.exception)
    assert run(flow, count=2).status == "completed"
    assert len(strategy.opened) == 2


class Waits(Routine):
    """Runs until it is released."""

    left = event("n")

    def __init__(self) -> None:
        super().__init__()
        self.running, self.release = threading.Event(), threading.Event()

    @slot
    def n(self, n: int) -> None:
        self.running.set()
        assert self.release.wait(SECONDS)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_pool_that_says_it_was_lost_fails_what_is_in_flight(make_flow: MakeFlow, workers: int) -> None:
    strategy, waits = ForEachStrategy(max_workers=workers), Waits()
    flow = make_flow(execution_strategy=strategy)
    build(flow, waits)
    job = flow.execute("source", {"count": 4})
    assert waits.running.wait(SECONDS)
    while job.ledger.posted < 5:  # with two workers the source may still emit
        time.sleep(0.001)
    strategy.opened[0].host.lost(ConnectionError("the scheduler is gone"))
    waits.release.set()
    assert job.wait(SECONDS)
    assert (job.status, job.ledger.pending, job.ledger.balanced) == ("failed", 0, True)
    assert ["the scheduler is gone" in str(failure.exception) for failure in job.errors] == [True]
    assert run(flow, count=2).status == "completed"
    assert len(strategy.opened) == 2


def test_a_closed_pool_that_says_it_was_lost_does_not_concern_the_next_one(make_flow: MakeFlow) -> None:
    strategy, waits = ForEachStrategy(max_workers=1), Waits()
    flow = make_flow(execution_strategy=strategy)
    build(flow, waits)
    waits.release.set()
    assert run(flow, count=2).status == "completed"
    flow.shutdown()
    waits.running.clear()
    waits.release.clear()
    job = flow.execute("source", {"count": 4})
    assert waits.running.wait(SECONDS)
    strategy.opened[0].host.lost(ConnectionError("the scheduler is gone"))
    waits.release.set()
    assert job.wait(SECONDS)
    assert (job.status, job.ledger.completed, len(strategy.opened)) == ("completed", 5, 2)


def test_a_task_that_is_delivered_twice_runs_once(make_flow: MakeFlow, caplog: pytest.LogCaptureFixture) -> None:
    strategy, meter = ForEachStrategy(max_workers=1), Meter()
    flow = make_flow(execution_strategy=strategy)
    build(flow, Parallel(meter))
    run(flow, count=2)
    with caplog.at_level(logging.WARNING, logger="routilux_core"):
        strategy.opened[0].tasks[0]()
        strategy.opened[0].tasks[0].fail(OSError("too late"))
    assert (meter.calls, len(caplog.records)) == (2, 2)
    assert run(flow, count=2).status == "completed"


def test_a_pool_that_does_not_close_is_named_and_left_behind(
    make_flow: MakeFlow, caplog: pytest.LogCaptureFixture
) -> None:
    class NeverCloses(ThreadForEach):
        release = threading.Event()

        def close(self, *, cancel: bool = False, timeout: float | None = None) -> None:
            self.release.wait(SECONDS)

    @frozen(kw_only=True)
    class Stubborn(ExecutionStrategy):
        name: ClassVar[str] = "stubborn"
        capabilities: ClassVar[Capabilities] = Capabilities(shares_memory=True)

        def open(self, host: Host) -> WorkerPool:
            return NeverCloses(1, host)

    flow, meter = make_flow(execution_strategy=Stubborn()), Meter()
    build(flow, Parallel(meter))
    run(flow, count=2)
    flow.shutdown(timeout=0.0)
    NeverCloses.release.set()
    assert "'stubborn' did not close" in caplog.text


# -- the same answer


class Words(Routine):
    counts: dict[str, int] = field(factory=dict)
    ended = event("counts")

    @slot(merge_strategy="gather")
    def n(self, n: list[int]) -> None:
        for each in n:
            word = "odd" if each % 2 else "even"
            self.counts[word] = self.counts.get(word, 0) + 1
            if each % 100 == 99:
                self.increment_stat("hundreds")
        self.emit("ended", counts=dict(self.counts))


class Squares(Routine, stateless=True):
    item = event("n")

    @slot
    def n(self, n: int) -> None:
        if n % 50 == 13:
            raise ValueError(n)
        self.emit("item", n=n * n)


def test_every_strategy_gives_the_same_answer(make_flow: MakeFlow) -> None:
    answers = []
    for strategy in ("sequential", "concurrent", ForEachStrategy(max_workers=3)):
        flow, words = make_flow(execution_strategy=strategy, error_handler="continue", max_pending=32), Words()
        build(flow, Squares())
        flow.add_routine(words, "words")
        flow.connect("target0", "item", "words", "n")
        flow.add_output("words", "ended")
        job = run(flow, count=500)
        answers.append((job.status, job.outputs, job.routine_states, words.counts, words.stats(), job.ledger))
        assert sorted(int(str(failure.exception)) for failure in job.errors) == list(range(13, 500, 50))
    assert answers[0] == answers[1] == answers[2]
    assert answers[0][3] == {"even": 250, "odd": 240}


@pytest.mark.parametrize(("says", "warnings"), [(None, 0), (True, 0), (False, 1)])
def test_a_pool_that_gave_up_on_something_while_it_was_closed_is_named(
    caplog: pytest.LogCaptureFixture, says: bool | None, warnings: int
) -> None:
    class Pool(ThreadForEach):
        def close(self, *, cancel: bool = False, timeout: float | None = None) -> bool | None:
            super().close(cancel=cancel, timeout=timeout)
            return says

    class Theirs(ForEachStrategy):
        def open(self, host: Host) -> WorkerPool:
            return Pool(1, host)

    with Flow(execution_strategy=Theirs()) as flow:
        flow.add_routine(Source(), "source")
        flow.run("source", {"count": 1})
    assert caplog.messages == warnings * [
        "strategy 'for-each' closed its pool, and gave up on work that still runs; it is left behind"
    ]
