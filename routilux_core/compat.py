"""The names of Routilux 0.8, over this engine: `from routilux_core.compat import Flow, Routine, ErrorHandler, ...`.

A program in the style of 0.8 (routines that define slots and events in `__init__`, `_stats`, `set_config`,
`emit(..., flow=...)`) runs with this import changed and nothing else. Each old name says once, as a DeprecationWarning,
what to write instead. What is different, and meant to be:

- Data that a slot has appended belongs to a job, and is gone when it ends; 0.8 kept it for ever.
- A routine handles one event at a time, unless its class says `stateless=True`; so its state needs no lock.
- Under `concurrent` different routines run at the same time, and the order in which their results arrive is open.
- A handler that raises lets the job fail, unless a policy says otherwise; 0.8 logged it and went on as "completed".
- `emit` outside a handler is an error; so is an unknown strategy, at the call that names it.
- A parameter that was renamed by a mapping does not arrive under its old name as well.

Not here: records that a user writes, the file format of 0.8, slots connected without a flow, the built-in routines.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self
from weakref import WeakValueDictionary

from routilux_core import error_handling, errors, flow, graph, job, ports, records, routine, tracking
from routilux_core._routines.frame import frame_of

ErrorStrategy = error_handling.ErrorStrategy
ExecutionTracker = tracking.ExecutionTracker
ExecutionRecord = records.ActivationRecord
Connection = graph.Connection
Event = ports.Event
Slot = ports.Slot

__all__ = [
    "Connection",
    "ErrorHandler",
    "ErrorStrategy",
    "Event",
    "ExecutionRecord",
    "ExecutionTracker",
    "Flow",
    "JobState",
    "Routine",
    "Slot",
]

MAX_WORKERS = 5  # the default of 0.8
KEPT_EMISSIONS = 1000  # in _stats["emitted_events"], the newest

_flows: WeakValueDictionary[str, Flow] = WeakValueDictionary()


def _old(name: str, instead: str) -> None:
    warnings.warn(f"{name} is a name of Routilux 0.8: {instead}", DeprecationWarning, stacklevel=3)


class ErrorHandler:
    """Makes an `ErrorHandler` of this version from the arguments of 0.8; `is_critical` changed nothing there."""

    def __new__(  # type: ignore[misc]
        cls,
        strategy: ErrorStrategy | str = "stop",
        max_retries: int = 3,
        retry_delay: float = 1.0,
        retry_backoff: float = 2.0,
        retryable_exceptions: tuple[type[BaseException], ...] | None = None,
        is_critical: bool = False,
    ) -> error_handling.ErrorHandler:
        kinds = retryable_exceptions or (Exception,)
        return error_handling.ErrorHandler(strategy, max_retries, retry_delay, retry_backoff, kinds)


class _Elsewhere:
    """Stands for the flow in a worker process, which has none."""


class Routine(routine.Routine):
    """A routine in the style of 0.8; its class may also be written as any other."""

    def __init__(self) -> None:
        super().__init__()
        self._stats: dict[str, Any] = {}
        self._config: dict[str, Any] = {}

    def __call__(self, **kwargs: Any) -> None:
        """Count the call; a subclass does its work here when its flow is executed at it."""
        self._stats["called"] = True
        self._stats["call_count"] = self._stats.get("call_count", 0) + 1

    # -- slots and events

    def define_slot(
        self,
        name: str,
        handler: Callable[..., Any] | None = None,
        merge_strategy: ports.Merge = "override",
        *,
        whole: bool = False,
    ) -> Slot:
        """Add an input. A handler whose only parameter is called `data` gets everything that came, as a dict."""
        if handler is None and not hasattr(self, name):
            handler = self._ignore
        return super().define_slot(name, handler, merge_strategy, whole=whole or _takes_data(handler))

    def _ignore(self, **data: Any) -> None:
        """The handler of a slot that was given none: what arrives is counted, and no more."""

    def emit(self, event_name: str, flow: Any = None, **kwargs: Any) -> None:  # type: ignore[override]
        """Send `kwargs` to what the event is connected to. The flow is known: `flow` is not looked at."""
        super().emit(event_name, **kwargs)
        emitted = self._stats.setdefault("emitted_events", [])
        emitted.append({"event": event_name, "data": kwargs})
        if len(emitted) > KEPT_EMISSIONS:
            del emitted[: KEPT_EMISSIONS // 2]

    @property
    def _current_flow(self) -> Any:
        """The flow that runs this handler; None outside of one."""
        if frame_of(self) is None or self._routilux.owner is None:
            return None
        return _flows.get(self._routilux.owner[0]) or _Elsewhere()

    @property
    def _id(self) -> str:
        return hex(id(self))

    # -- counters and configuration

    def stats(self) -> dict[str, Any]:
        """Return a copy of `_stats`."""
        return dict(self._stats)

    def set_stat(self, key: str, value: Any) -> None:
        """Set an entry of `_stats`."""
        _old("set_stat", "keep it in a field of the routine")
        self._stats[key] = value

    def get_stat(self, key: str, default: Any = None) -> Any:
        """Return an entry of `_stats`."""
        _old("get_stat", "keep it in a field of the routine")
        return self._stats.get(key, default)

    def increment_stat(self, name: str, amount: float = 1) -> float:
        """Add to an entry of `_stats`, and return it."""
        value: float = self._stats.get(name, 0) + amount
        self._stats[name] = value
        return value

    def reset_stats(self, keys: Iterable[str] | None = None) -> None:
        """Forget these entries of `_stats`, or all but the list of emissions."""
        for key in [key for key in self._stats if key != "emitted_events"] if keys is None else list(keys):
            self._stats.pop(key, None)

    def set_config(self, **values: Any) -> None:
        """Set entries of the configuration."""
        _old("set_config", "declare fields: class Fetch(Routine): url: str = ...")
        self._config.update(values)

    def get_config(self, key: str, default: Any = None) -> Any:
        """Return an entry of the configuration."""
        _old("get_config", "declare fields: class Fetch(Routine): url: str = ...")
        return self._config.get(key, default)

    def config(self) -> dict[str, Any]:
        """Return a copy of the configuration."""
        return dict(self._config)

    def add_serializable_fields(self, fields: Iterable[str]) -> None:
        """Do nothing: all attributes of a routine are saved."""
        _old("add_serializable_fields", "leave it out, all attributes are saved")

    # -- helpers of 0.8's handlers

    def _extract_input_data(self, data: Any = None, **kwargs: Any) -> Any:
        """Return `data`, or the only value that came, or all of them as a dict."""
        if data is not None:
            return data
        if "data" in kwargs:
            return kwargs["data"]
        return next(iter(kwargs.values())) if len(kwargs) == 1 else kwargs

    def _track_operation(self, operation_name: str, success: bool = True, **metadata: Any) -> None:
        """Count an operation: in all, and those that succeeded or failed."""
        self.increment_stat(f"total_{operation_name}")
        self.increment_stat(f"{'successful' if success else 'failed'}_{operation_name}")
        if metadata:
            self._stats.setdefault(f"{operation_name}_history", []).append(metadata)


def _takes_data(handler: Callable[..., Any] | None) -> bool:
    if handler is None:
        return False
    try:
        parameters = list(inspect.signature(handler).parameters.values())
    except (TypeError, ValueError):
        return False
    return [each.name for each in parameters] == ["data"] and parameters[0].kind is not parameters[0].VAR_KEYWORD


class JobState(job.JobState):
    """A job whose routine states are mappings, as in 0.8: `state["status"]`, `["error"]`, `["execution_time"]`."""

    @classmethod
    def of(cls, found: job.JobState) -> Self:
        """Return the same job in this form."""
        made = cls.__new__(cls)
        made.__dict__.update(found.__dict__)
        return made

    def get_routine_state(self, routine_id: str) -> Any:
        """Return the state of a routine as a mapping, or None."""
        status = dict(super().routine_states).get(routine_id)
        if status is None:
            return None
        records = self.get_execution_history(routine_id)
        state: dict[str, Any] = {"status": status, "execution_time": sum(each.run_time for each in records)}
        failed = [each for each in self.errors if each.routine_id == routine_id]
        if failed:
            state["error"] = errors.text_of(failed[-1].exception)
        return state

    @property
    def execution_history(self) -> list[ExecutionRecord]:
        """The newest records, oldest first."""
        return list(self.get_execution_history())


class Flow(flow.Flow):
    """A flow with the defaults of 0.8: up to 5 workers, where its strategy has several."""

    def __init__(
        self, flow_id: str | None = None, execution_strategy: str = "sequential", max_workers: int = MAX_WORKERS
    ) -> None:
        super().__init__(flow_id, execution_strategy, max_workers)
        _flows[self.flow_id] = self
        self._job: JobState | None = None

    @property
    def job_state(self) -> JobState | None:
        """The job executed last, or None."""
        return self._job

    def execute(  # type: ignore[override]
        self,
        entry_routine_id: str,
        entry_params: Mapping[str, Any] | None = None,
        execution_strategy: str | None = None,
    ) -> JobState:
        """Start a job; `execution_strategy`, which changed nothing in 0.8, is the strategy from this job on."""
        if execution_strategy is not None:
            _old("execute(execution_strategy=...)", "call set_execution_strategy, or name it in Flow(...)")
            self.set_execution_strategy(execution_strategy)
        self._job = JobState.of(super().execute(entry_routine_id, entry_params))
        return self._job

    def deserialize(self, data: Mapping[str, Any], *, types: Iterable[Any] = ()) -> None:
        """Become the flow that `serialize` gave."""
        super().deserialize(data, types=types)
        _flows[self.flow_id] = self
        self._job = None

    def pause(self, reason: str = "", checkpoint: Any = None) -> None:
        """Start nothing new in any running job."""
        super().pause()

    def cancel(self, reason: str | bool = "", kill: bool = False) -> None:  # type: ignore[override]
        """Cancel every running job."""
        super().cancel(kill or reason is True)
