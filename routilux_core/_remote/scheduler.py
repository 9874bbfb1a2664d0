"""The queue of a strategy that does not share memory: it sends activations away in batches, with their permits."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from math import inf
from threading import get_ident
from typing import Any, Literal

from routilux_core._engine.engine import Engine, logger
from routilux_core._engine.failures import decide
from routilux_core._engine.plan import INLET, JOB, NUMBER, Inlet, Item, Node
from routilux_core._engine.run import Run
from routilux_core._engine.scheduler import Job, Scheduler
from routilux_core._remote.envelopes import PartStore, check_payload, travels
from routilux_core._remote.task import RemoteTask
from routilux_core._remote.wire import NOT, UNTIL_END, UNTIL_SUCCESS
from routilux_core.error_handling import Decision, ErrorHandler, ErrorStrategy, Failure
from routilux_core.errors import StrategyError, WorkerLost
from routilux_core.strategy import ExecutionStrategy, WorkerPool

LIMITLESS = 1 << 29  # batches
WORTHWHILE = 0.001  # seconds of work below which a batch is not made smaller: to hand it over costs half as much
ALONE = 0.25  # of `batch_seconds`: a call that takes longer travels alone, and is in doubt alone if its worker dies
BULKY = 8 << 20  # bytes of payloads in a batch, about
WEIGHT = 0.25  # of the newest measurement in the mean
MAX_LOSSES = 3  # workers that an activation may kill, where the strategy has no `max_worker_losses`


class _Hand:
    """What `Scheduler.take` notes its activation in."""

    item: Item | None = None


class RemoteScheduler(Scheduler):
    """Work that leaves this process. `active` counts the batches that are away, `workers` how many may be."""

    __slots__ = (
        "_broken",
        "_hand",
        "_joins",
        "_losses",
        "_pace",
        "_reach",
        "_recruiters",
        "_revoked",
        "_short",
        "away",
        "homing",
        "luggage",
        "numbers",
        "whole",
    )

    def __init__(self, engine: Engine, strategy: ExecutionStrategy) -> None:
        super().__init__(engine, strategy, _no_task)
        self.luggage = PartStore()
        self.numbers = itertools.count(1)
        self.away: set[RemoteTask] = set()
        self.homing: set[RemoteTask] = set()  # no longer away, but not all of them is counted or put back yet
        self.whole: set[str] = set()  # jobs whose tasks take every part along, since a worker had lost one
        self._hand = _Hand()
        self._pace: dict[int, float] = {}  # number of an inlet -> mean seconds of a call
        self._joins: dict[Inlet, bool] = {}  # whether its activations may travel with others, where that is known
        self._reach: dict[int, int] = {}  # number of an inlet -> calls in a batch, where that is bounded
        self._recruiters: set[int] = set()  # threads that send batches now
        self._revoked: list[RemoteTask] = []
        self._losses: dict[tuple[str, int], int] = {}  # job and activation -> workers that it has killed
        self._broken: BaseException | None = None
        self._short = ALONE * strategy.capabilities.batch_seconds  # what takes no longer may travel with others

    # -- before a job

    def prepare(self, entry: Inlet, payload: Mapping[str, Any], running: bool) -> None:
        """Pickle what a job needs; what can't be sent is refused here, by name."""
        nodes = [node for node in self.engine.nodes.values() if node.scheduler is self]
        self._joins = {}
        with self.luggage.packing():
            self.luggage.pack_all(nodes, running)
            if entry.node.scheduler is self:
                check_payload(entry, dict(payload))
        if not running:
            self._losses.clear()
            self.whole.clear()

    # -- sending

    def submit_worker(self) -> None:
        """Send batches while there is work for them. The lock is not held."""
        me = get_ident()
        if me in self._recruiters:
            return  # a pool that fails a task in `submit` leads here again: the loop below goes on anyway
        self._recruiters.add(me)
        try:
            self._recruit()
        finally:
            self._recruiters.discard(me)

    def _recruit(self) -> None:
        self._cancel_revoked()
        if self._broken is not None and self.pool is None and self._refuse(self._broken):
            return
        while True:
            with self.engine.lock:
                self.recruiting = False
                task = self._next_task()
            if task is None:
                return
            task.send()

    def _refuse(self, error: BaseException) -> bool:
        """Let jobs that have work here fail, and return True, if there is still no pool for it."""
        with self.engine.lock:
            if self.pool is not None:  # another job has opened one meanwhile
                return False
            self.recruiting = False
            runs = list(self.engine.runs)
        self.lose(runs, error)
        return True

    def _next_task(self) -> RemoteTask | None:
        """Return a batch, counted as away; None if nothing may run now, or enough is away. Lock."""
        pool = self.pool
        if pool is None or self.engine.behind or not (self.first or self.ready):
            return None
        self.workers = self._limit(pool.workers)
        if self.active >= self.workers:
            return None
        newest = len(self.ready) > self.engine.max_pending and self._take_newest()
        item = newest or self.take(self._hand)
        self._hand.item = None
        if item is None:
            return None
        items, quick = self._batch(item, pool.workers, newest is not False)
        task = RemoteTask(self, items, quick)
        self.away.add(task)
        self.active += 1
        return task

    def _limit(self, workers: int) -> int:
        """Return how many batches may be away: two for each worker only where nobody waits long. Lock."""
        head = self.first[0] if self.first else self.ready[0]
        quick = self._is_quick(head) and all(task.quick for task in self.away)
        return 2 * workers if quick else workers

    def _batch(self, item: Item, workers: int, newest: bool) -> tuple[list[Item], bool]:
        """Add to an activation what may travel with it; also return whether that will be quick. Lock."""
        spent, quick = self._pace.get(item[INLET].number, inf), self._is_quick(item)
        if spent > self._short or self._goes_alone(item[INLET]) or self._is_suspect(item) or item[JOB].told_in_detail():
            return [item], quick
        most = self._reach.get(item[INLET].number, self.strategy.capabilities.max_batch)
        if travels(item[INLET].node):
            return self._more_of(item, spent, most), quick
        waiting = len(self.first) + len(self.ready) + 1
        fair = max(waiting // (2 * workers), _fitting(WORTHWHILE, spent, most))
        return self._more_stateless(item, spent, min(most, fair), newest), quick

    def _is_quick(self, item: Item) -> bool:
        """Whether its call is so short that another batch may wait behind it; not where none was measured. Lock."""
        return self._pace.get(item[INLET].number, inf) < self.strategy.capabilities.ahead_below

    def _more_of(self, item: Item, spent: float, most: int) -> list[Item]:
        """Add what a routine with state would run next, in its order; its permit is for all of them. Lock."""
        items, node, run = [item], item[INLET].node, item[JOB]
        while len(items) < most:
            source = node.mailbox.waiting or (self.ready if not self.first else None)
            following = source[0] if source else None
            if following is None or source is None or following[INLET].node is not node or following[JOB] is not run:
                break
            pace = self._pace.get(following[INLET].number, inf)
            if (
                pace > self._short
                or spent + pace > self.strategy.capabilities.batch_seconds
                or self._goes_alone(following[INLET])
                or self._is_suspect(following)
            ):
                break
            spent += pace
            items.append(following)
            source.popleft()
        return items

    def _more_stateless(self, item: Item, spent: float, most: int, newest: bool) -> list[Item]:
        """Add the oldest (or newest) of what waits, while it is of stateless routines; each has a permit. Lock."""
        items, run, joins = [item], item[JOB], self._joins
        first, ready = self.first, self.ready
        if not (first or self._losses or item[INLET].node.mailbox.limited):
            spent = self._more_alike(items, spent, most, newest)
        while len(items) < most and (first or ready):
            has_permit = bool(first) and not newest
            following = first[0] if has_permit else ready[-1 if newest else 0] if ready else item
            inlet = following[INLET]
            if following is item or following[JOB] is not run or (self._losses and self._is_suspect(following)):
                break
            if not joins.get(inlet, False) and not self._learn_to_join(inlet):
                break
            pace = self._pace.get(inlet.number, inf)
            spent += pace
            if pace > self._short or spent > self.strategy.capabilities.batch_seconds:
                break
            if has_permit:
                first.popleft()
            elif inlet.node.mailbox.acquire():
                ready.pop() if newest else ready.popleft()
            else:
                break
            items.append(following)
        return items[::-1] if newest else items

    def _more_alike(self, items: list[Item], each: float, most: int, newest: bool) -> float:
        """Add the oldest (or newest) of what waits while it is for the same slot and needs no permit. Lock.

        Return the time that all of it will take.
        """
        inlet, _, run, _, _, _ = items[0]
        ready = self.ready
        take = ready.pop if newest else ready.popleft
        room = _fitting(self.strategy.capabilities.batch_seconds, each, most) - 1
        while room > 0 and ready:
            following = take()
            if following[INLET] is not inlet or following[JOB] is not run:
                (ready.append if newest else ready.appendleft)(following)
                break
            items.append(following)
            room -= 1
        return each * len(items)

    def _take_newest(self) -> Item | Literal[False]:
        """Return the newest activation if its routine keeps nothing: its order does not matter. Lock.

        Where more waits than `max_pending`, what comes last is nearest to the end, and working it off frees memory.
        """
        item = self.ready[-1]
        node = item[INLET].node
        if self.first or travels(node) or item[JOB].halted or not node.mailbox.acquire():
            return False
        return self.ready.pop()

    def _learn_to_join(self, inlet: Inlet) -> bool:
        joins = self._joins[inlet] = not travels(inlet.node) and not self._goes_alone(inlet)
        return joins

    def _goes_alone(self, inlet: Inlet) -> bool:
        """Whether its activations are merged when they are taken, or may be ended."""
        return inlet.merge is not None or inlet.gathers or inlet.node.timeout is not None

    def _is_suspect(self, item: Item) -> bool:
        """Whether a worker was lost while it ran this activation."""
        return (item[JOB].job_id, item[NUMBER]) in self._losses

    # -- coming back

    def came_back(self, task: RemoteTask) -> None:
        """Count a batch as no longer away."""
        with self.engine.lock:
            self.homing.add(task)
            self.away.discard(task)
            self.active -= 1

    # -- after an interruption

    def has_of(self, run: Job) -> bool:
        return super().has_of(run) or any(task.run is run for task in (*self.away, *self.homing))

    def permits(self) -> Iterable[Node]:
        return (node for task in (*self.away, *self.homing) for node in task.permits())

    def recount(self) -> None:
        self.active = len(self.away)

    def take_back_unsent(self) -> None:
        with self.engine.lock:
            mine = [task for task in (*self.away, *self.homing) if task.busy == get_ident()]
        self._recruiters.discard(get_ident())
        for task in mine:
            task.withdraw()

    def measure(self, number: int, seconds: float) -> None:
        """Take the run time of a call into the mean of its inlet. Lock."""
        old = self._pace.get(number)
        self._pace[number] = seconds if old is None else old + WEIGHT * (seconds - old)

    def holds(self, node: Node) -> int:
        """Return for how long what an activation emits is held back, since it may run again."""
        if node.holds:
            return UNTIL_SUCCESS
        return UNTIL_END if _retries_losses(node) else NOT

    def judge(self, run: Run, number: int, failure: Failure) -> Decision:
        """Decide about a failure; a worker's loss is tried again where the routine says so, but not for ever."""
        if not isinstance(failure.exception, WorkerLost):
            return decide(failure, run)
        losses = self._losses[run.job_id, number] = self._losses.get((run.job_id, number), 0) + 1
        enough = losses >= getattr(self.strategy, "max_worker_losses", MAX_LOSSES)
        if not enough and _retries_losses(self.engine.nodes[failure.routine_id]):
            return Decision(ErrorStrategy.RETRY, 0.0)
        decision = decide(failure, run)
        if enough and decision.strategy is ErrorStrategy.RETRY:
            return Decision(failure.policy.after_retries)
        return decision

    def suspect(self, items: list[Item]) -> None:
        """Let activations travel alone from now on: a worker was lost that had run them, and any of them may be why."""
        for item in items:
            self._losses.setdefault((item[JOB].job_id, item[NUMBER]), 0)

    def clear(self, items: Iterable[Item]) -> None:
        """Suspect activations no longer: they are over. Lock."""
        if self._losses:
            for item in items:
                self._losses.pop((item[JOB].job_id, item[NUMBER]), None)

    def goes_on(self, run: Run, node: Node) -> bool:
        """Whether calls behind one that fails may be made before it is decided about: nothing can keep them from it.

        What may stop the job keeps them, and so does another attempt where order holds.
        """
        policy = node.policy
        if type(policy) is not ErrorHandler or run.decide is not None:
            return False
        if policy.strategy is ErrorStrategy.RETRY:
            return policy.after_retries is not ErrorStrategy.STOP and not travels(node)
        return policy.strategy is not ErrorStrategy.STOP

    def weigh(self, inlet: Inlet, size: int, weight: int) -> None:
        """Send fewer calls of a slot together where they are heavy: a worker holds a whole batch, and so do we."""
        most = max(1, BULKY * size // weight)
        if most < self.strategy.capabilities.max_batch:
            with self.engine.lock:
                self._reach[inlet.number] = min(most, self._reach.get(inlet.number, most))

    def learn(self, run: Run, inlet: Inlet, done: int, size: int) -> None:
        """Send fewer calls of a slot together where batches came home early, since the rest has to be sent again."""
        if run.stopped or (done >= size and inlet.number not in self._reach):
            return
        with self.engine.lock:
            reach = self._reach[inlet.number] = 2 * max(done, 1) if done < size else 2 * self._reach[inlet.number]
            if reach > self.strategy.capabilities.max_batch:
                del self._reach[inlet.number]

    def send_whole(self, run: Run) -> None:
        """Let the tasks of a job take every part along: a worker did not have one that it was thought to have."""
        self.whole.add(run.job_id)

    # -- stopping

    def drop(self, run: Job) -> list[Item]:
        """Take out everything of a run that is queued here. The lock is held."""
        if isinstance(run, Run) and run.stopped:
            self._revoked += [task for task in self.away if task.run is run]
            if self._revoked:
                self.engine.deferred.append(self.submit_worker)
        return super().drop(run)

    def revoke(self, run: Job) -> None:
        """Ask the pool for what is away of a run that was stopped; when this returns, it has been asked."""
        with self.engine.lock:
            away = [task for task in self.away if task.run is run]
        self._ask_back(away)

    def _cancel_revoked(self) -> None:
        """Ask the pool for what is away of jobs that have stopped."""
        with self.engine.lock:
            revoked, self._revoked = self._revoked, []
        self._ask_back(revoked)

    def _ask_back(self, tasks: list[RemoteTask]) -> None:
        pool = self.pool
        if pool is None:
            return
        for task in tasks:
            try:
                task.revoke(pool)
            except Exception:
                logger().exception("strategy %r: its pool raised in cancel", self.strategy.name)

    def kill(self, run: Job) -> None:
        """End the workers that run something of a run; its tasks fail as lost."""
        with self.engine.lock:
            running, pool = [task for task in self.away if task.run is run], self.pool
        for task in running:
            try:
                if pool is not None and task.submitted:
                    pool.kill(task)
            except Exception:
                logger().exception("strategy %r: its pool raised in kill", self.strategy.name)

    def lost(self, error: BaseException, opened: int | None = None) -> None:
        """Fail what is away, and every job that has work here: the executor broke. The next job opens a new pool."""
        with self.engine.lock:
            if opened not in (None, self.opened):
                return
            pool, self._broken = self.let_go_of_pool(), error
            away, runs = list(self.away), list(self.engine.runs)
        with ExitStack() as steps:  # from the last to the first, and each of them, whatever another one raises
            steps.callback(self.lose, runs, error)
            if pool is not None:
                steps.callback(self.close_aside, pool)
            for task in away:  # with the last of them a job may end, and another begin, with a new pool
                steps.callback(task.give_up, error)
        with self.engine.lock:
            self.workers = LIMITLESS if self.pool is None else self.workers  # whoever comes is told so

    def forget(self) -> WorkerPool | None:
        for each in (self.away, self.homing, self._recruiters, self._revoked):
            each.clear()
        self._broken = None
        return super().forget()

    def abandon(self) -> None:
        """Fail what is away: the pool was closed, and nothing will come of it."""
        with self.engine.lock:
            away = list(self.away)
        closed = f"strategy {self.strategy.name!r}: its pool was closed while task"
        with ExitStack() as steps:
            for task in away:
                steps.callback(task.give_up, StrategyError(f"{closed} {task.id} ran"))


def _fitting(seconds: float, each: float, most: int) -> int:
    """Return how many calls fit into some seconds, which may be infinite; `most` at most."""
    return most if each * most <= seconds else int(seconds / each)


def _retries_losses(node: Node) -> bool:
    return node.routine.__routilux_settings__.on_worker_lost == "retry"


def _no_task(scheduler: Scheduler) -> Any:
    raise NotImplementedError
