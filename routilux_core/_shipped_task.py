"""One task that travels: sent as bytes, and what comes back of it, taken home in the order told."""

from __future__ import annotations

import pickle
import threading
from itertools import groupby
from operator import itemgetter, sub
from time import perf_counter
from typing import TYPE_CHECKING

from routilux_core._binding import Payload
from routilux_core._decisions import OUTCOMES, carry_out
from routilux_core._dispatch import logger
from routilux_core._history import FAILED
from routilux_core._home_coming import take_state_home, unpacked, unpacked_till_error
from routilux_core._listeners import in_detail
from routilux_core._loop import merged
from routilux_core._plan import Item, Node
from routilux_core._relay import replay
from routilux_core._remote_errors import Encoded, decode
from routilux_core._run import GATHERED, Run
from routilux_core._shipped_routine import add_stats
from routilux_core._shipping import Crate, Row, crate, packed, travels
from routilux_core._telling import Data, Told
from routilux_core.errors import ShippingError, StrategyError
from routilux_core.strategy import Task, WorkerPool

if TYPE_CHECKING:
    from routilux_core._shipped_queue import ShippedQueue


AT_ONCE = 256  # activations that are counted while the lock is held
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
        self._heard = 0  # emissions, of all of them
        self._emitted = 0  # of that one
        self._told = 0  # activations whose end was told, counted or not
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
        if len(self.items) == 1 or in_detail(self.run.listeners):
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
        if made is not None and (listeners := in_detail(self.run.listeners)):
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
        worker, clock, told, relayed, last = pickle.loads(message)
        self._worker = worker
        self._offset = min(self._offset, perf_counter() - clock)
        replay(relayed)
        stuck = None
        if last is not None and "state" in last:
            stuck = take_state_home(self.node, last, self._stats)
        if last is not None and last.get("missing"):
            self.queue.send_whole(self.run)
        self._take(told, stuck)

    def _take(self, told: Told, stuck: Encoded | None) -> None:
        """Post what was emitted, and count what has ended: what simply completed in one go, the rest one by one."""
        first, before, started, ends, upto, names, data, stats, failure = told
        if (first, before) != (self._next, self._heard):
            return  # told twice
        self._heard += len(names)
        for index, reset, added in stats:
            add_stats(self.items[index][0].node.routine, reset, added)
        self._told = first + len(ends)
        payloads = None if in_detail(self.run.listeners) else unpacked(data)  # they are told of each emission
        failure = failure or (stuck if ends else None)
        count = 0 if payloads is None else len(ends) - (failure is not None)
        starts = [started, *ends]
        if payloads is not None:
            self._complete(starts, ends[:count], upto, names, payloads)
        rest = upto[count - 1] if count else 0
        for index in range(count, len(ends)):
            error = failure if index == len(ends) - 1 else None
            span = slice(rest, upto[index])
            self._take_one(first + index, names[span], data[span], starts[index], ends[index], error)
            rest = upto[index]
        if rest < len(names):
            self._take_one(first + len(ends), names[rest:], data[rest:], None, 0.0, None)

    def _take_one(
        self,
        index: int,
        names: list[str],
        data: list[Data],
        started: float | None,
        ended: float,
        failure: Encoded | None,
    ) -> None:
        """Post what an activation has emitted, tell so, and count it if it has ended."""
        item = self.items[index]
        payloads, unreadable = unpacked(data), None
        if payloads is None:
            payloads, unreadable = unpacked_till_error(data, item[0].node, names)
        if payloads:
            self._post_one(item, names[: len(payloads)], payloads)
        if started is None:
            return
        error, trace = decode(failure) if failure is not None else (unreadable, "")
        if error is None:
            self._complete([started], [ended], [0], [], [])
        else:
            self._failed(index, error, self._at_home(started), self._at_home(ended), trace)

    def _post_one(self, item: Item, names: list[str], payloads: list[Payload]) -> None:
        node, number, now = item[0].node, item[3], perf_counter()
        with self.hub.lock:
            self._post(node, names, payloads, [number] * len(payloads))
        self._emitted += len(payloads)
        if listeners := in_detail(self.run.listeners):
            for name, payload in zip(names, payloads, strict=True):
                listeners.event_emitted(node, node.outlets[name], number, now, payload)

    def _post(self, node: Node, names: list[str], payloads: list[Payload], causes: list[int]) -> None:
        """Post what activations of one routine have emitted, in the order emitted. Lock."""
        at, now = 0, perf_counter()
        for name, same in groupby(names):
            until = at + len(list(same))
            self.run.send_all(node.outlets[name], payloads[at:until], causes[at:until], now)
            at = until

    def _complete(
        self, starts: list[float], ends: list[float], upto: list[int], names: list[str], payloads: list[Payload]
    ) -> None:
        """Post what completed activations have emitted, and count them; some at a time, since the lock is held."""
        done, at, heard = self.items[self._next : self._next + len(ends)], 0, 0
        for inlet, same in groupby(done, itemgetter(0)):
            items = list(same)
            for first in range(0, len(items), AT_ONCE):
                some = items[first : first + AT_ONCE]
                here = slice(at, at + len(some))
                began, ended = self._times(starts[here], ends[here])
                causes = _causes(some, upto[here], heard)
                span, heard, at = slice(heard, upto[here.stop - 1]), upto[here.stop - 1], here.stop
                with self.hub.lock:
                    self._post(inlet.node, names[span], payloads[span], causes)
                    self.queue.measure(inlet.number, (ended[-1] - began[0]) / len(some))
                    self.run.complete(some, self._worker, began, ended)
                    self._next += len(some)
                    self._emitted = 0
                    self._release(inlet.node, len(some))
                    self.run.quiet()

    def _times(self, started: list[float], ended: list[float]) -> tuple[list[float], list[float]]:
        """Return times of the worker's clock, in order, on ours: they lie between the sending and now."""
        offset, sent, now = self._offset, self._sent, perf_counter()
        if started[0] + offset < sent or ended[-1] + offset > now:
            at_home = self._at_home
            return [at_home(each) for each in started], [at_home(each) for each in ended]
        return [each + offset for each in started], [each + offset for each in ended]

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
            self._failed(index, error, self._sent, now, "")
            if self.has_state:
                return  # it holds the permit, or the rest has got it

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
        # A routine with state has come home with what its calls after this one made of it: they are counted, too.
        permit = not self.has_state or index + 1 >= self._told
        with self.hub.lock:
            run.note(item, outcome, self._worker, started, max(ended, started))
            self._next, self._emitted = index + 1, 0
            if self.has_state and permit:
                self._back_in_order(self.items[index + 1 :])
                del self.items[index + 1 :]
                self.has_state = False  # the permit is no longer this task's
            run.settle(item, outcome, delay, permit)
            run.quiet()

    def _release(self, node: Node, count: int) -> None:
        """Give the permits of completed activations back: that of a routine with state after the last. Lock."""
        if self.has_state:
            if self._ended and self._next == len(self.items):
                self.has_state = False
                self.queue.release(node)
        elif node.limited or node.waiting:
            for _ in range(count):
                self.queue.release(node)

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


def _causes(items: list[Item], upto: list[int], heard: int) -> list[int]:
    """Return for each emission the number of the activation that made it."""
    numbers = [item[3] for item in items]
    if upto == list(range(heard + 1, heard + len(items) + 1)):  # one each
        return numbers
    counts = map(sub, upto, [heard, *upto])
    return [number for number, count in zip(numbers, counts, strict=True) for _ in range(count)]
