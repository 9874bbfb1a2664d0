"""A program that uses the whole public API: a type checker reads it, and nobody runs it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, assert_type

from attrs import frozen

from routilux_core import (
    UNKNOWN,
    Activation,
    ActivationRecord,
    ActivationTimeout,
    Busy,
    Capabilities,
    CapabilityError,
    ConfigurationError,
    Decision,
    DefinitionError,
    DuplicateNameError,
    Emission,
    EmitError,
    ErrorHandler,
    ErrorStrategy,
    ExecutionStrategy,
    ExecutionTracker,
    ExecutorStrategy,
    Failure,
    Flow,
    FlowStateError,
    JobState,
    PayloadError,
    RoutiluxError,
    Routine,
    SealedRoutineError,
    StrategyError,
    StrategyRequest,
    Task,
    UnknownNameError,
    UnknownStrategyError,
    WorkerLost,
    WorkerPool,
    event,
    field,
    hookimpl,
    per_worker,
    slot,
    worker,
)
from routilux_core.testing import ManualStrategy, ShuffledStrategy, StrategySuite, Waiting


class Client:
    def get(self, url: str) -> bytes:
        return url.encode()

    def close(self) -> None: ...


class Fetch(Routine, stateless=True, concurrency=8, timeout=2.5):
    url: str
    tries: int = 3
    fetched = event("data", "source")
    client = per_worker(Client)

    @slot
    def trigger(self, task_id: str) -> None:
        assert_type(self.client, Client)
        assert_type(self.cancelled, bool)
        self.emit("fetched", data=self.client.get(self.url), source=task_id)


class Aggregate(Routine, scope="job", type_name="aggregate"):
    results: list[bytes] = field(factory=list)
    done = event("count")

    @slot(merge_strategy="append")
    def input(self, data: bytes, source: str = "") -> None:
        self.results.append(data)
        assert_type(self.increment_stat("inputs"), float)

    @slot(merge_strategy="gather")
    def finish(self, data: list[bytes]) -> None:
        self.emit("done", count=len(data))

    @slot(merge_strategy=lambda old, new: {**old, **new}, whole=True)
    def late(self, data: Mapping[str, Any]) -> None: ...


class Imperative(Routine):
    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.define_slot("input", handler=self.process, merge_strategy="append", whole=True)
        self.define_event("output", ["result"])

    def process(self, data: dict[str, Any]) -> None:
        self.emit("output", result=data)

    def __call__(self, first: int = 0) -> None:
        self.process({"first": first})


def fields_are_keywords() -> None:
    fetch = Fetch(url="http://127.0.0.1/")
    assert_type(fetch.url, str)
    assert_type(fetch.tries, int)
    Fetch("http://127.0.0.1/")  # type: ignore[call-arg]
    Fetch(url=1)  # type: ignore[arg-type]
    Fetch()  # type: ignore[call-arg]
    Imperative(limit=3)


def a_decorated_handler_keeps_its_type(aggregate: Aggregate) -> None:
    aggregate.input(b"", source="a")
    aggregate.input(1)  # type: ignore[arg-type]


async def awaits(flow: Flow) -> None:
    async with Flow(execution_strategy="asyncio", strategy_options={"loop": "running"}) as entered:
        assert_type(entered, Flow)
    job = await flow.arun("fetch", {"task_id": "7"}, timeout=1.0, raise_for_errors=True)
    assert_type(job, JobState)
    assert_type(await job.done(0.5), bool)
    async for name, payload in job.stream("done"):
        assert_type((name, payload), tuple[str, dict[str, Any]])
    for name, payload in job.stream():
        assert_type((name, payload), tuple[str, dict[str, Any]])
    await flow.arun("fetch", task_id="7")  # type: ignore[arg-type]


def build() -> Flow:
    flow = Flow(
        flow_id="prices",
        execution_strategy="concurrent",
        max_workers=5,
        strategy_options={},
        error_handler=ErrorHandler(strategy=ErrorStrategy.CONTINUE),
        max_pending=64,
        history_size=100,
    )
    fetch_id = flow.add_routine(Fetch(url="http://127.0.0.1/"), "fetch")
    assert_type(fetch_id, str)
    flow.add_routine(Aggregate(), "aggregate", execution_strategy="sequential")
    flow.connect("fetch", "fetched", "aggregate", "input", param_mapping={"data": "row"})
    flow.add_output("aggregate", "done")
    flow.add_output("aggregate", "done", name="count")
    flow.set_error_handler(ErrorHandler())
    flow.set_execution_strategy("sequential")
    flow.set_execution_strategy("concurrent", max_workers=10, strategy_options=None)
    return flow


def execute(flow: Flow) -> None:
    with flow:
        job_state = flow.execute("fetch", entry_params={"task_id": "t1"}, slot="trigger")
        assert_type(job_state, JobState)
        assert_type(flow.wait_for_completion(timeout=10.0), bool)
        flow.pause()
        flow.resume()
        flow.cancel()
    assert_type(flow.run("fetch", {"task_id": "t2"}), JobState)
    assert_type(flow.job_state, JobState | None)
    assert_type(flow.routines["fetch"].stats(), dict[str, float])
    for connection in flow.connections:
        assert_type(connection.source, str)
    flow.shutdown(wait=True, timeout=1.0)


def read(job_state: JobState) -> None:
    assert_type(job_state.status, str)
    assert_type(job_state.outputs["aggregate.done"], list[dict[str, Any]])
    assert_type(job_state.errors, list[Failure])
    assert_type(job_state.ledger.posted, int)
    assert_type(job_state.routine_states, dict[str, str])
    assert_type(job_state.get_routine_state("fetch"), str | None)
    assert_type(job_state.explain(), str)
    assert_type(job_state.activity.running, dict[str, int])
    job_state.report("run.html")
    job_state.trace("run.json.gz")
    assert_type(job_state.wait(timeout=1.0), bool)
    for record in job_state.get_execution_history("fetch"):
        assert_type(record.run_time, float)
    for failure in job_state.errors:
        assert_type(failure.exception, BaseException)
        assert_type(failure.traceback, str)
        assert_type(failure.decision, ErrorStrategy | None)
    job_state.raise_for_errors()


def policies(routine: Routine) -> None:
    routine.set_error_handler(
        ErrorHandler(
            strategy="retry",
            max_retries=5,
            retry_delay=0.1,
            retry_backoff=2.0,
            retryable_exceptions=(OSError,),
            non_retryable_exceptions=(FileNotFoundError,),
            max_delay=1.0,
            jitter=0.05,
            after_retries="continue",
        )
    )
    assert_type(routine.get_error_handler(), ErrorHandler | None)
    routine.set_as_optional()
    routine.set_as_critical()
    routine.reset_stats()


class ThreadlessPool(WorkerPool):
    def submit(self, task: Task) -> None:
        task()

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> None: ...


@frozen(kw_only=True)
class Inline(ExecutionStrategy):
    name = "inline"
    capabilities = Capabilities(shares_memory=True, parallel=False)
    greeting: str = ""

    def open(self, host: object) -> WorkerPool:
        return ThreadlessPool()


@frozen(kw_only=True)
class Executors(ExecutorStrategy):
    name = "executors"
    capabilities = Capabilities(shares_memory=False)

    def make_executor(self) -> Executor:
        return ProcessPoolExecutor(self.max_workers)


def tasks_are_bytes(task: Task, pool: WorkerPool) -> None:
    assert_type(task.parts, frozenset[str])
    task.stream(task.payload())
    task.finish(worker.run(task.payload(task.parts), task.stream, mark=print, cancelled=bool))
    task.finish(worker.run(pieces=task.pieces(task.parts), send=task.stream))
    task.finish(worker.run(task.payload(), task.stream, mark_every=0.05))
    task.fail(WorkerLost(worker=1, reason="killed by signal 9"), at=3)
    task.fail(WorkerLost(reason="nobody knows where"), at=UNKNOWN)
    assert_type(task.routine_ids, tuple[str, ...])
    assert_type(pool.kill(task), bool)
    worker.close()


def strategies_are_configuration() -> Flow:
    return Flow(execution_strategy=Inline(max_workers=2, greeting="hello"))


class Plugin:
    """Everything that a plugin may implement."""

    @hookimpl
    def routilux_make_strategy(self, request: StrategyRequest) -> ExecutionStrategy | None:
        return Inline(max_workers=request.max_workers) if request.name == "inline" else None

    @hookimpl
    def routilux_handle_error(self, failure: Failure) -> Decision | None:
        return Decision("retry", delay=0.1) if failure.attempt < 3 and not failure.emitted else None

    @hookimpl
    def routilux_admit(self, activation: Activation) -> Decision | None:
        return Decision("skip") if activation.routine_id == "off" else None

    @hookimpl
    def routilux_job_started(self, job: JobState) -> None:
        job.pause()

    @hookimpl
    def routilux_activations_finished(self, job: JobState, records: Sequence[ActivationRecord]) -> None:
        for record in records:
            assert_type(record.queue_wait, float)

    @hookimpl
    def routilux_failure_decided(self, failure: Failure, payload: Mapping[str, Any]) -> None:
        assert_type(failure.activation, int)
        assert_type(failure.cause, int | None)

    @hookimpl
    def routilux_carry(self, job: JobState) -> Callable[[], AbstractContextManager[object]] | None:
        return contextlib.nullcontext if job.job_id else None

    @hookimpl
    def routilux_activation_started(self, activation: Activation) -> None:
        assert_type(activation.cause, int | None)

    @hookimpl
    def routilux_event_emitted(self, emission: Emission) -> None:
        assert_type(emission.targets, tuple[tuple[str, str], ...])


def plugins_and_figures() -> None:
    flow = Flow(plugins=[Plugin(), Plugin])
    assert_type(flow.to_mermaid(), str)
    assert_type(flow.to_svg(), str)
    assert_type(flow.to_dot(), str)
    flow.report("run.html")
    flow.trace("run.json.gz", flow.run("fetch"))
    Flow(progress=True)
    assert_type(flow.execution_tracker, ExecutionTracker)
    figures = flow.execution_tracker.get_routine_performance("fetch")
    assert_type(figures["total_executions"], int)
    assert_type(figures["p95_execution_time"], float | None)
    assert_type(flow.execution_tracker.get_flow_performance()["parallelism"], float | None)
    flow.execution_tracker.reset()


def a_jobs_figures(job_state: JobState) -> None:
    for name, figures in job_state.tracker.get_all_performances().items():
        assert_type(name, str)
        assert_type(figures["success_rate"], float | None)


def errors_are_the_builtins_that_one_expects(
    unknown: UnknownNameError, twice: DuplicateNameError, payload: PayloadError, late: ActivationTimeout
) -> None:
    assert_type(unknown.known, list[str])
    lookup: LookupError = unknown
    lookup = UnknownStrategyError("strategy", "thread", ["concurrent"])
    value: ValueError = twice
    value = ConfigurationError("wrong")
    kind: TypeError = payload
    kind = DefinitionError("wrong")
    attribute: AttributeError = SealedRoutineError("sealed")
    runtime: list[RuntimeError] = [
        FlowStateError("moment"),
        EmitError("where"),
        StrategyError("broken"),
        CapabilityError("not there"),
        WorkerLost("died"),
        Busy(retry_after=0.5),
    ]
    timeout: TimeoutError = late
    every: list[RoutiluxError] = [unknown, twice, payload, late]
    for error in (lookup, value, kind, attribute, *runtime, timeout, *every):
        raise error


class TestOwn(StrategySuite):
    deadline = 60.0


def choose_the_order() -> None:
    manual = ManualStrategy()
    Flow(execution_strategy=ShuffledStrategy(7))
    Flow(execution_strategy=manual)
    assert_type(manual.pending, list[Waiting])
    assert_type(manual.step("fetch"), Waiting)
    for record in Flow().run("fetch").get_execution_history():
        assert_type(manual.step(record), Waiting)
    assert_type(manual.run_all(), list[Waiting])
