"""Flow: the face over the graph, the pools and the jobs."""

from __future__ import annotations

import atexit
import itertools
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextvars import Context, copy_context
from time import monotonic, perf_counter
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from routilux_core._engine.engine import Engine, deadline_of, logger, seconds_left
from routilux_core._engine.forks import watch
from routilux_core._engine.plan import Inlet, Lane, Node, Outlet
from routilux_core._engine.pools import close_pool, open_pool
from routilux_core._engine.run import Run
from routilux_core._engine.scheduler import Scheduler
from routilux_core._engine.visits import Visit, is_held_here
from routilux_core._local.worker import WorkTask
from routilux_core._registry.lookup import Plugins, make_strategy
from routilux_core._routines.frame import CURRENT, check_outside, inside
from routilux_core._text.printable import printable
from routilux_core._tracking.totals import FlowSource
from routilux_core.error_handling import ErrorHandler, ErrorStrategy
from routilux_core.errors import CapabilityError, ConfigurationError, FlowStateError, brief
from routilux_core.graph import Connection, Graph
from routilux_core.job import JobState
from routilux_core.ports import ENTRY
from routilux_core.routine import Routine, let_go
from routilux_core.seconds import check_patience
from routilux_core.strategy import ExecutionStrategy, Task

if TYPE_CHECKING:
    from routilux_core.serialization.snapshot import SavedFlow, SavedStrategy
    from routilux_core.tracking import ExecutionTracker

EXIT_GRACE = 3.0  # seconds that running handlers get when the interpreter exits, or was told to


class Flow:
    """A graph of routines, and how it runs: `Flow(execution_strategy="concurrent", max_workers=5)`.

    `execution_strategy` is a name or a strategy object; `max_workers=None` is the strategy's own default.
    `plugins` are modules, objects or classes that implement hooks (`hookspecs`), for this flow alone.
    Beyond `max_pending` queued activations a handler that emits first works some of them off. `history_size` is the
    number of newest records that a job keeps. Of an exception the text of its traceback is kept; `capture="frames"`
    keeps its frames, too, with all that was in them, for a debugger: it is not saved with the flow. All methods may be
    called from any thread, and by signal handlers: what would wait for what they interrupt is refused.
    """

    def __init__(
        self,
        flow_id: str | None = None,
        execution_strategy: str | ExecutionStrategy = "sequential",
        max_workers: int | None = None,
        strategy_options: Mapping[str, Any] | None = None,
        *,
        error_handler: ErrorHandler | ErrorStrategy | str | None = None,
        plugins: Iterable[Any] = (),
        max_pending: int = 1024,
        history_size: int = 1000,
        capture: str = "text",
    ) -> None:
        self.flow_id = f"flow-{os.urandom(4).hex()}" if flow_id is None else flow_id
        if not isinstance(self.flow_id, str):
            raise ConfigurationError(f"a flow id is a string, not {flow_id!r}")
        self.history_size = _whole(history_size, "history_size", 0)
        self._engine = Engine(_whole(max_pending, "max_pending", 1), self.history_size, _keeps_frames(capture))
        self._graph = Graph(self.flow_id)
        self._numbers = itertools.count(1)
        # One thread opens or closes pools at a time, and one builds, or lets a job begin: what was checked stays so
        # until that is done. Who needs both takes them in this order. Only the first is held while pools are closed:
        # that may wait for handlers, which may ask for the second.
        self._opening, self._building = threading.RLock(), threading.RLock()
        self._gathers_of = -1  # the version of the graph for which the order of its gather slots is known
        self._async: set[str] = set()  # the routines with `async def` handlers
        self._named: dict[str, str] = {}  # routine id -> its own strategy
        self._was_read = False  # so its strategies may be mere names yet, until the first job
        self._jobs: list[weakref.ref[Run]] = []
        self._last: JobState | None = None
        self._at_exit: Any = None
        self._made_in_handler = CURRENT.get() is not None
        self._plugins = Plugins(plugins)
        self._options = dict(strategy_options or {})
        self._default = self._scheduler_of(make_strategy(self._plugins, execution_strategy, max_workers, self._options))
        self.set_error_handler(error_handler)

    def __repr__(self) -> str:
        return f"<Flow {self.flow_id!r}: {len(self.routines)} routines, strategy {self.execution_strategy!r}>"

    def __reduce__(self) -> Any:
        raise TypeError("a Flow can't be pickled: it owns live workers; use flow.serialize() and Flow.deserialize()")

    # -- what it is

    @property
    def routines(self) -> Mapping[str, Routine]:
        """The routines by id, read-only, as they are now: what is added later is not seen in it."""
        return self._graph.view()

    @property
    def connections(self) -> tuple[Connection, ...]:
        """The connections in the order made."""
        return tuple(self._graph.connections)

    @property
    def execution_strategy(self) -> str:
        """The name of the strategy that routines run under when they don't name their own."""
        return self._default.strategy.name

    @property
    def max_workers(self) -> int | None:
        """The number of workers asked for; None is the strategy's own default."""
        return self._default.strategy.max_workers

    @property
    def max_pending(self) -> int:
        """The number of queued activations beyond which a handler that emits works some of them off."""
        return self._engine.max_pending

    @property
    def job_state(self) -> JobState | None:
        """The job executed last, or None."""
        return self._last

    @property
    def execution_tracker(self) -> ExecutionTracker:
        """What all jobs begun since its `reset()` have done, in figures."""
        from routilux_core.tracking import ExecutionTracker

        return ExecutionTracker(FlowSource(self._engine))

    def to_mermaid(self) -> str:
        """Return the graph as a Mermaid flowchart."""
        with self._building:
            return self._graph.to_mermaid()

    # -- building

    def add_routine(
        self, routine: Routine, routine_id: str | None = None, *, execution_strategy: str | None = None
    ) -> str:
        """Take a routine in, and return its id: by default its class's name in lower case.

        `execution_strategy` lets this one run under another strategy than the rest.
        """
        with self._building:
            self._check_idle("add_routine")
            scheduler = self._default if execution_strategy is None else self._scheduler_named(execution_strategy)
            if isinstance(routine, Routine):
                _check_capabilities(routine_id or type(routine).__name__, routine, scheduler.strategy)
            name = self._graph.add_routine(routine, routine_id)
            if execution_strategy is not None:
                self._named[name] = execution_strategy
            self._wire(name, routine, scheduler)
        return name

    def connect(
        self,
        source: str,
        event: str,
        target: str,
        slot: str,
        param_mapping: Mapping[str, str] | None = None,
    ) -> Connection:
        """Wire an event of one routine to a slot of another, or of the same.

        `param_mapping` renames parameters on the way, `{"old": "new"}`: the old name is not passed as well.
        """
        with self._building:
            self._check_idle("connect")
            made = self._graph.connect(source, event, target, slot, param_mapping)
            inlet, outlet = self._engine.nodes[target].inlets[slot], self._engine.nodes[source].outlets[event]
            outlet.add_target(inlet, dict(made.param_mapping) or None)
        return made

    def add_output(self, routine_id: str, event_name: str, name: str | None = None) -> str:
        """Let jobs collect the payloads of an event, and return the name: `routine_id.event_name` by default."""
        with self._building:
            self._check_idle("add_output")
            chosen = self._graph.add_output(routine_id, event_name, name)
            self._engine.nodes[routine_id].outlets[event_name].add_output(chosen)
        return chosen

    def set_error_handler(self, error_handler: ErrorHandler | ErrorStrategy | str | None) -> None:
        """Set the policy for routines without their own, by object, enum or name; None is STOP."""
        if isinstance(error_handler, (ErrorStrategy, str)):
            error_handler = ErrorHandler(error_handler)
        if not (error_handler is None or isinstance(error_handler, ErrorHandler)):
            raise ConfigurationError(f"an error handler is an ErrorHandler or a strategy name, not {error_handler!r}")
        with self._building:
            self._engine.error_handler = error_handler or ErrorHandler()
            for node in self._engine.nodes.values():
                node.set_policy(self._engine.error_handler)

    def get_error_handler(self) -> ErrorHandler:
        """Return the policy for routines without their own."""
        return self._engine.error_handler

    def set_execution_strategy(
        self,
        execution_strategy: str | ExecutionStrategy,
        max_workers: int | None = None,
        strategy_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Run under another strategy from the next job on; what is left out stays as it was. Refused while a job runs.

        Under another name, the options of the old strategy are not taken along.
        """
        with self._opening:
            self._check_idle("set_execution_strategy")
            old = self._default.strategy
            if isinstance(execution_strategy, str) and max_workers is None:
                max_workers = old.max_workers
            stays = strategy_options is None and execution_strategy == old.name
            options = dict(self._options if stays else strategy_options or {})
            strategy = make_strategy(self._plugins, execution_strategy, max_workers, options)
            with self._building:
                for routine_id in self._async - self._named.keys():
                    _check_capabilities(routine_id, self._graph.routines[routine_id], strategy)
            close_pool(self._default)
            with self._building:
                self._run_under(strategy, options)

    def _run_under(self, strategy: ExecutionStrategy, options: dict[str, Any]) -> None:
        self._default = self._engine.schedulers[0] = self._new_scheduler(strategy)
        self._options = options
        for routine_id, node in self._engine.nodes.items():
            name = self._named.get(routine_id)
            node.scheduler = self._default if name is None else self._scheduler_named(name)

    # -- saving

    def serialize(self) -> dict[str, Any]:
        """Return the flow as plain JSON types; what can't be saved is one `SerializationError` that names each value.

        What a handler changes at this moment may be saved half: save between jobs.
        """
        from routilux_core import serialization

        with self._building:
            return serialization.flow_to_dict(self._saved())

    def deserialize(self, data: Mapping[str, Any], *, types: Iterable[type | ModuleType] = ()) -> None:
        """Become the flow that `serialize` gave. Refused while a job runs; after an error the flow is as it was.

        Classes are looked up among those defined in this process and `types` (classes, or modules that define them);
        nothing is imported. What the flow held before, its routines and its pools, it lets go.
        """
        from routilux_core import serialization

        self._check_idle("deserialize")
        with serialization.collector_paused():
            self._become(serialization.flow_from_dict(data, types))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `serialize()` to a JSON file: written beside and renamed over, so the file is always whole."""
        from routilux_core import serialization

        serialization.write_file(path, self.serialize())

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, types: Iterable[type | ModuleType] = ()) -> Self:
        """Return the flow that `save` wrote; see `deserialize`."""
        from routilux_core import serialization

        flow = cls()
        flow.deserialize(serialization.read_file(path), types=types)
        return flow

    # -- running

    def execute(
        self, entry_routine_id: str, entry_params: Mapping[str, Any] | None = None, *, slot: str | None = None
    ) -> JobState:
        """Start a job at a routine, and return it: finished under `sequential`, else at once.

        The entry is the routine's `__call__`, else its only slot, else `slot` says which. Inside a handler of this flow
        the job is returned running, under every strategy. Each call of a handler has a copy of the caller's context
        variables, which don't travel to other processes; what it sets there ends with it. An entry that was placed on
        `sequential` in a flow of another strategy is called here, before this returns; what else is placed there runs
        where somebody waits.
        """
        payload = _checked_params(entry_params)
        self._engine.check_fork()
        _check_here(self._made_in_handler, f"execute({entry_routine_id!r}) of flow {self.flow_id!r}")
        order = _Order(entry_routine_id, payload, slot)
        if self._is_interrupted():
            return self._execute_later(order)
        run: Run | None = None
        try:
            engine = self._engine
            with Visit(engine):
                run, job, whole, entry = self._start(order)
            if (whole or entry) and not inside(engine):
                run.drive(None if whole else 0.0)
        except BaseException:
            if run is not None:
                run.cancel()
            raise
        return job

    def run(
        self, entry_routine_id: str, entry_params: Mapping[str, Any] | None = None, *, slot: str | None = None
    ) -> JobState:
        """Execute, wait for the end of the job, and return it.

        Every wait is refused inside a handler of this flow, and inside a job of another flow that such a handler waits
        for: it would wait for itself.
        """
        check_outside(self._engine, "Flow.run")
        self._engine.check_uninterrupted("Flow.run")
        job: JobState | None = None
        try:
            job = self.execute(entry_routine_id, entry_params, slot=slot)
            job.wait()
        except BaseException:  # a signal handler raised it, most often; nobody else knows this job
            if job is not None:
                job.cancel()
            raise
        return job

    def wait_for_completion(self, timeout: float | None = None) -> bool:
        """Wait until all jobs have ended, however they ended; False when `timeout` seconds were over first.

        Jobs that begin meanwhile, in handlers perhaps, are waited for, too.
        """
        check_outside(self._engine, "Flow.wait_for_completion")
        self._engine.check_uninterrupted("Flow.wait_for_completion")
        deadline = deadline_of(check_patience(timeout, "the timeout of Flow.wait_for_completion"))
        self._engine.check_fork()
        try:
            while unfinished := self._unfinished():
                if not self._engine.wait(unfinished, seconds_left(deadline)):
                    return False
            return True
        except BaseException:  # perhaps before there was anything to wait for
            self.cancel()
            raise

    def pause(self) -> None:
        """Start nothing new in any running job; what runs ends."""
        for run in self._running():
            run.pause()

    def resume(self) -> None:
        """Go on with every paused job."""
        for run in self._running():
            run.resume()

    def cancel(self, kill: bool = False) -> None:
        """Cancel every running job: what is queued is discarded and counted, what runs ends.

        When this has returned, no worker commits to another call of theirs (see `JobState.cancel`). With `kill` what
        runs is ended at once, where the strategy can end its workers.
        """
        for run in self._running():
            run.cancel(kill)

    def shutdown(self, wait: bool = True, timeout: float | None = None) -> None:
        """Let running jobs end, cancel paused ones, and close the pools. A later `execute` opens new ones.

        With `wait=False` it returns at once, and the pools close behind the last job. After `timeout` seconds jobs that
        still run are cancelled. A handler that goes on all the same keeps its place among the workers until it returns,
        also those of the next job.
        """
        if wait:
            check_outside(self._engine, "Flow.shutdown")
            self._engine.check_uninterrupted("Flow.shutdown")
        elif self._is_interrupted():
            return self._engine.put_off(self.shutdown, False)
        deadline = deadline_of(check_patience(timeout, "the timeout of Flow.shutdown"))
        closed = False
        while not closed:  # again, where jobs have begun meanwhile
            for run in self._running():
                if run.paused:
                    run.cancel()
            if not wait:
                self._close_when_idle()
                return None
            if not self._engine.wait(self._unfinished(), seconds_left(deadline)):
                self.cancel()
            closed = self._close(seconds_left(deadline))
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.cancel()
        hurries = error is not None and not isinstance(error, Exception)  # a KeyboardInterrupt, or a SystemExit
        self.shutdown(timeout=EXIT_GRACE if hurries else None)

    # -- inside

    def _new_job(self) -> tuple[Run, JobState]:
        run = Run(self._engine, f"{self.flow_id}-{next(self._numbers)}", self.flow_id, self.history_size, _context())
        run.collected = {output.name: [] for output in self._graph.outputs}
        return run, JobState(run.job_id, self.flow_id, run)

    def _start(self, order: _Order, made: tuple[Run, JobState] | None = None) -> tuple[Run, JobState, bool, bool]:
        """Let a job begin: what it needs is opened, its entry is posted, and workers are called.

        Return it, and whether all of it, and its entry, are worked at here.
        """
        plugins = self._plugins.all()
        with self._opening, self._building:  # until it is posted, nobody closes the pools or changes anything
            inlet = self._entry(order.routine_id, order.slot)
            self._prepare(inlet, order.payload)
            run, job = made or self._new_job()
            run.listen(plugins, job)
            run.make_entry(inlet.node)
            try:
                self._last = job  # first: once it is posted, another thread may let it begin, whatever comes in between
                self._post(run, inlet, order.payload)
            except BaseException:
                run.abort()
                raise
            whole, entry = (_works_here(scheduler) for scheduler in (self._default, inlet.node.scheduler))
        try:
            run.tell_started()
            run.engine.settle([run])
        except BaseException:
            run.abort()
            raise
        return run, job, whole, entry

    def _post(self, run: Run, inlet: Inlet, payload: dict[str, Any]) -> None:
        """Take a job in, with what its entry is called with."""
        try:
            with self._engine.lock:
                self._engine.runs.add(run)
                self._engine.measures.start(run)
                run.post(inlet, payload, 0, perf_counter())
                run.end_if_idle()
        except BaseException:  # it may be counted, and not be there
            self._engine.hurt = True
            raise

    def _is_interrupted(self) -> bool:
        """Return whether the calling thread is at work inside already: a signal handler calls, most often."""
        return self._engine.is_interrupted() or is_held_here(self._opening) or is_held_here(self._building)

    def _execute_later(self, order: _Order) -> JobState:
        """Let another thread start a job when this one is through with what it was interrupted in."""
        self._entry(order.routine_id, order.slot)
        run, job = self._new_job()
        self._last = job
        self._engine.put_off(self._start_late, order, run, job)
        return job

    def _start_late(self, order: _Order, run: Run, job: JobState) -> None:
        try:
            with Visit(self._engine):
                self._start(order, (run, job))
        except Exception:
            logger().exception("job %s, executed in a signal handler, could not be started", run.job_id)
            run.cancel()

    def _running(self) -> list[Run]:
        with self._engine.lock:
            return [run for run in self._engine.runs if isinstance(run, Run)]

    def _unfinished(self) -> list[Run]:
        """Return the jobs that run, and those whose end is being told to listeners."""
        with self._engine.lock:
            return [run for run in (*self._engine.runs, *self._engine.ending) if isinstance(run, Run)]

    def _check_idle(self, what: str) -> None:
        running = self._running()
        if running:
            raise FlowStateError(
                f"{what} was called on flow {self.flow_id!r} while {len(running)} of its jobs run "
                f"({printable(running[0].job_id)}): wait_for_completion() or cancel() first"
            )

    def _scheduler_of(self, strategy: ExecutionStrategy) -> Scheduler:
        scheduler = self._new_scheduler(strategy)
        self._engine.schedulers.append(scheduler)
        return scheduler

    def _new_scheduler(self, strategy: ExecutionStrategy) -> Scheduler:
        if strategy.capabilities.shares_memory:
            return Scheduler(self._engine, strategy, _task)
        from routilux_core._remote.scheduler import RemoteScheduler  # with it comes all that travelling needs

        return RemoteScheduler(self._engine, strategy)

    def _scheduler_named(self, name: str) -> Scheduler:
        """Return the queue of a routine's own strategy: the flow's where it has that name."""
        if name == self._default.strategy.name:
            return self._default
        for scheduler in self._engine.schedulers[1:]:
            if scheduler.strategy.name == name:
                return scheduler
        return self._scheduler_of(make_strategy(self._plugins, name, None, None))

    def _saved(self) -> SavedFlow:
        from routilux_core.serialization.snapshot import SavedFlow, options_of

        strategy = self._default.strategy
        options = self._options or options_of(strategy)
        settings = {"max_pending": self.max_pending, "history_size": self.history_size}
        return SavedFlow(strategy, options, self._engine.error_handler, self._graph, self._named, settings)

    def _become(self, saved: SavedFlow) -> None:
        """Take over a flow that was read, all at once."""
        settings = saved.settings
        engine = Engine(settings["max_pending"], settings["history_size"], self._engine.keeps_frames)
        engine.error_handler = saved.error_handler
        with self._opening:
            with self._building:
                self._check_idle("deserialize")
                before = dict(vars(self))
                old_engine, old_graph = self._engine, self._graph
                try:
                    self.flow_id, self.history_size = saved.graph.flow_id, saved.settings["history_size"]
                    self._engine, self._graph, self._named, self._async = engine, saved.graph, saved.named, set()
                    self._options, self._gathers_of, self._last = saved.options, -1, None
                    self._was_read = True
                    self._default = self._scheduler_of(saved.strategy)
                    self._wire_all()
                except BaseException:
                    vars(self).update(before)
                    raise
            for scheduler in old_engine.schedulers:
                close_pool(scheduler)
        for routine in old_graph.routines.values():
            let_go(routine)

    def _wire_all(self) -> None:
        """Wire a graph that is complete already."""
        for name, routine in self._graph.routines.items():
            own = self._named.get(name)
            self._wire(name, routine, self._default if own is None else self._queue_saved(own))
        nodes = self._engine.nodes
        targets: dict[Outlet, list[tuple[Inlet, dict[str, str] | None]]] = {}
        for each in self._graph.connections:
            found = targets.setdefault(nodes[each.source].outlets[each.event], [])
            found.append((nodes[each.target].inlets[each.slot], dict(each.param_mapping) or None))
        for outlet, ends in targets.items():
            outlet.add_targets(ends)
        names: dict[Outlet, list[str]] = {}
        for output in self._graph.outputs:
            names.setdefault(nodes[output.routine_id].outlets[output.event], []).append(output.name)
        for outlet, chosen in names.items():
            outlet.add_output(*chosen)

    def _queue_saved(self, name: str) -> Scheduler:
        known = any(scheduler.strategy.name == name for scheduler in self._engine.schedulers)
        if known:
            return self._scheduler_named(name)
        from routilux_core.serialization.snapshot import SavedStrategy

        return self._scheduler_of(SavedStrategy(name=name))

    def _load_strategies(self) -> None:
        """Put the strategies themselves where a file has named them; one that is not installed is an error."""
        from routilux_core.serialization.snapshot import SavedStrategy

        for scheduler in list(self._engine.schedulers):
            if isinstance(scheduler.strategy, SavedStrategy):
                self._load(scheduler, scheduler.strategy)
        self._was_read = False

    def _load(self, scheduler: Scheduler, saved: SavedStrategy) -> None:
        loaded = self._new_scheduler(make_strategy(self._plugins, saved.name, saved.max_workers, saved.options))
        self._engine.schedulers[self._engine.schedulers.index(scheduler)] = loaded
        if scheduler is self._default:
            self._default = loaded
        for node in self._engine.nodes.values():
            if node.scheduler is scheduler:
                node.scheduler = loaded

    def _wire(self, name: str, routine: Routine, scheduler: Scheduler) -> None:
        node = Node(name, routine, scheduler)
        with self._engine.lock:  # of who asks a job that has ended
            self._engine.nodes[name] = node
        self._engine.has_timeouts = self._engine.has_timeouts or node.timeout is not None
        internals = routine._routilux
        internals.owner, internals.sealed = (self.flow_id, name), routine.__routilux_settings__.stateless
        internals.change = lambda change: self._change(node, change)
        internals.policy_changed = lambda: self._set_policy(node)
        self._take_in(node)

    def _change(self, node: Node, change: Callable[[], None]) -> None:
        """Let a slot or an event come to a routine of this flow."""
        with self._building:
            self._check_idle("define_slot or define_event")
            change()
            self._take_in(node)

    def _set_policy(self, node: Node) -> None:
        with self._building:
            node.set_policy(self._engine.error_handler)

    def _take_in(self, node: Node) -> None:
        """Wire the slots and events that a routine has by now."""
        node.refresh(self._engine.inlets, self._engine.error_handler)
        self._graph.version += 1
        if any(slot.signature.is_async for slot in node.routine._routilux.slots.values()):
            self._async.add(node.routine_id)

    def _entry(self, routine_id: str, slot: str | None) -> Inlet:
        routine = self._graph.routine(routine_id)
        inlets = self._engine.nodes[routine_id].inlets
        if slot is not None:
            self._graph.slot(routine_id, slot)
            return inlets[slot]
        if ENTRY in inlets:
            return inlets[ENTRY]
        if len(inlets) == 1:
            return next(iter(inlets.values()))
        names = ", ".join(repr(name) for name in inlets) or "none"
        raise ConfigurationError(
            f"routine {routine_id!r} ({type(routine).__name__}) has no __call__ and not exactly one slot (it has: "
            f"{names}): say which with execute({routine_id!r}, slot=...)"
        )

    def _prepare(self, entry: Inlet, payload: Mapping[str, Any]) -> None:
        """Check what the flow needs, open its pools, order its gather slots. No engine lock is held."""
        if self._was_read:
            self._load_strategies()
        for routine_id in self._async:
            node = self._engine.nodes[routine_id]
            _check_capabilities(routine_id, node.routine, node.scheduler.strategy)
        if self._gathers_of != self._graph.version:
            nodes = self._engine.nodes
            self._engine.gather_order = [nodes[name].inlets[slot] for name, slot in self._graph.gather_order()]
            self._gathers_of = self._graph.version
        for scheduler in self._engine.schedulers:
            scheduler.prepare(entry, payload, bool(self._engine.runs))
        if any(scheduler.pool is None for scheduler in self._engine.schedulers):
            self._open()

    def _open(self) -> None:
        with self._opening:
            for scheduler in self._engine.schedulers:
                if scheduler.pool is None and self._uses(scheduler):
                    open_pool(scheduler)
            watch(self._engine, self._opening, self._building)
            if self._at_exit is None:
                self._at_exit = _exit_hook(weakref.ref(self))
                atexit.register(self._at_exit)

    def _uses(self, scheduler: Scheduler) -> bool:
        return scheduler is self._default or any(node.scheduler is scheduler for node in self._engine.nodes.values())

    def _close_when_idle(self) -> None:
        with self._opening:
            with self._engine.lock:
                busy = bool(self._engine.runs)
                self._engine.when_idle = self._closing if busy else None
            if not busy:
                self._close(0.0)

    def _closing(self) -> None:
        """Close behind the last job, in the thread that ended it."""
        # Who has the lock closes, and may wait for this thread, or executes: then this is called again behind that job.
        if self._opening.acquire(blocking=False):
            try:
                if self._close(0.0):
                    self._engine.when_idle = None
            finally:
                self._opening.release()

    def _close(self, timeout: float | None) -> bool:
        """Close the pools, unless jobs run; those that were stopped don't count where there is a deadline."""
        with self._opening:
            if any(timeout is None or not run.stopped for run in self._running()):
                return False
            for scheduler in sorted(
                self._engine.schedulers, key=_works_here
            ):  # what hangs in this thread keeps no pool open
                close_pool(scheduler, cancel=timeout is not None, timeout=timeout)
            if self._at_exit is not None:
                atexit.unregister(self._at_exit)
                self._at_exit = None
        return True

    def _exit(self) -> None:
        """The interpreter exits: discard what is queued, with one warning; what runs, or is told, has a few seconds."""
        running = self._running()
        if running:
            pending = sum(run.ledger().pending for run in running)
            logger().warning(
                "flow %r: the interpreter exits while %d jobs run: what is queued of %d pending activations is "
                "discarded; call wait_for_completion() or shutdown() before the end of the program",
                self.flow_id,
                len(running),
                pending,
            )
        unfinished = self._unfinished()
        for run in running:
            run.cancel()
        deadline = monotonic() + EXIT_GRACE
        for run in unfinished:
            run.done.wait(max(0.0, deadline - monotonic()))


class _Order(NamedTuple):
    """What a job begins with."""

    routine_id: str
    payload: dict[str, Any]
    slot: str | None


def _check_capabilities(routine_id: str, routine: Routine, strategy: ExecutionStrategy) -> None:
    is_async = any(slot.signature.is_async for slot in routine._routilux.slots.values())
    if is_async and not strategy.capabilities.coroutines:
        raise CapabilityError(
            f"routine {routine_id!r} ({type(routine).__name__}) has an `async def` handler, which strategy "
            f"{strategy.name!r} can't await: make it a plain `def`, or choose a strategy that declares coroutines"
        )


def _check_here(made_in_handler: bool, what: str) -> None:
    """Refuse a handler in a worker process what would start a job of a copy that its module has made there."""
    if not made_in_handler and getattr(CURRENT.get(), "shipped", False):
        raise FlowStateError(
            f"{what} was called in a worker process, where that flow is only a copy: emit, and let a routine of this "
            "process execute it (add_routine(..., execution_strategy='concurrent')); a flow made in the handler may run"
        )


def _task(scheduler: Scheduler) -> Task:
    if not scheduler.strategy.capabilities.coroutines:
        return WorkTask(scheduler)
    from routilux_core._local.coroutines import CoroutineTask  # imports asyncio

    return CoroutineTask(scheduler)


def _exit_hook(flow: weakref.ref[Flow]) -> Any:
    def at_exit() -> None:
        alive = flow()
        if alive is not None:
            alive._exit()

    return at_exit


def _context() -> Context | None:
    """Return the caller's context variables for the handlers; None if there are none, which costs them nothing."""
    context = copy_context()
    return context if any(variable is not CURRENT for variable in context) else None


def _works_here(scheduler: Lane) -> bool:
    """Return whether a queue is worked off in the thread that waits."""
    return scheduler.pool is not None and scheduler.pool.in_caller


def _checked_params(entry_params: Mapping[str, Any] | None) -> dict[str, Any]:
    if entry_params is not None and not isinstance(entry_params, Mapping):
        raise ConfigurationError(f"entry_params is a mapping of parameter names to values, not {entry_params!r}")
    payload = dict(entry_params or {})
    if not all(isinstance(name, str) for name in payload):
        raise ConfigurationError(f"entry_params has names that are no strings: {payload!r}")
    return payload


def _whole(value: Any, name: str, minimum: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= sys.maxsize:
        raise ConfigurationError(
            f"{name} has to be a whole number of at least {minimum}, and at most {sys.maxsize}, not {brief(value)}"
        )
    return value


def _keeps_frames(capture: Any) -> bool:
    if capture not in ("text", "frames"):
        raise ConfigurationError(f"capture is 'text' or 'frames' (with all that was in them), not {capture!r}")
    return bool(capture == "frames")
