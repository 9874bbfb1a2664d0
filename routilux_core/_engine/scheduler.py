"""The work of one strategy: what waits, what may run, and the call for workers. Guarded by the engine's lock.

Only a lane is appended to and taken from without it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from routilux_core._engine.choosing import allowed, as_waiting, bring_back, take_chosen
from routilux_core._engine.ending import Ended
from routilux_core._engine.ledger import LedgerCounts
from routilux_core._engine.plan import INLET, JOB, NUMBER, Inlet, Item, Node
from routilux_core._engine.retries import Retries
from routilux_core._routines.frame import Frame, has_gil
from routilux_core._routines.signature import Payload
from routilux_core._threads.resources import Resources
from routilux_core.errors import StrategyError, is_interrupt
from routilux_core.strategy import Chooser, ExecutionStrategy, Task, Waiting, WorkerPool, check_workers

if TYPE_CHECKING:
    from routilux_core._engine.engine import Engine


class Job(Ended, Protocol):
    """What the engine knows of a run."""

    job_id: str
    own: dict[Node, Node]
    halted: bool
    stopped: bool
    swept: set[int]
    waiters: list[Frame]

    @property
    def ledger(self) -> LedgerCounts: ...
    @property
    def retries(self) -> Retries: ...
    def post(self, inlet: Inlet, payload: Payload, cause: int, now: float) -> None: ...
    def stop(self, status: str) -> None: ...
    def abort(self) -> None: ...
    def doubt(self) -> None: ...
    def end_if_idle(self) -> bool: ...
    def leave(self) -> None: ...
    def lost(self, scheduler: Scheduler, error: BaseException) -> None: ...


class Hand(Protocol):
    """Who takes an activation: `item` is the one in hand, from its leaving the queue until it is counted."""

    item: Item | None


class WorkingHand(Hand, Protocol):
    """A worker in its loop. `claimed` is what it took to do next; it takes the oldest of it without the lock."""

    thread: int
    shares_thread: bool

    @property
    def claimed(self) -> deque[Item]: ...
    def counts(self) -> bool: ...
    def has_of(self, run: Any) -> bool: ...
    def permit_of(self) -> Node | None: ...
    def be_gone(self) -> None: ...


def lanes_are_safe() -> bool:
    """Return whether threads may share a lane without the lock.

    Who leaves counts itself out, then looks at the lane once more; who posts appends, then looks who is counted in. The
    same goes for a permit that is given back, and what waits for one. Only the GIL keeps the order of such plain steps.
    """
    return has_gil()


class Scheduler:
    """The work of one strategy, oldest first, and the pool that does it.

    `ready` is what was posted; `first` is what has a permit of its routine in hand already, and goes before. A worker
    that finds a routine without a permit left moves the activation to that routine's waiting list.

    `lane`, where there is one, is worked off without the lock. Of several workers it has what needs no permit, in
    whatever order. What needs one then goes to its routine's waiting list, without the lock as well, and from there to
    `first` when a permit is free. A worker that is alone (`solo`) has everything in the lane: then nobody else takes
    from it, and permits are taken only by the calls below the newest one on its stack, and kept by calls that wait for
    a retry.
    """

    __slots__ = (
        "__weakref__",
        "_turn",
        "active",
        "awaited",
        "chooser",
        "engine",
        "first",
        "hands",
        "lane",
        "make_task",
        "opened",
        "pool",
        "ready",
        "recruiting",
        "resources",
        "shares_lane",
        "solo",
        "strategy",
        "workers",
    )

    def __init__(self, engine: Engine, strategy: ExecutionStrategy, make_task: Callable[[Scheduler], Any]) -> None:
        self.engine = engine
        self.strategy = strategy
        self.make_task = make_task
        self.first: deque[Item] = deque()
        self.ready: deque[Item] = deque()
        self.lane: deque[Item] | None = None
        self.solo = False
        self.shares_lane = False
        self.pool: WorkerPool | None = None
        self.opened = 0  # changes when the pool does
        self.chooser: Chooser | None = None  # of a pool for tests
        self.workers = 0
        self.active = 0  # workers in their loop
        self.hands: set[WorkingHand] = set()  # of workers in their loop, nested ones included
        self.awaited: set[Hand] = set()  # of workers in an event loop, those with an activation in hand
        self.recruiting = False  # a task is on its way to the pool, and has not begun: one at a time
        self.resources = Resources()
        self._turn = False  # of the lane, where there is work in both

    def open_lane(self) -> None:
        """Let several workers share a lane, where the strategy and the interpreter allow it. The lock is held."""
        can = self.strategy.capabilities
        shares = can.shares_memory and can.parallel and not can.coroutines and self.chooser is None
        self.shares_lane = shares and lanes_are_safe()
        if self.shares_lane:
            if self.lane is None:  # a worker of the pool before this one may still work in its lane
                self.lane = deque()
            self._distribute()

    # -- taking (lock)

    def take(self, hand: Hand, from_lane: bool = False) -> Item | None:
        """Return the oldest activation that may run, with its permit, noted in `hand`. The lock is held.

        What is in the lane comes behind what is not, or `from_lane` before it. It is noted before it leaves the
        queue, so that a KeyboardInterrupt in between can't lose it.
        """
        if self.chooser is not None:
            return take_chosen(self, self.chooser, hand)
        first, ready = self.first, self.ready
        while True:
            if first:
                item = hand.item = first[0]
                first.popleft()
                if not item[JOB].halted:
                    return item
                hand.item = None
                if self.solo:
                    self.end_solo()  # else what comes back of this job would lie beside the lane, and be overtaken
                item[JOB].set_aside(item, True)
                continue
            if self.lane and (from_lane or not ready):
                if self._take_from_lane(hand):
                    return hand.item
                continue
            if not ready:
                hand.item = None
                return None
            item = ready[0]
            node = item[INLET].node
            if item[JOB].halted:
                ready.popleft()
                item[JOB].set_aside(item, False)
            elif node.mailbox.acquire():
                hand.item = item
                ready.popleft()
                return item
            else:
                node.mailbox.waiting.append(item)
                ready.popleft()

    def is_turn_of_lane(self) -> bool:
        """Return whether the lane is next, where there is other work, too. The lock is held."""
        if self.first and self.solo:
            return False
        self._turn = not self._turn
        return self._turn or not (self.first or self.ready)

    def _take_from_lane(self, hand: Hand) -> bool:
        """Take the oldest of the lane, noted in `hand`; False if that one can't run now, or is gone."""
        hand.item = None
        item = self._head_of_lane()
        if item is None:
            return False
        node, run = item[INLET].node, item[JOB]
        if item[NUMBER] in run.swept:
            self._leave_lane()
            run.swept.discard(item[NUMBER])
        elif run.halted and self.solo:
            self.end_solo()
        elif run.halted:
            run.set_aside(item, False)
        elif node.mailbox.acquire():
            hand.item = item
            self._leave_lane()
            return True
        else:
            node.mailbox.waiting.append(item)
            self._leave_lane()
        return False

    def _head_of_lane(self) -> Item | None:
        """Return the oldest of the lane: where others take from it, it has left the lane by now."""
        lane = self.lane
        try:
            return None if not lane else lane[0] if self.solo else lane.popleft()
        except IndexError:  # another worker was faster
            return None

    def _leave_lane(self) -> None:
        """Let the oldest leave the lane of a worker that is alone."""
        if self.solo and self.lane:
            self.lane.popleft()

    def begin_solo(self) -> None:
        """Let the only worker of the flow have everything in its lane, if nothing stands against it. The lock is held.

        While a job is halted, what was set aside of it has to come before the rest: then everything lies in `ready`.
        """
        engine, pool = self.engine, self.pool
        alone = self.workers == 1 and self.active == 1 and len(engine.schedulers) == 1 and self.chooser is None
        if not alone or pool is None or (engine.has_timeouts and not pool.in_caller):
            return  # where calls can be given up, a second worker comes while the first goes on
        if any(run.halted for run in engine.runs):
            return
        self.lane = deque((*self.ready, *(self.lane or ())))
        self.ready.clear()
        self.solo = True

    def look_again(self) -> None:
        """Let the worker that is at its next step be alone, or no longer, as the pool has it now. The lock is held."""
        if not self.solo:
            self.begin_solo()
        elif self.workers != 1:
            self.end_solo()
            self.want_worker()

    def end_solo(self) -> None:
        """Put everything back where others find it. The lock is held."""
        if self.lane is not None:
            self.ready.extend(item for item in self.lane if item[NUMBER] not in item[JOB].swept)
            self.lane.clear()  # a worker below the one that found this may be at work in it
        self.solo = False
        if self.shares_lane:
            self._distribute()
        else:
            self.lane = None

    # -- posting (lock)

    def post(self, item: Item) -> None:
        """Queue an activation."""
        mailbox, lane = item[INLET].node.mailbox, self.lane
        if lane is None:
            self.ready.append(item)
        elif self.solo or not mailbox.limited:
            lane.append(item)
        else:
            mailbox.waiting.append(item)
            mailbox.admit(self.first)

    def post_all(self, items: Iterable[Item], node: Node) -> None:
        """Queue activations of one routine."""
        if self.lane is None:
            self.ready.extend(items)
        elif self.solo or not node.mailbox.limited:
            self.lane.extend(items)
        else:
            node.mailbox.waiting.extend(items)
            self.admit(node)

    def post_again(self, items: list[Item]) -> None:
        """Queue what was taken out, in the order posted, before everything else for the same routines."""
        for item in reversed(items):
            mailbox = item[INLET].node.mailbox
            waits = mailbox.limited and self.lane is not None and not self.solo
            (mailbox.waiting if waits else self.ready).appendleft(item)
        if self.lane is not None and not self.solo:
            for node in {item[INLET].node for item in items}:
                self.admit(node)

    def admit(self, node: Node) -> None:
        """Let what waits for a routine have the permits that are free, and call for workers. The lock is held."""
        node.mailbox.admit(self.first)
        self.want_worker()

    def _distribute(self) -> None:
        """Post what lies in `ready` and needs a permit to where it waits for one when workers share a lane."""
        items = list(self.ready)
        self.ready.clear()
        for item in items:
            if item[INLET].node.mailbox.limited:
                self.post(item)
            else:
                self.ready.append(item)

    def backlog(self) -> int:
        """Return how much is queued here, without the lock: about."""
        lane = self.lane
        return len(self.ready) + (len(lane) if lane else 0)

    def queued(self) -> list[Item]:
        """Return everything that is queued here."""
        lane = () if self.lane is None else self.lane.copy()
        return [*self.first, *self.ready, *(item for item in lane if item[NUMBER] not in item[JOB].swept)]

    def release(self, node: Node) -> None:
        """Give a permit back: to the activation that has waited longest for it, if any. The lock is held."""
        if self.chooser is not None:
            bring_back(self, node.mailbox.waiting)
        node.mailbox.release(self.first)

    def want_worker(self) -> None:
        """Ask for one more worker, if there could be one. Lock; `Engine.run_deferred` follows without it."""
        if self.solo:
            return  # where there could be more workers by now, the one that is alone says so
        if self.active < self.workers and not self.recruiting and (self.ready or self.first or self.lane):
            self.recruiting = True
            self.engine.deferred.append(self.submit_worker)

    def begin(self) -> None:
        """Count a worker in, and call the next one if there is more for it. The lock is held."""
        self.recruiting = False
        self.active += 1
        if self.backlog() + len(self.first) > 1:
            self.want_worker()

    def submit_worker(self) -> None:
        """Hand the pool one task: come and work."""
        try:
            task = self.make_task(self)
            if task.pool is not None:
                self._submit(task.pool, task)
        except BaseException:  # a Ctrl-C: the next call is not to wait for this task
            self.recruiting = False
            raise

    def _submit(self, pool: WorkerPool, task: Task) -> None:
        try:
            pool.submit(task)
        except BaseException as error:  # it never should
            if is_interrupt(error):
                raise
            refused = StrategyError(f"strategy {self.strategy.name!r} raised in submit: {error!r}")
            refused.__cause__ = error
            task.fail(refused)

    # -- after an interruption (lock)

    def has_of(self, run: Job) -> bool:
        """Return whether anything of a run is queued here or in a worker's hands."""
        if any(item[JOB] is run for item in self.queued()) or any(hand.has_of(run) for hand in self.hands):
            return True
        return any(hand.item is not None and hand.item[JOB] is run for hand in self.awaited)

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
            self.active = sum(hand.counts() for hand in self.hands)
        if self.solo and self.active != 1:
            self.end_solo()

    def take_back_unsent(self) -> None:
        """Take back what this thread was just giving to the pool. Not under the lock: in shared memory, nothing."""

    def drop(self, run: Job) -> list[Item]:
        """Take out everything of a run that is queued here, passing its permits on. The lock is held."""
        gone, permits = _sift(self.ready, run), _sift(self.first, run)
        for item in permits:
            self.release(item[INLET].node)
        return gone + permits

    def sweep(self, run: Job) -> list[Item]:
        """Take everything of a stopped run out of the lane and of what workers do next, while they work it off. Lock.

        From the lane of a worker that is alone nobody else may take: what lies there is noted, and dropped when met.
        """
        lane = self.lane
        if lane is None:
            return []
        if self.solo:
            met = [item for item in lane.copy() if item[JOB] is run and item[NUMBER] not in run.swept]
            run.swept.update(item[NUMBER] for item in met)
            return met
        gone = [item for hand in self.hands for item in _taken_back(hand.claimed, run)]
        for _ in range(len(lane)):
            try:
                item = lane.popleft()
            except IndexError:
                break
            (gone if item[JOB] is run else lane).append(item)
        return gone

    def prepare(self, entry: Inlet, payload: Mapping[str, Any], running: bool) -> None:
        """Check what a job needs before it begins: in shared memory, nothing."""

    def revoke(self, run: Job) -> None:
        """Ask the pool for what it was given of a run that was stopped: in shared memory, nothing."""

    def kill(self, run: Job) -> None:
        """End the workers that run something of a run, where that can be done: in shared memory, it can't."""

    def abandon(self) -> None:
        """Give up what the pool, now closed, has not brought back: in shared memory, nothing."""

    def let_go_of_pool(self) -> WorkerPool | None:
        """Have no pool any more, and return the one there was."""
        with self.engine.lock:
            pool, self.pool, self.workers, self.recruiting = self.pool, None, 0, False
            self.opened += 1
        return pool

    def take_pool(self, pool: WorkerPool) -> int:
        """Work with a pool from now on; return the number that `opened` has for it."""
        with self.engine.lock:
            self.pool, self.workers, self.chooser = pool, pool.workers, pool.chooser
            self.opened += 1
            self.open_lane()
            return self.opened

    def workers_changed(self) -> None:
        """Look again how many workers the pool has; a number that makes no sense is refused, and the old one counts."""
        with self.engine.lock:
            if self.pool is None:
                return
            self.workers = check_workers(self.pool)
            self.want_worker()
        self.engine.run_deferred()

    def waiting(self) -> list[Waiting]:
        """Return the activations that may run now, oldest first."""
        with self.engine.lock:
            return [as_waiting(item) for item in allowed(self, len(self.ready)) if not item[JOB].halted]

    def forget(self) -> WorkerPool | None:
        """Have no pool and nothing to do, and return the pool there was. The child of a fork: it is the parent's."""
        self.resources = Resources()
        self.active = 0
        self.solo = False
        for each in (self.hands, self.first, self.ready, self.lane or deque()):
            each.clear()  # in place: a worker that has forked is in its loop
        self.lane = None
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
            self.close_aside(pool)

    def close_aside(self, pool: WorkerPool) -> None:
        """Close a broken pool: not here if that can be helped, since its own thread may tell of its end."""
        try:
            threading.Thread(target=self._close_broken, args=(pool,), name="routilux-close", daemon=True).start()
        except RuntimeError:  # the system gives no more threads
            self._close_broken(pool)

    def _close_broken(self, pool: WorkerPool) -> None:
        try:
            pool.close(cancel=True, timeout=0.0)
        except Exception:
            from routilux_core._text.log import log

            log.warning("strategy %r raised while its broken pool was closed", self.strategy.name, exc_info=True)

    def lose(self, runs: list[Job], error: BaseException) -> None:
        """Let those jobs fail that have work here. A job that has begun since has a pool of its own."""
        with self.engine.lock:
            for run in runs:
                run.lost(self, error)
        self.engine.settle(runs)


def _sift(items: deque[Item], run: Job) -> list[Item]:
    """Take what belongs to a run out of a queue that nobody else touches meanwhile. The lock is held.

    One by one: of what belongs to other jobs, an exception in between loses no more than that one.
    """
    gone: list[Item] = []
    for _ in range(len(items)):
        item = items.popleft()
        (gone if item[JOB] is run else items).append(item)
    return gone


def _taken_back(claimed: deque[Item], run: Job) -> list[Item]:
    """Take everything back of what a worker took to do next, if it is of a run; the worker may take of it, too."""
    mine: list[Item] = []
    if any(item[JOB] is run for item in claimed.copy()):
        while claimed:
            try:
                mine.append(claimed.popleft())
            except IndexError:  # the worker was faster
                break
    return mine
