"""The live side of a flow: its schedulers and their pools, how a job begins, and how everything ends.

All that a flow needs is put together here: the wired graph, strategies and plugins by name, and who works.
"""

from __future__ import annotations

import atexit
import itertools
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextvars import Context, copy_context
from functools import partial
from time import monotonic, perf_counter, time
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from routilux_core._engine.control import JobControl, begin, drive
from routilux_core._engine.engine import Engine, deadline_of, logger, seconds_left
from routilux_core._engine.plan import Inlet, Item, Lane
from routilux_core._engine.run import Run
from routilux_core._engine.scheduler import Scheduler
from routilux_core._engine.wiring import Wiring, check_coroutines
from routilux_core._local.tasks import WorkTask
from routilux_core._registry.lookup import Plugins, resolve_strategy
from routilux_core._routines.frame import CURRENT, inside
from routilux_core._routines.imports import ADVICE, incomplete
from routilux_core._runtime.forks import watch
from routilux_core._runtime.pools import close_at_exit, close_pool, open_pool
from routilux_core._text.printable import printable
from routilux_core._threads.guard import is_held_here
from routilux_core._threads.visits import Visit
from routilux_core._tracking.payloads import Payloads
from routilux_core.errors import FlowStateError, ShippingError, StrategyError, UnknownNameError
from routilux_core.graph import Graph
from routilux_core.job import JobState, Origin
from routilux_core.routine import Routine, let_go
from routilux_core.strategy import ExecutionStrategy, Task

if TYPE_CHECKING:
    from routilux_core._journal.keeper import Keeper
    from routilux_core.serialization.snapshot import SavedFlow, SavedStrategy

EXIT_GRACE_S = 3.0  # that running handlers get when the interpreter exits, or was told to


class Order(NamedTuple):
    """What a job begins with."""

    routine_id: str
    payload: dict[str, Any]
    slot: str | None
    job_id: str | None = None


class Runtime:
    """What lives behind a flow. `deserialize` gives it another wiring, with another engine; the rest stays."""

    __slots__ = (
        "at_exit",
        "building",
        "by_name",
        "default",
        "engine",
        "given",
        "history_size",
        "keeper",
        "last",
        "made_in_handler",
        "numbers",
        "opening",
        "options",
        "plugins",
        "process",
        "schedulers",
        "session",
        "was_read",
        "wiring",
    )

    def __init__(
        self,
        flow_id: str,
        engine: Engine,
        history_size: int,
        plugins: Plugins,
        execution_strategy: str | ExecutionStrategy,
        max_workers: int | None,
        options: dict[str, Any],
        keeper: Keeper | None = None,
    ) -> None:
        self.engine, self.history_size = engine, history_size
        self.schedulers: list[Scheduler] = []  # the flow's own first; the engine has the same list
        engine.schedulers = self.schedulers
        # One thread opens or closes pools at a time, and one builds, or lets a job begin: what was checked stays so
        # until that is done. Who needs both takes them in this order. Only the first is held while pools are closed:
        # that may wait for handlers, which may ask for the second.
        self.opening, self.building = threading.RLock(), threading.RLock()
        self.wiring = Wiring(engine, Graph(flow_id), {}, self.building)
        self.plugins = plugins
        self.keeper = keeper
        if keeper is not None:
            keeper.saved = self.saved
        self.numbers = itertools.count(1)  # of jobs
        self.process, self.session = 0, ""  # which processes the ids of jobs tell apart, and how
        self.last: JobState | None = None
        self.was_read = False  # so its strategies may be mere names yet, until the first job
        self.at_exit: Callable[[], None] | None = None
        self.made_in_handler = CURRENT.get() is not None
        self.options = options  # of the flow's own strategy, as they were given
        self.given = _name_of(execution_strategy, max_workers)
        self.by_name: dict[str, Scheduler] = {}  # of strategies that routines name: a plugin may call its own otherwise
        self.default = self._scheduler_of(self._make(execution_strategy, max_workers, options))

    # -- building, and the strategies

    def add_routine(self, routine: Routine, routine_id: str | None, own: str | None) -> str:
        """Take a routine in, under a strategy of its own if one is named; return its id."""
        with self.building:
            self.wiring.check_idle("add_routine")
            scheduler = self.default if own is None else self._scheduler_named(own, routine_id)
            return self.wiring.add_routine(routine, routine_id, scheduler, own)

    def set_strategy(
        self,
        given: str | ExecutionStrategy,
        max_workers: int | None,
        given_options: Mapping[str, Any] | None,
    ) -> None:
        """Put another strategy in the place of the flow's own; what is left out stays as it was."""
        with self.opening:
            self.wiring.check_idle("set_execution_strategy")
            old = self.default.strategy
            if isinstance(given, str) and max_workers is None:
                max_workers = old.max_workers
            stays = given_options is None and given == (self.given.name if self.given else old.name)
            options = dict(self.options if stays else given_options or {})
            strategy = self._make(given, max_workers, options)
            with self.building:
                for routine_id in self.wiring.awaiting - self.wiring.named.keys():
                    check_coroutines(routine_id, self.wiring.graph.routines[routine_id], strategy)
            close_pool(self.default)
            with self.building:
                self.given = _name_of(given, max_workers)
                self._run_under(strategy, options)

    def _make(
        self,
        given: str | ExecutionStrategy,
        max_workers: int | None,
        options: Mapping[str, Any],
        routine_id: str | None = None,
    ) -> ExecutionStrategy:
        return resolve_strategy(self.plugins, given, max_workers, options, self.wiring.graph.flow_id, routine_id)

    def _run_under(self, strategy: ExecutionStrategy, options: dict[str, Any]) -> None:
        self.default = self.schedulers[0] = self._new_scheduler(strategy)
        self.options = options
        for routine_id, node in self.engine.nodes.items():
            name = self.wiring.named.get(routine_id)
            node.place(self.default if name is None else self._scheduler_named(name, routine_id))

    def _scheduler_of(self, strategy: ExecutionStrategy) -> Scheduler:
        scheduler = self._new_scheduler(strategy)
        self.schedulers.append(scheduler)
        self.engine.share_out()
        return scheduler

    def _new_scheduler(self, strategy: ExecutionStrategy) -> Scheduler:
        if strategy.capabilities.shares_memory:
            return Scheduler(self.engine, strategy, _task)
        from routilux_core._remote.scheduler import RemoteScheduler  # with it comes all that travelling needs

        return RemoteScheduler(self.engine, strategy)

    def _scheduler_named(self, name: str, routine_id: str | None = None) -> Scheduler:
        """Return the scheduler of a routine's own strategy: the flow's where it has that name."""
        if name == (self.given.name if self.given else self.default.strategy.name):
            return self.default
        if name not in self.by_name:
            self.by_name[name] = self._scheduler_of(self._make(name, None, {}, routine_id))
        return self.by_name[name]

    # -- what is saved, and read

    def saved(self) -> SavedFlow:
        """Return what a file holds of the flow. `building` is held by the caller."""
        from routilux_core.serialization.snapshot import SavedFlow, SavedStrategy, options_of, secrets_of

        strategy, options, wiring = self.default.strategy, self.options, self.wiring
        if self.given is None:
            options = options_of(strategy)
        else:  # not what a plugin has made of it
            secrets = secrets_of(type(strategy))
            options = {name: value for name, value in options.items() if name not in secrets}
            strategy = SavedStrategy(name=self.given.name, max_workers=self.given.max_workers)
        settings = {"max_pending": self.engine.max_pending, "history_size": self.history_size}
        return SavedFlow(strategy, options, self.engine.error_handler, wiring.graph, wiring.named, settings)

    def become(self, saved: SavedFlow) -> None:
        """Take over a flow that was read, all at once: after an error everything is as it was."""
        settings = saved.settings
        engine = Engine(settings["max_pending"], settings["history_size"], self.engine.capture)
        engine.error_handler, engine.journaled = saved.error_handler, self.engine.journaled
        with self.opening:
            with self.building:
                self.wiring.check_idle("deserialize")
                old, closed = self.wiring, self.schedulers
                before = {name: getattr(self, name) for name in self.__slots__}
                try:
                    self.engine, self.history_size = engine, settings["history_size"]
                    self.schedulers = []
                    engine.schedulers = self.schedulers
                    self.wiring = Wiring(engine, saved.graph, saved.named, self.building)
                    self.options, self.last, self.was_read = saved.options, None, True
                    self.given, self.by_name = _name_of(saved.strategy.name, saved.strategy.max_workers), {}
                    self.default = self._scheduler_of(saved.strategy)
                    self.wiring.wire_all(self._scheduler_saved)
                except BaseException:
                    for name, value in before.items():
                        setattr(self, name, value)
                    raise
            self._close_pools(closed, cancel=False, timeout=None)
        for routine in old.graph.routines.values():
            let_go(routine)

    def _scheduler_saved(self, name: str | None) -> Scheduler:
        """Return the scheduler of a strategy that a file names; the strategy itself is loaded before a job."""
        if name is None or (self.given is not None and name == self.given.name):
            return self.default
        if name not in self.by_name:
            from routilux_core.serialization.snapshot import SavedStrategy

            self.by_name[name] = self._scheduler_of(SavedStrategy(name=name))
        return self.by_name[name]

    def _load_strategies(self) -> None:
        """Put the strategies themselves where a file has named them; one that is not installed is an error."""
        from routilux_core.serialization.snapshot import SavedStrategy

        for scheduler in list(self.schedulers):
            if isinstance(scheduler.strategy, SavedStrategy):
                self._load(scheduler, scheduler.strategy)
        self.was_read = False

    def _load(self, scheduler: Scheduler, saved: SavedStrategy) -> None:
        loaded = self._new_scheduler(self._make(saved.name, saved.max_workers, saved.options))
        self.schedulers[self.schedulers.index(scheduler)] = loaded
        if scheduler is self.default:
            self.default = loaded
        else:
            self.by_name[saved.name] = loaded
        for node in self.engine.nodes.values():
            if node.scheduler is scheduler:
                node.place(loaded)

    # -- how a job begins

    def execute(self, order: Order) -> JobState:
        """Start a job, and work at it here as far as its strategies want that."""
        engine = self.engine
        engine.check_fork()
        if not self.made_in_handler and getattr(CURRENT.get(), "shipped", False):
            raise _is_a_copy(f"execute({order.routine_id!r}) of flow {self.wiring.graph.flow_id!r}")
        if order.job_id is not None:
            known = self._known(order.job_id)
            if known is not None:
                return known
        if self.is_interrupted():
            return self._execute_later(order)
        run: Run | None = None
        try:
            with Visit(engine):
                run, job, whole, entry = self._start(order)
            if (whole or entry) and not inside(engine):
                drive(run, None if whole else 0.0)
        except BaseException:
            if run is not None:
                JobControl(run).cancel()
            raise
        return job

    async def aexecute(self, order: Order) -> JobState:
        """Start a job from an event loop: in a thread, where pools have to be opened or do the work there, or a journal
        has to have the job on disk first.
        """
        if self.was_read:
            self._load_strategies()
        self._close_what_is_over()
        used = [scheduler for scheduler in self.schedulers if self._uses(scheduler)]
        if any(scheduler.pool is None and _takes_loop(scheduler) for scheduler in used):
            self._open(_takes_loop)  # here, since it may be this very loop; what declares that opens at once
        opened = all(scheduler.pool is not None and not scheduler.pool.in_caller for scheduler in used)
        if opened and self.keeper is None:
            return self.execute(order)
        from routilux_core._threads.awaiting import in_thread

        return await in_thread(partial(self.execute, order))

    def _new_id(self) -> str:
        """Return the id of a job, which no other job of a flow of this name has, in whatever process."""
        if self.process != os.getpid():  # the child of a fork has the numbers of its parent
            self.process, self.session = os.getpid(), f"{int(time()):x}{os.urandom(3).hex()}"
        return f"{self.wiring.graph.flow_id}-{self.session}-{next(self.numbers)}"

    def _new_job(self, job_id: str | None = None) -> tuple[Run, JobState]:
        flow_id = self.wiring.graph.flow_id
        run = Run(self.engine, job_id or self._new_id(), self.history_size, _context())
        if self.engine.capture == "payload" and self.history_size:  # which a file may have set
            run.keep_payloads(Payloads(self.history_size))
        for output in self.wiring.graph.outputs:
            run.ledger.collected[output.name] = []
        origin = Origin(
            self.wiring.graph, self.default.strategy, self.wiring.named, run.ledger.span.began_at, run.ledger.span.began
        )
        return run, JobState(run.job_id, flow_id, JobControl(run), origin)

    def _start(self, order: Order, made: tuple[Run, JobState] | None = None) -> tuple[Run, JobState, bool, bool]:
        """Let a job begin: what it needs is opened, its entry is posted, and workers are called.

        Return it, and whether all of it, and its entry, are worked at here.
        """
        self.plugins.all()  # loaded before: that may take its time
        with self.opening, self.building:  # until it is posted, nobody closes the pools or changes anything
            inlet = self.wiring.entry(order.routine_id, order.slot)
            _warn_of_unknown(inlet, order.payload)
            if self.wiring.checked != self.wiring.graph.version and (missing := self.wiring.missing(order.routine_id)):
                warnings.warn(missing, stacklevel=5)
            self._prepare(inlet, order.payload)
            run, job = made or self._new_job(order.job_id)
            self._equip(run, job)
            if inlet.node.per_job:
                run.node_for(inlet.node).make()  # what raises there, raises before the job begins
            if self.keeper is not None:
                self.keeper.start(self.wiring, run, job, inlet, order.payload)
            try:
                self.last = job  # first: once it is posted, another thread may let it begin, whatever comes in between
                self.engine.take_in(run, partial(run.post, inlet, order.payload, 0, perf_counter()))
            except BaseException:
                run.abort()
                raise
            whole, entry = _works_here(self.default), _works_here(inlet.node.scheduler)
        try:
            begin(run)
            run.engine.settle([run])
        except BaseException:
            run.abort()
            raise
        return run, job, whole, entry

    def _equip(self, run: Run, job: JobState) -> None:
        """Let a job ask, and tell, the plugins that want that."""
        plugins = self.plugins.all()
        if plugins is None:
            return
        if plugins.decides:
            run.decide = plugins.decide
        if plugins.admits:
            from routilux_core._tracking.activations import Admission

            run.ask_before_calls(Admission(plugins.admit, run.job_id, run.retries))
        if plugins.listening:
            from routilux_core._tracking.listeners import Listeners

            run.listen(Listeners(plugins.listening, job, run, self.engine))

    # -- jobs that a journal has

    def _known(self, job_id: str) -> JobState | None:
        """Return a job of this id: one that runs, the record of one that has ended, or one that is taken up now."""
        if self.keeper is None:
            if any(run.job_id == job_id for run in self.running()):
                raise FlowStateError(f"job {printable(job_id)} of flow {self.wiring.graph.flow_id!r} runs already")
            return None
        with self.opening:
            found = self.keeper.find(self.wiring.graph.flow_id, job_id)
            if isinstance(found, str):
                [found] = self.recover(found)
        return found

    def recover(
        self,
        job_id: str | None = None,
        retry_failed: bool = False,
        accept_changes: bool = False,
        types: Iterable[type | ModuleType] = (),
        ends_as: str | None = None,
    ) -> list[JobState]:
        """Go on with one job, or all, that a journal has; work at them here as far as their strategies want that."""
        keeper, flow_id = self.keeper, self.wiring.graph.flow_id
        if keeper is None:
            raise FlowStateError(f"flow {flow_id!r} has no journal: make it with Flow(..., journal=path)")
        self.engine.check_fork()
        types = list(types)
        with Visit(self.engine):
            with self.opening, self.building:
                keeper.open(flow_id)
                names = keeper.left(flow_id, retry_failed) if job_id is None else [job_id]
                found = [keeper.find(flow_id, name) for name in names]
                if job_id is not None and found == [None]:
                    raise UnknownNameError("job", job_id, keeper.left(flow_id, True), f"See {keeper.journal.where}")
                again = keeper.left(flow_id, True) if retry_failed else ()
                begun = [
                    name for name, each in zip(names, found, strict=True) if isinstance(each, str) or name in again
                ]
                made = {}
                if begun:
                    reading = keeper.reading(self.wiring, types)
                    if ends_as is None:
                        keeper.check_flow(self.wiring, accept_changes)
                        keeper.share(self.wiring, reading)
                        self._prepare(None, {})
                    made = {name: self._take_up(name, reading, retry_failed, ends_as) for name in begun}
            for run, _, recovery, refused in made.values():
                begin(run)
                recovery.refuse(refused)
                run.engine.settle([run])
        for run, _, _, _ in made.values():
            if not inside(self.engine) and any(map(_works_here, self.schedulers)):
                drive(run, None if _works_here(self.default) else 0.0)
        jobs = [made[name][1] if name in made else each for name, each in zip(names, found, strict=True)]
        return [job for job in jobs if isinstance(job, JobState)]

    def _take_up(
        self, job_id: str, reading: Any, retry_failed: bool, ends_as: str | None
    ) -> tuple[Run, JobState, Any, Any]:
        assert self.keeper is not None
        run, job = self._new_job(job_id)
        if ends_as is None:
            self._equip(run, job)
        recovery, items = self.keeper.take_up(self.wiring, run, job, reading, retry_failed, ends_as)
        self.last = job

        def queue() -> list[Item]:
            refused = recovery.queue(items)
            self.engine.want_workers()
            return refused

        refused = self.engine.take_in(run, queue)
        return run, job, recovery, refused

    def detach(self) -> None:
        """Leave the jobs that run in the journal as they are, whatever becomes of them here."""
        if self.keeper is not None:
            self.keeper.detach()

    def is_interrupted(self) -> bool:
        """Return whether the calling thread is at work inside already: a signal handler calls, most often."""
        return self.engine.visits.is_interrupted() or is_held_here(self.opening) or is_held_here(self.building)

    def _execute_later(self, order: Order) -> JobState:
        """Let another thread start a job when this one is through with what it was interrupted in."""
        self.wiring.entry(order.routine_id, order.slot)
        run, job = self._new_job()
        self.last = job
        self.engine.visits.put_off(self._start_late, order, run, job)
        return job

    def _start_late(self, order: Order, run: Run, job: JobState) -> None:
        try:
            with Visit(self.engine):
                self._start(order, (run, job))
        except Exception:
            logger().exception("job %s, executed in a signal handler, could not be started", run.job_id)
            JobControl(run).cancel()

    def _prepare(self, entry: Inlet | None, payload: Mapping[str, Any]) -> None:
        """Check what the flow needs, open its pools, order its gather slots. Outside the engine's lock."""
        if self.was_read:
            self._load_strategies()
        wiring, missing = self.wiring, False
        if wiring.awaiting:
            wiring.check_awaiting()
        if wiring.ordered != wiring.graph.version:
            wiring.order_gathers()
        self._close_what_is_over()
        for scheduler in self.schedulers:
            self._prepare_for(scheduler, entry, payload)
            missing = missing or scheduler.pool is None
        if missing:
            self._open()

    def _prepare_for(self, scheduler: Scheduler, entry: Inlet | None, payload: Mapping[str, Any]) -> None:
        try:
            scheduler.prepare(entry, payload, bool(self.engine.runs))
        except ShippingError:
            if _is_being_started():  # the main module has no guard, which whoever opens a pool knows to say
                self._open()
            raise

    def _open(self, which: Callable[[Scheduler], bool] | None = None) -> None:
        with self.opening:
            for scheduler in self.schedulers:
                if scheduler.pool is None and self._uses(scheduler) and (which is None or which(scheduler)):
                    _check_not_importing(scheduler.strategy)
                    open_pool(scheduler, _preparation)
            watch(self.engine, self.opening, self.building)
            if self.at_exit is None:
                self.at_exit = _exit_hook(self.wiring.graph.flow_id, weakref.ref(self.engine))
                atexit.register(self.at_exit)

    def _close_what_is_over(self) -> None:
        """Let go of pools that can run nothing any more: an event loop was closed, and nobody has said so."""
        for scheduler in self.schedulers:
            if scheduler.pool is not None and scheduler.pool.is_over():
                scheduler.lost(StrategyError(f"the event loop of strategy {scheduler.strategy.name!r} was closed"))

    def _uses(self, scheduler: Scheduler) -> bool:
        return scheduler is self.default or any(node.scheduler is scheduler for node in self.engine.nodes.values())

    # -- how everything ends

    def running(self) -> list[Run]:
        """Return the jobs that run."""
        return _running(self.engine)

    def unfinished(self) -> list[Run]:
        """Return the jobs that run, and those whose end is being told to listeners."""
        return _unfinished(self.engine)

    def wait(self, timeout: float | None) -> bool:
        """Wait until no job runs; jobs that begin meanwhile are waited for, too."""
        deadline = deadline_of(timeout)
        while unfinished := self.unfinished():
            if not self.engine.wait(unfinished, seconds_left(deadline)):
                return False
        return True

    def cancel(self, kill: bool = False, reason: str = "") -> None:
        """Cancel every job that runs."""
        for run in self.running():
            JobControl(run).cancel(kill, reason)

    def shutdown(self, timeout: float | None) -> None:
        """Let running jobs end, cancel paused ones, and those that run after `timeout` seconds; close the pools."""
        deadline = deadline_of(timeout)
        closed = False
        while not closed:  # again, where jobs have begun meanwhile
            self._cancel_paused()
            if not self.engine.wait(self.unfinished(), seconds_left(deadline)):
                self.detach()
                self.cancel()
            closed = self._close(seconds_left(deadline))

    def shut_down_behind_jobs(self) -> None:
        """Cancel paused jobs, and let the pools be closed behind the last one that runs. Waits for nothing."""
        self._cancel_paused()
        with self.opening:
            if not self.engine.call_when_idle(self._closing):
                self._close(0.0)

    def _cancel_paused(self) -> None:
        for run in self.running():
            if run.paused:
                if run.book is not None:  # it is paused in the journal, and can be recovered
                    run.book.detach()
                JobControl(run).cancel()

    def _closing(self) -> None:
        """Close behind the last job, in the thread that ended it."""
        # Who has the lock closes, and may wait for this thread, or executes: then this is called again behind that job.
        if self.opening.acquire(blocking=False):
            try:
                if self._close(0.0):
                    self.engine.when_idle = None
            finally:
                self.opening.release()

    def _close(self, timeout: float | None) -> bool:
        """Close the pools, unless jobs run; those that were stopped don't count where there is a deadline."""
        with self.opening:
            if any(timeout is None or not run.stopped for run in self.running()):
                return False
            self._close_pools(self.schedulers, cancel=timeout is not None, timeout=timeout)
            if self.keeper is not None:
                self.keeper.close()
        return True

    def _close_pools(self, schedulers: list[Scheduler], *, cancel: bool, timeout: float | None) -> None:
        for scheduler in sorted(schedulers, key=_works_here):  # what hangs in this thread keeps no pool open
            close_pool(scheduler, cancel=cancel, timeout=timeout)
        if self.at_exit is not None:
            atexit.unregister(self.at_exit)
            self.at_exit = None


def _warn_of_unknown(entry: Inlet, payload: Mapping[str, Any]) -> None:
    """Warn of parameters that the handler of the entry does not take while it takes its defaults: of a typo."""
    declared = entry.node.routine._routilux.slots[entry.name]
    signature = declared.signature
    if signature.takes_all or signature.whole or callable(declared.merge_strategy):
        return
    if payload.keys() <= {*signature.names} or payload.keys() >= signature.defaults.keys():
        return
    unknown = ", ".join(repr(name) for name in payload if name not in signature.names)
    takes = ", ".join(map(repr, signature.names)) or "nothing"
    text = f"entry_params has {unknown}, which {entry.node.routine_id}.{entry.name} does not take (it takes {takes})"
    warnings.warn(printable(text), stacklevel=6)


def _task(scheduler: Scheduler) -> Task:
    if not scheduler.strategy.capabilities.coroutines:
        return WorkTask(scheduler)
    from routilux_core._local.coroutines import CoroutineTask  # imports asyncio

    return CoroutineTask(scheduler)


def _is_being_started() -> bool:
    """Return whether this process was started by multiprocessing, and imports the main module of the program."""
    processes = sys.modules.get("multiprocessing.process")
    return processes is not None and bool(getattr(processes.current_process(), "_inheriting", False))


def _check_not_importing(strategy: ExecutionStrategy) -> None:
    """Refuse a worker process that runs a flow by importing a module: its own workers would do so as well."""
    if strategy.capabilities.shares_memory:
        return
    from routilux_core._remote.cache import process

    modules = incomplete() if process().serves else []
    if modules:
        raise StrategyError(
            f"strategy {strategy.name!r} was to start workers in a worker process, which is importing module "
            f"{modules[-1]!r}: so each worker would start workers, and so on; {ADVICE}"
        )


class Given(NamedTuple):
    """A strategy by name, as it was given: what a file holds, whatever a plugin has made of it."""

    name: str
    max_workers: int | None


def _name_of(given: str | ExecutionStrategy, max_workers: int | None) -> Given | None:
    return Given(given, max_workers) if isinstance(given, str) else None


def _preparation() -> bytes:
    """Return what a new worker process begins with, for a pool that asks."""
    from routilux_core._remote.preparation import preparation  # what shares memory needs nothing of it

    return preparation()


def _is_a_copy(what: str) -> FlowStateError:
    """Return why a handler in a worker process can't start a job of a flow that its module has made there."""
    return FlowStateError(
        f"{what} was called in a worker process, where that flow is only a copy: emit, and let a routine of this "
        "process execute it (add_routine(..., execution_strategy='concurrent')); a flow made in the handler may run"
    )


def _context() -> Context | None:
    """Return the caller's context variables for the handlers; None if there are none, which costs them nothing."""
    context = copy_context()
    for variable in context:
        if variable is not CURRENT:
            return context
    return None


def _takes_loop(scheduler: Scheduler) -> bool:
    return scheduler.strategy.capabilities.coroutines


def _works_here(scheduler: Lane) -> bool:
    """Return whether a queue is worked off in the thread that waits."""
    return scheduler.pool is not None and scheduler.pool.in_caller


def _running(engine: Engine) -> list[Run]:
    return [run for run in engine.running() if isinstance(run, Run)]


def _unfinished(engine: Engine) -> list[Run]:
    return [run for run in engine.unfinished() if isinstance(run, Run)]


def _exit_hook(flow_id: str, engine: weakref.ref[Engine]) -> Callable[[], None]:
    """Return what the interpreter calls when it exits. Whoever works keeps the engine, though nobody has its flow."""

    def at_exit() -> None:
        alive = engine()
        if alive is not None:
            _exit(flow_id, alive)

    return at_exit


_exits: list[float] = []  # the seconds that each flow has taken while the interpreter exits


def _exit(flow_id: str, engine: Engine) -> None:
    """The interpreter exits: discard what is queued, with one warning; what runs, or is told, has a few seconds.

    All flows share them, so that a program with many of them ends as soon.
    """
    running = _running(engine)
    if running:
        pending = sum(JobControl(run).ledger().pending for run in running)
        logger().warning(
            "flow %r: the interpreter exits while %d jobs run: what is queued of %d pending activations is "
            "discarded; call wait_for_completion() or shutdown() before the end of the program",
            flow_id,
            len(running),
            pending,
        )
    unfinished = _unfinished(engine)
    for run in running:
        if run.book is not None:
            run.book.detach()
        JobControl(run).cancel()
    began = monotonic()
    deadline = began + max(0.0, EXIT_GRACE_S - sum(_exits))
    for scheduler in engine.schedulers:  # which lets what runs end, too
        close_at_exit(scheduler, max(0.0, deadline - monotonic()))
    for run in unfinished:
        run.ending.done.wait(max(0.0, deadline - monotonic()))
    _exits.append(monotonic() - began)
