"""The queue of a strategy that does not share memory: it sends activations away in batches, with their permits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from threading import get_ident
from typing import Any

from routilux_core._engine.engine import Engine, logger
from routilux_core._engine.plan import INLET, JOB, PAYLOAD, Inlet, Item, Node
from routilux_core._engine.ready import next_in
from routilux_core._engine.roles import JobRole, waits_for_disk
from routilux_core._engine.run import Run
from routilux_core._engine.scheduler import Scheduler, close_aside
from routilux_core._remote.batching import Batcher, Paces
from routilux_core._remote.envelopes import PartStore, check_payload
from routilux_core._remote.losses import MAX_LOSSES, Losses
from routilux_core._remote.pickling import is_plain
from routilux_core._remote.task import GIVEN, RemoteTask, Tasks
from routilux_core._threads.guard import guarded
from routilux_core.errors import StrategyError
from routilux_core.strategy import Busy, ExecutionStrategy, WorkerPool

LIMITLESS = 1 << 29  # batches
LONG_S = 0.001  # to pickle a batch: what takes longer is not done by a thread that others wait for


class _Hand:
    """What `Scheduler.take` notes its activation in."""

    item: Item | None = None


class RemoteScheduler(Scheduler):
    """Work that leaves this process. `active` counts the batches that are away, `workers` how many may be."""

    __slots__ = (
        "_broken",
        "_recruiters",
        "batcher",
        "bringing",
        "losses",
        "paces",
        "parts",
        "tasks",
    )

    def __init__(self, engine: Engine, strategy: ExecutionStrategy) -> None:
        super().__init__(engine, strategy, _no_task)
        self.parts = PartStore()
        self.paces = Paces(strategy.capabilities)
        self.losses = Losses(getattr(strategy, "max_worker_losses", MAX_LOSSES))
        self.batcher = Batcher(self, self.paces, self.losses)
        self.tasks = Tasks()
        self.bringing: set[int] = set()  # threads of the pool that bring something home now
        self._recruiters: set[int] = set()  # threads that send batches now
        self._broken: BaseException | None = None

    # -- before a job

    def prepare(self, entry: Inlet | None, payload: Mapping[str, Any], running: bool) -> None:
        """Pickle what a job needs; what can't be sent is refused here, by name."""
        nodes = [node for node in self.engine.nodes.values() if node.scheduler is self]
        self.batcher.forget()
        with self.parts.packing():
            self.parts.pack_all(nodes, running)
            if entry is not None and entry.node.scheduler is self:
                check_payload(entry, dict(payload))
        if not running:
            self.losses.forget()
            self.parts.whole.clear()
            self.parts.carriers.forget()
            self.parts.pickled = None

    # -- sending

    def submit_worker(self) -> None:
        """Send batches while there is work for them. The lock is not held."""
        me = get_ident()
        if me in self._recruiters:
            return  # a pool that fails a task in `submit` leads here again: the loop below goes on anyway
        self._recruiters.add(me)  # without the lock: each thread adds and looks for itself only
        try:
            self._recruit()
        finally:
            self._recruiters.discard(me)

    def _submit_aside(self) -> None:
        """Send batches, where the thread that brings replies home has asked for it; where there is no other, in it."""
        me = get_ident()
        inside = me in self._recruiters
        self._recruiters.add(me)
        try:
            self._recruit(aside=True)
        finally:
            if not inside:
                self._recruiters.discard(me)

    def _recruit(self, aside: bool = False) -> None:
        with self.engine.lock:
            revoked = self.tasks.take_revoked()
        self._ask_back(revoked)
        if self._broken is not None and self.pool is None and self._refuse(self._broken):
            return
        me = get_ident()
        while True:
            if not aside and me in self.bringing and self._packs_slowly():
                # What reads from the workers is not to wait for that. Others ask for nobody meanwhile: `recruiting`.
                self.engine.aside.do(self._submit_aside)
                return
            with self.engine.lock:
                if self.crew.pause is not None:
                    return
                self.crew.recruiting = False
                send = self._next_to_send()
            if send is None:
                return
            send()  # without the lock: it pickles objects of others, and calls the pool

    def _refuse(self, error: BaseException) -> bool:
        """Let jobs that have work here fail, and return True, if there is still no pool for it."""
        with self.engine.lock:
            if self.pool is not None:  # another job has opened one meanwhile
                return False
            self.crew.recruiting = False
            runs = list(self.engine.runs)
        self.lose(runs, error)
        return True

    def _packs_slowly(self) -> bool:
        """Return whether it may take long to pickle what is next. Without the lock: others may just take it."""
        item = next_in(self.ready)
        if item is None:
            return False
        slow = self.paces.packs_slowly.get(item[INLET].number)
        return slow if slow is not None else not is_plain(item[PAYLOAD])

    @guarded
    def _next_to_send(self) -> Callable[[], None] | None:
        """Return what sends the next batch, first one that the pool had no room for; None where there is none."""
        if (again := self.tasks.next_put_off()) is not None:
            return again.send_again
        task = self._next_task()
        return None if task is None else task.send

    @guarded
    def _next_task(self) -> RemoteTask | None:
        """Return a batch, counted as away; None if nothing may run now, or enough is away."""
        pool = self.pool
        if pool is None or self.engine.behind or not (self.ready.first or self.ready.queue):
            return None
        self.crew.workers = self._limit(pool.workers)  # anew each time: with what calls take, the number changes
        if self.crew.active + self._not_kept_yet() >= self.crew.workers:
            return None
        newest = len(self.ready.queue) > self.engine.max_pending and self.batcher.take_newest()
        item = newest or self.ready.take(_Hand())
        if item is None:
            return None
        items, quick = self.batcher.batch(item, pool.workers, newest is not False)
        task = RemoteTask(self, self.tasks.new_id(), items, quick)
        self.tasks.away.add(task)
        self.crew.active += 1
        return task

    @guarded
    def _not_kept_yet(self) -> int:
        """Return how many batches hold their workers' places though they came home, until a journal has them."""
        return sum(task.is_kept for task in self.tasks.homing) if self.tasks.homing else 0

    @guarded
    def _limit(self, workers: int) -> int:
        """Return how many batches may be away: two for each worker only where nobody waits long."""
        ready = self.ready
        head = ready.first[0] if ready.first else ready.queue[0]
        if waits_for_disk(head[JOB]):  # what lies with a worker is in doubt after a crash, begun or not
            return workers
        quick = self.batcher.is_quick(head) and all(task.quick for task in self.tasks.away)
        return 2 * workers if quick else workers

    def put_off(self, task: RemoteTask, busy: Busy) -> None:
        """Keep a task, as it was packed, until the pool has room for it."""
        with self.engine.lock:
            self.tasks.put_off.append(task)
            task.busy = None
            self.pause_for(busy)

    @guarded
    def end_pause(self) -> None:
        super().end_pause()
        if self.tasks.put_off:
            self.engine.deferred.append(self.submit_worker)

    # -- coming back

    def came_back(self, task: RemoteTask) -> None:
        """Count a batch as no longer away."""
        with self.engine.lock:
            self.tasks.turn_home(task)
            self.crew.active -= 1

    def is_home(self, task: RemoteTask) -> None:
        """Put back what is left of a batch: all of it is counted or put back then."""
        with self.engine.lock:
            task.claim.close()
            self.tasks.homing.discard(task)
            task.claim.run.end_if_idle()
            self.crew.want_worker()

    def weigh(self, inlet: Inlet, size: int, weight: int, seconds: float) -> None:
        """Learn how many bytes the calls of a batch are, and how long it took to pickle them."""
        with self.engine.lock:
            self.paces.weigh(inlet, size, weight)
            self.paces.packs_slowly[inlet.number] = seconds > LONG_S

    # -- after an interruption

    def has_of(self, run: JobRole) -> bool:
        return super().has_of(run) or any(task.claim.run is run for task in self.tasks)

    def in_hand(self) -> Iterable[Item]:
        return [item for task in self.tasks.away for item in task.claim.items[task.claim.next :]]

    def permits(self) -> Iterable[Node]:
        return (node for task in self.tasks for node in task.claim.permits())

    def recount(self) -> None:
        self.crew.active = len(self.tasks.away)

    def take_back_unsent(self) -> None:
        with self.engine.lock:
            mine = [task for task in self.tasks if task.busy == get_ident()]
        self._recruiters.discard(get_ident())
        for task in mine:
            task.withdraw()

    # -- stopping

    @guarded
    def drop(self, run: JobRole) -> list[Item]:
        """Take out everything of a run that is queued here."""
        # They are asked for by `submit_worker`: never inside a pool's own `submit`, which may hold its lock.
        if isinstance(run, Run) and run.stopped and self.tasks.revoke(run):
            self.engine.deferred.append(self.submit_worker)
        return super().drop(run)

    def revoke(self, run: JobRole) -> None:
        """Ask the pool for what is away of a run that was stopped; when this returns, it has been asked."""
        with self.engine.lock:
            away = self.tasks.away_of(run)
        self._ask_back(away)

    def _ask_back(self, tasks: list[RemoteTask]) -> None:
        pool = self.pool
        if pool is None:
            return
        for task in tasks:
            try:
                task.revoke(pool)
            except Exception:
                logger().exception("strategy %r: its pool raised in cancel", self.strategy.name)

    def kill(self, run: JobRole) -> None:
        """End the workers that run something of a run; its tasks fail as lost."""
        with self.engine.lock:
            running = self.tasks.away_of(run)
        for task in running:
            if task.where >= GIVEN:
                self.kill_task(task)

    def lost(self, error: BaseException, opened: int | None = None) -> None:
        """Fail what is away, and every job that has work here: the executor broke. The next job opens a new pool."""
        with self.engine.lock:
            if opened not in (None, self.opened):
                return
            pool, self._broken = self.let_go_of_pool(), error
            away, runs = list(self.tasks.away), list(self.engine.runs)
        with ExitStack() as steps:  # from the last to the first, and each of them, whatever another one raises
            steps.callback(self.lose, runs, error)
            if pool is not None:
                steps.callback(close_aside, pool, self.strategy.name)
            for task in away:  # with the last of them a job may end, and another begin, with a new pool
                steps.callback(task.give_up, error)
        with self.engine.lock:
            self.crew.workers = LIMITLESS if self.pool is None else self.crew.workers  # whoever comes is told so

    def forget(self) -> WorkerPool | None:
        self.tasks.clear()
        self._recruiters.clear()
        self._broken = None
        return super().forget()

    def abandon(self) -> None:
        """Fail what is away: the pool was closed, and nothing will come of it."""
        with self.engine.lock:
            away = list(self.tasks.away)
        closed = f"strategy {self.strategy.name!r}: its pool was closed while task"
        with ExitStack() as steps:
            for task in away:
                steps.callback(task.give_up, StrategyError(f"{closed} {task.id} ran"))


def _no_task(scheduler: Scheduler) -> Any:
    raise NotImplementedError
