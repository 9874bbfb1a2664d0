"""However a shipped task ends, its calls are counted, its permits given back, and its job ends."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
from attrs import field, frozen

from routilux_core import (
    Capabilities,
    ExecutionStrategy,
    Flow,
    Host,
    JobState,
    Routine,
    StrategyError,
    Task,
    WorkerLost,
    WorkerPool,
    event,
    slot,
    worker,
)
from routilux_core._remote.task import RemoteTask
from shipped.endings import Becomes, Logs, Makes
from stress.at_each_line import Interruption

MakeFlow = Callable[..., Flow]
SECONDS = 20.0
POLICIES = ("stop", "continue", "skip")


def finished(job: JobState) -> JobState:
    assert job.wait(SECONDS), job.explain()
    assert job.ledger.balanced
    assert job.ledger.pending == 0
    return job


# -- what can't be packed


class Numbers(Routine):
    out = event()
    emitted: ClassVar[threading.Event] = threading.Event()  # all of it

    def __call__(self, values: list[Any]) -> None:
        for n in values:
            self.emit("out", n=n)
        self.emitted.set()


class LacksOne(Routine):
    @slot(merge_strategy="gather")
    def n(self, n: list[int], other: list[int]) -> None: ...


class BadMerge(Routine):
    error: type[BaseException] = ValueError

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self.define_slot("n", self.take, merge_strategy=self.merge)

    def merge(self, old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
        raise self.error("can't be merged")

    def take(self, n: int) -> None: ...


class BadState(Routine):
    """Can't be pickled once it is told so."""

    bad: ClassVar[bool] = False

    def __getstate__(self) -> dict[str, Any]:
        if BadState.bad:
            raise ValueError("no state")
        return vars(self)

    @slot
    def n(self, n: int) -> None: ...


class BadPayload(Routine, stateless=True):
    @slot
    def n(self, n: Any) -> None: ...


class Exits:
    """Ends whoever pickles it, as careless libraries do."""

    def __reduce__(self) -> Any:
        raise SystemExit(3)


def unpackable(kind: str) -> tuple[Routine, Any]:
    return {
        "gather": lambda: (LacksOne(), 1),
        "merge": lambda: (BadMerge(), 1),
        "merge that exits": lambda: (BadMerge(error=SystemExit), 1),
        "payload": lambda: (BadPayload(), threading.Lock()),
        "payload that exits": lambda: (BadPayload(), Exits()),
        "state": lambda: (BadState(), 1),
    }[kind]()


@pytest.fixture
def bad_state() -> Iterator[None]:
    yield
    BadState.bad = False


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", ["gather", "merge", "merge that exits", "payload", "payload that exits", "state"])
def test_a_last_call_that_cannot_be_packed_ends_its_job(
    make_flow: MakeFlow, policy: str, kind: str, bad_state: None
) -> None:
    flow = make_flow(execution_strategy=Held(), error_handler=policy)
    target, value = unpackable(kind)
    flow.add_routine(Numbers(), "numbers", execution_strategy="concurrent")
    flow.add_routine(target, "target")
    flow.connect("numbers", "out", "target", "n")
    job = flow.execute("numbers", {"values": []})
    finished(job)
    BadState.bad = True  # behind the check before the run
    flow._runtime.engine.schedulers[0].parts.pack_all = lambda *_: None  # type: ignore[attr-defined]
    job = finished(flow.execute("numbers", {"values": [value]}))
    assert len(job.errors) == 1
    assert (job.status, job.ledger.failed, job.ledger.skipped) == {
        "stop": ("failed", 1, 0),
        "continue": ("completed", 1, 0),
        "skip": ("completed", 0, 1),
    }[policy]


@pytest.mark.parametrize("kind", ["gather", "merge"])
def test_packing_fails_as_the_call_does_in_shared_memory(make_flow: MakeFlow, kind: str) -> None:
    seen = []
    for strategy in ("sequential", Held()):
        flow = make_flow("f", strategy, error_handler="continue")
        flow.add_routine(Numbers(), "numbers", execution_strategy="sequential")
        flow.add_routine(unpackable(kind)[0], "target")
        flow.connect("numbers", "out", "target", "n")
        job = finished(flow.execute("numbers", {"values": [1, 2]}))
        seen.append(
            (job.ledger, [(type(each.exception), str(each.exception), each.payload_keys) for each in job.errors])
        )
    assert seen[0] == seen[1]


# -- pools that end tasks in ways of their own


@frozen(kw_only=True)
class Held(ExecutionStrategy):
    """Runs tasks in a thread until it is told to hold them: then it does nothing but `then`."""

    name: ClassVar[str] = "held"
    capabilities: ClassVar[Capabilities] = Capabilities(
        shares_memory=False, streams=True, max_batch=1024, batch_seconds=60.0
    )
    pools: list[HeldPool] = field(factory=list, eq=False)
    reply: Callable[[bytes], bytes] = field(default=bytes, eq=False)

    def open(self, host: Host) -> WorkerPool:
        self.pools.append(HeldPool(host, self.reply))
        return self.pools[-1]


class HeldPool(WorkerPool):
    workers = 1

    def __init__(self, host: Host, reply: Callable[[bytes], bytes]) -> None:
        self.host, self.reply = host, reply
        self.tasks: list[Task] = []
        self.holds = threading.Event()
        self.held = threading.Event()

    def submit(self, task: Task) -> None:
        if self.holds.is_set():
            self.tasks.append(task)
            self.held.set()
            return
        threading.Thread(target=self.run, args=(task,), daemon=True).start()

    def run(self, task: Task) -> None:
        task.finish(self.reply(worker.run(task.payload(), task.stream)))

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> None: ...


class Adds(Routine):
    seen: list[int]

    @slot
    def n(self, n: int) -> None:
        self.seen.append(n)


def held_batch(make_flow: MakeFlow, policy: str = "continue") -> tuple[Flow, JobState, HeldPool, Task]:
    """A flow whose pool has a task of several calls of one routine with state, and does not run it."""
    strategy = Held()
    flow = make_flow(execution_strategy=strategy, error_handler=policy)
    flow.add_routine(Numbers(), "numbers", execution_strategy="concurrent")
    flow.add_routine(Adds(seen=[]), "adds")
    flow.connect("numbers", "out", "adds", "n")
    finished(flow.execute("numbers", {"values": [0] * 8}))  # they were measured
    (pool,) = strategy.pools
    pool.holds.set()
    Numbers.emitted.clear()
    job = flow.execute("numbers", {"values": list(range(100))})
    assert Numbers.emitted.wait(SECONDS)
    assert pool.held.wait(SECONDS)
    first = pool.tasks.pop()  # what had been emitted by then; behind it the others have gathered
    pool.run(first)
    return flow, job, pool, pool.tasks[0]


def end_by_shutdown(flow: Flow, pool: HeldPool, task: Task) -> None:
    flow.shutdown(timeout=0.0)


def end_by_loss(flow: Flow, pool: HeldPool, task: Task) -> None:
    pool.host.lost(WorkerLost(reason="all of them"))


def end_by_failure(flow: Flow, pool: HeldPool, task: Task) -> None:
    pool.holds.clear()
    task.fail(WorkerLost(reason="this one"))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("end", [end_by_shutdown, end_by_loss, end_by_failure])
def test_a_batch_of_a_routine_with_state_ends_with_its_pool(
    make_flow: MakeFlow, policy: str, end: Callable[[Flow, HeldPool, Task], None], caplog: pytest.LogCaptureFixture
) -> None:
    flow, job, pool, task = held_batch(make_flow, policy)
    assert task.size > 1
    end(flow, pool, task)
    finished(job)
    assert len(job.errors) >= 1
    if end is end_by_failure and policy != "stop":  # the first of the batch has failed, the others were made, in order
        seen = flow.routines["adds"].seen[8:]
        assert len(seen) == 99
        assert seen == sorted(seen)
    pool.holds.clear()
    with flow:
        assert finished(flow.execute("numbers", {"values": [1, 2]})).status == "completed"
    task.finish(b"too late, and nonsense")
    assert "ended twice" not in caplog.text or end is end_by_failure


def test_a_pool_that_ends_a_task_that_was_given_up_for_it_is_not_blamed(
    make_flow: MakeFlow, caplog: pytest.LogCaptureFixture
) -> None:
    flow, job, _, task = held_batch(make_flow)
    flow.shutdown(timeout=0.0)
    finished(job)
    assert task.payload()  # its threads may just be asking for it
    task.fail(WorkerLost(reason="closed"))
    assert "ended twice" not in caplog.text
    task.fail(WorkerLost(reason="closed"))
    assert "ended twice" in caplog.text


def test_a_task_that_is_given_up_while_it_is_handed_over_is_not_submitted_without_its_bytes(
    make_flow: MakeFlow,
) -> None:
    submitted: list[bool] = []
    losing: list[threading.Thread] = []

    class Pool(HeldPool):
        def submit(self, task: Task) -> None:
            submitted.append(False)
            submitted[-1] = bool(task.payload())
            self.run(task)

        def lose(self) -> None:
            losing.append(threading.Thread(target=self.host.lost, args=(WorkerLost(reason="all of them"),)))
            losing[-1].start()
            losing[-1].join(0.2)  # or it waits, for what is held where this comes

    @frozen(kw_only=True)
    class Loses(Held):
        def open(self, host: Host) -> WorkerPool:
            self.pools.append(Pool(host, bytes))
            return self.pools[-1]

    strategy = Loses()
    flow = make_flow(execution_strategy=strategy)
    flow.add_routine(Adds(seen=[]), "adds")
    statuses: list[str] = []
    for at in itertools.count(1):
        interruption = Interruption(at, lambda: strategy.pools[-1].lose(), RemoteTask.send_again, RemoteTask._hand_over)
        interruption(lambda: flow.execute("adds", {"n": 1}))
        assert flow.job_state is not None
        statuses.append(finished(flow.job_state).status)
        assert all(submitted), interruption.where
        for each in losing:
            each.join(SECONDS)
        if interruption.where == "nowhere":
            break
    assert set(statuses) == {"failed", "completed"}
    assert 0 < len(submitted) < len(statuses)  # where it was given up before, the pool was not given it


class Gone(RuntimeError):
    """An error that is given as a class."""


@pytest.mark.parametrize("shares_memory", [True, False])
@pytest.mark.parametrize("told", ["the queue is full", Gone, 7, None])
@pytest.mark.parametrize("by_host", [True, False])
def test_what_is_no_exception_fails_the_job_as_one(
    make_flow: MakeFlow, shares_memory: bool, told: Any, by_host: bool, caplog: pytest.LogCaptureFixture
) -> None:
    telling: list[threading.Thread] = []

    class Pool(HeldPool):
        def submit(self, task: Task) -> None:
            telling.append(threading.Thread(target=self.host.lost if by_host else task.fail, args=(told,)))
            telling[-1].start()

    @frozen(kw_only=True)
    class Tells(Held):
        capabilities: ClassVar[Capabilities] = Capabilities(shares_memory=shares_memory)

        def open(self, host: Host) -> WorkerPool:
            return Pool(host, bytes)

    flow = make_flow(execution_strategy=Tells())
    flow.add_routine(Adds(seen=[]), "adds")
    job = finished(flow.execute("adds", {"n": 1}))
    telling[0].join(SECONDS)
    (failure,) = job.errors
    assert job.status == "failed"
    assert type(failure.exception) is (Gone if told is Gone else StrategyError)
    assert told is Gone or str(told) in str(failure.exception)
    assert "give an exception" in caplog.text


def test_a_pool_that_raises_in_submit_fails_the_call(make_flow: MakeFlow) -> None:
    class Pool(HeldPool):
        def submit(self, task: Task) -> None:
            raise SystemExit("no more")

    @frozen(kw_only=True)
    class Refuses(Held):
        def open(self, host: Host) -> WorkerPool:
            return Pool(host, bytes)

    flow = make_flow(execution_strategy=Refuses(), error_handler="continue")
    flow.add_routine(Numbers(), "numbers", execution_strategy="concurrent")
    flow.add_routine(Adds(seen=[]), "adds")
    flow.connect("numbers", "out", "adds", "n")
    job = finished(flow.execute("numbers", {"values": [1, 2, 3]}))
    assert [str(each.exception) for each in job.errors] == [
        "strategy 'held' raised in submit: SystemExit('no more')"
    ] * 3
    assert job.ledger.completed == 1


# -- code of others, where a reply is read


@pytest.mark.parametrize("routine", [Makes, Becomes])
def test_an_exit_where_a_reply_is_read_fails_the_call(
    make_flow: MakeFlow, shipped: dict[str, Any], routine: type[Routine]
) -> None:
    flow = make_flow(**shipped, error_handler="continue")
    flow.add_routine(routine(), "target")
    flow.add_output("target", "out") if routine is Makes else None
    job = finished(flow.execute("target", {"n": 1}))
    assert [type(each.exception).__name__ for each in job.errors] == ["ShippingError"]
    assert "SystemExit(3)" in str(job.errors[0].exception)
    assert finished(flow.execute("target", {"n": 0})).errors == []


def test_a_log_handler_that_exits_costs_its_line(make_flow: MakeFlow) -> None:
    from routilux_core_plugins.process import ProcessStrategy

    class ExitsHere(logging.Handler):
        calls = 0

        def emit(self, record: logging.LogRecord) -> None:
            ExitsHere.calls += 1
            raise SystemExit(3)

    flow = make_flow(execution_strategy=ProcessStrategy(max_workers=1))
    flow.add_routine(Logs(), "logs")
    handler = ExitsHere()
    logging.getLogger("shipped.ends").addHandler(handler)
    try:
        for n in range(2):
            assert finished(flow.execute("logs", {"n": n})).status == "completed"
    finally:
        logging.getLogger("shipped.ends").removeHandler(handler)
    assert ExitsHere.calls == 2
