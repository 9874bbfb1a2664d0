"""Routilux Core: a small, plugin-based engine that runs event-driven flows."""

from typing import TYPE_CHECKING

from attrs import field

from routilux_core.error_handling import Decision, ErrorHandler, ErrorStrategy, Failure
from routilux_core.errors import (
    ActivationTimeout,
    CallInDoubt,
    CapabilityError,
    ConfigurationError,
    DefinitionError,
    DuplicateNameError,
    EmitError,
    FlowStateError,
    JobTimeout,
    JournalError,
    NotAdmitted,
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
from routilux_core.job import JobState
from routilux_core.journal import InDoubt, Journal
from routilux_core.ports import Event, Slot, event, per_worker, slot
from routilux_core.routine import Routine
from routilux_core.strategy import UNKNOWN, Busy, Capabilities, Done, ExecutionStrategy, Host, Task, WorkerPool

if TYPE_CHECKING:
    from routilux_core.executors import ExecutorStrategy, make_strategy
    from routilux_core.functions import as_routine
    from routilux_core.hookspecs import Activation, Emission, StrategyRequest, hookimpl
    from routilux_core.mapping import map as map  # not in __all__: `import *` leaves the builtin alone
    from routilux_core.records import ActivationRecord, Ledger
    from routilux_core.tracking import ExecutionTracker

    __version__: str

__all__ = [
    "UNKNOWN",
    "Activation",
    "ActivationRecord",
    "ActivationTimeout",
    "Busy",
    "CallInDoubt",
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
    "InDoubt",
    "JobState",
    "JobTimeout",
    "Journal",
    "JournalError",
    "Ledger",
    "NotAdmitted",
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
    "as_routine",
    "event",
    "field",
    "hookimpl",
    "make_strategy",
    "per_worker",
    "slot",
]

if not TYPE_CHECKING:
    # Names that most programs never write: their modules (and pluggy, with `hookspecs`) are loaded when they are used.
    _LATER = {
        "Activation": "hookspecs",
        "ActivationRecord": "records",
        "Emission": "hookspecs",
        "ExecutionTracker": "tracking",
        "ExecutorStrategy": "executors",
        "Ledger": "records",
        "StrategyRequest": "hookspecs",
        "as_routine": "functions",
        "hookimpl": "hookspecs",
        "make_strategy": "executors",
        "map": "mapping",
    }

    def __getattr__(name):
        if name == "__version__":
            from importlib.metadata import version

            globals()[name] = version("routilux-core")
            return globals()[name]
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
        return value

    def __dir__():
        return sorted({*globals(), *_LATER, "__version__"})
