"""Coroutine handlers: awaited many at a time, each with its own emissions, errors, retries and time-outs."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import pytest
from attrs import frozen

from places import DOCS, SUPPORT
from routilux_core import (
    Activation,
    ActivationTimeout,
    Capabilities,
    CapabilityError,
    Decision,
    DefinitionError,
    EmitError,
    ErrorHandler,
    ExecutionStrategy,
    Failure,
    Flow,
    Host,
    JobState,
    Routine,
    StrategyError,
    WorkerPool,
    event,
    field,
    hookimpl,
    per_worker,
    slot,
)
from strategies.event_loop import EventLoop, EventLoopStrategy
from strategies.patient_loop import PatientLoopStrategy
from strategies.thread_pool import StockThreadsStrategy
from waiting import comes_true

MakeFlow = Callable[..., Flow]
SECONDS = 20.0
CALLER: contextvars.ContextVar[str] = contextvars.ContextVar("caller", default="nobody")
ENTERED: contextvars.ContextVar[int] = contextvars.ContextVar("entered", default=0)


class Source(Routine):
    item = event("n")

    def __call__(self, count: int) -> None:
        for n in range(count):
            self.emit("item", n=n)


class Keep(Routine):
    seen: list[Any] = field(factory=list)

    @slot
    def n(self, n: Any) -> None:
        self.seen.append(n)


class Does(Routine, stateless=True):
    """Awaits what the test says, with itself and the number."""

    action: Callable[[Any, int], Any]
    sent = event("n")

    @slot
    async def n(self, n: int) -> None:
        await self.action(self, n)


class DoesInOrder(Does):
    """Has state: one call at a time."""


class DoesBriefly(Does, stateless=True, timeout=0.05):
    """Has a time-out."""


def loop_flow(make_flow: MakeFlow, workers: int = 100, kind: type[Any] = EventLoopStrategy, **settings: Any) -> Flow:
    return make_flow(execution_strategy=kind(max_workers=workers), **settings)


def build(flow: Flow, does: Routine) -> Keep:
    """Wire source -> does -> keep."""
    keep = Keep()
    flow.add_routine(Source(), "source")
    flow.add_routine(does, "does")
    flow.add_routine(keep, "keep")
    flow.connect("source", "item", "does", "n")
    flow.connect("does", "sent", "keep", "n")
    return keep


def run(flow: Flow, entry: str = "source", **params: Any) -> JobState:
    job = flow.execute(entry, params)
    assert job.wait(SECONDS), job.explain()
    assert job.ledger.balanced
    return job


def errors_of(job: JobState) -> list[str]:
    return [f"{type(failure.exception).__name__}: {failure.exception}" for failure in job.errors]


# -- who may


@pytest.mark.parametrize("strategy", ["sequential", "concurrent", StockThreadsStrategy()])
def test_a_strategy_without_coroutines_refuses_them_by_name_before_the_run(make_flow: MakeFlow, strategy: Any) -> None:
    flow = make_flow(execution_strategy=strategy)
    with pytest.raises(CapabilityError, match=r"'does' \(Does\).*async def.*coroutines"):
        flow.add_routine(Does(action=idle), "does")


def test_a_slot_defined_later_and_a_strategy_set_later_are_checked_too(make_flow: MakeFlow) -> None:
    flow, late = loop_flow(make_flow), Keep()
    flow.add_routine(Does(action=idle), "does")
    with pytest.raises(CapabilityError, match="'does'"):
        flow.set_execution_strategy("concurrent")
    other = make_flow()
    other.add_routine(late, "late")
    late.define_slot("waits", idle)
    with pytest.raises(CapabilityError, match="'late'"):
        other.execute("late", {"n": 1}, slot="n")


def test_a_routine_that_names_a_strategy_without_coroutines_is_refused(make_flow: MakeFlow) -> None:
    flow = loop_flow(make_flow)
    with pytest.raises(CapabilityError, match="'sequential'"):
        flow.add_routine(Does(action=idle), "does", execution_strategy="sequential")


def test_coroutines_and_threads_work_in_one_flow(make_flow: MakeFlow) -> None:
    threads: dict[str, int] = {}

    async def act(self: Does, n: int) -> None:
        threads["does"] = threading.get_ident()
        self.emit("sent", n=n)

    class KeepThread(Keep):
        @slot
        def n(self, n: Any) -> None:
            threads["keep"] = threading.get_ident()
            super().n(n)

    flow, keep = loop_flow(make_flow), KeepThread()
    flow.add_routine(Does(action=act), "does")
    flow.add_routine(keep, "keep", execution_strategy="concurrent")
    flow.connect("does", "sent", "keep", "n")
    assert run(flow, "does", n=3).status == "completed"
    assert keep.seen == [3]
    assert len({threading.get_ident(), *threads.values()}) == 3


def test_a_pool_that_calls_a_task_instead_of_awaiting_it_fails_the_job_by_name(make_flow: MakeFlow) -> None:
    @frozen(kw_only=True)
    class Forgetful(StockThreadsStrategy):
        name = "forgetful"
        capabilities = Capabilities(shares_memory=True, coroutines=True)

    flow = make_flow(execution_strategy=Forgetful())
    build(flow, Does(action=idle))
    job = run(flow, count=1)
    assert job.status == "failed"
    assert isinstance(job.errors[0].exception, StrategyError)
    assert "'forgetful'" in str(job.errors[0].exception)
    assert "arun" in str(job.errors[0].exception)


def test_a_pool_that_awaits_a_task_without_declaring_it_fails_the_job_by_name(make_flow: MakeFlow) -> None:
    @frozen(kw_only=True)
    class Overeager(EventLoopStrategy):
        name = "overeager"
        capabilities = Capabilities(shares_memory=True)

        def open(self, host: Host) -> WorkerPool:
            pools.append(super().open(host))
            return pools[0]

    pools: list[WorkerPool] = []
    flow = make_flow(execution_strategy=Overeager())
    flow.add_routine(Source(), "source")
    job = run(flow, count=1)
    pools[0].close()  # the engine has let go of it, as of any that broke
    assert job.status == "failed"
    assert "declare coroutines" in str(job.errors[0].exception)


def test_a_task_delivered_twice_runs_once(make_flow: MakeFlow, caplog: pytest.LogCaptureFixture) -> None:
    class Twice(EventLoop):
        def _begin(self, task: Any) -> None:
            super()._begin(task)
            super()._begin(task)

    @frozen(kw_only=True)
    class TwiceStrategy(EventLoopStrategy):
        name = "twice"

        def open(self, host: Host) -> WorkerPool:
            return Twice(self.max_workers or 10, host)

    flow = make_flow(execution_strategy=TwiceStrategy())
    keep = build(flow, Does(action=send))
    assert run(flow, count=20).ledger.completed == 41
    assert sorted(keep.seen) == list(range(20))
    assert comes_true(lambda: "delivered twice" in caplog.text)  # the second may begin after the job has ended


def test_importing_the_package_and_running_a_flow_imports_no_asyncio() -> None:
    code = (
        "import sys, routilux_core as r\n"
        "class A(r.Routine):\n    def __call__(self): pass\n"
        "for name in ('sequential', 'concurrent'):\n"
        "    with r.Flow(execution_strategy=name) as flow:\n"
        "        flow.add_routine(A(), 'a'); flow.run('a')\n"
        "print('asyncio' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"


# -- many at a time


class Meeting:
    """How many are inside at once; each waits until so many are, so that none could go on if fewer came."""

    def __init__(self, together: int) -> None:
        self.together, self.inside, self.most, self.calls = together, 0, 0, 0
        self.full = asyncio.Event()

    async def join(self, routine: Routine, n: int) -> None:
        self.calls += 1
        self.inside += 1
        self.most = max(self.most, self.inside)
        if self.inside == self.together:
            full, self.full = self.full, asyncio.Event()
            full.set()
        else:
            await self.full.wait()
        self.inside -= 1


@pytest.mark.parametrize(("workers", "calls"), [(100, 200), (7, 21), (1, 3)])
def test_as_many_handlers_as_workers_are_under_way_at_once_and_no_more(
    make_flow: MakeFlow, workers: int, calls: int
) -> None:
    flow, meeting = loop_flow(make_flow, workers), Meeting(workers)
    build(flow, Does(action=meeting.join))
    job = run(flow, count=calls)
    assert (meeting.most, meeting.calls) == (workers, calls)
    assert job.ledger.completed == calls + 1


def test_200_sleeping_handlers_take_two_rounds_with_100_workers(make_flow: MakeFlow) -> None:
    async def sleep(routine: Does, n: int) -> None:
        await asyncio.sleep(0.05)

    flow = loop_flow(make_flow, 100)
    build(flow, Does(action=sleep))
    records = run(flow, count=200).get_execution_history("does")
    assert len(records) == 200
    took = max(r.ended for r in records) - min(r.started for r in records)
    work = sum(r.run_time for r in records)
    assert work >= 200 * 0.05 * 0.99
    assert work / took > 25  # some 95 on a quiet machine


def test_a_routine_with_state_is_awaited_one_call_at_a_time_in_order(make_flow: MakeFlow) -> None:
    inside = 0

    async def act(self: Does, n: int) -> None:
        nonlocal inside
        inside += 1
        for _ in range(n % 3):
            await asyncio.sleep(0)
        assert inside == 1
        inside -= 1
        self.emit("sent", n=n)

    flow = loop_flow(make_flow, 20)
    keep = build(flow, DoesInOrder(action=act))
    assert not run(flow, count=100).errors
    assert keep.seen == list(range(100))


def test_what_a_handler_emits_leaves_at_once(make_flow: MakeFlow) -> None:
    """Even where there is but one other worker: the handler waits for what it emitted to have been handled."""
    handled = asyncio.Event()

    async def act(self: Does, n: int) -> None:
        self.emit("sent", n=n)
        await handled.wait()

    class Sets(Keep):
        @slot
        async def n(self, n: Any) -> None:
            handled.set()

    flow = loop_flow(make_flow, 2)
    flow.add_routine(Does(action=act), "does")
    flow.add_routine(Sets(), "sets")
    flow.connect("does", "sent", "sets", "n")
    assert run(flow, "does", n=1).ledger.completed == 2


@pytest.mark.parametrize("workers", [1, 8])
def test_emitting_far_beyond_the_mark_never_blocks_the_loop(make_flow: MakeFlow, workers: int) -> None:
    """The handler emits 5,000 with a mark of 4: nothing else may run inside its `emit`."""
    inside: list[int] = []
    ran_inside = 0

    async def act(self: Does, n: int) -> None:
        inside.append(n)
        for number in range(5_000):
            self.emit("sent", n=number)
        inside.remove(n)

    class Watches(Keep):
        @slot
        def n(self, n: Any) -> None:
            nonlocal ran_inside
            ran_inside += bool(inside)

    flow = loop_flow(make_flow, workers, max_pending=4)
    flow.add_routine(Does(action=act), "does")
    flow.add_routine(Watches(), "keep")
    flow.connect("does", "sent", "keep", "n")
    assert run(flow, "does", n=1).ledger.completed == 5_001
    assert not ran_inside


def test_plain_handlers_leave_the_loop_to_coroutines_in_between(make_flow: MakeFlow) -> None:
    """A chain of plain calls that goes on until a coroutine has had three turns would never end otherwise."""
    turns = 0

    async def act(self: Does, n: int) -> None:
        nonlocal turns
        for _ in range(3):
            await asyncio.sleep(0)
            turns += 1

    class Goes(Routine):
        again = event("n")

        @slot
        def n(self, n: int) -> None:
            if turns < 3:
                self.emit("again", n=n)

    flow = loop_flow(make_flow, 2)
    flow.add_routine(Source(), "source")
    flow.add_routine(Goes(), "goes")
    flow.add_routine(Does(action=act), "does")
    flow.connect("source", "item", "goes", "n")
    flow.connect("source", "item", "does", "n")
    flow.connect("goes", "again", "goes", "n")
    assert run(flow, count=1).status == "completed"


# -- whose emission it is


def test_interleaved_handlers_emit_each_as_itself(make_flow: MakeFlow) -> None:
    """Whatever arrives was caused by the call that sent it, before and after a wait."""

    async def act(self: Does, n: int) -> None:
        self.emit("sent", n=(n, "before"))
        await asyncio.sleep(0)
        self.emit("sent", n=(n, "after"))

    flow = loop_flow(make_flow, 50)
    keep = build(flow, Does(action=act))
    flow.add_routine(Does(action=act), "other")
    flow.connect("source", "item", "other", "n")
    flow.connect("other", "sent", "keep", "n")
    job = run(flow, count=100)
    causes: dict[int, int] = {}
    kept = job.get_execution_history("keep")
    for record in kept:
        assert record.cause is not None
        causes[record.cause] = causes.get(record.cause, 0) + 1
    senders = {r.id for r in job.get_execution_history() if r.routine_id in ("does", "other")}
    assert causes == dict.fromkeys(senders, 2)
    assert len(senders) == 200
    assert len(keep.seen) == 400


def test_emitting_for_a_routine_whose_handler_waits_is_refused(make_flow: MakeFlow) -> None:
    met = asyncio.Event()

    async def wait(self: Does, n: int) -> None:
        await met.wait()

    async def act(self: Does, n: int) -> None:
        try:
            flow.routines["waits"].emit("sent", n=n)
        finally:
            met.set()

    flow = loop_flow(make_flow)
    build(flow, Does(action=act))
    flow.add_routine(Does(action=wait), "waits")
    flow.connect("source", "item", "waits", "n")
    job = run(flow, count=1)
    assert errors_of(job) == [
        "EmitError: emit('sent') of routine 'waits' was called inside a handler of another routine: "
        "connect the two and emit there"
    ]


def test_to_thread_cant_emit_for_the_handler(make_flow: MakeFlow) -> None:
    async def act(self: Does, n: int) -> None:
        await asyncio.to_thread(self.emit, "sent", n=n)

    flow = loop_flow(make_flow)
    build(flow, Does(action=act))
    (failure,) = run(flow, count=1).errors
    assert isinstance(failure.exception, EmitError)
    assert "another thread" in str(failure.exception)


def test_a_task_that_a_handler_awaits_emits_for_it(make_flow: MakeFlow) -> None:
    async def child(self: Does, n: int) -> None:
        await asyncio.sleep(0)
        self.emit("sent", n=n)

    async def act(self: Does, n: int) -> None:
        async with asyncio.TaskGroup() as group:
            for each in range(3):
                group.create_task(child(self, 10 * n + each))

    flow = loop_flow(make_flow)
    keep = build(flow, Does(action=act))
    job = run(flow, count=4)
    assert sorted(keep.seen) == [10 * n + each for n in range(4) for each in range(3)]
    causes = [r.cause for r in job.get_execution_history("keep")]
    assert sorted(causes) == sorted(3 * [r.id for r in job.get_execution_history("does")])


@pytest.mark.parametrize("kind", ["coroutine", "plain"])
def test_a_task_that_outlives_its_handler_cant_emit_for_the_next_call(make_flow: MakeFlow, kind: str) -> None:
    """One worker, one routine: the second call waits for what the first has left behind to have tried."""
    refused: list[EmitError] = []
    left: list[asyncio.Task[None]] = []
    second, tried = asyncio.Event(), asyncio.Event()

    async def child(self: Routine) -> None:
        await second.wait()
        try:
            self.emit("sent", n="stolen")
        except EmitError as error:
            refused.append(error)
        tried.set()

    class Leaves(Routine):
        sent = event("n")

        @slot
        async def coroutine(self, n: int) -> None:
            await self.wait() if n else self.leave()

        @slot
        def plain(self, n: int) -> None:
            self.leave()

        @slot
        async def wait(self, n: int = 0) -> None:
            second.set()
            await tried.wait()

        def leave(self) -> None:
            left.append(asyncio.get_running_loop().create_task(child(self)))

    flow, keep = loop_flow(make_flow, 1), Keep()
    flow.add_routine(Leaves(), "leaves")
    flow.add_routine(keep, "keep")
    flow.connect("leaves", "sent", "keep", "n")
    first = flow.execute("leaves", {"n": 0}, slot=kind)
    assert first.wait(SECONDS)
    assert flow.execute("leaves", {"n": 1}, slot="wait").wait(SECONDS)
    assert "'leaves'" in str(refused[0])
    assert "after its handler had ended" in str(refused[0])
    assert not keep.seen


def test_a_task_cant_emit_from_the_moment_in_which_its_handler_has_ended(make_flow: MakeFlow) -> None:
    """The handler wakes the task as its last act: the task comes before the worker does."""
    refused: list[EmitError] = []
    left: list[asyncio.Task[None]] = []

    async def child(self: Does, over: asyncio.Event) -> None:
        await over.wait()
        try:
            self.emit("sent", n="late")
        except EmitError as error:
            refused.append(error)

    async def act(self: Does, n: int) -> None:
        over = asyncio.Event()
        left.append(asyncio.create_task(child(self, over)))
        await asyncio.sleep(0)
        over.set()

    flow = loop_flow(make_flow)
    keep = build(flow, Does(action=act))
    assert not run(flow, count=1).errors
    flow.shutdown()
    assert not keep.seen
    assert "after its handler had ended" in str(refused[0])


def test_waiting_for_the_own_flow_in_a_coroutine_is_refused(make_flow: MakeFlow) -> None:
    async def act(self: Does, n: int) -> None:
        flow.wait_for_completion()

    flow = loop_flow(make_flow)
    build(flow, Does(action=act))
    assert "would wait for itself" in errors_of(run(flow, count=1))[0]


def test_a_coroutine_may_execute_its_own_flow_and_another(make_flow: MakeFlow) -> None:
    started: list[JobState] = []

    async def act(self: Does, n: int) -> None:
        if n < 3:
            started.append(flow.execute("source", {"count": 0}))
            started.append(other.run("source", {"count": 2}))
            self.emit("sent", n=n)

    flow, other = loop_flow(make_flow), make_flow()
    keep = build(flow, Does(action=act))
    other.add_routine(Source(), "source")
    assert run(flow, count=3).status == "completed"
    assert flow.wait_for_completion(SECONDS)
    assert [job.status for job in started] == ["completed"] * 6
    assert sorted(keep.seen) == [0, 1, 2]


def test_a_handler_sees_the_callers_context_and_leaves_its_own_to_nobody(make_flow: MakeFlow) -> None:
    seen: list[tuple[str, int]] = []

    async def act(self: Does, n: int) -> None:
        seen.append((CALLER.get(), ENTERED.get()))
        ENTERED.set(n + 1)
        await asyncio.sleep(0)
        assert ENTERED.get() == n + 1
        self.emit("sent", n=n)

    flow = loop_flow(make_flow, 4)
    build(flow, Does(action=act))
    for name in ("one", "two"):
        contextvars.Context().run(lambda name=name: (CALLER.set(name), run(flow, count=10)))
    contextvars.Context().run(run, flow, count=10)
    assert seen == [(name, 0) for name in ("one", "two", "nobody") for _ in range(10)]


def test_per_worker_makes_one_client_for_the_loop_and_closes_it_in_its_thread(make_flow: MakeFlow) -> None:
    made: list[Any] = []

    class Client:
        def __init__(self) -> None:
            made.append(self)
            self.thread, self.closed_in = threading.get_ident(), 0

        def close(self) -> None:
            self.closed_in = threading.get_ident()

    class Uses(Routine, stateless=True):
        client = per_worker(Client)

        @slot
        async def n(self, n: int) -> None:
            before = self.client
            await asyncio.sleep(0)
            assert self.client is before

    flow = loop_flow(make_flow)
    build_uses = Uses()
    flow.add_routine(Source(), "source")
    flow.add_routine(build_uses, "uses")
    flow.connect("source", "item", "uses", "n")
    assert not run(flow, count=30).errors
    flow.shutdown()
    assert [client.closed_in for client in made] == [made[0].thread]


# -- errors, cancellation, time-outs


@pytest.mark.parametrize(
    "error", [ValueError("bad"), asyncio.CancelledError("mine"), SystemExit(3), KeyboardInterrupt(), GeneratorExit()]
)
@pytest.mark.parametrize("style", ["coroutine", "plain"])
def test_whatever_a_handler_raises_is_its_own_failure_and_the_pool_goes_on(
    make_flow: MakeFlow, error: BaseException, style: str
) -> None:
    class Raises(Routine):
        @slot
        async def coroutine(self, n: int) -> None:
            await asyncio.sleep(0)
            raise error

        @slot
        def plain(self, n: int) -> None:
            raise error

    flow = loop_flow(make_flow, 3, error_handler="continue")
    flow.add_routine(Source(), "source")
    flow.add_routine(Raises(), "raises")
    flow.connect("source", "item", "raises", style)
    job = run(flow, count=10)
    assert (job.status, job.ledger.failed, job.ledger.completed) == ("completed", 10, 1)
    assert [failure.exception for failure in job.errors] == [error] * 10
    assert "raise error" in job.errors[0].traceback
    assert run(flow, count=1).ledger.failed == 1


def test_a_handler_that_cancels_its_own_task_fails_alone(make_flow: MakeFlow) -> None:
    async def act(self: Does, n: int) -> None:
        if n == 1:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        await asyncio.sleep(0)
        self.emit("sent", n=n)

    flow = loop_flow(make_flow, 1, error_handler="continue")
    keep = build(flow, Does(action=act))
    job = run(flow, count=3)
    assert errors_of(job) == ["CancelledError: "]
    assert keep.seen == [0, 2]


def test_a_retried_coroutine_emits_once_when_it_has_succeeded(make_flow: MakeFlow) -> None:
    tried: dict[int, int] = {}

    async def act(self: Does, n: int) -> None:
        tried[n] = tried.get(n, 0) + 1
        self.emit("sent", n=(n, tried[n]))
        await asyncio.sleep(0)
        if tried[n] <= n % 3:
            raise ValueError(n)

    flow, does = loop_flow(make_flow, 5), DoesInOrder(action=act)
    does.set_error_handler(ErrorHandler("retry", max_retries=2, retry_delay=0.001))
    keep = build(flow, does)
    job = run(flow, count=9)
    assert (job.status, job.ledger.retried) == ("completed", 9)
    assert keep.seen == [(n, n % 3 + 1) for n in range(9)]
    assert [r.attempt for r in job.get_execution_history("does") if r.outcome == "completed"] == [1, 2, 3] * 3


def test_what_was_emitted_before_an_exception_is_delivered(make_flow: MakeFlow) -> None:
    async def act(self: Does, n: int) -> None:
        self.emit("sent", n=n)
        await asyncio.sleep(0)
        raise ValueError(n)

    flow = loop_flow(make_flow, error_handler="skip")
    keep = build(flow, Does(action=act))
    job = run(flow, count=5)
    assert (job.ledger.skipped, [failure.emitted for failure in job.errors]) == (5, [1] * 5)
    assert sorted(keep.seen) == list(range(5))


def test_a_missing_parameter_of_a_coroutine_is_named(make_flow: MakeFlow) -> None:
    flow = loop_flow(make_flow)
    flow.add_routine(Does(action=idle), "does")
    assert "'does', slot 'n': the handler requires 'n'" in errors_of(run(flow, "does", m=1))[0]


def test_a_plain_handler_that_returns_a_coroutine_has_it_awaited(make_flow: MakeFlow) -> None:
    class Wrapped(Routine):
        sent = event("n")

        @slot
        def n(self, n: int) -> Any:
            return send(self, n)

    flow = loop_flow(make_flow)
    keep = build(flow, Wrapped())
    assert not run(flow, count=3).errors
    assert sorted(keep.seen) == [0, 1, 2]


def test_cancel_lets_running_coroutines_end_and_discards_what_they_emit(make_flow: MakeFlow) -> None:
    running, release = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def act(self: Does, n: int) -> None:
        loops.append(asyncio.get_running_loop())
        if len(loops) == 3:
            running.set()
        await release.wait()
        assert self.cancelled
        self.emit("sent", n=n)

    flow = loop_flow(make_flow, 3)
    keep = build(flow, Does(action=act))
    job = flow.execute("source", {"count": 10})
    assert running.wait(SECONDS)
    job.cancel()
    assert not job.wait(0)
    loops[0].call_soon_threadsafe(release.set)
    assert job.wait(SECONDS)
    assert (job.status, job.ledger.completed, job.ledger.discarded, len(keep.seen)) == ("cancelled", 4, 10, 0)


def test_cancel_discards_what_a_worker_has_not_committed_to(make_flow: MakeFlow) -> None:
    merging, release = threading.Event(), threading.Event()
    called: list[int] = []

    def merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
        merging.set()
        assert release.wait(SECONDS)
        return new

    class Merges(Routine):
        @slot(merge_strategy=merge)
        async def n(self, n: int) -> None:
            called.append(n)

    flow = loop_flow(make_flow, 1)
    flow.add_routine(Merges(), "merges")
    job = flow.execute("merges", {"n": 1})
    assert merging.wait(SECONDS)
    job.cancel()
    release.set()
    assert job.wait(SECONDS)
    assert (job.status, job.ledger.discarded, called) == ("cancelled", 1, [])


def test_a_handler_over_its_time_is_ended_where_the_strategy_can(make_flow: MakeFlow) -> None:
    ended: list[str] = []

    async def act(self: Does, n: int) -> None:
        try:
            if n:
                await asyncio.Event().wait()  # for ever
        finally:
            ended.append("cleaned up")
        self.emit("sent", n=n)

    flow = loop_flow(make_flow, error_handler="continue")
    keep = build(flow, DoesBriefly(action=act))
    job = run(flow, count=3)
    assert [type(failure.exception) for failure in job.errors] == [ActivationTimeout] * 2
    assert "routine 'does', slot 'n': the call took 0." in str(job.errors[0].exception)
    assert isinstance(job.errors[0].exception.__cause__, asyncio.CancelledError)
    assert len(ended) == 3
    assert keep.seen == [0]


def test_a_handler_that_refuses_to_end_in_time_is_late_all_the_same(make_flow: MakeFlow) -> None:
    async def act(self: Does, n: int) -> None:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.sleep(0)

    flow = loop_flow(make_flow)
    build(flow, DoesBriefly(action=act))
    job = run(flow, count=1)
    assert (job.status, type(job.errors[0].exception)) == ("failed", ActivationTimeout)


def test_a_patient_strategy_judges_when_the_handler_returns(make_flow: MakeFlow) -> None:
    ended: list[int] = []

    async def act(self: Does, n: int) -> None:
        await asyncio.sleep(0.06 * n)
        ended.append(n)
        self.emit("sent", n=n)

    flow = loop_flow(make_flow, kind=PatientLoopStrategy, error_handler="continue")
    keep = build(flow, DoesBriefly(action=act))
    job = run(flow, count=3)
    assert [type(failure.exception) for failure in job.errors] == [ActivationTimeout] * 2
    assert sorted(ended) == [0, 1, 2]
    assert (keep.seen, job.late_emissions) == ([0], 2)


def test_a_time_out_is_retried_like_any_error(make_flow: MakeFlow) -> None:
    calls: list[int] = []

    async def act(self: Does, n: int) -> None:
        calls.append(n)
        self.emit("sent", n=n)
        if len(calls) == 1:
            await asyncio.Event().wait()

    flow, does = loop_flow(make_flow), DoesBriefly(action=act)
    does.set_error_handler(ErrorHandler("retry", retry_delay=0.0))
    keep = build(flow, does)
    job = run(flow, count=1)
    assert (job.status, job.ledger.retried, keep.seen) == ("completed", 1, [0])


# -- the end of a worker


def test_a_worker_that_is_cancelled_costs_one_activation(make_flow: MakeFlow) -> None:
    """The pool cancels all its workers while handlers wait: these end, fail by their policy, and the rest is run."""
    running = threading.Event()
    cleaned: list[int] = []
    inside: list[int] = []

    async def act(self: Does, n: int) -> None:
        inside.append(n)
        if n < 4:
            if len(inside) == 4:
                running.set()
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                cleaned.append(n)
        self.emit("sent", n=n)

    flow = loop_flow(make_flow, 4, error_handler="continue")
    keep = build(flow, Does(action=act))
    job = flow.execute("source", {"count": 12})
    assert running.wait(SECONDS)
    workers = cancel_workers(flow)
    assert job.wait(SECONDS), job.explain()
    assert sorted(cleaned) == [0, 1, 2, 3]
    flow.shutdown()
    assert [worker.cancelled() for worker in workers] == [True] * 4
    assert (job.status, job.ledger.failed, job.ledger.completed) == ("completed", 4, 17)
    assert errors_of(job) == ["CancelledError: "] * 4
    assert sorted(keep.seen) == list(range(4, 12))


def test_shutdown_with_a_deadline_ends_handlers_that_would_wait_for_ever(make_flow: MakeFlow) -> None:
    running = threading.Event()

    async def act(self: Does, n: int) -> None:
        running.set()
        await asyncio.Event().wait()

    flow = loop_flow(make_flow, 4)
    build(flow, Does(action=act))
    job = flow.execute("source", {"count": 1})
    assert running.wait(SECONDS)
    flow.shutdown(timeout=0.1)
    assert job.wait(SECONDS)
    assert (job.status, errors_of(job)) == ("cancelled", ["CancelledError: "])


def test_a_loop_that_is_closed_under_its_handlers_fails_them(make_flow: MakeFlow) -> None:
    """The worker is closed where it waits: it can await nothing more, and its job ends all the same."""
    closing: list[Any] = []
    running = threading.Event()

    class Dies(EventLoop):
        def _begin(self, task: Any) -> None:
            closing.append(task.arun())
            made = self._loop.create_task(stand_in(closing[-1]))
            self.tasks.add(made)
            made.add_done_callback(self.tasks.discard)

    async def stand_in(made: Any) -> None:
        """Step the worker by hand until it waits in its handler, and forget it there."""
        asyncio.get_running_loop().call_soon(lambda: None)
        while not running.is_set():
            made.send(None)
            await asyncio.sleep(0)
        made.close()

    async def act(self: Does, n: int) -> None:
        running.set()
        await asyncio.Event().wait()

    @frozen(kw_only=True)
    class DyingStrategy(EventLoopStrategy):
        name = "dying"

        def open(self, host: Host) -> WorkerPool:
            return Dies(1, host)

    flow = make_flow(execution_strategy=DyingStrategy())
    flow.add_routine(Does(action=act), "does")
    job = run(flow, "does", n=1)
    assert (job.status, errors_of(job)) == ("failed", ["WorkerLost: the event loop was closed while 'does.n' ran"])


class LoopWithFactory(EventLoop):
    """Makes its asyncio tasks in a way of its own."""

    factory: Any

    def _begin(self, task: Any) -> None:
        self._loop.set_task_factory(type(self).factory)
        super()._begin(task)


def with_factory(made_by: Callable[..., Any]) -> ExecutionStrategy:
    class Loop(LoopWithFactory):
        factory = staticmethod(made_by)

    @frozen(kw_only=True)
    class FactoryStrategy(EventLoopStrategy):
        name = "with-factory"

        def open(self, host: Host) -> WorkerPool:
            return Loop(self.max_workers or 10, host)

    return FactoryStrategy()


def test_a_handler_whose_task_is_cancelled_before_it_begins_is_closed_unawaited(make_flow: MakeFlow) -> None:
    called: list[int] = []

    async def act(self: Does, n: int) -> None:
        called.append(n)

    def cancel_first(loop: Any, made: Any, **settings: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(made, loop=loop, **settings)
        if made.__name__ == "n":  # a handler's, not a worker's
            task.cancel()
        return task

    flow = make_flow(execution_strategy=with_factory(cancel_first), error_handler="continue")
    build(flow, Does(action=act))
    job = run(flow, count=3)
    assert (errors_of(job), called) == (["CancelledError: "] * 3, [])


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
def test_tasks_that_begin_eagerly_give_the_same_answer(make_flow: MakeFlow) -> None:
    async def act(self: Does, n: int) -> None:
        self.emit("sent", n=n)
        if n % 2:
            await asyncio.sleep(0)
        if n % 5 == 0:
            raise SystemExit(n)

    flow = make_flow(execution_strategy=with_factory(asyncio.eager_task_factory), error_handler="continue")
    keep = build(flow, Does(action=act))
    job = run(flow, count=20)
    assert (sorted(keep.seen), job.ledger.failed) == (list(range(20)), 4)


def test_nothing_is_kept_of_coroutines_that_have_ended(make_flow: MakeFlow) -> None:
    """Each call is taken by a worker that the one before called, whose context it inherits: no chain may grow of it."""
    from routilux_core._local.coroutines import CoroutineCall

    alive: list[int] = []
    begun = [asyncio.Event() for _ in range(301)]

    async def act(self: Does, n: int) -> None:
        begun[n].set()
        if n:
            for _ in range(5):  # the worker before finds nothing more to do, and leaves
                await asyncio.sleep(0)
            self.emit("sent", n=n - 1)
            await begun[n - 1].wait()
        else:
            gc.collect()
            alive.append(
                sum(
                    isinstance(each, CoroutineCall) and each.engine is flow._runtime.engine for each in gc.get_objects()
                )
            )

    flow = loop_flow(make_flow, 2)
    flow.add_routine(Does(action=act), "does")
    flow.connect("does", "sent", "does", "n")
    assert run(flow, "does", n=300).ledger.completed == 301
    assert alive[0] <= 5


def test_totals_and_records_agree_and_have_the_time_that_handlers_wait(make_flow: MakeFlow) -> None:
    async def act(self: Does, n: int) -> None:
        await asyncio.sleep(0.005)

    flow = loop_flow(make_flow, 2, error_handler="continue")
    build(flow, Does(action=act))
    job = run(flow, count=6)
    records = job.get_execution_history("does")
    figures = job.tracker.get_routine_performance("does")
    assert figures["total_executions"] == figures["completed"] == len(records) == 6
    assert figures["avg_execution_time"] == pytest.approx(sum(r.run_time for r in records) / 6)
    assert figures["avg_queue_wait"] == pytest.approx(sum(r.queue_wait for r in records) / 6)
    assert figures["min_execution_time"] >= 0.0049
    assert figures["avg_queue_wait"] > 0.01 / 6  # the last two waited for two rounds


def test_the_strategy_in_the_documentation_is_the_one_tested_here() -> None:
    text = (DOCS / "coroutines.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks[-1] in (SUPPORT / "strategies" / "event_loop.py").read_text("utf-8")
    for block in blocks:
        compile(block, "coroutines.md", "exec")


async def idle(*args: Any, n: int = 0) -> None:
    await asyncio.sleep(0)


async def send(routine: Routine, n: int) -> None:
    await asyncio.sleep(0)
    routine.emit("sent", n=n)


def cancel_workers(flow: Flow) -> list[asyncio.Task[None]]:
    """Cancel the workers that are under way, and return them."""
    pool = flow._runtime.default.pool
    assert isinstance(pool, EventLoop)
    workers = list(pool.tasks)
    pool._loop.call_soon_threadsafe(lambda: [worker.cancel() for worker in workers])
    return workers


# -- what a handler returns


class Later:
    """Something to be awaited that is neither a coroutine nor of asyncio."""

    def __await__(self) -> Any:
        yield


class Returning(Routine, stateless=True):
    out = event("n")

    async def _fetch(self, n: int) -> None:
        await asyncio.sleep(0)
        self.emit("out", n=n)

    @slot
    def returns_coroutine(self, n: int) -> Any:
        return self._fetch(n)

    @slot
    def returns_task(self, n: int) -> Any:
        return asyncio.ensure_future(self._fetch(n))

    @slot
    def returns_awaitable(self, n: int) -> Any:
        self.emit("out", n=n)
        return Later()

    @slot
    async def async_returns_coroutine(self, n: int) -> Any:
        return self._fetch(n)

    @slot
    async def async_returns_generator(self, n: int) -> Any:
        return (each for each in [n])

    @slot
    def returns_generator(self, n: int) -> Any:
        return (each for each in [n])


@pytest.mark.parametrize("name", ["returns_coroutine", "returns_task", "returns_awaitable"])
def test_where_coroutines_are_declared_what_can_be_awaited_is(make_flow: MakeFlow, name: str) -> None:
    flow = make_flow(execution_strategy=EventLoopStrategy())
    flow.add_routine(Returning(), "routine")
    flow.add_output("routine", "out")
    job = flow.execute("routine", {"n": 3}, slot=name)
    assert job.wait(SECONDS), job.explain()
    assert (job.status, job.outputs["routine.out"]) == ("completed", [{"n": 3}])


@pytest.mark.parametrize("name", ["async_returns_coroutine", "async_returns_generator", "returns_generator"])
def test_what_nobody_awaits_or_iterates_there_has_failed(make_flow: MakeFlow, name: str) -> None:
    flow = make_flow(execution_strategy=EventLoopStrategy())
    flow.add_routine(Returning(), "routine")
    job = flow.execute("routine", {"n": 3}, slot=name)
    assert job.wait(SECONDS), job.explain()
    (failure,) = job.errors
    assert isinstance(failure.exception, DefinitionError)
    gc.collect()


# -- late calls


class LateCall(Routine, stateless=True, timeout=0.1):
    out = event("n")

    @slot
    async def awaits(self, n: int) -> None:
        self.emit("out", n=n)
        try:
            while not self.cancelled:
                await asyncio.sleep(0.005)
        finally:  # it may be cancelled for it
            self.emit("out", n=-n)

    @slot
    def plain(self, n: int) -> None:
        self.emit("out", n=n)
        while not self.cancelled:
            pass
        self.emit("out", n=-n)
        raise ValueError("late, too")


@pytest.mark.parametrize("name", ["awaits", "plain"])
@pytest.mark.parametrize("strategy_type", [EventLoopStrategy, PatientLoopStrategy])
def test_what_a_late_call_emits_is_dropped_whether_or_not_it_can_be_ended(
    make_flow: MakeFlow, strategy_type: type[ExecutionStrategy], name: str
) -> None:
    flow = make_flow(execution_strategy=strategy_type(), error_handler="continue")
    flow.add_routine(LateCall(), "late")
    flow.add_output("late", "out")
    job = flow.execute("late", {"n": 1}, slot=name)
    assert job.wait(SECONDS), job.explain()
    assert [type(each.exception) for each in job.errors] == [ActivationTimeout]
    assert (job.outputs["late.out"], job.late_emissions) == ([{"n": 1}], 1)


def test_a_plugin_may_spare_the_call_of_a_coroutine_and_is_told_of_it(make_flow: MakeFlow) -> None:
    class Breaker:
        told: ClassVar[list[tuple[str, int]]] = []

        @hookimpl
        def routilux_admit(self, activation: Activation) -> Decision | None:
            return Decision("skip") if activation.data.get("n", 0) % 2 else None

        @hookimpl
        def routilux_failure_decided(self, failure: Failure, payload: Mapping[str, Any]) -> None:
            self.told.append((type(failure.exception).__name__, payload["n"]))

    class Awaits(Routine, stateless=True):
        @slot
        async def n(self, n: int) -> None:
            await asyncio.sleep(0)
            if n == 4:
                raise ValueError(n)

    flow = make_flow(execution_strategy=EventLoopStrategy(), plugins=[Breaker()], error_handler="continue")
    flow.add_routine(Source(), "source")
    flow.add_routine(Awaits(), "awaits")
    flow.connect("source", "item", "awaits", "n")
    job = flow.run("source", {"count": 6}, timeout=SECONDS)
    assert (job.status, job.ledger.skipped, job.ledger.failed) == ("completed", 3, 1)
    assert sorted(Breaker.told, key=lambda each: each[1]) == [
        ("NotAdmitted", 1),
        ("NotAdmitted", 3),
        ("ValueError", 4),
        ("NotAdmitted", 5),
    ]
