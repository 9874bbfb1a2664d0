"""What is decided about a failure, and what follows from it for the job."""

from __future__ import annotations

from routilux_core._dispatch import logger
from routilux_core._history import RETRIED, SKIPPED
from routilux_core._run import Run
from routilux_core.error_handling import Decision, ErrorStrategy, Failure
from routilux_core.errors import text_of

OUTCOMES = {ErrorStrategy.SKIP: SKIPPED, ErrorStrategy.RETRY: RETRIED}
STATES = {ErrorStrategy.STOP: "failed", ErrorStrategy.CONTINUE: "error_continued", ErrorStrategy.SKIP: "skipped"}


def decide(failure: Failure, run: Run) -> Decision:
    """Ask the plugins and the policy; a policy that raises itself is logged, and the job stops."""
    try:
        if run.plugins is None:
            return failure.policy.decide(failure)
        from routilux_core._plugins import handle_error  # with it comes pluggy

        return handle_error(run.plugins, failure)
    except (Exception, SystemExit, GeneratorExit):  # whatever a policy of somebody else's does: the worker goes on
        logger().exception("job %s: the error handler of routine %r raised", failure.job_id, failure.routine_id)
        return Decision(ErrorStrategy.STOP)


def carry_out(run: Run, failure: Failure, decision: Decision, status: str = "failed") -> Decision:
    """Note a failure with the decision, and stop the job as `status` on STOP; return what is done in the end."""
    with run.hub.lock:
        if run.stopped and decision.strategy is ErrorStrategy.RETRY:
            decision = Decision(ErrorStrategy.STOP)  # there is no other attempt
        failure.decision = decision.strategy
        run.note_failure(failure, STATES.get(decision.strategy))
        if decision.strategy is ErrorStrategy.STOP:
            run.stop(status)
    _log(failure, decision.strategy)
    return decision


def _log(failure: Failure, decision: ErrorStrategy) -> None:
    """Log an error once, when it is decided for good; a retry is only news. A broken log handler costs the line."""
    error = failure.exception
    import logging

    level = {ErrorStrategy.STOP: logging.ERROR, ErrorStrategy.RETRY: logging.INFO}.get(decision, logging.WARNING)
    try:
        logger().log(
            level,
            "job %s: routine %r, slot %r, attempt %d: %s: %s -> %s",
            *(failure.job_id, failure.routine_id, failure.slot, failure.attempt),
            *(type(error).__name__, text_of(error), decision.value),
            exc_info=error if level > logging.INFO else None,
        )
    except Exception:
        import traceback

        traceback.print_exc()
