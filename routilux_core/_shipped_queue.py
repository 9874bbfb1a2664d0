"""The queue of a strategy that does not share memory: it sends activations away in batches, with their permits."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from routilux_core._dispatch import Dispatcher, Job, WorkQueue, logger
from routilux_core._loop import decide
from routilux_core._plan import Inlet, Item, Node
from routilux_core._run import Run
from routilux_core._shipped_task import ShippedTask
from routilux_core._shipping import Luggage, check_payload, travels
from routilux_core.error_handling import Decision, ErrorStrategy, Failure
from routilux_core.errors import StrategyError, WorkerLost
from routilux_core.strategy import ExecutionStrategy

BATCH = 0.004  # seconds of measured run time that a batch should hold at most
QUICK = 0.002  # mean seconds below which a worker may have a second batch waiting
LIMITLESS = 1 << 29
WEIGHT = 0.25  # of the newest measurement in the mean
MAX_LOSSES = 3  # workers that an activation may kill, where the strategy has no `max_worker_losses`


class _Hand:
    """What `WorkQueue.take` notes its activation in."""

    item: Item | None = None


class ShippedQueue(WorkQueue):
    """Work that leaves this process. `active` counts the batches that are away, `workers` how many may be."""

    __slots__ = (
        "_broken",
        "_hand",
        "_losses",
        "_pace",
        "_revoked",
        "away",
        "luggage",
        "numbers",
        "whole",
    )

    def __init__(self, hub: Dispatcher, strategy: ExecutionStrategy) -> None:
        super().__init__(hub, strategy, _no_task)
        self.luggage = Luggage()
        self.numbers = itertools.count(1)
        self.away: set[ShippedTask] = set()
        self.whole: set[str] = set()  # jobs whose tasks take every part along, since a worker had lost one
        self._hand = _Hand()
        self._pace: dict[int, float] = {}  # number of an inlet -> mean seconds of a call
        self._revoked: list[ShippedTask] = []
        self._losses: dict[tuple[str, int], int] = {}  # job and activation -> workers that it has killed
        self._broken: BaseException | None = None

    # -- before a job

    def prepare(self, entry: Inlet, payload: Mapping[str, Any], nodes: list[Node], running: bool) -> None:
        """Pickle what a job needs; what can't be sent is refused here, by name."""
        self.luggage.pack_all(nodes, running)
        if entry.node.queue is self:
            check_payload(entry, dict(payload))
        if not running:
            self._losses.clear()
            self.whole.clear()

    # -- sending

    def recruit(self) -> None:
        """Send batches while there is work for them. The lock is not held."""
        self._cancel_revoked()
        if self._broken is not None and self.pool is None:
            with self.hub.lock:
                self.recruiting = False
            self.lost(self._broken)
            return
        while True:
            with self.hub.lock:
                self.recruiting = False
                task = self._next_task()
            if task is None:
                return
            task.send()

    def _next_task(self) -> ShippedTask | None:
        """Return a batch, counted as away; None if nothing may run now, or enough is away. Lock."""
        pool = self.pool
        if pool is None or not (self.first or self.ready):
            return None
        self.workers = self._limit(pool.workers)
        if self.active >= self.workers:
            return None
        item = self.take(self._hand)
        self._hand.item = None
        if item is None:
            return None
        items, quick = self._batch(item, pool.workers)
        task = ShippedTask(self, items, quick)
        self.away.add(task)
        self.active += 1
        return task

    def _limit(self, workers: int) -> int:
        """Return how many batches may be away: two for each worker only where nobody waits long. Lock."""
        head = self.first[0] if self.first else self.ready[0]
        quick = self._pace.get(head[0].number, QUICK) < QUICK and all(task.quick for task in self.away)
        return 2 * workers if quick else workers

    def _batch(self, item: Item, workers: int) -> tuple[list[Item], bool]:
        """Add to an activation what may travel with it; also return whether that will be quick. Lock."""
        items, spent = [item], self._pace.get(item[0].number)
        if spent is None or self._goes_alone(item):
            return items, spent is not None and spent < QUICK
        node = item[0].node
        waiting = len(self.first) + len(self.ready) + 1
        limit = LIMITLESS if travels(node) else waiting // (2 * workers)
        limit = min(limit, self.strategy.capabilities.max_batch)
        while len(items) < limit:
            following = self._next_of(node, item[2]) if travels(node) else self._next_stateless(item[2])
            if following is None:
                break
            taken, pace = following
            spent += pace
            if spent > BATCH:
                break
            items.append(taken)
            self._leave_queue(taken)
        return items, min(spent, BATCH) / len(items) < QUICK

    def _goes_alone(self, item: Item) -> bool:
        """Whether an activation is merged when it is taken, or may be ended, or comes after what was lost."""
        inlet: Inlet = item[0]
        return (
            inlet.merge is not None
            or inlet.gathers
            or inlet.node.timeout is not None
            or (item[2].job_id, item[3]) in self._losses
        )

    def _next_of(self, node: Node, run: Run) -> tuple[Item, float] | None:
        """Return what a routine with state would run next, if it may follow in the same batch. Lock."""
        item = node.waiting[0] if node.waiting else None
        if item is None and not self.first and self.ready and self.ready[0][0].node is node:
            item = self.ready[0]
        return self._measured(item, run)

    def _next_stateless(self, run: Run) -> tuple[Item, float] | None:
        """Return the oldest activation, if its routine keeps nothing and has a permit left. Lock."""
        if self.first:
            item = self.first[0]
        elif self.ready and self.ready[0][0].node.free:
            item = self.ready[0]
        else:
            return None
        return None if travels(item[0].node) else self._measured(item, run)

    def _measured(self, item: Item | None, run: Run) -> tuple[Item, float] | None:
        if item is None or item[2] is not run or self._goes_alone(item):
            return None
        pace = self._pace.get(item[0].number)
        return None if pace is None else (item, pace)

    def _leave_queue(self, item: Item) -> None:
        """Take out an activation that `_next_of` or `_next_stateless` has returned, with its permit. Lock."""
        node = item[0].node
        if travels(node):
            (node.waiting or self.ready).popleft()
        elif self.first:
            self.first.popleft()
        else:
            node.free -= 1
            self.ready.popleft()

    # -- coming back

    def came_back(self, task: ShippedTask) -> None:
        """Count a batch as no longer away."""
        with self.hub.lock:
            self.away.discard(task)
            self.active -= 1

    def measure(self, inlet: Inlet, seconds: float) -> None:
        """Take the run time of a call into the mean of its slot."""
        old = self._pace.get(inlet.number)
        self._pace[inlet.number] = seconds if old is None else old + WEIGHT * (seconds - old)

    def holds(self, node: Node) -> bool:
        """Whether what an activation emits is held back until it has succeeded, since it may run again."""
        return node.holds or _retries_losses(node)

    def judge(self, run: Run, number: int, failure: Failure) -> Decision:
        """Decide about a failure; a worker's loss is tried again where the routine says so, but not for ever."""
        if not isinstance(failure.exception, WorkerLost):
            return decide(failure)
        losses = self._losses[run.job_id, number] = self._losses.get((run.job_id, number), 0) + 1
        enough = losses >= getattr(self.strategy, "max_worker_losses", MAX_LOSSES)
        if not enough and _retries_losses(self.hub.nodes[failure.routine_id]):
            return Decision(ErrorStrategy.RETRY, 0.0)
        decision = decide(failure)
        if enough and decision.strategy is ErrorStrategy.RETRY:
            return Decision(failure.policy.after_retries)
        return decision

    def suspect(self, run: Run, item: Item) -> None:
        """Let an activation travel alone from now on: a worker was lost while it ran."""
        self._losses.setdefault((run.job_id, item[3]), 0)

    def send_whole(self, run: Run) -> None:
        """Let the tasks of a job take every part along: a worker did not have one that it was thought to have."""
        self.whole.add(run.job_id)

    # -- stopping

    def drop(self, run: Job) -> list[Item]:
        """Take out everything of a run that is queued here. The lock is held."""
        if isinstance(run, Run) and run.stopped:
            self._revoked += [task for task in self.away if task.run is run]
            if self._revoked:
                self.hub.calls.append(self)
        return super().drop(run)

    def _cancel_revoked(self) -> None:
        """Ask the pool for what is away of jobs that have stopped."""
        with self.hub.lock:
            revoked, self._revoked = self._revoked, []
            pool = self.pool
        for task in revoked:
            try:
                if pool is not None and task.submitted and pool.cancel(task):
                    task.take_back()
            except Exception:
                logger().exception("strategy %r: its pool raised in cancel", self.strategy.name)

    def lost(self, error: BaseException) -> None:
        """Fail what is away, and every job that has work here: the executor broke. The next job opens a new pool."""
        with self.hub.lock:
            self._broken, self.pool, away = error, None, list(self.away)
        for task in away:
            task.fail(error)
        super().lost(error)
        with self.hub.lock:
            self.workers = LIMITLESS if self.pool is None else self.workers  # whoever comes is told so

    def abandon(self) -> None:
        """Fail what is away: the pool was closed, and nothing will come of it."""
        with self.hub.lock:
            away = list(self.away)
        for task in away:
            task.fail(StrategyError(f"strategy {self.strategy.name!r}: its pool was closed while task {task.id} ran"))


def _retries_losses(node: Node) -> bool:
    return node.routine.__routilux_settings__.on_worker_lost == "retry"


def _no_task(queue: WorkQueue) -> Any:
    raise NotImplementedError
