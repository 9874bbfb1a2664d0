"""One task that travels: sent as bytes, and what comes back of it, taken home in the order told."""

from __future__ import annotations

import threading
from time import perf_counter
from typing import TYPE_CHECKING

from routilux_core._binding import Payload
from routilux_core._calling import merged
from routilux_core._decisions import OUTCOMES, carry_out
from routilux_core._dispatch import logger
from routilux_core._history import COMPLETED, FAILED
from routilux_core._home_coming import Sent, take_state_home, unpacked
from routilux_core._pickling import loads
from routilux_core._plan import Item, Node
from routilux_core._relay import replay
from routilux_core._remote_errors import decode
from routilux_core._run import GATHERED, Run
from routilux_core._shipped_routine import add_stats
from routilux_core._shipping import Crate, crate, packed, travels
from routilux_core._telling import Told
from routilux_core.errors import ActivationTimeout, ShippingError, StrategyError
from routilux_core.strategy import Task, WorkerPool

if TYPE_CHECKING:
    from routilux_core._shipped_queue import ShippedQueue


AT_ONCE = 32  # activations that are counted while the lock is held
PATIENCE = 1.0  # seconds that a cancel waits for a pool to take a task that it is just given


class ShippedTask(Task):
    """A batch of activations of one job, with their permits: of stateless routines, or all of one with state.

    What comes back is handled under the task's own lock, in the thread of the pool that brings it.
    """

    def __init__(self, queue: ShippedQueue, items: list[Item], quick: bool) -> None:
        self.id = f"batch-{next(queue.numbers)}"
        self.queue = queue
        self.hub = queue.hub
        self.items = items
        self.size = len(items)
        self.run: Run = items[0][2]
        self.node: Node = items[0][0].node
        self.has_state = travels(self.node)
        self.timeout = self.node.timeout
        self.quick = quick  # whether it is expected to take no longer than a batch should
        self.submitted = False
        self._revoked = False
        self._handing = threading.RLock()  # held while the pool is given it, or is asked for it back
        self._stats: dict[str, float] = {}
        self._lock = threading.RLock()
        self._crate: Crate | None = None
        self._ended = False
        self._next = 0  # index of the first activation whose end was not told
        self._emitted = 0  # of that one
        self._worker = 0
        self._sent = perf_counter()
        self._offset = float("inf")  # of the worker's clock; the quickest message knows best

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
        calls: list[tuple[Node, Item, Payload | bytes]] = []
        payloads: list[Payload] = []
        holds: list[int] = []
        for item in self.items:
            node = item[0].node
            try:
                self.queue.luggage.part(node)
                payloads.append(self._payload(item))
                calls.append((node, item, packed(item[0], payloads[-1])))
            except Exception as error:
                self._refuse(len(calls), error)
                break
            holds.append(self.queue.holds(node))
        if self._ended:
            return
        if self.has_state:
            self._stats = self.node.routine.stats()
        try:
            self._crate = crate(self.queue.luggage, calls, holds, self.run.job_id in self.queue.whole)
        except ShippingError as error:
            self._refuse(0, error)
            return
        self.size, self.parts = len(self.items), frozenset(self._crate.parts)
        if listeners := self.run.told_in_detail():
            for item, payload in zip(self.items, payloads, strict=False):
                attempt = self.run.attempts.get(item[3], 1)
                listeners.activation_started(item[0], item[3], attempt, item, payload, worker=0)

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
        if ended:
            logger().warning("task %s was ended twice by its pool; what came later is ignored", self.id)
        else:
            self.queue.came_back(self)
        return not ended

    def _close(self) -> None:
        """Put back what was not started, and give the permit of a routine with state back."""
        self._crate = None
        rest, self.items = self.items[self._next :], self.items[: self._next]
        with self.hub.lock:
            self._back(rest)
            self.queue.call()

    def _read(self, message: bytes) -> None:
        worker, clock, told, relayed, last = loads(message)
        self._worker = worker
        self._offset = min(self._offset, perf_counter() - clock)
        replay(relayed)
        if last is not None and "state" in last:
            stuck = take_state_home(self.node, last, self._stats)
            if stuck is not None and told:
                index, emitted, started, ended, failure, stats = told[-1]
                told[-1] = index, emitted, started, ended, failure or stuck, stats
        if last is not None and last.get("missing"):
            self.queue.send_whole(self.run)
        self._take_all(told)

    def _take_all(self, told: list[Told]) -> None:
        """Post what was emitted, and count what has ended: what simply completed in one go, the rest one by one."""
        plain: list[tuple[Sent, float, float]] = []
        for index, emitted, started, ended, failure, stats in told:
            if index != self._next + len(plain):
                continue  # told twice
            node = self.items[index][0].node
            sent, unreadable = unpacked(emitted, node) if emitted else ((), None)
            if stats is not None:
                add_stats(node.routine, *stats)
            watched = sent and self.run.told_in_detail()  # then they are told before the call counts as over
            if started is not None and failure is None and unreadable is None and not watched:
                plain.append((sent, started, ended))
                continue
            self._complete(plain)
            plain = []
            self._take_one(index, sent, started, ended, decode(failure) if failure else (unreadable, ""))
        self._complete(plain)

    def _take_one(
        self,
        index: int,
        sent: Sent,
        started: float | None,
        ended: float,
        failure: tuple[BaseException | None, str],
    ) -> None:
        """Post what an activation has emitted, tell so, and count it where it has ended."""
        if sent:
            self._post(self.items[index], sent)
        if started is None:
            return
        if failure[0] is None:
            self._complete([((), started, ended)])
        else:
            self._failed(index, failure[0], self._at_home(started), self._at_home(ended), failure[1])

    def _post(self, item: Item, sent: Sent) -> None:
        run, number, now = self.run, item[3], perf_counter()
        with self.hub.lock:
            for outlet, data in sent:
                run.send(outlet, data, number, now)
        self._emitted += len(sent)
        if listeners := run.told_in_detail():
            for outlet, data in sent:
                listeners.event_emitted(item[0].node, outlet, number, now, data)

    def _complete(self, done: list[tuple[Sent, float, float]]) -> None:
        """Post what activations have emitted, and count them: some at a time, since the lock is held meanwhile."""
        run, measure, latest = self.run, self.queue.measure, perf_counter()
        for first in range(0, len(done), AT_ONCE):
            with self.hub.lock:
                for sent, started, ended in done[first : first + AT_ONCE]:
                    item = self.items[self._next]
                    for outlet, data in sent:
                        run.send(outlet, data, item[3], latest)
                    measure(item[0].number, ended - started)
                    started = min(max(started + self._offset, self._sent, item[5]), latest)
                    run.note(item, COMPLETED, self._worker, started, min(max(ended + self._offset, started), latest))
                    self._next += 1
                    self._completed(item, run, item[3])
                self._emitted = 0
                run.quiet()

    def _at_home(self, clock: float) -> float:
        """Return a time of the worker's clock on ours: it lies between the sending and now."""
        return max(self._sent, min(clock + self._offset, perf_counter()))

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

    # -- counting

    def _failed(self, index: int, error: BaseException, started: float, ended: float, trace: str | None) -> None:
        inlet, payload, run, number, _, _ = self.items[index]
        failure = run.failure(inlet, payload, number, error, self._emitted)
        if trace:
            failure.traceback = trace
        decision = self.queue.judge(run, number, failure)
        decision = carry_out(run, failure, decision)
        self._count(index, OUTCOMES.get(decision.strategy, FAILED), started, ended, decision.delay)

    def _count(self, index: int, outcome: int, started: float, ended: float, delay: float) -> None:
        """Count an activation that did not simply complete, as the very last thing that it does."""
        item = self.items[index]
        run: Run = item[2]
        started = max(started, item[5])
        with self.hub.lock:
            run.note(item, outcome, self._worker, started, max(ended, started))
            self._next, self._emitted = index + 1, 0
            if self.has_state:
                self._back_in_order(self.items[index + 1 :])
                del self.items[index + 1 :]
                self.has_state = False  # the permit is no longer this task's
            run.settle(item, outcome, delay)
            run.quiet()

    def _completed(self, item: Item, run: Run, number: int) -> None:
        run.over += 1
        if run.attempts:
            run.attempts.pop(number, None)
        if run.merged_by:
            run.merged_by.discard(number)
        if not self.has_state:
            self.queue.release(item[0].node)
        elif self._ended and self._next == len(self.items):
            self.has_state = False
            self.queue.release(item[0].node)

    def _back(self, rest: list[Item]) -> None:
        """Put back what was not started, and the permit of a routine with state. Lock."""
        self._back_in_order(rest)
        if self.has_state:
            self.has_state = False
            self.queue.release(self.node)

    def _back_in_order(self, rest: list[Item]) -> None:
        """Put activations back before everything else of their queue; discard them where their job stopped. Lock."""
        run = self.run
        if run.stopped:
            run.discard(rest)
            for item in rest if not self.has_state else ():
                self.queue.release(item[0].node)
            run.quiet()
            return
        where = self.node.waiting if self.has_state else self.queue.first
        where.extendleft(reversed(rest))
