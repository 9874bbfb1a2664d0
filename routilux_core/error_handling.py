"""What happens after an exception: the policies, and the record of a failure that a policy decides about."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Any

from attrs import define, field, frozen, validators

from routilux_core.errors import ConfigurationError


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


@frozen
class Decision:
    """What to do about one failure; `delay` is in seconds and counts for RETRY alone."""

    strategy: ErrorStrategy = field(converter=_strategy)
    delay: float = 0.0


@define(kw_only=True, eq=False)
class Failure:
    """One exception in one call of a handler, with the decision taken for it.

    `attempt` counts from 1. `traceback` is text: the remote one where the handler ran in another process.
    `payload_keys` are the names of what had arrived, never the values. `emitted` counts what had left before.
    """

    job_id: str
    routine_id: str
    slot: str
    attempt: int
    exception: BaseException
    traceback: str
    payload_keys: tuple[str, ...]
    policy: ErrorHandler = field(repr=False)
    emitted: int = 0
    decision: ErrorStrategy | None = None


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
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not minimum <= value < float("inf"):
            raise ConfigurationError(f"{attribute.name} has to be a number of at least {minimum:g}, not {value!r}")

    return check


def _whole_number(_: Any, attribute: Any, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigurationError(f"{attribute.name} has to be a whole number of at least 0, not {value!r}")


@frozen
class ErrorHandler:
    """A policy for exceptions; it holds no counter, so one serves any number of routines and jobs.

    The delay before retry *k* is `retry_delay * retry_backoff ** (k - 1)` seconds, at most `max_delay`, plus up to
    `jitter` seconds drawn evenly. `after_retries` is what happens when the retries are used up, and at once for an
    exception that is not in `retryable_exceptions` or is in `non_retryable_exceptions`.
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
        try:
            delay = self.retry_delay * self.retry_backoff ** (retry - 1)
        except OverflowError:
            delay = float("inf")
        if self.max_delay is not None:
            delay = min(delay, self.max_delay)
        if self.jitter:
            import random

            delay += random.uniform(0.0, self.jitter)
        return delay
