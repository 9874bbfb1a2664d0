"""Calling a handler with everything that goes with it: merging, retries, time-outs, context, and what it raises."""

from __future__ import annotations

from time import perf_counter

from routilux_core._engine.engine import logger
from routilux_core._engine.failures import OUTCOMES, carry_out, decide, decline
from routilux_core._engine.plan import GATHERED, JOB, Inlet, Item, Node
from routilux_core._engine.run import Run
from routilux_core._local.deadlines import Deadline, ends_calls, start_deadline, too_long
from routilux_core._local.emitter import CallState, Emitter
from routilux_core._routines.frame import CURRENT
from routilux_core._routines.returns import check_returned
from routilux_core._routines.signature import Payload
from routilux_core._tracking.history import COMPLETED, DISCARDED, FAILED, LATE
from routilux_core._tracking.tracebacks import forget_frames
from routilux_core.error_handling import Decision, ErrorStrategy
from routilux_core.errors import ends_program


class Verdict:
    """How an activation has ended; for a retry with its `delay` in seconds.

    `interrupt` is what ends not only the activation, but also who called for it: a Ctrl-C, say, in its thread.
    """

    __slots__ = ("delay", "interrupt", "outcome")

    def __init__(self, outcome: int, delay: float = 0.0, interrupt: BaseException | None = None) -> None:
        self.outcome, self.delay, self.interrupt = outcome, delay, interrupt


HAS_COMPLETED = Verdict(COMPLETED)
NOT_BEGUN = Verdict(DISCARDED)  # the job was stopped before
RETURNED_LATE = Verdict(LATE)  # it was recorded and counted when its time was over


def call_in_context(worker: Emitter, inlet: Inlet, payload: Payload, run: Run, number: int) -> Verdict:
    """Call a handler in a copy of the context of who called `execute`, if that has anything in it."""
    if run.context is None:
        return call(worker, inlet, payload, run, number)
    return run.context.copy().run(_enter, worker, inlet, payload, run, number)


def _enter(worker: Emitter, inlet: Inlet, payload: Payload, run: Run, number: int) -> Verdict:
    CURRENT.set(worker)
    return call(worker, inlet, payload, run, number)


def call(worker: Emitter, inlet: Inlet, payload: Payload, run: Run, number: int) -> Verdict:
    """Call a handler with everything that goes with it; what it raises, and a time-out, are raised."""
    if run.stopped:
        return NOT_BEGUN
    if run.admit is not None and (declined := ask(worker, run)) is not None:
        return declined
    node = inlet.node
    payload = prepare(worker, inlet, payload, run, number)
    if run.stopped:  # that may have taken its time; behind this look the worker has committed to the call
        return NOT_BEGUN
    if run.book is not None and worker.item is not None and not run.book.begin(worker.item):
        return NOT_BEGUN
    # From here on `emit` may be called, and the timers' thread may look at the time.
    state = worker.call = state_of_call(node, start_deadline(worker, node))
    began = perf_counter()
    try:
        returned = inlet.call(payload)
        if returned is not None:
            check_returned(returned, node.routine_id, inlet.name, node.told)
    except BaseException as error:
        if isinstance(state, Deadline) and state.close():
            if not ends_calls(worker.scheduler):  # else that is how it was ended
                _log_late(node, error)
            return RETURNED_LATE
        if isinstance(error, Exception) and state is not None and state.is_over():
            raise too_long(node, inlet.name, perf_counter() - began - state.lent) from error
        raise
    else:
        if isinstance(state, Deadline) and state.close():
            return RETURNED_LATE
        if state is not None and state.is_over():
            raise too_long(node, inlet.name, perf_counter() - began - state.lent)
    finally:
        if state is not None:
            state.due = None
    succeed(worker, run, number)
    return HAS_COMPLETED


def ask(worker: Emitter, run: Run) -> Verdict | None:
    """Ask the plugins about the activation in hand; return how it has ended where they don't want it to be called.

    That is before anything is merged: an activation that is declined leaves nothing behind.
    """
    item = worker.item
    assert item is not None
    assert run.admit is not None
    decision = run.admit(item, worker.thread)
    if decision is None:
        return None
    decision = decline(run, item, decision)
    return Verdict(OUTCOMES.get(decision.strategy, FAILED), decision.delay)


def state_of_call(node: Node, deadline: Deadline | None = None) -> CallState | None:
    """Return what a call of a node has to know while it runs; None where nothing is held, and no time is limited.

    Without a deadline, which gives the call up on time, it is judged when it returns.
    """
    if not node.holds and node.timeout is None:
        return None
    state = deadline or CallState()
    if node.holds:
        state.held = []
    if node.timeout is not None and deadline is None:
        state.due = perf_counter() + node.timeout
    return state


def prepare(worker: Emitter, inlet: Inlet, payload: Payload, run: Run, number: int) -> Payload:
    """Return what the handler sees, and tell that it begins."""
    node = inlet.node
    if node.unmade is not None:
        node.make()
        worker.routine = node.routine
    if inlet.gathers:
        payload = inlet.collect(payload[GATHERED])
    elif inlet.merge is not None:
        again = node.holds or run.decide is not None
        payload = run.slots.merge(inlet, payload, number, run.retries, again)
    if run.ledger.payloads is not None:
        run.ledger.payloads.begin(number, payload)
    listeners = run.listeners
    if listeners is not None and listeners.details:
        listeners.activation_started(inlet, number, run.retries.attempt(number), worker.item, payload)
    return payload


def succeed(worker: Emitter, run: Run, number: int) -> None:
    """Send what was held, and forget what another attempt would have needed."""
    if run.retries.merged:
        run.retries.merged.discard(number)  # one step, without the lock: only the call of this number writes of it now
    state = worker.call
    if state is None or state.held is None:
        return
    if run.book is not None and worker.item is not None:
        held, state.held = state.held, None
        worker.relieve_all(run.book.complete(worker.item, held), run)
        return
    # No longer held from here on: while these are sent, `emit` may run other handlers, not this one. All of it comes
    # before the activation is counted as over, else its job could end in between.
    held, state.held = state.held, None
    for outlet, data, _ in held:
        worker.send(outlet, data)


def fail(worker: Emitter, item: Item, error: BaseException, before: int, status: str = "failed") -> Verdict:
    """Decide about an exception, and drop what was held. `before` is how much the worker had emitted until the call.

    `status` is that of the job if this stops it; "cancelled" is no news to anybody, and logged as such.
    """
    run: Run = item[JOB]
    engine = run.engine
    if worker.call is not None:
        worker.call.held = None
    failure = run.ledger.failure(item, error, worker.emitted - before)
    if ends_program(error):  # a Ctrl-C may have come anywhere in `emit`, with the lock held
        engine.recover()
        if run.book is not None:  # the program ends, as in a crash: another process goes on with the job
            run.book.detach()
        carry_out(run, item, failure, Decision(ErrorStrategy.STOP), "cancelled")
        return Verdict(FAILED, interrupt=error)
    decision = carry_out(run, item, failure, decide(failure, run), status)
    if not engine.keeps_frames:
        # The failure has the traceback as text. The frames would keep payloads alive, and lead up to this one.
        forget_frames(error, worker.around)
    return Verdict(OUTCOMES.get(decision.strategy, FAILED), decision.delay)


def _log_late(node: Node, error: BaseException) -> None:
    logger().warning("routine %r: a call whose time was over has raised %r", node.routine_id, error, exc_info=error)
