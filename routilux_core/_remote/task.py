"""One task that travels: packed, sent, ended, and what of it has to be put back."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable
from contextvars import copy_context
from functools import partial
from itertools import groupby
from operator import itemgetter
from threading import get_ident
from time import perf_counter
from typing import TYPE_CHECKING

from routilux_core._engine.engine import as_exception, logger
from routilux_core._engine.failures import carry_out
from routilux_core._engine.ledger import GATHERED
from routilux_core._engine.plan import INLET, JOB, NUMBER, PAYLOAD, Item, Node
from routilux_core._local.invocation import merged
from routilux_core._remote.envelopes import Envelope, Row, crate, packed, travels
from routilux_core._remote.receiver import Receiver
from routilux_core._remote.wire import new_label
from routilux_core._routines.signature import Payload
from routilux_core.error_handling import Decision, ErrorStrategy
from routilux_core.errors import ActivationTimeout, StrategyError, is_interrupt
from routilux_core.strategy import WorkerPool

if TYPE_CHECKING:
    from routilux_core._remote.scheduler import RemoteScheduler


PATIENCE = 1.0  # seconds that a cancel waits for a pool to take a task that it is just given


class RemoteTask(Receiver):
    """A batch of activations of one job, with their permits: of stateless routines, or all of one with state.

    What comes back is handled under the task's own lock, in the thread of the pool that brings it.
    """

    def __init__(self, scheduler: RemoteScheduler, items: list[Item], quick: bool) -> None:
        super().__init__(items)
        self.id = f"batch-{next(scheduler.numbers)}"
        self.label = new_label(self.id)
        self.scheduler = scheduler
        self.engine = scheduler.engine
        self.size = len(items)
        self.run = items[0][JOB]
        self.node = items[0][INLET].node
        self.has_state = travels(self.node)
        self.timeout = self.node.timeout
        self.quick = quick  # whether it is expected to take no longer than a batch should
        self.submitted = False
        self.busy: int | None = get_ident()  # the thread that sends it, or sees to its end
        self._around = sys.exception()  # which those are handling who emit, and so send it
        self._revoked = False
        self._ended_by_pool = False
        self._handing = threading.RLock()  # held while the pool is given it, or is asked for it back
        self._lock = threading.RLock()
        self._crate: Envelope | None = None

    # -- there

    def send(self) -> None:
        """Pickle the task and give it to the pool; what can't be pickled fails here."""
        context = copy_context() if self.run.context is None else self.run.context.copy()
        try:
            context.run(self._pack)  # what a merge function sets there, or code that pickles, is for nobody else
        except BaseException:  # a KeyboardInterrupt in the thread that emits or executes
            self.take_back()
            raise
        if self._ended:
            return
        pool = self.scheduler.pool
        if pool is None:
            self.give_up(StrategyError(f"strategy {self.scheduler.strategy.name!r}: its pool was closed"))
        elif not self._hand_over(pool):
            self.take_back()

    def _hand_over(self, pool: WorkerPool) -> bool:
        """Give the task to the pool, unless its job was stopped while it was packed."""
        with self._handing:
            if self.run.stopped:
                return False
            self._sent = perf_counter()
            self.submitted = True
            try:
                pool.submit(self)
            except BaseException as error:  # it never should; or a KeyboardInterrupt: the pool may have it, or not
                refused = StrategyError(f"strategy {self.scheduler.strategy.name!r} raised in submit: {error!r}")
                refused.__cause__ = error
                self.give_up(refused)
                if is_interrupt(error):
                    raise
                self._forget_frames(refused, self._around)
            if not self._ended:
                self.busy = None
        return True

    def revoke(self, pool: WorkerPool) -> None:
        """Ask the pool, once, to drop the task. Its job was stopped: if it has not been handed over, it never will."""
        held = self._handing.acquire(timeout=PATIENCE)
        try:
            asks = self.submitted and not (self._ended or self._revoked)
            self._revoked = self._revoked or asks
            dropped = asks and pool.cancel(self)
        finally:
            if held:
                self._handing.release()
        if dropped:
            self.take_back()

    def _pack(self) -> None:
        if self.has_state:
            self._stats = self.node.routine.stats()
        try:
            with self.scheduler.luggage.packing():
                self._crate = self._pack_at_once() or self._pack_one_by_one()
        except BaseException as error:
            if is_interrupt(error):
                raise
            self._refuse(0, error)
        if self._crate is not None:
            self.size, self.parts = len(self.items), frozenset(self._crate.parts)
            self.scheduler.weigh(self.items[0][INLET], self.size, self._crate.weight)

    def _pack_at_once(self) -> Envelope | None:
        """Pickle many calls in one go, which goes where their payloads are plain, as they come."""
        if len(self.items) == 1 or self.run.told_in_detail():
            return None
        if self.run.own and any(item[INLET].node.unmade for item in self.items):
            return None  # a copy for the job may fail, which is the failure of one call
        rows: list[Row] = [
            (inlet, [item[PAYLOAD] for item in same]) for inlet, same in groupby(self.items, itemgetter(0))
        ]
        try:
            return self._crated(rows)
        except BaseException as error:  # one by one it is found out which
            if is_interrupt(error):
                raise
            return None

    def _pack_one_by_one(self) -> Envelope | None:
        rows: list[Row] = []
        payloads: list[Payload] = []
        for index, item in enumerate(self.items):
            try:
                self.scheduler.luggage.part(item[INLET].node)
                payloads.append(self._payload(item))
                rows.append((item[INLET], [packed(item[INLET], payloads[-1])]))
            except BaseException as error:  # of a merge function, or of a payload's own
                if is_interrupt(error):
                    raise
                self._refuse(index, error)
                break
        made = None if self._ended else self._crated(rows)
        if made is not None and (listeners := self.run.told_in_detail()):
            for item, payload in zip(self.items, payloads, strict=False):
                attempt = self.run.retries.attempt(item[NUMBER])
                listeners.activation_started(item[INLET], item[NUMBER], attempt, item, payload, worker=0)
        return made

    def _crated(self, rows: list[Row]) -> Envelope | None:
        goes_on = partial(self.scheduler.goes_on, self.run)
        owner = self.scheduler
        return crate(self.label, owner.luggage, rows, owner.holds, goes_on, self.run.job_id in owner.whole)

    def _payload(self, item: Item) -> Payload:
        """Return what the handler is given, gathered or merged. The routine's permit is held."""
        inlet, payload, run, number, _, _ = item
        if inlet.gathers:
            return inlet.collect(payload[GATHERED])
        if inlet.merge is not None:
            return merged(inlet, payload, run, number, True)
        return payload

    def _refuse(self, index: int, error: BaseException) -> None:
        """Fail the first activation where it can't be sent; a later one goes back, and is the first of the next."""
        if index:
            with self.engine.lock:
                self._back_in_order(self.items[index:])
            del self.items[index:]
        else:
            self._end_with(lambda: self._failed(0, error, now := perf_counter(), now, ""))
            self._forget_frames(error, self._around)

    def payload(self, known: frozenset[str] = frozenset()) -> bytes:
        assert self._crate is not None, "payload() of a task that was never submitted"
        return self._crate.payload(known)

    # -- and back again

    def stream(self, chunk: bytes) -> None:
        broken: BaseException | None = None
        with self._lock:
            if self._ended:
                return
            try:
                self._read(chunk)
            except BaseException as error:  # of whatever kind: objects of others are unpickled
                broken = error
        if broken is not None:
            self.give_up(self._unreadable("a chunk", broken))
            if is_interrupt(broken):
                raise broken
        self.engine.settle([self.run])

    def finish(self, reply: bytes) -> None:
        self._end_with(lambda: self._read_last(reply), by_pool=True)

    def _read_last(self, reply: bytes) -> None:
        try:
            self._read(reply)
            self.scheduler.learn(self.run, self.items[0][INLET], self._next, self.size)
        except BaseException as error:
            logger().exception("task %s: its reply can't be read", self.id)
            self._fail_rest(self._unreadable("the reply", error), None)
            if is_interrupt(error):
                raise

    def _unreadable(self, what: str, error: BaseException) -> StrategyError:
        if isinstance(error, StrategyError):  # it says itself what was given: another version, or another task's
            return error
        return StrategyError(f"{what} of task {self.id} can't be read: {error!r}")

    def fail(self, error: BaseException, at: int | None = None) -> None:
        known = as_exception(error, f"strategy {self.scheduler.strategy.name!r}")
        self._end_with(lambda: self._fail_for(known, at), by_pool=True)

    def _fail_for(self, error: BaseException, at: int | None) -> None:
        self._fail_rest(error, at)
        self._forget_frames(error, sys.exception())  # it may lead to this task, and to what is in it

    def give_up(self, error: BaseException) -> None:
        """Fail it for its pool, which is lost or closed, and may still say something of this task."""
        self._end_with(lambda: self._fail_rest(error, None))

    def take_back(self) -> None:
        """Put everything back: the pool has not run it."""
        self._end_with(lambda: None)

    def withdraw(self) -> None:
        """Go on where this thread was interrupted while it sent the task or saw to its end: have done with it.

        What the pool may have been given, and won't give back, has failed: it is not to run twice.
        """
        if self._ended:
            self._close()
        elif self.run.stopped or self._can_be_taken_back():
            self.take_back()
        else:
            self.give_up(StrategyError(f"task {self.id}: an exception came while it was given to its pool"))

    def _can_be_taken_back(self) -> bool:
        pool = self.scheduler.pool
        try:
            return not self.submitted or (pool is not None and pool.cancel(self))
        except Exception:
            logger().exception("strategy %r: its pool raised in cancel", self.scheduler.strategy.name)
            return False

    def permits(self) -> Iterable[Node]:
        """Yield the node of each permit that it has. Lock."""
        if self.has_state:
            yield self.node
        elif not travels(self.node):
            yield from (item[INLET].node for item in self.items[self._next :])

    def _end_with(self, what: Callable[[], None], by_pool: bool = False) -> None:
        """End the task, if it has not ended: do this, put back what was not started, and settle its job.

        Whatever is raised on the way, nothing stays claimed, and no job waits for it; a Ctrl-C alone is raised on.
        """
        try:
            with self._lock:
                if not self._end(by_pool):
                    return
                try:
                    what()
                except BaseException as error:
                    self._broke(error)
                    if is_interrupt(error):
                        raise
                finally:
                    self._close()
        finally:
            self.engine.settle([self.run])

    def _end(self, by_pool: bool) -> bool:
        """Note that the task is over, if it was not; a pool that ends what was given up for it does nothing wrong."""
        with self._lock:
            ended, self._ended = self._ended, True
            twice, self._ended_by_pool = ended and by_pool and self._ended_by_pool, self._ended_by_pool or by_pool
        if twice:
            logger().warning("task %s was ended twice by its pool; what came later is ignored", self.id)
        elif not ended:
            self.busy = get_ident()
            self.scheduler.came_back(self)
        return not ended

    def _broke(self, error: BaseException) -> None:
        """Let the job fail: what came of the task could not be counted, and would not be the next time."""
        if is_interrupt(error):
            return
        logger().exception("task %s could not be ended", self.id)
        inlet, payload, run, number, _, _ = self.items[min(self._next, len(self.items) - 1)]
        try:
            carry_out(run, run.failure(inlet, payload, number, error), Decision(ErrorStrategy.STOP))
        finally:
            with self.engine.lock:
                run.stop("failed")

    def _close(self) -> None:
        """Put back what was not started, and give the permit of a routine with state back."""
        if self._ended_by_pool or not self.submitted:  # else the pool may just be asking for it
            self._crate = None
        rest, self.items = self.items[self._next :], self.items[: self._next]
        with self.engine.lock:
            self._back(rest)
            self.scheduler.homing.discard(self)
            self.run.end_if_idle()
            self.scheduler.want_worker()

    def _fail_rest(self, error: BaseException, at: int | None) -> None:
        """Fail the activation that ran, or all that were not told where the pool can't say which."""
        now = perf_counter()
        count = len(self.items)
        if at is not None and self.has_state and self._next < at < count:
            # Its routine's state was lost with the worker, so those before it run again, in order, and then it.
            self.scheduler.suspect(self.items[self._next : at + 1])
            return
        if at is not None and self._next < at < count:
            self._skip_to(at)
        alone = at is not None or self.has_state  # behind a routine with state, the rest has got its permit
        for index in range(self._next, min(self._next + 1, count) if alone else count):
            self._failed(index, self._named(index, error), self._sent, now, "")

    def _named(self, index: int, error: BaseException) -> BaseException:
        """Name the call that a pool has ended: the pool knows its tasks only."""
        inlet = self.items[index][0]
        if not isinstance(error, ActivationTimeout):
            return error
        return ActivationTimeout(f"routine {inlet.node.routine_id!r}, slot {inlet.name!r}: {error}")

    def _skip_to(self, at: int) -> None:
        """Put back what ran before the activation at an index and was not told of; that one is next."""
        with self.engine.lock:
            self.scheduler.suspect(self.items[self._next : at])
            self._back_in_order(self.items[self._next : at])
        del self.items[self._next : at]

    def _back(self, rest: list[Item]) -> None:
        """Put back what was not started, and the permit of a routine with state. Lock."""
        self._back_in_order(rest)
        if self.has_state:
            self.has_state = False
            self.scheduler.release(self.node)
