"""Calling a handler with everything that goes with it: merging, retries, time-outs, context, and what it raises."""

from __future__ import annotations

import sys
from functools import partial
from time import perf_counter

from routilux_core._engine.engine import logger
from routilux_core._engine.failures import OUTCOMES, carry_out, decide
from routilux_core._engine.ledger import GATHERED
from routilux_core._engine.merging import merged
from routilux_core._engine.plan import INLET, JOB, NUMBER, PAYLOAD, Inlet, Item, Node
from routilux_core._engine.run import Run
from routilux_core._engine.scheduler import Scheduler
from routilux_core._local.deadlines import Deadline, too_long
from routilux_core._local.emitter import Emitter
from routilux_core._routines.frame import CURRENT
from routilux_core._routines.returns import check_returned
from routilux_core._routines.signature import Payload
from routilux_core._tracking.history import COMPLETED, DISCARDED, FAILED, LATE
from routilux_core._tracking.tracebacks import forget_frames
from routilux_core.error_handling import Decision, ErrorStrategy
from routilux_core.errors import ends_program


class Caller(Emitter):
    """A worker's calls that are more than a call."""

    __slots__ = ("around", "delay", "interrupt")

    def __init__(self, scheduler: Scheduler, outer: Emitter | None = None) -> None:
        super().__init__(scheduler, outer)
        self.delay = 0.0  # seconds before the retry that was decided
        self.around = sys.exception()  # which those who wait for this worker, or its emitter, are handling
        self.interrupt: BaseException | None = None

    def _call_in_context(self, inlet: Inlet, payload: Payload, run: Run, number: int) -> int:
        """Call a handler in a copy of the context of who called `execute`; return the outcome."""
        if run.context is None:
            return self._call(inlet, payload, run, number)
        return run.context.copy().run(self._enter, inlet, payload, run, number)

    def _enter(self, inlet: Inlet, payload: Payload, run: Run, number: int) -> int:
        CURRENT.set(self)
        return self._call(inlet, payload, run, number)

    def _call(self, inlet: Inlet, payload: Payload, run: Run, number: int) -> int:
        """Call a handler with everything that goes with it, and return the outcome."""
        if run.stopped:
            return DISCARDED
        node = inlet.node
        payload = self._prepare(inlet, payload, run, number)
        if run.stopped:  # it may have taken its time; behind this look the worker has committed to the call
            return DISCARDED
        self.held = [] if node.holds else None
        deadline = self._deadline(node)
        began = perf_counter()
        if deadline is None and node.timeout is not None:
            self.due = began + node.timeout
        try:
            returned = inlet.call(payload)
            if returned is not None:
                check_returned(returned, node.routine_id, inlet.name)
        except BaseException as error:
            if deadline is not None and deadline.close():
                return self._late_error(node, error)
            if isinstance(error, Exception) and self.is_over():
                raise too_long(node, inlet.name, perf_counter() - began - self.borrowed) from error
            raise
        else:
            if deadline is not None and deadline.close():
                return LATE
            if self.is_over():
                raise too_long(node, inlet.name, perf_counter() - began - self.borrowed)
        finally:
            self.due = None
        self._succeed(run, number)
        return COMPLETED

    def _prepare(self, inlet: Inlet, payload: Payload, run: Run, number: int) -> Payload:
        """Return what the handler sees, and tell that it begins."""
        node = inlet.node
        if node.unmade is not None:
            node.make()
            self.routine = node.routine
        if inlet.gathers:
            payload = inlet.collect(payload[GATHERED])
        elif inlet.merge is not None:
            payload = merged(inlet, payload, run, number, node.holds)
        listeners = run.listeners
        if listeners is not None and listeners.details:
            listeners.activation_started(inlet, number, run.retries.attempt(number), self.item, payload)
        return payload

    def _succeed(self, run: Run, number: int) -> None:
        """Send what was held, and forget what another attempt would have needed."""
        if run.retries.merged:
            run.retries.merged.discard(number)
        held, self.held = self.held, None
        for outlet, data in held or ():
            self._send(outlet, data)

    def _failed(self, item: Item, error: BaseException, before: int) -> int:
        """Decide about an exception, and return the outcome. `before` is how much the worker had emitted until then."""
        inlet, payload, number = item[INLET], item[PAYLOAD], item[NUMBER]
        run: Run = item[JOB]
        self.held = None
        failure = run.ledger.failure(inlet, payload, number, error, self.emitted - before)
        if ends_program(error):
            self.engine.recover()
            self.interrupt = error
            decision = Decision(ErrorStrategy.STOP)
        else:
            decision = decide(failure, run)
        decision = carry_out(run, failure, decision, "failed" if self.interrupt is None else "cancelled")
        self.delay = decision.delay
        if self.interrupt is None and not self.engine.keeps_frames:
            forget_frames(error, self.around)
        return OUTCOMES.get(decision.strategy, FAILED)

    # -- calls whose time is over

    def _deadline(self, node: Node) -> Deadline | None:
        """Return what lets a call fail on time, where another worker can take this one's place."""
        pool = self.scheduler.pool
        if node.timeout is None or self.item is None or pool is None or pool.in_caller:
            return None
        return Deadline(self, self.item)

    def _late_error(self, node: Node, error: BaseException) -> int:
        logger().warning("routine %r: a call whose time was over has raised %r", node.routine_id, error, exc_info=error)
        return LATE

    def give_up(self, deadline: Deadline) -> None:
        """Drop what the current call emits from now on, and let its job end without it. Lock, in the timers' thread."""
        self.late = deadline
        self.leave()

    def step_out(self) -> None:
        """Be counted out while a late call goes on: another worker takes this one's place. Lock, any thread."""
        root = self._root()
        root.away += 1
        if root.away == 1:
            self.scheduler.active -= 1
            self.scheduler.want_worker()

    def step_in(self) -> None:
        """Be counted again: the late call has returned. Lock."""
        root = self._root()
        root.away -= 1
        if not root.away:
            self.scheduler.active += 1

    def _come_back(self) -> None:
        """Be done with a late call. Lock."""
        assert self.late is not None
        self.late.come_back()
        self.item = self.late = self.held = None
        self.engine.deferred.append(partial(self.spare, -1))

    def _root(self) -> Emitter:
        worker: Emitter = self
        while worker.depth and isinstance(worker.outer, Emitter):
            worker = worker.outer
        return worker

    def spare(self, more: int) -> None:
        """Tell the pool that it needs one worker more, or no longer. Not under the lock."""
        pool = self.scheduler.pool
        try:
            if pool is not None:
                pool.spare(more)
        except Exception:
            logger().exception("strategy %r: its pool raised in spare", self.scheduler.strategy.name)
