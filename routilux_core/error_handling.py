"""What happens after an exception: the policies, and the record of a failure that a policy decides about."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from math import isfinite
from typing import Any, NamedTuple

from attrs import define, field, frozen, validators

from routilux_core.errors import ConfigurationError, brief, is_interrupt, repr_of
from routilux_core.seconds import FOREVER


class ErrorStrategy(enum.StrEnum):
    """The four things that can be done about an exception in a handler."""

    STOP = "stop"
    CONTINUE = "continue"
    SKIP = "skip"
    RETRY = "retry"

    @classmethod
    def of(cls, value: ErrorStrategy | str) -> ErrorStrategy:
        """Return the member for an enum value or its name in any case."""
        try:
            return cls(value.lower() if isinstance(value, str) else value)
        except ValueError:
            names = ", ".join(repr(member.value) for member in cls)
            raise ConfigurationError(f"unknown error strategy {value!r}: use one of {names}") from None


def _strategy(value: ErrorStrategy | str) -> ErrorStrategy:
    return ErrorStrategy.of(value)


def _delay(value: Any) -> float:
    seconds = _as_float(value)
    if not isfinite(seconds):
        raise ConfigurationError(f"a decision's delay has to be a number of seconds, not {brief(value)}")
    return seconds


def _as_float(value: Any) -> float:
    """Return a number as a float; nan for what is none, or is too large for one."""
    try:
        return float("nan") if isinstance(value, (str, bytes, bytearray, bool)) else float(value)
    except Exception:
        return float("nan")


@frozen
class Decision:
    """What to do about one failure; `delay` is in seconds and counts for RETRY alone. Below 0 it is none."""

    strategy: ErrorStrategy = field(converter=_strategy)
    delay: float = field(default=0.0, converter=_delay)

    @classmethod
    def checked(cls, made: object) -> Decision:
        """Return what a policy or a plugin has made, if it can be carried out; anything else is refused."""
        if not isinstance(made, Decision):
            raise ConfigurationError(
                f"what is decided has to be a Decision, such as Decision('continue') or Decision('retry', 0.5), "
                f"not {brief(made)}"
            )
        return cls(made.strategy, made.delay)


@define(kw_only=True, eq=False)
class Failure:
    """One exception in one call of a handler, with the decision taken for it.

    `activation` is the id of the call in its job, and `cause` that of the one that emitted what it got, None for the
    entry and for what was gathered: as in the records. `attempt` counts from 1. `traceback` is text: the remote one
    where the handler ran in another process.
    `payload_keys` are the names of what had arrived, never the values. `emitted` counts what had left before.
    """

    job_id: str
    routine_id: str
    slot: str
    attempt: int
    exception: BaseException = field(repr=repr_of)  # which may raise, and who prints the errors wants to see them
    traceback: str
    payload_keys: tuple[str, ...]
    policy: ErrorHandler = field(repr=False)
    emitted: int = 0
    decision: ErrorStrategy | None = None
    activation: int = 0
    cause: int | None = None


class LeftOut(NamedTuple):
    """How many failures, decided STOP or CONTINUE, a job did not keep; and how many retried attempts and skips."""

    failures: int = 0
    attempts: int = 0

    @property
    def said(self) -> str:
        """What to add to a text about the others; nothing where all are kept."""
        counts = ((self.failures, "failures"), (self.attempts, "retried or skipped attempts"))
        said = [f"{count:,} more {name}" for count, name in counts if count]
        return f" (not kept: {', '.join(said)})" if said else ""


class Errors(list[Failure]):
    """The failures that a job has kept; its `repr` says how many more there were."""

    def __init__(self, kept: Iterable[Failure] = (), left_out: LeftOut = LeftOut()) -> None:  # noqa: B008
        super().__init__(kept)
        self.left_out = left_out

    def __repr__(self) -> str:
        return f"{super().__repr__()}{self.left_out.said}"


def _exception_types(value: Any) -> tuple[type[BaseException], ...]:
    types = (value,) if isinstance(value, type) else tuple(value) if isinstance(value, Iterable) else (value,)
    for each in types:
        if not (isinstance(each, type) and issubclass(each, BaseException)):
            raise ConfigurationError(f"{each!r} is not an exception type: give a type or a tuple of types")
    return types


def _after_retries(value: Any) -> ErrorStrategy:
    strategy = ErrorStrategy.of(value)
    if strategy is ErrorStrategy.RETRY:
        raise ConfigurationError("after_retries can't be 'retry': use 'stop', 'continue' or 'skip'")
    return strategy


def _number(minimum: float) -> Any:
    def check(_: Any, attribute: Any, value: Any) -> None:
        number = _as_float(value) if isinstance(value, (int, float)) else float("nan")
        if not minimum <= number < float("inf"):
            raise ConfigurationError(f"{attribute.name} has to be a number of at least {minimum:g}, not {brief(value)}")

    return check


def _whole_number(_: Any, attribute: Any, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigurationError(f"{attribute.name} has to be a whole number of at least 0, not {brief(value)}")


@frozen
class ErrorHandler:
    """A policy for exceptions; it holds no counter, so one serves any number of routines and jobs.

    The delay before retry *k* is `retry_delay * retry_backoff ** (k - 1)` seconds, at most `max_delay`, plus up to
    `jitter` seconds drawn evenly. `after_retries` is what happens when the retries are used up, and at once for an
    exception that is not in `retryable_exceptions` or is in `non_retryable_exceptions`.

    >>> policy = ErrorHandler("retry", max_retries=5, retry_delay=0.5, max_delay=3.0, after_retries="continue")
    >>> [policy.delay_before(retry) for retry in range(1, 6)]
    [0.5, 1.0, 2.0, 3.0, 3.0]
    """

    strategy: ErrorStrategy = field(default=ErrorStrategy.STOP, converter=_strategy)
    max_retries: int = field(default=3, validator=_whole_number)
    retry_delay: float = field(default=1.0, validator=_number(0))
    retry_backoff: float = field(default=2.0, validator=_number(0))
    retryable_exceptions: tuple[type[BaseException], ...] = field(default=(Exception,), converter=_exception_types)
    non_retryable_exceptions: tuple[type[BaseException], ...] = field(default=(), converter=_exception_types)
    max_delay: float | None = field(default=None, validator=validators.optional(_number(0)))
    jitter: float = field(default=0.0, validator=_number(0))
    after_retries: ErrorStrategy = field(default=ErrorStrategy.STOP, converter=_after_retries)

    def decide(self, failure: Failure) -> Decision:
        """Return what this policy does about the failure."""
        if self.strategy is not ErrorStrategy.RETRY:
            return Decision(self.strategy)
        if failure.attempt <= self.max_retries and self.is_retryable(failure.exception):
            return Decision(ErrorStrategy.RETRY, self.delay_before(failure.attempt))
        return Decision(self.after_retries)

    def is_retryable(self, exception: BaseException) -> bool:
        """Return whether a retry could help, going by the exception's type."""
        return isinstance(exception, self.retryable_exceptions) and not isinstance(
            exception, self.non_retryable_exceptions
        )

    def delay_before(self, retry: int) -> float:
        """Return the seconds to wait before retry number `retry`, counted from 1."""
        longest = FOREVER if self.max_delay is None else self.max_delay
        delay = min(self.retry_delay, longest)
        if delay and retry > 1:
            try:
                delay = min(self.retry_delay * float(self.retry_backoff) ** (retry - 1), longest)
            except OverflowError:
                delay = longest
        if self.jitter:
            import random

            delay += random.uniform(0.0, self.jitter)
        return delay


def by_policy(failure: Failure) -> Decision:
    """Return what the policy decides; where it raises, or makes what can't be carried out, the job stops."""
    try:
        return Decision.checked(failure.policy.decide(failure))
    except BaseException as error:  # whatever a policy of somebody else's does: the worker goes on
        if is_interrupt(error):
            raise
        from routilux_core._text.log import log

        log.exception("job %s: the error handler of routine %r raised", failure.job_id, failure.routine_id)
        return Decision(ErrorStrategy.STOP)
