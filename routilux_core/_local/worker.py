"""The worker loop: take an activation, call its handler, count it, take the next."""

from __future__ import annotations

from collections import deque
from contextvars import Context
from itertools import islice
from time import perf_counter
from typing import Any

from routilux_core._engine.engine import TICK, as_exception, logger
from routilux_core._engine.plan import INLET, JOB, NO_KEY, POSTED, Inlet, Item, Node
from routilux_core._engine.run import Run
from routilux_core._engine.scheduler import Scheduler
from routilux_core._local.emitter import TURN, Emitter, waits_with
from routilux_core._local.invocation import Caller
from routilux_core._routines.frame import CURRENT, in_greenlet
from routilux_core._routines.returns import HARMLESS, check_returned
from routilux_core._tracking.history import COMPLETED, DISCARDED, LATE, WIDTH
from routilux_core.strategy import Task

FOREVER = 1 << 29  # activations; small enough for CPython's fast integers
MOST_CLAIMED = 64  # calls of a routine with state that a worker takes at a time
RECORDS_PER_FLUSH = 256  # activations of a lane after which the job is told of them
ENOUGH = RECORDS_PER_FLUSH * WIDTH  # length of a worker's records at which the job is told of others, too


class WorkTask(Task):
    """What a pool of shared memory is given: come and work until nothing is left."""

    __slots__ = ("_begun", "id", "pool", "queue", "size", "timeout")

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.pool = scheduler.pool
        self.id = f"work-{id(self):x}"
        self.size = 1
        self.timeout = None
        self._begun = False

    def __call__(self) -> None:
        if self._first():
            pool = self.scheduler.pool
            shares = in_greenlet() and not (pool is not None and pool.in_caller)
            (Interleaved if shares else Worker)(self.scheduler).start()

    def fail(self, error: BaseException, at: int | None = None) -> None:
        if self._first() and self.pool is self.scheduler.pool:  # else it was closed, and what comes of it is history
            self.scheduler.lost(as_exception(error, f"strategy {self.scheduler.strategy.name!r}"))

    def _first(self) -> bool:
        with self.scheduler.engine.lock:
            begun, self._begun = self._begun, True
        if begun:
            logger().warning("task %s was delivered twice by its pool; the second delivery is ignored", self.id)
        return not begun


class Worker(Caller):
    """One thread in the loop."""

    __slots__ = ("claimed", "ended", "in_caller", "outcome", "owner", "started", "stuck")

    shares_thread = False  # with other workers, which take turns

    def __init__(self, scheduler: Scheduler, outer: Emitter | None = None) -> None:
        super().__init__(scheduler, outer)
        self.outcome = COMPLETED  # of the activation in hand
        self.started = self.ended = 0.0
        self.in_caller = scheduler.pool is not None and scheduler.pool.in_caller
        self.stuck = False  # what comes next in the lane is no fast call of the job that this worker is at
        self.owner: Node | None = None  # the routine whose permit this worker has for all that it has claimed
        self.claimed: deque[Item] = deque()  # fast calls of that routine, and of one job, to be made next

    def start(self) -> None:
        """Work until the queue has nothing left for this worker."""
        with self.engine.lock:
            if self.scheduler.solo:  # whoever is alone counts on it: this task was for a pool before, or a larger one
                self.scheduler.recruiting = False
                return
            self.scheduler.begin()
            self.scheduler.hands.add(self)
            self.scheduler.begin_solo()
        self.work(FOREVER if self.scheduler.chooser is None else 1)

    def work(self, limit: int) -> None:
        """Run up to `limit` activations. What is raised was not raised by a handler, or ends the program."""
        left: int | None = limit
        try:
            with self.engine.lock:
                self.scheduler.hands.add(self)
            while left is not None:
                variables = Context()
                left = variables.run(self._loop, left, variables)
        except BaseException:
            self._interrupted()
            raise
        finally:
            self.routine = None
            if self.engine.deferred:
                self.engine.run_deferred()
        if not (self.depth or self.in_caller):  # there, who waits keeps the time
            self._keep_time()

    def _keep_time(self) -> None:
        """Look after the timers, where the system gave them no thread, until the queue has something to do."""
        scheduler, unclaimed = self.scheduler, False  # whether a task has waited for a worker before
        while scheduler.pool is not None and self.engine.timers.keep_time(TICK):
            if unclaimed and scheduler.recruiting:
                return
            unclaimed = scheduler.recruiting

    def _loop(self, limit: int, variables: Context) -> int | None:
        """Take activations one by one under the lock, and work off the lane in between; None when it is done.

        The context that this runs in is nobody else's. As soon as a handler has set a variable in it, what is left of
        `limit` is returned, and goes on in another one: what one call sets, no other call sees, nor who waits here.
        """
        CURRENT.set(self)
        scheduler = self.scheduler
        while self._step(limit):
            if self.item is not None:
                self._handle(self.item)
                limit -= 1
            if self.item is None and limit and self.joined is not None and self.joined.is_fast and len(variables) == 1:
                source = scheduler.lane if self.owner is None else self.claimed
                if source:
                    limit -= self._drain(source, limit, variables)
            if len(variables) > 1:
                return limit
        return None

    def _handle(self, item: Item) -> None:
        """Run an activation of whatever kind; it stays in hand if there is more to count than its record."""
        inlet, payload, run, number, cause, posted = item
        node, before = inlet.node, self.emitted
        self.routine, self.permit, self.outcome = node.routine, True, COMPLETED
        try:
            if inlet.is_fast and run.is_fast:  # the commit to a fast call; `_call` has that of any other
                returned = inlet.call(payload)
                if returned is not None:
                    check_returned(returned, node.routine_id, inlet.name)
            else:
                self.outcome = self._call_in_context(inlet, payload, run, number)
        except BaseException as error:
            self.ended = perf_counter()
            self.outcome = self._failed(item, error, before)
            return
        self.ended = ended = perf_counter() if run.timed else 0.0
        if self.outcome == COMPLETED and number not in run.retries.attempts:
            if run.timed:
                started = max(self.started, posted)  # it may have come while this worker waited for the lock
                self.records += (number, cause, inlet.number, posted, started, ended - self.borrowed)
            else:
                self.records += (inlet.number,)
            self.outcome = RECORDED
            if not node.mailbox.limited:
                self.item = None

    def _drain(self, source: deque[Item], limit: int, variables: Context) -> int:
        """Run up to `limit` activations of the lane, or of what was claimed, without the lock; return how many.

        As long as they are fast ones of the same job. This is the hot path: everything is local. An item is in hand
        in the step in which it is taken: an iterator is not interrupted by a Ctrl-C, as a call would be.
        """
        scheduler, run, records, clock = self.scheduler, self.joined, self.records, perf_counter
        first = scheduler.first
        if run is None or self.interrupt is not None:
            return 0
        most = min(limit, RECORDS_PER_FLUSH)
        timed, started = run.timed, self.ended if not self.borrowed else clock()
        owns = self.owner is not None
        others = scheduler.lane if owns else scheduler.ready
        turn = started + TURN if owns and timed else 0.0  # until then they wait
        self.borrowed, self.permit, self.stuck = 0.0, owns, False
        listeners = run.ledger.recorder
        known: Inlet | None = None  # whose the next four are: neighbours in a lane often go the same way
        node: Any = None
        key: Any = None
        handler: Any = None
        slot = 0
        before_all = len(records)
        try:
            for item in islice(iter(source.popleft, None), most):
                self.item = item
                inlet, payload, whose, number, cause, posted = item
                if inlet is not known:
                    node, self.routine, key, handler, slot = inlet.short_way
                    known = inlet if owns or node.mailbox.free else None
                # The last look at the job: behind it, this worker has committed to the call.
                if whose is not run or not run.is_fast or not inlet.is_fast or known is None:
                    source.appendleft(item)
                    self.item = None
                    self.stuck = not owns
                    break
                before = self.emitted
                try:
                    if key in payload:
                        returned = handler(payload[key])
                    elif key is NO_KEY:
                        returned = handler()
                    else:
                        returned = inlet.call(payload)
                    if returned is not None and type(returned) not in HARMLESS:
                        check_returned(returned, node.routine_id, inlet.name)
                except BaseException as error:
                    self.started, started = max(started, posted), clock()
                    self.outcome = self._failed(item, error, before)
                    break
                if self.borrowed:
                    ended = clock() - self.borrowed
                    records += (number, cause, slot, posted, max(started, posted), ended) if timed else (slot,)
                    if not owns:
                        self._give_back(node)
                    self.borrowed = 0.0
                    known, started = None, clock()
                elif timed:
                    ended = clock()
                    if posted > started:
                        started = posted
                    records += (number, cause, slot, posted, started, ended)
                    started = ended
                else:
                    records += (slot,)
                self.item = None
                if len(variables) > 1 or ((first or others) and started >= turn):
                    break
                if listeners is not None and not listeners.armed:
                    break
            else:
                return most
        except IndexError:  # nothing is left in the lane
            pass
        finally:
            self.ended = started
        more = len(records) - before_all  # about: another thread may have taken some over
        return max(0, more) // run.ledger.history.width

    def _give_back(self, node: Node) -> None:
        """Release the permit that a fast call of a worker that is alone had to take after all."""
        if self.permit:
            with self.engine.lock:
                self.permit = False
                self.scheduler.release(node)

    def _step(self, limit: int) -> bool:
        """Count what was done, and take the next activation, in one step; False if there is nothing to do.

        Nothing is taken where the next ones can be worked off in the lane.
        """
        engine, interrupt = self.engine, self.interrupt
        finished: Run | None = None
        engine.acquire()
        try:
            if self.item is not None:
                if self.outcome == LATE or interrupt is not None:
                    limit = 0
                self._put_back()
                self._settle(self.item)
            else:
                self._give_up_claimed()
            if self.joined is not None and (
                self.in_caller or len(self.records) >= ENOUGH or self.joined.ledger.is_listened_to()
            ):
                self.flush_records()
                self.flush_posted()
                if self.joined.ledger.over == self.joined.ledger.last:
                    finished = self.leave()
                    if finished is not None and self.in_caller:
                        limit = 0  # whoever waits for it does the work
            following = self._next() if limit else None
            if following is not self.joined or following is None:
                finished = self.leave() or finished
                if following is None:
                    self._sign_out()
                else:
                    self.join(following)
        finally:
            engine.release()
        answers = bool(engine.deferred)  # a listener that is told takes its own time
        if answers:
            engine.run_deferred()
        if finished is not None:
            finished.announce_end()
        if interrupt is not None:
            raise interrupt
        if engine.hurt:
            engine.mend()
        if answers or finished is not None or not self.ended or self.outcome != RECORDED:
            self.ended = perf_counter()
        self.started, self.borrowed = self.ended, 0.0
        return following is not None

    def _next(self) -> Run | None:
        """Take the next activation, or leave it in the lane; return its job, None where nothing is left. Lock."""
        scheduler = self.scheduler
        if (scheduler.workers == 1) is not scheduler.solo and not self.depth:
            scheduler.look_again()
        lane = scheduler.lane
        if lane and not self.stuck and scheduler.is_turn_of_lane():
            try:
                run: Run = lane[0][JOB]
            except IndexError:  # another worker was faster
                pass
            else:
                if run.is_fast:
                    return run
        self.permit = True
        item = scheduler.take(self, self.stuck)
        self.stuck = False
        if item is None:
            return None
        run = item[JOB]
        node = item[INLET].node
        if node.mailbox.waiting and node.mailbox.limit == 1 and scheduler.shares_lane and not scheduler.solo:
            self._claim(item)
        return run

    def _claim(self, item: Item) -> None:
        """Take an activation along with those that follow it in its routine, if all are fast calls of one job. Lock.

        Nobody else could run them: this worker has the one permit.
        """
        node, run, claimed = item[INLET].node, item[JOB], self.claimed
        if not (run.is_fast and item[INLET].is_fast):
            return
        claimed.append(item)
        waiting = node.mailbox.waiting
        while waiting and len(claimed) < MOST_CLAIMED and waiting[0][JOB] is run and waiting[0][INLET].is_fast:
            claimed.append(waiting.popleft())
        self.owner, self.item = node, None

    def _put_back(self) -> None:
        """Let what was claimed, and is left, wait for the permit again, before what came later. Lock."""
        if self.owner is not None:
            self.owner.mailbox.put_back(self.claimed)
            self.claimed.clear()
            self.owner = None

    def _give_up_claimed(self) -> None:
        """Put what was claimed back, with its permit, between two of its calls. Lock."""
        node = self.owner
        if node is not None:
            self._put_back()
            self.scheduler.release(node)

    def _settle(self, item: Item) -> None:
        """Count the activation in hand, and give its permit back. Lock."""
        node, outcome = item[INLET].node, self.outcome
        if outcome == LATE:  # it was noted and counted when its time was over
            self._come_back()
            return
        if not self.permit:  # a worker that is alone does not take it for a fast call; nobody else could have
            node.mailbox.acquire()
        run: Run = item[JOB]
        if outcome == RECORDED:
            self.scheduler.release(node)
        else:
            if outcome != DISCARDED:
                self.flush_records()  # in the order in which they ended
                started = max(self.started, item[POSTED])
                run.ledger.record(item, outcome, self.thread, started, max(started, self.ended - self.borrowed))
            run.settle(item, outcome, self.delay)
        self.item = None

    def _sign_out(self) -> None:
        """Count this worker out, unless it works inside an emit. Lock."""
        hands = self.scheduler.hands
        if self.depth:
            hands.discard(self)
        elif self in hands:
            hands.remove(self)
            self.scheduler.active -= 1
            if self.scheduler.solo:
                self.scheduler.end_solo()
        self.scheduler.want_worker()

    # -- after an interruption

    def _interrupted(self) -> None:
        """Put the books in order after an exception in the loop: the job of what was in hand is cancelled."""
        if self.interrupt is not None:
            return  # it came from a handler, and the loop has done so
        self.engine.hurt = True
        self.engine.mend(self)

    def be_gone(self) -> None:
        """Drop what is in hand, and be counted out; `put_in_order` does the rest. Lock."""
        item, self.item = self.item, None
        run: Run | None = None if item is None else item[JOB]
        if self.late is not None:
            self._come_back()
            run = None
        self._put_back()
        if run is not None:
            run.stop("cancelled")
        self.leave()
        self.scheduler.hands.discard(self)
        if self.scheduler.solo and not self.depth:
            self.scheduler.end_solo()

    def has_of(self, run: Run) -> bool:
        return super().has_of(run) or any(item[JOB] is run for item in self.claimed.copy())

    def permit_of(self) -> Node | None:
        return super().permit_of() if self.owner is None else self.owner


RECORDED = -1  # completed, and recorded: no more than the permit is to be given back


class Interleaved(Worker):
    """A worker that shares its thread with others that take turns: a greenlet, or a coroutine.

    It runs one activation, so that what a handler started in this thread, and left behind, can't emit as the next.
    Its back-pressure never naps, which would stop all the others.
    """

    __slots__ = ()

    tells = False
    shares_thread = True

    def __init__(self, scheduler: Scheduler, outer: Emitter | None = None) -> None:
        super().__init__(scheduler, outer)
        self.outer = outer  # the context may be a copy of an emitter's, on whose stack this is not

    def start(self) -> None:
        with self.engine.lock:
            self.scheduler.begin()
            self.scheduler.hands.add(self)
        self.work(1)

    def _next(self) -> Run | None:
        self.permit = True
        item = self.scheduler.take(self)
        return None if item is None else item[JOB]

    def _work_off(self, node: Node, enough: int, until: float) -> None:
        scheduler = self.scheduler
        while (before := waits_with(node)) > enough and perf_counter() < until:
            type(self)(scheduler, self).work(1)
            if waits_with(node) >= before:
                return

    def _nap(self, node: Node, mark: int) -> None:
        node.mark = 2 * mark
        self.engine.raised.append(node)
