"""Routilux Core: a small, plugin-based engine that runs event-driven flows."""

from attrs import field

from routilux_core._executor import ExecutorStrategy
from routilux_core.error_handling import Decision, ErrorHandler, ErrorStrategy, Failure
from routilux_core.errors import (
    ActivationTimeout,
    CapabilityError,
    ConfigurationError,
    DefinitionError,
    DuplicateNameError,
    EmitError,
    FlowStateError,
    PayloadError,
    RemoteError,
    RoutiluxError,
    SealedRoutineError,
    ShippingError,
    StrategyError,
    UnknownNameError,
    UnknownStrategyError,
    WorkerLost,
)
from routilux_core.flow import Flow
from routilux_core.graph import Connection
from routilux_core.job import ActivationRecord, JobState, Ledger
from routilux_core.ports import Event, Slot, event, per_worker, slot
from routilux_core.routine import Routine
from routilux_core.strategy import Capabilities, Done, ExecutionStrategy, Host, Task, WorkerPool

__all__ = [
    "ActivationRecord",
    "ActivationTimeout",
    "Capabilities",
    "CapabilityError",
    "ConfigurationError",
    "Connection",
    "Decision",
    "DefinitionError",
    "Done",
    "DuplicateNameError",
    "EmitError",
    "ErrorHandler",
    "ErrorStrategy",
    "Event",
    "ExecutionStrategy",
    "ExecutorStrategy",
    "Failure",
    "Flow",
    "FlowStateError",
    "Host",
    "JobState",
    "Ledger",
    "PayloadError",
    "RemoteError",
    "RoutiluxError",
    "Routine",
    "SealedRoutineError",
    "ShippingError",
    "Slot",
    "StrategyError",
    "Task",
    "UnknownNameError",
    "UnknownStrategyError",
    "WorkerLost",
    "WorkerPool",
    "event",
    "field",
    "per_worker",
    "slot",
]
