"""The work of one strategy: its pool, and how its workers share what waits. Guarded by the engine's lock."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from routilux_core._engine.crew import Crew
from routilux_core._engine.engine import Engine, logger
from routilux_core._engine.plan import INLET, JOB, Inlet, Item, Node
from routilux_core._engine.ready import ChosenReady, LockedReady, SharedReady, SoloReady, allowed, as_waiting
from routilux_core._engine.roles import AwaitingRole, JobRole, WorkerRole
from routilux_core._routines.frame import has_gil
from routilux_core._threads.guard import guarded
from routilux_core._threads.resources import Resources
from routilux_core.errors import StrategyError, is_interrupt
from routilux_core.strategy import Busy, ExecutionStrategy, Task, Waiting, WorkerPool, check_workers


def lanes_are_safe() -> bool:
    """Return whether threads may share a lane without the lock: see `SharedReady`."""
    return has_gil()


class Scheduler:
    """The pool of one strategy, its crew, and how what is `ready` is shared out among them."""

    __slots__ = (
        "__weakref__",
        "awaited",
        "crew",
        "engine",
        "hands",
        "make_task",
        "opened",
        "pool",
        "ready",
        "resources",
        "strategy",
    )

    def __init__(self, engine: Engine, strategy: ExecutionStrategy, make_task: Callable[[Scheduler], Any]) -> None:
        self.engine = engine
        self.strategy = strategy
        self.make_task = make_task
        self.ready = LockedReady(self)
        self.crew = Crew(self)
        self.pool: WorkerPool | None = None
        self.opened = 0  # changes when the pool does
        self.hands: set[WorkerRole] = set()  # of workers in their loop, nested ones included
        self.awaited: set[AwaitingRole] = set()  # of workers in an event loop, those with an activation in hand
        self.resources = Resources()

    # -- how the work is shared (lock)

    @guarded
    def look_again(self) -> None:
        """Share the work out as the flow and its pool are now.

        A worker that is alone has all of it, if nothing stands against it: this is called at its next step.
        """
        was_solo = self.ready.solo
        self._share(SoloReady if self._is_alone() else self._usual_ready())
        if was_solo and not self.ready.solo:
            self.crew.want_worker()

    @guarded
    def share_out(self) -> LockedReady:
        """Put everything where other workers find it, too; return where that is."""
        self._share(self._usual_ready())
        return self.ready

    def _is_alone(self) -> bool:
        """Return whether one worker does all the work of the flow, and nothing has to overtake what is queued."""
        engine, pool = self.engine, self.pool
        if self.crew.workers != 1 or self.crew.active > 1 or len(engine.schedulers) > 1:
            return False
        if pool is None or pool.chooser is not None:
            return False
        if engine.has_timeouts and not pool.in_caller:
            return False  # where calls can be given up, a second worker comes while the first goes on
        # While a job is halted, what was set aside of it has to come before the rest: then everything lies in `queue`.
        return not any(run.halted for run in engine.runs)

    def _usual_ready(self) -> type[LockedReady]:
        if self.pool is not None and self.pool.chooser is not None:
            return ChosenReady
        can = self.strategy.capabilities
        shares = can.shares_memory and can.parallel and not can.coroutines
        return SharedReady if shares and lanes_are_safe() else LockedReady

    def _share(self, kind: type[LockedReady]) -> None:
        before = self.ready
        if type(before) is not kind:
            self.ready = kind(self, before)
            self.bind()
            self.ready.settle_in(before)

    @guarded
    def bind(self) -> None:
        """Let what is posted to the routines of this strategy come here."""
        for node in self.engine.all_nodes():
            if node.scheduler is self:
                self.ready.bind(node)

    def post(self, item: Item) -> None:
        """Queue what an emitter sends where no lane is shared. Outside the lock.

        Without the GIL nothing else keeps the order of this append and the emitter's look for workers behind it.
        """
        with self.engine.lock:
            if item[JOB].stopped:  # else it could lie here for ever: the pool may be gone
                item[JOB].ledger.discard(1)
            else:
                self.ready.queue.append(item)

    @guarded
    def admit(self, node: Node) -> None:
        """Let what waits for a routine have the permits that are free, and call for workers."""
        node.mailbox.admit(self.ready.first)
        self.crew.want_worker()

    def submit_worker(self) -> None:
        """Hand the pool one task: come and work."""
        try:
            task = self.make_task(self)
            if task.pool is not None:
                self._submit(task.pool, task)
        except BaseException:  # a Ctrl-C: the next call is not to wait for this task
            # Without the lock, in one store: at worst one worker too many is called, which finds nothing and goes.
            self.crew.recruiting = False
            raise

    def _submit(self, pool: WorkerPool, task: Task) -> None:
        try:
            pool.submit(task)
        except Busy as busy:
            self.pause_for(busy)
        except BaseException as error:  # it never should
            if is_interrupt(error):
                raise
            refused = StrategyError(f"strategy {self.strategy.name!r} raised in submit: {error!r}")
            refused.__cause__ = error
            task.fail(refused)

    def pause_for(self, busy: Busy) -> None:
        """Give the pool nothing for as long as it says. Until then, a task counts as on its way to it."""
        with self.engine.lock:
            if self.pool is None:
                self.crew.recruiting = False
            elif self.crew.pause is None:
                self.crew.recruiting = True
                self.crew.pause = self.engine.timers.add(busy.retry_after, self.end_pause)

    @guarded
    def end_pause(self) -> None:
        """Give the pool again what it had no room for."""
        if self.crew.pause is not None:
            self.crew.pause.cancel()
            self.crew.pause, self.crew.recruiting = None, False
            self.crew.want_worker()

    # -- after an interruption (lock)

    def has_of(self, run: JobRole) -> bool:
        """Return whether anything of a run is queued here or in a worker's hands."""
        if any(item[JOB] is run for item in self.ready.queued()) or any(hand.has_of(run) for hand in self.hands):
            return True
        return any(hand.item is not None and hand.item[JOB] is run for hand in self.awaited)

    @guarded
    def in_hand(self) -> Iterable[Item]:
        """Return what workers are at."""
        return [hand.item for hand in (*self.hands, *self.awaited) if hand.item is not None]

    def permits(self) -> Iterable[Node]:
        """Yield the node of each permit that workers have."""
        for hand in self.hands:
            node = hand.permit_of()
            if node is not None:
                yield node
        for each in self.awaited:
            if each.item is not None:
                yield each.item[INLET].node

    def recount(self) -> None:
        """Count the workers in their loop anew."""
        if not self.strategy.capabilities.coroutines:  # else they are in no list
            self.crew.active = sum(hand.counts() for hand in self.hands)
        if self.ready.solo and self.crew.active > 1:
            self.share_out()
        self.bind()

    def take_back_unsent(self) -> None:
        """Take back what this thread was just giving to the pool. Outside the lock: in shared memory, nothing."""

    @guarded
    def drop(self, run: JobRole) -> list[Item]:
        """Take out everything of a run that is queued here, passing its permits on."""
        return self.ready.drop(run)

    def prepare(self, entry: Inlet | None, payload: Mapping[str, Any], running: bool) -> None:
        """Check what a job needs before it begins: in shared memory, nothing."""

    def revoke(self, run: JobRole) -> None:
        """Ask the pool for what it was given of a run that was stopped: in shared memory, nothing."""

    def kill(self, run: JobRole) -> None:
        """End the calls of a run: those that are awaited in an event loop, and others where the pool can end them."""
        with self.engine.lock:
            awaited, tasks = list(self.awaited), self._tasks_at(run)
        for hand in awaited:
            hand.kill(run)
        for task in tasks:
            self.kill_task(task)

    @guarded
    def _tasks_at(self, run: JobRole) -> list[Task]:
        """Return the tasks of workers that are in a call of a run: not only below another one, which `emit` runs."""
        inner: dict[Task, WorkerRole] = {}
        for hand in self.hands:
            task = hand.seat.task
            if task is not None and hand.item is not None and (task not in inner or hand.depth > inner[task].depth):
                inner[task] = hand
        return [task for task, hand in inner.items() if hand.item is not None and hand.item[JOB] is run]

    def kill_task(self, task: Task) -> None:
        """Ask the pool to end what a task runs. Outside the lock."""
        self.ask_pool("kill", lambda pool: pool.kill(task))

    def ask_pool(self, what: str, ask: Callable[[WorkerPool], object]) -> object:
        """Ask the pool something, if there is one; what it raises is logged, and the answer None. Outside the lock."""
        pool = self.pool  # once: another thread may let go of it
        try:
            return None if pool is None else ask(pool)
        except Exception:
            logger().exception("strategy %r: its pool raised in %s", self.strategy.name, what)
            return None

    def abandon(self) -> None:
        """Give up what the pool, now closed, has not brought back: in shared memory, nothing."""

    def let_go_of_pool(self) -> WorkerPool | None:
        """Have no pool any more, and return the one there was."""
        with self.engine.lock:
            pool, self.pool, self.crew.workers, self.crew.recruiting = self.pool, None, 0, False
            if self.crew.held:
                self.crew.let_go()
            if self.crew.pause is not None:
                self.crew.pause.cancel()
                self.crew.pause = None
            self.opened += 1
        return pool

    def take_pool(self, pool: WorkerPool) -> int:
        """Work with a pool from now on; return the number that `opened` has for it."""
        with self.engine.lock:
            self.pool, self.crew.workers = pool, pool.workers
            self.opened += 1
            # Not under a worker of the last pool that is still in a handler: what it emits without the lock would go
            # to a lane that is looked at no more. It looks again itself, at its next step; until then it has its place.
            if not self.crew.active:
                if self.ready.solo and pool.in_caller:
                    self.look_again()  # who works in the caller will be alone again: nothing is bound anew then
                else:
                    self.share_out()
            return self.opened

    def workers_changed(self) -> None:
        """Look again how many workers the pool has; a number that makes no sense is refused, and the old one counts."""
        with self.engine.lock:
            if self.pool is None:
                return
            self.crew.workers = check_workers(self.pool)
            self.end_pause()
            self.crew.want_worker()
        self.engine.run_deferred()

    def waiting(self) -> list[Waiting]:
        """Return the activations that may run now, oldest first."""
        with self.engine.lock:
            return [as_waiting(item) for item in allowed(self.ready, len(self.ready.queue)) if not item[JOB].halted]

    def forget(self) -> WorkerPool | None:
        """Have no pool and nothing to do, and return the pool there was. The child of a fork: it is the parent's."""
        self.resources = Resources()
        self.crew.active = 0
        for each in (self.hands, self.ready.first, self.ready.queue, self.ready.lane or deque()):
            each.clear()  # in place: a worker that has forked is in its loop
        return self.let_go_of_pool()

    def lost(self, error: BaseException, opened: int | None = None) -> None:
        """Let every job that has work here fail: the executor broke. The next job opens a new pool.

        Nothing is done if the pool `opened` then has been closed since: what comes of it is history.
        """
        with self.engine.lock:
            if opened not in (None, self.opened):
                return
            pool = self.let_go_of_pool()
            runs = list(self.engine.runs)
        self.lose(runs, error)
        if pool is not None:
            close_aside(pool, self.strategy.name)

    def lose(self, runs: list[JobRole], error: BaseException) -> None:
        """Let those jobs fail that have work here. A job that has begun since has a pool of its own."""
        with self.engine.lock:
            for run in runs:
                run.lost(self, error)
        self.engine.settle(runs)


def close_aside(pool: WorkerPool, name: str) -> None:
    """Close the broken pool of a strategy: not here if that can be helped, since its own thread may tell of its end."""
    try:
        threading.Thread(target=_close_broken, args=(pool, name), name="routilux-close", daemon=True).start()
    except RuntimeError:  # the system gives no more threads
        _close_broken(pool, name)


def _close_broken(pool: WorkerPool, name: str) -> None:
    try:
        pool.close(cancel=True, timeout=0.0)
    except Exception:
        logger().warning("strategy %r raised while its broken pool was closed", name, exc_info=True)
