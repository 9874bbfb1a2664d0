"""The worker loop: take an activation, call its handler, count it, take the next."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from contextvars import Context
from itertools import islice
from time import perf_counter
from typing import Any

from routilux_core._engine.ending import announce_end
from routilux_core._engine.engine import TICK
from routilux_core._engine.plan import INLET, JOB, NO_KEY, POSTED, SHORT_S, Inlet, Item, Node
from routilux_core._engine.run import Run
from routilux_core._engine.scheduler import Scheduler
from routilux_core._local import backpressure
from routilux_core._local.deadlines import Deadline
from routilux_core._local.emitter import Emitter
from routilux_core._local.invocation import HAS_COMPLETED, Verdict, call_in_context, fail
from routilux_core._routines.frame import CURRENT
from routilux_core._routines.returns import HARMLESS, check_returned
from routilux_core._threads.guard import guarded
from routilux_core._tracking.history import COMPLETED, DISCARDED, LATE, WIDTH

FOREVER = 1 << 29  # activations; small enough for CPython's fast integers
LANE_TURN_S = 0.0002  # in which a worker stays in the lane: more of one routine with state comes together meanwhile
MOST_CLAIMED = 256  # calls of a routine with state that a worker takes at a time
FEW = 16  # calls at a time that are not known to be short
RECORDS_PER_FLUSH = 256  # activations of a lane after which the job is told of them
ENOUGH = RECORDS_PER_FLUSH * WIDTH  # length of a worker's records at which the job is told of others, too

IS_RECORDED = Verdict(COMPLETED)  # and its record made: no more than the permit is to be given back


class Claimed(deque[Item]):
    """Fast calls of one job, which a worker has taken along with the one permit of their `node`, to be made next.

    The worker takes the oldest without the lock. Who takes one back has the lock, and copes with an empty deque.
    """

    __slots__ = ("node",)

    def __init__(self, items: Iterable[Item] = ()) -> None:
        super().__init__(items)
        self.node: Node | None = None  # None when the worker has no such permit


def _is_next_short(source: deque[Item]) -> bool:
    """Return whether the next calls are known to be short. Without the lock: others may just take the last one."""
    try:
        return source[0][INLET].short_calls > 0
    except IndexError:
        return False


class Worker(Emitter):
    """One thread in the loop."""

    __slots__ = ("claimed", "ended", "started", "verdict")

    shares_thread = False  # with other workers, which take turns

    def __init__(self, scheduler: Scheduler, outer: Emitter | None = None) -> None:
        super().__init__(scheduler, outer)
        self.verdict = HAS_COMPLETED  # of the activation in hand
        self.started = self.ended = 0.0
        self.claimed = Claimed()

    def start(self) -> None:
        """Work until the scheduler has nothing left for this worker."""
        with self.scheduler.engine.lock:
            limit = self._sign_in()
        if limit:
            self.work(limit)

    @guarded
    def _sign_in(self) -> int:
        """Count this worker in; return how many activations it is to run, none if it is not wanted."""
        scheduler = self.scheduler
        if scheduler.ready.solo and scheduler.crew.active:  # it counts on being alone: this was for another pool
            scheduler.crew.recruiting = False
            return 0
        scheduler.crew.begin(self.seat.pace)
        scheduler.hands.add(self)
        scheduler.look_again()
        return 1 if scheduler.ready.chosen else FOREVER

    def work(self, limit: int) -> int:
        """Run up to `limit` activations, and return how many.

        What is raised was not raised by a handler, or ends the program.
        """
        engine = self.scheduler.engine
        left, more = limit, True
        try:
            with engine.lock:
                self.scheduler.hands.add(self)
            while more:
                variables = Context()
                left, more = variables.run(self._loop, left, variables)
        except BaseException:
            self._interrupted()
            raise
        finally:
            self.routine = None
            if engine.deferred:
                engine.run_deferred()
        if not (self.depth or self.seat.in_caller):  # there, who waits keeps the time
            self._keep_time()
        return limit - left

    def relieve(self, node: Node) -> None:
        backpressure.relieve(self, node)

    def _keep_time(self) -> None:
        """Look after the timers, where the system gave them no thread, until the scheduler has something to do."""
        scheduler, unclaimed = self.scheduler, False  # whether a task has waited for a worker before
        # Without the lock: an old value of these costs one tick more, or less.
        while scheduler.pool is not None and scheduler.engine.timers.keep_time(TICK):
            if unclaimed and scheduler.crew.recruiting:
                return
            unclaimed = scheduler.crew.recruiting

    def _loop(self, limit: int, variables: Context) -> tuple[int, bool]:
        """Take activations one by one under the lock, and drain the lane in between.

        Return what is left of `limit`, and whether this is to go on, in another context: as soon as a handler has set a
        variable in the one that this runs in. What one call sets, no other call sees, nor who waits here.
        """
        CURRENT.set(self)
        scheduler = self.scheduler
        stuck = False  # whether what comes next in the lane is no fast call of the job that this worker has joined
        while self._step(limit, stuck):
            stuck = False
            if self.item is not None:
                self._handle(self.item)
                limit -= 1
            run = self.joined
            if self.item is None and limit and run is not None and len(variables) == 1:
                source = scheduler.ready.lane if self.claimed.node is None else self.claimed
                if source and run.is_fast:
                    done, stuck = self._drain(source, run, limit, variables)
                    limit -= done
                elif source and run.book is not None:
                    done, stuck = self._go_on(source, run, limit, variables)
                    limit -= done
            if len(variables) > 1:
                return limit, True
        return limit, False

    def _handle(self, item: Item) -> None:
        """Run an activation of whatever kind; it stays in hand if there is more to count than its record."""
        inlet, payload, run, number, cause, posted = item
        node, before = inlet.node, self.emitted
        self.routine, self.permit, self.verdict = node.routine, True, HAS_COMPLETED
        try:
            if inlet.is_fast and run.is_fast:  # the commit to a fast call; `invocation.call` has that of any other
                returned = inlet.call(payload)
                if returned is not None:
                    check_returned(returned, node.routine_id, inlet.name, node.told)
            else:
                self.verdict = call_in_context(self, inlet, payload, run, number)
        except BaseException as error:
            self.ended = perf_counter()
            self.verdict = fail(self, item, error, before)
            return
        self.ended = ended = perf_counter() if run.timed else 0.0
        # Without the lock: of this number nobody writes there while its call is in hand, and in time.
        if self.verdict is HAS_COMPLETED and number not in run.retries.attempts:
            if run.timed:
                started = max(self.started, posted)  # it may have come while this worker waited for the lock
                lent = 0.0 if self.call is None else self.call.lent
                if self.scheduler.ready.shared:
                    inlet.learn(ended - lent - started, 1, self.emitted - before)
                # Without the lock: only this worker appends. Who takes over cuts off the front, and has the lock.
                self.records += (number, cause, inlet.number, posted, started, ended - lent)
            else:
                self.records += (inlet.number,)
            self.verdict = IS_RECORDED
            if not node.mailbox.limited:
                self.item = None

    def _drain(self, source: deque[Item], run: Run, limit: int, variables: Context) -> tuple[int, bool]:
        """Run up to `limit` activations of the lane, or of what was claimed, without the lock.

        As long as they are fast ones of the job that this worker has joined. Return how many it ran, and whether it is
        stuck: the next one is none of these, and has to be taken in a step. This is the hot path: everything is local,
        and the engine makes no call for an activation.
        """
        scheduler, records, clock, call = self.scheduler, self.records, perf_counter, self.call
        ready, crew = scheduler.ready, scheduler.crew
        first = ready.first
        timed, started = run.timed, self.ended if call is None else clock()
        owns = self.claimed.node is not None
        learns = ready.shared  # how long calls take: where others could be called
        unsure: list[Inlet] = []  # whose calls are not known to be short, of those that run
        most = min(limit, FEW if learns and not _is_next_short(source) else RECORDS_PER_FLUSH)
        began, lent, emitted = started if timed else clock(), 0.0, self.emitted
        others = ready.lane if owns else ready.queue
        turn = started + (backpressure.TURN_S if owns else LANE_TURN_S) if timed else 0.0  # until then they wait
        self.call, self.permit = None, owns
        listeners = run.ledger.recorder
        known: Inlet | None = None  # whose the next four are: neighbours in a lane often go the same way
        node: Any = None
        key: Any = None
        handler: Any = None
        slot = 0
        stuck = False
        before_all = len(records)
        try:
            # Without the lock: `popleft` is one step, so no two workers get the same item. An item is in hand in the
            # step in which it is taken: an iterator is not interrupted by a Ctrl-C, as a call would be.
            for item in islice(iter(source.popleft, None), most):
                self.item = item
                inlet, payload, whose, number, cause, posted = item
                if inlet is not known:
                    node, self.routine, key, handler, slot = inlet.short_way
                    # A worker that is alone takes no permit: it need only know that no call below it on the stack has
                    # the last one, which changes only where `emit` runs other handlers, behind which `known` is None.
                    known = inlet if owns or node.mailbox.free else None
                    if learns and not inlet.short_calls:
                        if crew.held and not owns:
                            known = None  # others are not to wait behind it: the step calls them
                        else:
                            unsure.append(inlet)
                # The last look at the job, with the item in hand: behind it, this worker has committed to the call.
                # Who stops a job sets the flag first, and empties the lane then: so either that one finds the item
                # there, or this one finds the flag.
                if whose is not run or not run.is_fast or not inlet.is_fast or known is None:
                    # Back where it was. In a shared lane another worker may run what comes behind it before: order is
                    # free there. What was claimed is nobody else's.
                    source.appendleft(item)
                    self.item = None
                    stuck = not owns
                    break
                before = self.emitted
                try:
                    if key in payload:
                        returned = handler(payload[key])
                    elif key is NO_KEY:
                        returned = handler()
                    else:
                        returned = inlet.call(payload)
                    if returned is not None and (type(returned) not in HARMLESS or inlet.name not in node.told):
                        check_returned(returned, node.routine_id, inlet.name, node.told)
                except BaseException as error:
                    self.started, started = max(started, posted), clock()
                    self.verdict = fail(self, item, error, before)
                    break
                # Its record, without the lock: only this worker appends, and who takes over cuts off the front. It is
                # one `+=` of all columns, so nobody sees half of them; and it comes before the job counts the call.
                if self.call is not None:  # the call has lent its time to handlers that `emit` ran
                    lent += self.call.lent
                    ended = clock() - self.call.lent
                    records += (number, cause, slot, posted, max(started, posted), ended) if timed else (slot,)
                    if not owns:
                        self._give_back(node)
                    self.call = known = None
                    started = clock()
                elif timed:
                    ended = clock()
                    if posted > started:
                        started = posted
                    records += (number, cause, slot, posted, started, ended)
                    started = ended  # the end of one is the start of the next: one look at the clock for each
                else:
                    records += (slot,)
                self.item = None
                # An old value of these costs one activation more before the next step.
                if len(variables) > 1 or ((first or others) and started >= turn):
                    break
                if listeners is not None and not listeners.armed:
                    break
        except IndexError:  # nothing is left in the lane
            pass
        finally:
            self.ended = started
        # About: another thread may have taken some over.
        done = max(0, len(records) - before_all) // run.ledger.history.width
        if learns and done:
            seconds, emissions = (started if timed else clock()) - began - lent, self.emitted - emitted
            if seconds > done * SHORT_S and known is not None and not unsure:
                unsure.append(known)
            for each in unsure:
                each.learn(seconds, done, emissions)
        return done, stuck

    def _go_on(self, lane: deque[Item], run: Run, limit: int, variables: Context) -> tuple[int, bool]:
        """Run up to `limit` activations of the lane as long as they are of a job with a journal, and need no permit.

        What a call of such a job needs is more than `_drain` does, but no step of its own. Return as `_drain` does.
        """
        scheduler, recorder, done = self.scheduler, run.ledger.recorder, 0
        ready, engine = scheduler.ready, scheduler.engine
        turn = self.ended + LANE_TURN_S if run.timed else 0.0  # until then others wait
        try:
            for item in islice(iter(lane.popleft, None), min(limit, RECORDS_PER_FLUSH)):
                self.item = item
                # The last look at the job, but for that at `stopped` in `invocation.call`: as in `_drain`.
                if item[JOB] is not run or run.stopped or run.halted or item[INLET].node.mailbox.limited:
                    lane.appendleft(item)
                    self.item = None
                    return done, True
                self.started, self.call = self.ended or perf_counter(), None
                self._handle(item)
                done += 1
                if self.item is not None or engine.deferred or engine.hurt or len(variables) > 1:
                    break
                if (ready.first or ready.queue) and self.ended >= turn:
                    break
                if recorder is not None and not recorder.armed:
                    break
        except IndexError:  # nothing is left in the lane
            pass
        return done, False

    def _give_back(self, node: Node) -> None:
        """Release the permit that a fast call of a worker that is alone had to take after all."""
        if self.permit:
            with self.scheduler.engine.lock:
                self.permit = False
                self.scheduler.ready.release(node)

    def _step(self, limit: int, stuck: bool) -> bool:
        """Count what was done, and take the next activation, in one step; False if there is nothing to do.

        Nothing is taken where the next ones can be drained from the lane.
        """
        engine, verdict = self.scheduler.engine, self.verdict
        finished: Run | None = None
        engine.acquire()
        try:
            # What was in hand is over.
            if self.item is not None:
                if verdict.outcome == LATE or verdict.interrupt is not None:
                    limit = 0
                self._put_back()
                self._settle(self.item)
            elif self.claimed.node is not None:
                self._give_up_claimed()
            # The job is told, now and then: of what has completed first, of what was posted second.
            run, in_caller = self.joined, self.seat.in_caller
            if run is not None and (in_caller or len(self.records) >= ENOUGH or run.ledger.is_listened_to()):
                self.flush()
                if run.ledger.over == run.ledger.last:
                    finished = self.leave()
                    if finished is not None and in_caller:
                        limit = 0  # whoever waits for it does the work
            # The next one is taken, or the last look finds nothing: in the same step in which this worker signs out.
            following = self._next(stuck) if limit else None
            if following is not self.joined or following is None:
                finished = self.leave() or finished
                if following is None:
                    self._sign_out()
                else:
                    self.join(following)
        finally:
            engine.release()
        # What must not be done under the lock.
        answers = bool(engine.deferred)  # a listener that is told takes its own time
        if answers:
            engine.run_deferred()
        if finished is not None:
            announce_end(finished)
        if verdict.interrupt is not None:
            raise verdict.interrupt
        if engine.hurt:
            engine.mend()
        if answers or finished is not None or not self.ended or verdict is not IS_RECORDED:
            self.ended = perf_counter()
        self.started, self.call = self.ended, None
        return following is not None

    @guarded
    def _next(self, stuck: bool) -> Run | None:
        """Take the next activation, or leave it in the lane; return its job, None where nothing is left."""
        scheduler = self.scheduler
        if (scheduler.crew.workers == 1) is not scheduler.ready.solo and not self.depth:
            scheduler.look_again()
        if scheduler.crew.active > 1 and not self.depth and scheduler.crew.is_spare(self.seat.pace):
            return None
        lane = scheduler.ready.lane
        if lane and not stuck and scheduler.ready.is_turn_of_lane():
            try:
                run: Run = lane[0][JOB]  # a look: it is taken by `_drain`, without the lock, as others take there
            except IndexError:  # another worker was faster
                pass
            else:
                if run.is_fast:
                    return run
        self.permit = True
        item = scheduler.ready.take(self, stuck)
        if item is None:
            return None
        run = item[JOB]
        node = item[INLET].node
        if scheduler.ready.shared and not item[INLET].short_calls:
            scheduler.crew.begin_long(self.seat.pace)
        if node.mailbox.waiting and node.mailbox.limit == 1 and scheduler.ready.shared:
            self._claim(item)
        return run

    @guarded
    def _claim(self, item: Item) -> None:
        """Take an activation along with those that follow it in its routine, if all are fast calls of one job.

        Nobody else could run them: this worker has the one permit.
        """
        node, run, claimed = item[INLET].node, item[JOB], self.claimed
        if not (run.is_fast and item[INLET].is_fast):
            return
        claimed.append(item)
        # Taken at the left end, under the lock. Emitters append at the right one without it, behind this.
        waiting = node.mailbox.waiting
        while waiting and len(claimed) < MOST_CLAIMED and waiting[0][JOB] is run and waiting[0][INLET].is_fast:
            claimed.append(waiting.popleft())
        claimed.node, self.item = node, None

    @guarded
    def _put_back(self) -> None:
        """Let what was claimed, and is left, wait for the permit again, before what came later."""
        claimed = self.claimed
        if claimed.node is not None:
            claimed.node.mailbox.put_back(claimed)
            claimed.clear()
            claimed.node = None

    @guarded
    def _give_up_claimed(self) -> None:
        """Put what was claimed back, with its permit, between two of its calls."""
        node = self.claimed.node
        assert node is not None
        self._put_back()
        self.scheduler.ready.release(node)

    @guarded
    def _settle(self, item: Item) -> None:
        """Count the activation in hand, and give its permit back."""
        node, verdict, call = item[INLET].node, self.verdict, self.call
        if verdict.outcome == LATE:
            assert isinstance(call, Deadline)
            call.come_back()
            return
        if not self.permit:  # a worker that is alone does not take it for a fast call; nobody else could have
            node.mailbox.acquire()
        run: Run = item[JOB]
        if verdict is IS_RECORDED:
            self.scheduler.ready.release(node)
        else:
            if verdict.outcome != DISCARDED:
                self.flush_records()  # in the order in which they ended
                started = max(self.started, item[POSTED])
                ended = self.ended if call is None else self.ended - call.lent
                run.ledger.record(item, verdict.outcome, self.thread, started, max(started, ended))
            run.settle(item, verdict.outcome, verdict.delay)
        self.item = None

    @guarded
    def _sign_out(self) -> None:
        """Count this worker out, unless it works inside an emit."""
        scheduler = self.scheduler
        if self.depth:
            scheduler.hands.discard(self)
        elif self in scheduler.hands:
            scheduler.hands.remove(self)
            scheduler.crew.step_out()
            return
        scheduler.crew.want_worker()

    # -- after an interruption

    def _interrupted(self) -> None:
        """Put the books in order after an exception in the loop: the job of what was in hand is cancelled."""
        if self.verdict.interrupt is not None:
            return  # it came from a handler, and the loop has done so
        self.scheduler.engine.hurt = True
        self.scheduler.engine.mend(self)

    @guarded
    def be_gone(self) -> None:
        """Drop what is in hand, and be counted out; `put_in_order` does the rest."""
        item, self.item = self.item, None
        run: Run | None = None if item is None else item[JOB]
        if isinstance(self.call, Deadline) and self.call.late:
            self.call.come_back()
            run = None
        self._put_back()
        if run is not None:
            run.stop("cancelled")
        self.leave()
        self.scheduler.hands.discard(self)

    def has_of(self, run: Run) -> bool:
        # A copy: this may be another thread, and the worker takes from there without the lock.
        return super().has_of(run) or any(item[JOB] is run for item in self.claimed.copy())

    def permit_of(self) -> Node | None:
        return super().permit_of() if self.claimed.node is None else self.claimed.node
