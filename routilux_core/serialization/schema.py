"""The saved form as records. `converter` reads and writes them.

A `float` may be written as an integer, which it stays. A policy is a `Value`, too: which exceptions it may name is
known where it is read.
"""

from __future__ import annotations

from typing import NewType

from attrs import frozen

from routilux_core.error_handling import ErrorStrategy
from routilux_core.records import Ledger

Value = NewType("Value", object)  # JSON that stands for any value: `values` reads it, by the class that it is for


@frozen
class StrategyRecord:
    """How a flow runs, as it was given."""

    name: str
    max_workers: int | None
    options: dict[str, Value]


@frozen
class PolicyRecord:
    """What the file has of an error handler: unlike when one is made, all of it."""

    strategy: ErrorStrategy
    max_retries: int
    retry_delay: float
    retry_backoff: float
    retryable_exceptions: tuple[type[BaseException], ...]
    non_retryable_exceptions: tuple[type[BaseException], ...]
    max_delay: float | None
    jitter: float
    after_retries: ErrorStrategy


@frozen
class SettingsRecord:
    """The class keywords of a routine."""

    stateless: bool
    concurrency: int | None
    scope: str
    timeout: float | None
    on_worker_lost: str
    on_crash: str = "retry"  # written only where it is "fail"


@frozen
class SlotRecord:
    """A slot: the name of its handler's method, how arriving data is merged, and whether all of it is passed."""

    handler: str
    merge: str
    whole: bool = False  # written only where it is so


@frozen
class RoutineRecord:
    """A routine: its type's name, its fields, and what it has beside them; no attributes (None): it is made anew."""

    type: str
    strategy: str | None
    settings: SettingsRecord
    fields: dict[str, Value]
    attributes: dict[str, Value] | None
    stats: dict[str, float]
    slots: dict[str, SlotRecord]
    events: dict[str, list[str]]
    error_handler: Value


@frozen
class ConnectionRecord:
    """From an event to a slot."""

    source: str
    event: str
    target: str
    slot: str
    mapping: dict[str, str]


@frozen
class OutputRecord:
    """An event whose payloads jobs collect."""

    routine: str
    event: str
    name: str


@frozen
class FlowRecord:
    """A flow."""

    format: str
    version: int
    flow_id: str
    strategy: StrategyRecord
    max_pending: int
    history_size: int
    error_handler: Value
    routines: dict[str, RoutineRecord]
    connections: list[ConnectionRecord]
    outputs: list[OutputRecord]


@frozen
class ExceptionRecord:
    """An exception as text."""

    type: str
    message: str


@frozen
class FailureRecord:
    """One failure, with its decision."""

    routine: str
    slot: str
    attempt: int
    exception: ExceptionRecord
    traceback: str
    payload_keys: list[str]
    policy: Value
    emitted: int
    decision: ErrorStrategy | None
    activation: int = 0  # where the call is not known, neither of the two is there: files of 0.1 have none
    cause: int | None = None


@frozen
class LeftOutRecord:
    """How many failures, and attempts that were retried or skipped, there were beside those in the record."""

    failures: int
    attempts: int


@frozen(kw_only=True)
class JobRecord:
    """A job. `history` is checked where it is read: its records may get more fields."""

    format: str
    version: int
    job_id: str
    flow_id: str
    status: str
    ledger: Ledger
    late_emissions: int
    routine_states: dict[str, str]
    errors: list[FailureRecord]
    errors_left_out: LeftOutRecord | None = None  # where none were, there is no such key
    outputs: dict[str, list[dict[str, Value]]]
    history: list[dict[str, Value]]
    started_at: float | None = None  # seconds since 1970; files of 0.1 have neither
    ended_at: float | None = None
