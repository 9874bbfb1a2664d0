"""Flow: the face over the graph, the pools and the jobs."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Never, Self

from routilux_core._engine.control import JobControl
from routilux_core._engine.engine import Engine, deadline_of, seconds_left
from routilux_core._registry.lookup import Plugins
from routilux_core._routines.frame import check_outside
from routilux_core._runtime.runtime import EXIT_GRACE_S, Order, Runtime
from routilux_core.error_handling import ErrorHandler, ErrorStrategy
from routilux_core.errors import ConfigurationError, FlowStateError, JobTimeout, PayloadError, UnknownNameError, brief
from routilux_core.graph import Connection
from routilux_core.job import FINAL_STATUSES, JobState, class_only
from routilux_core.journal import Journal
from routilux_core.routine import Routine
from routilux_core.seconds import check_patience
from routilux_core.strategy import ExecutionStrategy

if TYPE_CHECKING:
    from routilux_core._journal.keeper import Keeper
    from routilux_core._report.picture import Picture
    from routilux_core.tracking import ExecutionTracker


class Flow:
    """A graph of routines, and how it runs: `Flow(execution_strategy="concurrent", max_workers=5)`.

    `execution_strategy` is a name or a strategy object, "sequential" by default; `max_workers=None` is the strategy's
    own default.
    `plugins` are modules, objects or classes that implement hooks (`hookspecs`), for this flow alone; or installed ones
    by name, "circuit-breaker", and with options `{"circuit-breaker": {...}}`.
    Beyond `max_pending` queued activations a handler that emits first works some of them off. `history_size` is the
    number of newest records that a job keeps. Of an exception the text of its traceback is kept; `capture="frames"`
    keeps its frames, too, with all that was in them, for a debugger, and `capture="payload"` what each call was given,
    in short, in its record (`ActivationRecord.payload`). `progress` shows what its jobs have done and what they are at,
    on a terminal or in a notebook. With a `journal`, a path or a `Journal`, jobs outlive the process: `recover()` goes
    on with what is left. Under `durability="sync"` nothing begins before what it comes from is on disk; "async" is
    quicker, and a crash costs the last moments, which are done again. None of these is saved with the flow.
    All methods may be called from any
    thread, and by signal handlers: what would wait for what they interrupt is refused.

    >>> def double(n: int) -> int:
    ...     return 2 * n
    >>> with Flow(execution_strategy="concurrent", max_workers=5) as flow:
    ...     name = flow.add(double)
    ...     output = flow.add_output("double", "out")
    ...     job = flow.run("double", {"n": 4}, timeout=10.0)
    >>> job.status, job.results("double.out")
    ('completed', [{'value': 8}])

    Raises `ConfigurationError` for a value that can't be, and `UnknownStrategyError` for a name that is not installed.
    """

    def __init__(
        self,
        flow_id: str | None = None,
        execution_strategy: str | ExecutionStrategy | None = None,
        max_workers: int | None = None,
        strategy_options: Mapping[str, Any] | None = None,
        *,
        error_handler: ErrorHandler | ErrorStrategy | str | None = None,
        plugins: Iterable[Any] = (),
        max_pending: int = 1024,
        history_size: int = 1000,
        capture: str = "text",
        progress: bool = False,
        journal: str | os.PathLike[str] | Journal | None = None,
        durability: str = "sync",
    ) -> None:
        keeper = None if journal is None else _keeper(journal, durability)
        if flow_id is None:
            flow_id = f"flow-{os.urandom(4).hex()}" if keeper is None else keeper.journal.name
        self.flow_id = flow_id
        if not isinstance(self.flow_id, str):
            raise ConfigurationError(f"a flow id is a string, not {flow_id!r}")
        if execution_strategy is None and max_workers is not None:
            warnings.warn(
                f"Flow(max_workers={max_workers!r}) names no strategy, and 'sequential' makes one call after another, "
                "whatever max_workers is: did you mean execution_strategy='concurrent'?",
                stacklevel=2,
            )
        history_size = _whole(history_size, "history_size", 0)
        engine = Engine(_whole(max_pending, "max_pending", 1), history_size, _captured(capture, history_size))
        engine.journaled = keeper is not None
        self._runtime = Runtime(
            *(self.flow_id, engine, history_size, Plugins(plugins)),
            *(execution_strategy or "sequential", max_workers, dict(strategy_options or {})),
            keeper=keeper,
        )
        self.set_error_handler(error_handler)
        if progress:
            self._show_progress(watches=False)

    def __repr__(self) -> str:
        return f"<Flow {self.flow_id!r}: {len(self.routines)} routines, strategy {self.execution_strategy!r}>"

    def __reduce__(self) -> Any:
        raise TypeError("a Flow can't be pickled: it owns live workers; use flow.serialize() and Flow.deserialize()")

    # -- what it is

    @property
    def routines(self) -> Mapping[str, Routine]:
        """The routines by id, read-only, as they are now: what is added later is not seen in it."""
        return self._runtime.wiring.graph.view()

    @property
    def connections(self) -> tuple[Connection, ...]:
        """The connections in the order made."""
        return tuple(self._runtime.wiring.graph.connections)

    @property
    def execution_strategy(self) -> str:
        """The name of the strategy that routines run under when they don't name their own."""
        return self._runtime.default.strategy.name

    @property
    def max_workers(self) -> int | None:
        """The number of workers asked for; None is the strategy's own default."""
        return self._runtime.default.strategy.max_workers

    @property
    def max_pending(self) -> int:
        """The number of queued activations beyond which a handler that emits works some of them off."""
        return self._runtime.engine.max_pending

    @property
    def history_size(self) -> int:
        """The number of newest records that a job keeps."""
        return self._runtime.history_size

    @property
    def job_state(self) -> JobState | None:
        """The job executed last, or None."""
        return self._runtime.last

    @property
    def execution_tracker(self) -> ExecutionTracker:
        """What all jobs begun since its `reset()` have done, in figures."""
        from routilux_core._engine.views import FlowSource
        from routilux_core.tracking import ExecutionTracker

        return ExecutionTracker(FlowSource(self._runtime.engine))

    def to_mermaid(self) -> str:
        """Return the graph as a Mermaid flowchart."""
        with self._runtime.building:
            return self._runtime.wiring.graph.to_mermaid()

    def to_svg(self) -> str:
        """Return the graph as an SVG picture, laid out in layers from left to right; it needs nothing else."""
        from routilux_core._report.svg import draw

        return draw(self._picture())

    def to_dot(self) -> str:
        """Return the graph in the language of Graphviz."""
        from routilux_core._report.dot import to_dot

        return to_dot(self._picture())

    def report(self, path: str | os.PathLike[str], *jobs: JobState) -> None:
        """Write a page that shows jobs side by side, of this flow or of others: by default the last one.

        See `JobState.report`.
        """
        from routilux_core._report.page import write_report

        write_report(path, self._shown(jobs, "report"), self.flow_id)

    def trace(self, path: str | os.PathLike[str], *jobs: JobState) -> None:
        """Write a trace of jobs, each as a process that begins at 0: by default of the last one.

        See `JobState.trace`.
        """
        from routilux_core._report.trace import write_trace

        write_trace(path, self._shown(jobs, "trace"))

    def _shown(self, jobs: tuple[JobState, ...], what: str) -> list[JobState]:
        for each in jobs:
            if not isinstance(each, JobState):
                raise ConfigurationError(f"{what} shows jobs, as execute() returns them, not {brief(each)}")
        last = self._runtime.last
        if jobs:
            return list(jobs)
        if last is None:
            raise FlowStateError(f"flow {self.flow_id!r} has executed no job yet, so there is nothing to {what}")
        return [last]

    def _show_progress(self, watches: bool) -> None:
        from routilux_core._report.progress import Progress

        self._runtime.plugins.add(Progress(watches))

    def _picture(self) -> Picture:
        from routilux_core._report.picture import picture_of

        with self._runtime.building:
            return picture_of(self._runtime.wiring.graph)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """Return what a notebook shows."""
        return {"text/plain": repr(self), "image/svg+xml": self.to_svg()}

    # -- building

    def add_routine(
        self, routine: Routine, routine_id: str | None = None, *, execution_strategy: str | None = None
    ) -> str:
        """Take a routine in, and return its id: by default its class's name in lower case, with a number if need be.

        `execution_strategy` lets this one run under another strategy than the rest.
        """
        return self._runtime.add_routine(routine, routine_id, execution_strategy)

    def add(
        self,
        step: Routine | Callable[..., Any],
        routine_id: str | None = None,
        *,
        execution_strategy: str | None = None,
    ) -> str:
        """Take a routine in, or a function: `flow.add(fetch)` makes a routine of it, and returns its id, its name.

        Its parameters are the slot `input`; what it returns, or each item that it yields, is emitted as `out`: a
        mapping as the payload, anything else as `value`. None emits nothing.
        """
        if isinstance(step, Routine):
            return self.add_routine(step, routine_id, execution_strategy=execution_strategy)
        from routilux_core.functions import id_of, routine_of

        routine = routine_of(step)
        name = self._runtime.wiring.graph.free_id(id_of(step)) if routine_id is None else routine_id
        return self.add_routine(routine, name, execution_strategy=execution_strategy)

    def chain(self, *steps: Routine | Callable[..., Any] | str) -> list[str]:
        """Connect functions, routines, and ids of routines that are here, each to the next; return their ids.

        `flow.chain(fetch, parse, store)`: what a function returns is the only parameter of the next one, and a mapping
        gives it several. A routine has to have one event, and one slot.
        """
        ids = [step if isinstance(step, str) else self.add(step) for step in steps]
        for source, target in pairwise(ids):
            self._runtime.wiring.connect(source, *self._runtime.wiring.graph.between(source, target))
        return ids

    def connect(
        self,
        source_routine_id: str,
        source_event: str,
        target_routine_id: str,
        target_slot: str,
        param_mapping: Mapping[str, str] | None = None,
    ) -> Connection:
        """Wire an event of one routine to a slot of another, or of the same.

        `param_mapping` renames parameters on the way, `{"old": "new"}`: the old name is not passed as well.
        """
        return self._runtime.wiring.connect(
            source_routine_id, source_event, target_routine_id, target_slot, param_mapping
        )

    def disconnect(
        self,
        source_routine_id: str,
        source_event: str,
        target_routine_id: str,
        target_slot: str,
        param_mapping: Mapping[str, str] | None = None,
    ) -> list[Connection]:
        """Take back what connects an event to a slot, and return it: with this mapping, or with any. Between jobs."""
        return self._runtime.wiring.disconnect(
            source_routine_id, source_event, target_routine_id, target_slot, param_mapping
        )

    def remove_routine(self, routine_id: str) -> Routine:
        """Take a routine out, with its connections and outputs, and return it, free for another flow. Between jobs."""
        return self._runtime.wiring.remove_routine(routine_id)

    def replace_routine(self, routine_id: str, routine: Routine) -> Routine:
        """Put a routine in the place of another, and return that: id, connections and strategy stay. Between jobs.

        It has to have the events and slots that are connected.
        """
        return self._runtime.wiring.replace_routine(routine_id, routine)

    def add_output(self, routine_id: str, event_name: str, name: str | None = None) -> str:
        """Let jobs collect the payloads of an event, and return the name: `routine_id.event_name` by default."""
        return self._runtime.wiring.add_output(routine_id, event_name, name)

    def set_error_handler(self, error_handler: ErrorHandler | ErrorStrategy | str | None) -> None:
        """Set the policy for routines without their own, by object, enum or name; None is STOP."""
        if isinstance(error_handler, (ErrorStrategy, str)):
            error_handler = ErrorHandler(error_handler)
        if not (error_handler is None or isinstance(error_handler, ErrorHandler)):
            raise ConfigurationError(f"an error handler is an ErrorHandler or a strategy name, not {error_handler!r}")
        self._runtime.wiring.set_error_handler(error_handler or ErrorHandler())

    def get_error_handler(self) -> ErrorHandler:
        """Return the policy for routines without their own."""
        return self._runtime.engine.error_handler

    @property
    def error_handler(self) -> ErrorHandler:
        """The policy for routines without their own."""
        return self.get_error_handler()

    @error_handler.setter
    def error_handler(self, error_handler: ErrorHandler | ErrorStrategy | str | None) -> None:
        self.set_error_handler(error_handler)

    def set_execution_strategy(
        self,
        execution_strategy: str | ExecutionStrategy,
        max_workers: int | None = None,
        strategy_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Run under another strategy from the next job on; what is left out stays as it was. Refused while a job runs.

        Under another name, the options of the old strategy are not taken along.
        """
        self._runtime.set_strategy(execution_strategy, max_workers, strategy_options)

    # -- saving

    def serialize(self, *, state: bool = True) -> dict[str, Any]:
        """Return the flow as plain JSON types; what can't be saved is one `SerializationError` that names each value.

        What a handler changes at this moment may be saved half: save between jobs. With `state=False` routines are
        saved without counters and what they have become since: with the fields that their constructors were given.
        """
        from routilux_core import serialization

        with self._runtime.building:
            return serialization.flow_to_dict(self._runtime.saved(), state)

    def deserialize(self, data: Mapping[str, Any], *, types: Iterable[type | ModuleType] = ()) -> None:
        """Become the flow that `serialize` gave. Refused while a job runs; after an error the flow is as it was.

        Classes are looked up among those defined in this process and `types` (classes, or modules that define them);
        nothing is imported. What the flow held before, its routines and its pools, it lets go.
        """
        from routilux_core import serialization

        self._runtime.wiring.check_idle("deserialize")
        with serialization.collector_paused():
            saved = serialization.flow_from_dict(data, types)
            self._runtime.become(saved)
            self.flow_id = saved.graph.flow_id

    def save(self, path: str | os.PathLike[str], *, state: bool = True) -> None:
        """Write `serialize()` to a JSON file: written beside and renamed over, so the file is always whole."""
        from routilux_core import serialization

        serialization.write_file(path, self.serialize(state=state))

    @class_only
    def load(cls, path: str | os.PathLike[str], *, types: Iterable[type | ModuleType] = ()) -> Self:
        """Return the flow that `save` wrote; see `deserialize`."""
        from routilux_core import serialization

        flow = cls()
        flow.deserialize(serialization.read_file(path), types=types)
        return flow

    # -- running

    def execute(
        self,
        entry_routine_id: str,
        entry_params: Mapping[str, Any] | None = None,
        *,
        slot: str | None = None,
        job_id: str | None = None,
        **unknown: Never,
    ) -> JobState:
        """Start a job at a routine, and return it: finished under `sequential`, else at once.

        The entry is the routine's `__call__`, else its only slot, else `slot` says which. Inside a handler of this flow
        the job is returned running, under every strategy. Each call of a handler has a copy of the caller's context
        variables, which don't travel to other processes; what it sets there ends with it. An entry that was placed on
        `sequential` in a flow of another strategy is called here, before this returns; what else is placed there runs
        where somebody waits.

        With a journal `job_id` is an idempotency key: of a job of this id that has ended, the record is returned, and
        one that has not is recovered, or returned where it runs here.
        """
        if unknown:
            raise _params_unpacked("execute", entry_routine_id, unknown)
        order = Order(entry_routine_id, _checked_params(entry_params), slot, _checked_id(job_id))
        return self._runtime.execute(order)

    def recover(
        self,
        job_id: str | None = None,
        *,
        retry_failed: bool = False,
        accept_changes: bool = False,
        types: Iterable[type | ModuleType] = (),
    ) -> list[JobState]:
        """Go on with all jobs of this flow that the journal has, and that have not ended, or with one; return them.

        What was done is not done again: each goes on with exactly the work that is left, in this process. Calls that
        ran when the other one died are in `job.in_doubt`, and are made again. With `retry_failed` what has failed or
        was discarded is done again as well, also of jobs that have ended. A flow that has changed is refused, and the
        differences are named; `accept_changes` takes it where the routines and slots of the pending work are there.
        `types` as in `deserialize`, for values in payloads.
        """
        return self._runtime.recover(job_id, retry_failed, accept_changes, types)

    def abandon(self, job_id: str) -> JobState:
        """Give a job up that the journal has, and that has not ended: what is pending is discarded; return its record.

        One that runs here is cancelled.
        """
        [job] = self._runtime.recover(job_id, ends_as="cancelled")
        if job.status not in FINAL_STATUSES:
            job.cancel()
        return job

    def run(
        self,
        entry_routine_id: str,
        entry_params: Mapping[str, Any] | None = None,
        *,
        slot: str | None = None,
        job_id: str | None = None,
        timeout: float | None = None,
        raise_for_errors: bool = False,
        **unknown: Never,
    ) -> JobState:
        """Execute, wait for the end of the job, and return it: `job = flow.run("fetch", {"names": ["Oslo"]})`.

        After `timeout` seconds the job is cancelled, and `JobTimeout` raised. With `raise_for_errors` the errors of the
        job are raised when it has ended, as `JobState.raise_for_errors` does it.
        Every wait is refused inside a handler of this flow, and inside a job of another flow that such a handler waits
        for: it would wait for itself.
        """
        if unknown:
            raise _params_unpacked("run", entry_routine_id, unknown)
        check_outside(self._runtime.engine, "Flow.run")
        engine = self._runtime.engine
        engine.visits.check_uninterrupted("Flow.run")
        patience = check_patience(timeout, "the timeout of Flow.run")
        deadline = deadline_of(patience)
        job: JobState | None = None
        try:
            job = self.execute(entry_routine_id, entry_params, slot=slot, job_id=job_id)
            engine.check_may_wait("Flow.run", "await flow.arun(...)")  # nothing of the job has begun there
            if not job.wait(seconds_left(deadline)):
                raise JobTimeout(job.job_id, patience or 0.0)
        except BaseException:  # a signal handler raised it, most often; nobody else knows this job
            if job is not None:
                job.cancel()
            raise
        if raise_for_errors:
            job.raise_for_errors()
        return job

    async def arun(
        self,
        entry_routine_id: str,
        entry_params: Mapping[str, Any] | None = None,
        *,
        slot: str | None = None,
        job_id: str | None = None,
        timeout: float | None = None,
        raise_for_errors: bool = False,
        **unknown: Never,
    ) -> JobState:
        """`run` for an event loop: `job = await flow.arun("fetch", {"names": ["Oslo"]})`, under every strategy.

        What would block the loop is done in a thread. Cancelling what awaits it does not cancel the job.
        """
        if unknown:
            raise _params_unpacked("arun", entry_routine_id, unknown)
        from routilux_core._threads.awaiting import check_loop

        check_loop("Flow.arun", "flow.run(...)")
        check_outside(self._runtime.engine, "Flow.arun")
        patience = check_patience(timeout, "the timeout of Flow.arun")
        deadline = deadline_of(patience)
        order = Order(entry_routine_id, _checked_params(entry_params), slot, _checked_id(job_id))
        job = await self._runtime.aexecute(order)
        if not await job.done(seconds_left(deadline)):
            job.cancel()
            raise JobTimeout(job.job_id, patience or 0.0)
        if raise_for_errors:
            job.raise_for_errors()
        return job

    def wait_for_completion(self, timeout: float | None = None) -> bool:
        """Wait until all jobs have ended, however they ended; False when `timeout` seconds were over first.

        Jobs that begin meanwhile, in handlers perhaps, are waited for, too.

        >>> flow = Flow(execution_strategy="concurrent")
        >>> entry = flow.add(len)
        >>> job = flow.execute(entry, {"obj": "Oslo"})
        >>> flow.wait_for_completion(timeout=10.0), job.status
        (True, 'completed')
        >>> flow.shutdown()
        """
        check_outside(self._runtime.engine, "Flow.wait_for_completion")
        self._runtime.engine.visits.check_uninterrupted("Flow.wait_for_completion")
        self._runtime.engine.check_may_wait("Flow.wait_for_completion", "await job.done()")
        patience = check_patience(timeout, "the timeout of Flow.wait_for_completion")
        self._runtime.engine.check_fork()
        try:
            return self._runtime.wait(patience)
        except BaseException:  # perhaps before there was anything to wait for
            self._runtime.detach()
            self.cancel()
            raise

    def pause(self, reason: str = "") -> None:
        """Start nothing new in any running job; what runs is left to finish."""
        for run in self._runtime.running():
            JobControl(run).pause(reason)

    def resume(self) -> None:
        """Go on with every paused job."""
        for run in self._runtime.running():
            JobControl(run).resume()

    def cancel(self, kill: bool = False, *, reason: str = "") -> None:
        """Cancel every running job: calls that have not begun are discarded and counted, calls that run may finish.

        When this has returned, no worker commits to another call of theirs (see `JobState.cancel`). With `kill` what
        runs is ended at once, where the strategy can end its workers.
        """
        self._runtime.cancel(kill, reason)

    def shutdown(self, wait: bool = True, timeout: float | None = None) -> None:
        """Let running jobs end, cancel paused ones, and close the pools. A later `execute` opens new ones.

        With `wait=False` it returns at once, and the pools close behind the last job. After `timeout` seconds jobs that
        still run are cancelled. A handler that goes on all the same keeps its place among the workers until it returns,
        also those of the next job.
        """
        runtime = self._runtime
        if wait:
            check_outside(runtime.engine, "Flow.shutdown")
            runtime.engine.visits.check_uninterrupted("Flow.shutdown")
            runtime.engine.check_may_wait("Flow.shutdown", "use `async with Flow(...)`")
        elif runtime.is_interrupted():
            return runtime.engine.visits.put_off(self.shutdown, False)
        patience = check_patience(timeout, "the timeout of Flow.shutdown")
        if wait:
            runtime.shutdown(patience)
        else:
            runtime.shut_down_behind_jobs()
        return None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        from routilux_core._threads.awaiting import in_thread

        if error is not None:
            self._runtime.detach()
            self.cancel()  # here, so that nothing more begins
        await in_thread(lambda: self.__exit__(kind, error, trace))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._runtime.detach()  # with a journal: as after a crash, they can be recovered
            self.cancel()
        hurries = error is not None and not isinstance(error, Exception)  # a KeyboardInterrupt, or a SystemExit
        self.shutdown(timeout=EXIT_GRACE_S if hurries else None)
        if error is None:
            self._tell_of_failure()

    def _tell_of_failure(self) -> None:
        """Log that the last job has failed, if nobody has looked at it."""
        job = self.job_state
        if job is not None and job.has_failed_unseen():
            from routilux_core._text.log import log

            log.warning(
                "job %s failed, and nobody has looked at it: call job.raise_for_errors(), or "
                "flow.run(..., raise_for_errors=True)",
                job.job_id,
            )


def _params_unpacked(method: str, entry: object, unknown: Mapping[str, object]) -> PayloadError:
    given = ", ".join(f"{name!r}: ..." for name in unknown)
    return PayloadError(
        f"{method}() takes the parameters of the entry as one mapping: flow.{method}({entry!r}, {{{given}}})"
    )


def _checked_params(entry_params: Mapping[str, Any] | None) -> dict[str, Any]:
    if entry_params is not None and not isinstance(entry_params, Mapping):
        raise ConfigurationError(f"entry_params is a mapping of parameter names to values, not {brief(entry_params)}")
    payload = dict(entry_params or {})
    for name in payload:
        if not isinstance(name, str):
            raise ConfigurationError(f"entry_params has names that are no strings: {brief(name)}")
    return payload


def _checked_id(job_id: str | None) -> str | None:
    if job_id is not None and (not isinstance(job_id, str) or not job_id or not job_id.isprintable()):
        raise ConfigurationError(f"job_id is a text of one line that is not empty, not {brief(job_id)}")
    return job_id


def _keeper(journal: str | os.PathLike[str] | Journal, durability: str) -> Keeper:
    """Return what keeps the jobs of a flow; all that a journal needs is loaded here."""
    from routilux_core._journal.keeper import Keeper

    if durability not in ("sync", "async"):
        raise UnknownNameError("durability", durability, ("sync", "async"))
    if isinstance(journal, Journal):
        return Keeper(journal, durability == "sync")
    if not isinstance(journal, (str, os.PathLike)) or not os.fspath(journal):
        raise ConfigurationError(f"journal is the path of a file, or a Journal, not {brief(journal)}")
    from routilux_core._journal.sqlite import SqliteJournal

    return Keeper(SqliteJournal(journal), durability == "sync")


def _whole(value: Any, name: str, minimum: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= sys.maxsize:
        raise ConfigurationError(
            f"{name} has to be a whole number of at least {minimum}, and at most {sys.maxsize}, not {brief(value)}"
        )
    return value


def _captured(capture: Any, history_size: int) -> str:
    if capture not in ("text", "frames", "payload"):
        raise ConfigurationError(
            f"capture is 'text', 'frames' (with all that was in them) or 'payload' (what each call was given), not "
            f"{brief(capture)}"
        )
    if capture == "payload" and not history_size:
        raise ConfigurationError("capture='payload' keeps payloads with the records, and history_size=0 keeps none")
    return str(capture)
