"""The activations of one task, with their permits, from their leaving the queue until each is counted or put back."""

from __future__ import annotations

from collections.abc import Iterable
from time import perf_counter
from typing import Protocol

from routilux_core._engine.engine import Engine
from routilux_core._engine.failures import OUTCOMES, carry_out, decline
from routilux_core._engine.plan import INLET, JOB, NUMBER, POSTED, Item, Node
from routilux_core._engine.ready import LockedReady
from routilux_core._engine.run import Run
from routilux_core._remote.batching import Paces
from routilux_core._remote.envelopes import travels
from routilux_core._remote.losses import Losses, judge
from routilux_core._threads.guard import guarded
from routilux_core._tracking.history import FAILED, RETRIED
from routilux_core._tracking.tracebacks import forget_frames
from routilux_core.error_handling import Decision, ErrorStrategy
from routilux_core.errors import ActivationTimeout, ShippingError
from routilux_core.strategy import UNKNOWN, Unknown


class Owner(Protocol):
    """What a claim needs of the scheduler whose activations they are."""

    engine: Engine
    ready: LockedReady
    losses: Losses
    paces: Paces


class Claim:
    """What a task has: activations of one job, of stateless routines, or all of one with state.

    They are counted from the first to the last: `next` is the index of the first that is not. A routine with state has
    one permit for all of them, since they are a transaction: its state goes there, and comes home after the last.
    """

    __slots__ = ("emitted", "ended", "has_state", "items", "next", "node", "owner", "run", "told", "worker")

    def __init__(self, owner: Owner, items: list[Item]) -> None:
        self.owner = owner
        self.items = items
        self.run: Run = items[0][JOB]
        self.node = items[0][INLET].node
        self.has_state = travels(self.node)  # and its one permit
        self.next = 0
        self.emitted = 0  # emissions of that one
        self.told = 0  # activations whose end was told, counted or not
        self.worker = 0  # the process that has told so
        self.ended = False  # nothing more will be told

    @guarded
    def permits(self) -> Iterable[Node]:
        """Yield the node of each permit."""
        if self.has_state:
            yield self.node
        elif not travels(self.node):
            yield from (item[INLET].node for item in self.items[self.next :])

    @guarded
    def complete(self, items: list[Item], started: list[float], ended: list[float]) -> None:
        """Count the next activations, of one slot, which have simply completed."""
        node = items[0][INLET].node
        self.owner.paces.measure(items[0][INLET], (ended[-1] - started[0]) / len(items))
        self.run.ledger.complete(items, self.worker, started, ended)
        self.owner.losses.clear(items)
        self.next += len(items)
        self.emitted = 0
        if self.has_state:
            # Its permit is given back with the last one, and not before the reply: a chunk may tell of the last, too.
            if self.ended and self.next == len(self.items):
                self.has_state = False
                self.owner.ready.release(node)
        elif node.mailbox.limited or node.mailbox.waiting:
            for _ in items:
                self.owner.ready.release(node)
        self.run.end_if_idle()

    def fail(self, index: int, error: BaseException, started: float, ended: float, trace: str = "") -> None:
        """Decide about an exception, and count its activation, whatever the deciding itself raises."""
        decision = Decision(ErrorStrategy.STOP)
        try:
            decision = self._decided(index, error, trace)
        finally:
            self._count(index, OUTCOMES.get(decision.strategy, FAILED), started, ended, decision.delay)

    def _decided(self, index: int, error: BaseException, trace: str) -> Decision:
        item = self.items[index]
        inlet, run, number = item[INLET], item[JOB], item[NUMBER]
        failure = run.ledger.failure(item, error, self.emitted, trace)
        return carry_out(run, item, failure, judge(self.owner.losses, run, number, inlet.node, failure))

    def _count(self, index: int, outcome: int, started: float, ended: float, delay: float) -> None:
        """Count an activation that did not simply complete, as the very last thing that it does."""
        item, run = self.items[index], self.run
        started = max(started, item[POSTED])
        # A routine with state has come home with what its calls after this one made of it: they are counted, too.
        permit = not self.has_state or index + 1 >= self.told
        with self.owner.engine.lock:
            run.ledger.record(item, outcome, self.worker, started, max(ended, started))
            if outcome != RETRIED:
                self.owner.losses.clear([item])
            self.next, self.emitted = index + 1, 0
            if self.has_state and permit:
                self._put_back(self.items[index + 1 :])
                del self.items[index + 1 :]
                self.has_state = False  # the permit is no longer this task's
            run.settle(item, outcome, delay, permit)
            run.end_if_idle()

    def fail_rest(self, error: BaseException, at: int | Unknown | None, sent: float) -> None:
        """Fail the activation that ran, or all that were not told where the pool does not say which."""
        now = perf_counter()
        count = len(self.items)
        if at is UNKNOWN:
            # What has emitted is what ran: its end would have been told before another began.
            if not self.emitted and count - self.next > 1:
                self.owner.losses.suspect(self.items[self.next :])  # so each travels alone the next time
                return
            at = self.next
        if at is not None and self.next < at < count:
            self.owner.losses.suspect(self.items[self.next : at])
            if self.has_state:
                # Its state was lost with the worker, so those before it run again, in order, and then it.
                self.owner.losses.suspect([self.items[at]])
                return
            self.put_back(self.next, at)
        alone = at is not None or self.has_state  # behind a routine with state, the rest has got its permit
        for index in range(self.next, min(self.next + 1, count) if alone else count):
            self.fail(index, _named(self.items[index], error), sent, now)

    def refuse(self, error: BaseException, around: BaseException | None) -> None:
        """Fail the first activation, which can't be sent."""
        self.fail(0, error, now := perf_counter(), now)
        self.forget_frames(error, around)

    def decline(self, decision: Decision) -> None:
        """Let the first activation fail without its call, as plugins have decided."""
        done = Decision(ErrorStrategy.STOP)
        now = perf_counter()
        try:
            done = decline(self.run, self.items[0], decision)
        finally:
            self._count(0, OUTCOMES.get(done.strategy, FAILED), now, now, done.delay)

    def broke(self, error: BaseException) -> None:
        """Let the job fail: what came of the task could not be counted, and would not be the next time."""
        item = self.items[min(self.next, len(self.items) - 1)]
        run = item[JOB]
        if run.book is not None:  # what it has of the job is right, and can be recovered
            run.book.detach()
        try:
            carry_out(run, item, run.ledger.failure(item, error), Decision(ErrorStrategy.STOP))
        finally:
            with self.owner.engine.lock:
                run.stop("failed")

    def put_back(self, first: int, end: int | None = None) -> None:
        """Put some of the activations back: they have not begun, or what they did was not told."""
        with self.owner.engine.lock:
            self._put_back(self.items[first:end])
        del self.items[first:end]

    @guarded
    def _put_back(self, rest: list[Item]) -> None:
        """Put activations back before everything else of their queue; discard them where their job stopped."""
        run = self.run
        if run.stopped:
            run.ledger.discard(len(rest))
            if run.book is not None:
                run.book.discard([item[NUMBER] for item in rest])
            for item in rest if not self.has_state else ():
                self.owner.ready.release(item[INLET].node)
            run.end_if_idle()
            return
        if self.has_state:
            self.node.mailbox.put_back(rest)
        else:
            self.owner.ready.first.extendleft(reversed(rest))

    @guarded
    def close(self) -> None:
        """Put back what was not counted, and the permit of a routine with state."""
        rest, self.items = self.items[self.next :], self.items[: self.next]
        self._put_back(rest)
        if self.has_state:
            self.has_state = False
            self.owner.ready.release(self.node)

    def forget_frames(self, error: BaseException, around: BaseException | None) -> None:
        """Let the frames go of an exception of one activation, or one task; not of what is handled `around` it."""
        if not self.owner.engine.keeps_frames:
            forget_frames(error, around)
            if isinstance(error, ShippingError):
                error.value = None  # the payload that could not be sent


def _named(item: Item, error: BaseException) -> BaseException:
    """Name the call that a pool has ended: the pool knows its tasks only."""
    if not isinstance(error, ActivationTimeout):
        return error
    inlet = item[INLET]
    return ActivationTimeout(f"routine {inlet.node.routine_id!r}, slot {inlet.name!r}: {error}")
