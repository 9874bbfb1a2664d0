"""One task that travels: packed, sent, ended, and what of it has to be put back."""

from __future__ import annotations

import threading
from itertools import groupby
from operator import itemgetter
from time import perf_counter
from typing import TYPE_CHECKING

from routilux_core._binding import Payload
from routilux_core._books import GATHERED
from routilux_core._calling import merged
from routilux_core._dispatch import logger
from routilux_core._home_coming import HomeComing
from routilux_core._plan import Item
from routilux_core._shipping import Crate, Row, crate, packed, travels
from routilux_core.errors import ActivationTimeout, ShippingError, StrategyError
from routilux_core.strategy import WorkerPool

if TYPE_CHECKING:
    from routilux_core._shipped_queue import ShippedQueue


PATIENCE = 1.0  # seconds that a cancel waits for a pool to take a task that it is just given


class ShippedTask(HomeComing):
    """A batch of activations of one job, with their permits: of stateless routines, or all of one with state.

    What comes back is handled under the task's own lock, in the thread of the pool that brings it.
    """

    def __init__(self, queue: ShippedQueue, items: list[Item], quick: bool) -> None:
        super().__init__(items)
        self.id = f"batch-{next(queue.numbers)}"
        self.queue = queue
        self.hub = queue.hub
        self.size = len(items)
        self.run = items[0][2]
        self.node = items[0][0].node
        self.has_state = travels(self.node)
        self.timeout = self.node.timeout
        self.quick = quick  # whether it is expected to take no longer than a batch should
        self.submitted = False
        self._revoked = False
        self._given_up = False
        self._handing = threading.RLock()  # held while the pool is given it, or is asked for it back
        self._lock = threading.RLock()
        self._crate: Crate | None = None

    # -- there

    def send(self) -> None:
        """Pickle the task and give it to the pool; what can't be pickled fails here."""
        try:
            self._pack()
        except BaseException:  # a KeyboardInterrupt in the thread that emits or executes
            if self._end():
                self._back(self.items)
            raise
        pool = self.queue.pool
        if self._ended:
            return
        if pool is None:
            self.fail(StrategyError(f"strategy {self.queue.strategy.name!r}: its pool was closed"))
        elif not self._hand_over(pool):
            self.take_back()

    def _hand_over(self, pool: WorkerPool) -> bool:
        """Give the task to the pool, unless its job was stopped while it was packed."""
        with self._handing:
            if self.run.stopped:
                return False
            self._sent = perf_counter()
            self.submitted = True
            pool.submit(self)
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
            self._crate = self._pack_at_once() or self._pack_one_by_one()
        except ShippingError as error:
            self._refuse(0, error)
        if self._crate is not None:
            self.size, self.parts = len(self.items), frozenset(self._crate.parts)

    def _pack_at_once(self) -> Crate | None:
        """Pickle many calls in one go, which goes where their payloads are plain, as they come."""
        if len(self.items) == 1 or self.run.told_in_detail():
            return None
        rows: list[Row] = [(inlet, [item[1] for item in same]) for inlet, same in groupby(self.items, itemgetter(0))]
        try:
            return self._crated(rows)
        except Exception:  # one by one it is found out which
            return None

    def _pack_one_by_one(self) -> Crate | None:
        rows: list[Row] = []
        payloads: list[Payload] = []
        for index, item in enumerate(self.items):
            try:
                self.queue.luggage.part(item[0].node)
                payloads.append(self._payload(item))
                rows.append((item[0], [packed(item[0], payloads[-1])]))
            except Exception as error:
                self._refuse(index, error)
                break
        made = None if self._ended else self._crated(rows)
        if made is not None and (listeners := self.run.told_in_detail()):
            for item, payload in zip(self.items, payloads, strict=False):
                attempt = self.run.attempts.get(item[3], 1)
                listeners.activation_started(item[0], item[3], attempt, item, payload, worker=0)
        return made

    def _crated(self, rows: list[Row]) -> Crate | None:
        return crate(self.queue.luggage, rows, self.queue.holds, self.run.job_id in self.queue.whole)

    def _payload(self, item: Item) -> Payload:
        """Return what the handler is given, gathered or merged. The routine's permit is held."""
        inlet, payload, run, number, _, _ = item
        if inlet.gathers:
            return inlet.collect(payload[GATHERED])
        if inlet.merge is not None:
            return merged(inlet, payload, run, number, True)
        return payload

    def _refuse(self, index: int, error: Exception) -> None:
        """Fail the first activation where it can't be sent; a later one goes back, and is the first of the next."""
        if index:
            with self.hub.lock:
                self._back_in_order(self.items[index:])
            del self.items[index:]
        elif self._end():
            now = perf_counter()
            self._failed(0, error, now, now, None)
            self._close()

    def payload(self, known: frozenset[str] = frozenset()) -> bytes:
        assert self._crate is not None, "payload() of a task that was never submitted"
        return self._crate.payload(known)

    # -- and back again

    def stream(self, chunk: bytes) -> None:
        with self._lock:
            if self._ended:
                return
            try:
                self._read(chunk)
            except Exception as error:
                self.fail(StrategyError(f"a chunk of task {self.id} can't be read: {error!r}"))
        self.hub.settle([self.run])

    def finish(self, reply: bytes) -> None:
        with self._lock:
            if not self._end():
                return
            try:
                self._read(reply)
            except Exception as error:
                logger().exception("task %s: its reply can't be read", self.id)
                self._fail_rest(StrategyError(f"the reply of task {self.id} can't be read: {error!r}"), None)
            self._close()
        self._settle()

    def fail(self, error: BaseException, at: int | None = None) -> None:
        with self._lock:
            if not self._end():
                return
            self._fail_rest(error, at)
            self._close()
        self._settle()

    def give_up(self, error: BaseException) -> None:
        """Fail it for its pool, which is lost, and may say so of this task, too."""
        self._given_up = True
        self.fail(error)

    def take_back(self) -> None:
        """Put everything back: the pool has not run it."""
        with self._lock:
            if self._end():
                self._close()
        self._settle()

    def _settle(self) -> None:
        self.hub.settle([self.run])

    def _end(self) -> bool:
        """Note that the task is over, if it was not."""
        with self._lock:
            ended, self._ended = self._ended, True
        if ended and not self._given_up:
            logger().warning("task %s was ended twice by its pool; what came later is ignored", self.id)
        elif not ended:
            self.queue.came_back(self)
        return not ended

    def _close(self) -> None:
        """Put back what was not started, and give the permit of a routine with state back."""
        self._crate = None
        rest, self.items = self.items[self._next :], self.items[: self._next]
        with self.hub.lock:
            self._back(rest)
            self.queue.call()

    def _fail_rest(self, error: BaseException, at: int | None) -> None:
        """Fail the activation that ran, or all that were not told where the pool can't say which."""
        now = perf_counter()
        count = len(self.items)
        if at is not None and self.has_state and self._next < at < count:
            # Its routine's state was lost with the worker, so those before it run again, in order, and then it, alone.
            self.queue.suspect(self.run, self.items[at])
            return
        if at is not None and self._next < at < count:
            self._skip_to(at)
        for index in range(self._next, min(self._next + 1, count) if at is not None else count):
            self._failed(index, self._named(index, error), self._sent, now, "")
            if self.has_state:
                return  # it holds the permit, or the rest has got it

    def _named(self, index: int, error: BaseException) -> BaseException:
        """Name the call that a pool has ended: the pool knows its tasks only."""
        inlet = self.items[index][0]
        if not isinstance(error, ActivationTimeout):
            return error
        return ActivationTimeout(f"routine {inlet.node.routine_id!r}, slot {inlet.name!r}: {error}")

    def _skip_to(self, at: int) -> None:
        """Put back what ran before the activation at an index and was not told of; that one is next."""
        with self.hub.lock:
            self._back_in_order(self.items[self._next : at])
        del self.items[self._next : at]

    def _back(self, rest: list[Item]) -> None:
        """Put back what was not started, and the permit of a routine with state. Lock."""
        self._back_in_order(rest)
        if self.has_state:
            self.has_state = False
            self.queue.release(self.node)
