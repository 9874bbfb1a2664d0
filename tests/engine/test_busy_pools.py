"""A pool that says `Busy` is given its task again, the same one; no call fails of it, and none is made twice."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, ClassVar

import pytest
from attrs import field, frozen

from routilux_core import (
    Busy,
    ConfigurationError,
    ExecutionStrategy,
    Flow,
    Host,
    JobState,
    StrategyError,
    Task,
    WorkerPool,
    hookimpl,
    make_strategy,
)
from shipped.routines import Source, Square, Sum
from shipped.strategies import SharedBatches

MakeFlow = Callable[..., Flow]
SECONDS = 30.0


@frozen(kw_only=True)
class Door(ExecutionStrategy):
    """Runs what another strategy runs, if `answer` lets it: this is asked before each task, and may raise."""

    name: ClassVar[str] = "door"
    inner: ExecutionStrategy
    answer: Callable[[DoorPool], None] = field(eq=False)
    opened: list[DoorPool] = field(factory=list, eq=False)

    @property
    def capabilities(self) -> Any:  # type: ignore[override]
        return self.inner.capabilities

    def open(self, host: Host) -> WorkerPool:
        self.opened.append(DoorPool(self.inner.open(host), self.answer, host))
        return self.opened[-1]


class DoorPool(WorkerPool):
    def __init__(self, pool: WorkerPool, answer: Callable[[DoorPool], None], host: Host) -> None:
        self.workers = pool.workers
        self.host, self.asked = host, 0
        self.waits, self.is_open = threading.Event(), False
        self._pool, self._answer = pool, answer

    def submit(self, task: Task) -> None:
        self.asked += 1
        self._answer(self)
        self._pool.submit(task)

    def cancel(self, task: Task) -> bool:
        return self._pool.cancel(task)

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> None:
        self._pool.close(cancel=cancel, timeout=timeout)


def every_other_time(pool: DoorPool) -> None:
    if pool.asked % 2:
        raise Busy(0.001)


def until_opened(pool: DoorPool) -> None:
    if not pool.is_open:
        pool.waits.set()
        raise Busy(math.inf)


@pytest.fixture(params=["concurrent", "shipped"])
def inner(request: pytest.FixtureRequest, executor: Executor) -> ExecutionStrategy:
    """A strategy that shares memory with the flow, and one that does not."""
    shipped = SharedBatches(max_workers=2, executor=executor)
    return make_strategy("concurrent", max_workers=2) if request.param == "concurrent" else shipped


def build(flow: Flow) -> Flow:
    for name, routine in (("source", Source()), ("square", Square()), ("sum", Sum())):
        flow.add_routine(routine, name)
    flow.connect("source", "item", "square", "n")
    flow.connect("square", "done", "sum", "n")
    return flow


class Starts:
    """Notes the calls that it is told of, and is asked about."""

    def __init__(self) -> None:
        self.told: list[int] = []
        self.asked: list[int] = []

    @hookimpl
    def routilux_activation_started(self, activation: Any) -> None:
        self.told.append(activation.id)

    @hookimpl
    def routilux_admit(self, activation: Any) -> None:
        self.asked.append(activation.id)


def test_what_a_busy_pool_had_no_room_for_is_given_to_it_again(make_flow: MakeFlow, inner: ExecutionStrategy) -> None:
    strategy = Door(inner=inner, answer=every_other_time)
    flow = build(make_flow(execution_strategy=strategy))
    for _ in range(3):
        job = flow.execute("source", {"count": 30})
        assert job.wait(SECONDS), job.explain()
        assert (job.status, job.ledger.completed, job.ledger.balanced, job.errors) == ("completed", 61, True, [])
    assert flow.routines["sum"].total == 3 * sum(n * n for n in range(30))
    assert strategy.opened[0].asked > 1


def test_a_task_is_told_of_once_however_often_its_pool_is_busy(make_flow: MakeFlow, inner: ExecutionStrategy) -> None:
    plugin = Starts()
    flow = build(make_flow(execution_strategy=Door(inner=inner, answer=every_other_time), plugins=[plugin]))
    job = flow.execute("source", {"count": 4})
    assert job.wait(SECONDS), job.explain()
    assert sorted(plugin.told) == sorted(plugin.asked) == list(range(1, 10))


def held_up(make_flow: MakeFlow, inner: ExecutionStrategy) -> tuple[Flow, JobState, DoorPool]:
    """Return a flow, a job of it, and its pool, which has said that it is busy until it says more."""
    strategy = Door(inner=inner, answer=until_opened)
    flow = build(make_flow(execution_strategy=strategy))
    job = flow.execute("source", {"count": 3})
    [pool] = strategy.opened
    assert pool.waits.wait(SECONDS)
    return flow, job, pool


def test_a_pool_that_has_room_again_is_asked_at_once(make_flow: MakeFlow, inner: ExecutionStrategy) -> None:
    _, job, pool = held_up(make_flow, inner)
    assert not job.wait(0.01)
    assert "strategy 'door': its pool is busy, and says when it is not" in job.explain()
    assert pool.asked == 1
    pool.is_open = True
    pool.host.workers_changed()
    assert job.wait(SECONDS), job.explain()
    assert (job.status, job.ledger.completed) == ("completed", 7)


def test_a_job_can_be_cancelled_while_its_pool_is_busy(make_flow: MakeFlow, inner: ExecutionStrategy) -> None:
    flow, job, pool = held_up(make_flow, inner)
    job.cancel()
    assert job.wait(SECONDS)
    assert (job.status, job.ledger.discarded, job.ledger.balanced) == ("cancelled", 1, True)
    pool.is_open = True
    pool.host.workers_changed()
    job = flow.execute("source", {"count": 3})
    assert job.wait(SECONDS)
    assert (job.status, job.ledger.completed) == ("completed", 7)


def test_a_busy_pool_that_is_lost_fails_its_job(make_flow: MakeFlow, inner: ExecutionStrategy) -> None:
    _, job, pool = held_up(make_flow, inner)
    pool.host.lost(RuntimeError("it will never have room"))
    assert job.wait(SECONDS)
    assert job.status == "failed"
    assert "never have room" in str(job.errors[-1].exception)


def test_a_time_that_is_none_fails_the_job_and_says_so(make_flow: MakeFlow, inner: ExecutionStrategy) -> None:
    def wrong(pool: DoorPool) -> None:
        raise Busy("soon")  # type: ignore[arg-type]

    job = build(make_flow(execution_strategy=Door(inner=inner, answer=wrong))).execute("source", {"count": 3})
    assert job.wait(SECONDS)
    failure = job.errors[-1].exception
    assert (job.status, type(failure)) == ("failed", StrategyError)
    assert "retry_after has to be a number of seconds above 0, not 'soon'" in str(failure)
    assert isinstance(failure.__cause__, ConfigurationError)
