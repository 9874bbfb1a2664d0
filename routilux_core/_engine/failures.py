"""What is decided about a failure, and what follows from it for the job."""

from __future__ import annotations

from routilux_core._engine.engine import logger
from routilux_core._engine.plan import INLET, PAYLOAD, Item, arrived
from routilux_core._engine.run import Run
from routilux_core._text.printable import Lines
from routilux_core._tracking.history import RETRIED, SKIPPED
from routilux_core.error_handling import Decision, ErrorStrategy, Failure, by_policy
from routilux_core.errors import UNREADABLE, JournalError, NotAdmitted, text_of

OUTCOMES = {ErrorStrategy.SKIP: SKIPPED, ErrorStrategy.RETRY: RETRIED}
STATES = {ErrorStrategy.STOP: "failed", ErrorStrategy.CONTINUE: "error_continued", ErrorStrategy.SKIP: "skipped"}


def decide(failure: Failure, run: Run) -> Decision:
    """Ask the plugins and the policy. What had emitted is not tried again: that would be sent twice."""
    if run.book is not None and isinstance(failure.exception, JournalError):
        return Decision(ErrorStrategy.STOP)  # nothing goes on without its journal
    decision = by_policy(failure) if run.decide is None else run.decide(failure)
    if decision.strategy is not ErrorStrategy.RETRY or not failure.emitted:
        return decision
    decision = Decision(failure.policy.after_retries)
    logger().warning(
        "job %s: RETRY is refused, because routine %r, slot %r had emitted already: only what is emitted under a "
        "policy that was RETRY when the call began is held back; after_retries decides: %s",
        *(failure.job_id, failure.routine_id, failure.slot, decision.strategy.value),
    )
    return decision


def decline(run: Run, item: Item, decision: Decision) -> Decision:
    """Let an activation fail without its call, which a plugin did not admit; return what is done in the end."""
    node = item[INLET].node
    error = NotAdmitted(
        f"routine {node.routine_id!r}, slot {item[INLET].name!r}: the call was not made, because a plugin "
        f"(routilux_admit) has decided {decision.strategy.value!r}"
    )
    return carry_out(run, item, run.ledger.failure(item, error), decision)


def carry_out(run: Run, item: Item, failure: Failure, decision: Decision, status: str = "failed") -> Decision:
    """Note a failure with the decision, and stop the job as `status` on STOP; return what is done in the end."""
    if run.book is not None:
        run.book.failing(item, failure)
    decision = run.engine.note_failure(run, failure, decision, STATES.get(decision.strategy), status)
    _log(run, failure, decision.strategy, status)
    if run.listeners is not None:  # before the activation is counted: behind that, its job may end
        run.listeners.failure_decided(failure, arrived(item[PAYLOAD]))
    return decision


def _log(run: Run, failure: Failure, decision: ErrorStrategy, status: str) -> None:
    """Log an error once, when it is decided for good; a retry is only news, and so is what is raised in the program.

    The traceback comes with the first of a kind that stops the job, or that it goes on after (CONTINUE): several may
    stop it at once. What is skipped has a line. All the others have their tracebacks at the level DEBUG.
    """
    import logging

    level = {ErrorStrategy.STOP: logging.ERROR, ErrorStrategy.RETRY: logging.INFO}.get(decision, logging.WARNING)
    whole = decision in (ErrorStrategy.STOP, ErrorStrategy.CONTINUE) and run.ledger.failures.is_new(failure)
    if status == "cancelled":  # a Ctrl-C, or an exit, which is raised where somebody waits: told there
        level, whole = logging.INFO, False
    if not whole:
        whole = level > logging.INFO and logger().isEnabledFor(logging.DEBUG)
    error, text = failure.exception, text_of(failure.exception)
    readable = not failure.traceback.startswith(UNREADABLE)  # else logging could not format it, and would lose the line
    logger().log(
        level,
        "job %s: routine %r, slot %r, attempt %d: %s%s -> %s%s",
        *(failure.job_id, failure.routine_id, failure.slot, failure.attempt),
        *(type(error).__name__, text and f": {text}", decision.value),
        "" if readable or not whole else Lines(f"\n{failure.traceback}"),
        exc_info=error if readable and whole else None,
    )
