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
    Problem,
    RemoteError,
    RoutiluxError,
    SavedError,
    SealedRoutineError,
    SerializationError,
    ShippingError,
    StrategyError,
    UnknownNameError,
    UnknownStrategyError,
    WorkerLost,
)
from routilux_core.flow import Flow
from routilux_core.graph import Connection
from routilux_core.hookspecs import Activation, Emission, StrategyRequest, hookimpl
from routilux_core.job import ActivationRecord, JobState, Ledger
from routilux_core.ports import Event, Slot, event, per_worker, slot
from routilux_core.routine import Routine
from routilux_core.strategy import Capabilities, Done, ExecutionStrategy, Host, Task, WorkerPool
from routilux_core.tracking import ExecutionTracker

__all__ = [
    "Activation",
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
    "Emission",
    "EmitError",
    "ErrorHandler",
    "ErrorStrategy",
    "Event",
    "ExecutionStrategy",
    "ExecutionTracker",
    "ExecutorStrategy",
    "Failure",
    "Flow",
    "FlowStateError",
    "Host",
    "JobState",
    "Ledger",
    "PayloadError",
    "Problem",
    "RemoteError",
    "RoutiluxError",
    "Routine",
    "SavedError",
    "SealedRoutineError",
    "SerializationError",
    "ShippingError",
    "Slot",
    "StrategyError",
    "StrategyRequest",
    "Task",
    "UnknownNameError",
    "UnknownStrategyError",
    "WorkerLost",
    "WorkerPool",
    "event",
    "field",
    "hookimpl",
    "per_worker",
    "slot",
]
