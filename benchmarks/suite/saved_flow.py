"""The flow of W11, and what one would write by hand to save and load just this flow, with no check at all."""

from __future__ import annotations

from typing import Any

from attrs import define

from routilux_core import ErrorHandler, Flow, Routine, event, slot


class Stage(Routine):
    """A routine with a few settings, as most have."""

    url: str
    limit: int = 10
    rate: float = 0.5
    strict: bool = True
    label: str | None = None
    out = event("row")

    @slot
    def input(self, row: int) -> None:
        self.emit("out", row=row)


NAME = f"{Stage.__module__}:{Stage.__qualname__}"


def chain(size: int) -> Flow:
    """Return a chain of stages."""
    flow = Flow("chain", "concurrent", max_workers=8)
    for number in range(size):
        flow.add_routine(Stage(url=f"http://host/{number}", limit=number), f"stage {number}")
    for number in range(1, size):
        flow.connect(f"stage {number - 1}", "out", f"stage {number}", "input", {"row": "row"} if number % 2 else None)
    flow.add_output(f"stage {size - 1}", "out")
    return flow


def _policy(handler: ErrorHandler) -> dict[str, Any]:
    return {
        "strategy": handler.strategy.value,
        "max_retries": handler.max_retries,
        "retry_delay": handler.retry_delay,
        "retry_backoff": handler.retry_backoff,
        "retryable_exceptions": [f"{each.__module__}:{each.__qualname__}" for each in handler.retryable_exceptions],
        "non_retryable_exceptions": [],
        "max_delay": handler.max_delay,
        "jitter": handler.jitter,
        "after_retries": handler.after_retries.value,
    }


def _routine(routine: Any) -> dict[str, Any]:
    handler = routine.get_error_handler()
    return {
        "type": NAME,
        "strategy": None,
        "settings": {
            "stateless": False,
            "concurrency": None,
            "scope": "flow",
            "timeout": None,
            "on_worker_lost": "fail",
        },
        "fields": {
            "url": routine.url,
            "limit": routine.limit,
            "rate": routine.rate,
            "strict": routine.strict,
            "label": routine.label,
        },
        "attributes": {},
        "stats": routine.stats(),
        "slots": {"input": {"handler": "input", "merge": "override"}},
        "events": {"out": ["row"]},
        "error_handler": None if handler is None else _policy(handler),
    }


def to_dict(flow: Any) -> dict[str, Any]:
    """Save by hand."""
    return {
        "format": "routilux-flow",
        "version": 1,
        "flow_id": flow.flow_id,
        "strategy": {"name": flow.execution_strategy, "max_workers": flow.max_workers, "options": {}},
        "max_pending": flow.max_pending,
        "history_size": flow.history_size,
        "error_handler": _policy(flow.get_error_handler()),
        "routines": {name: _routine(routine) for name, routine in flow.routines.items()},
        "connections": [
            {
                "source": each.source,
                "event": each.event,
                "target": each.target,
                "slot": each.slot,
                "mapping": dict(each.param_mapping),
            }
            for each in flow.connections
        ],
        "outputs": [{"routine": f"stage {len(flow.routines) - 1}", "event": "out", "name": _output(flow)}],
    }


def _output(flow: Any) -> str:
    return f"stage {len(flow.routines) - 1}.out"


def to_flow(data: dict[str, Any]) -> Flow:
    """Load by hand."""
    strategy = data["strategy"]
    flow = Flow(data["flow_id"], strategy["name"], strategy["max_workers"], max_pending=data["max_pending"])
    for name, each in data["routines"].items():
        flow.add_routine(Stage(**each["fields"]), name)
    for each in data["connections"]:
        flow.connect(each["source"], each["event"], each["target"], each["slot"], each["mapping"])
    for each in data["outputs"]:
        flow.add_output(each["routine"], each["event"], each["name"])
    return flow


def deserialized(data: dict[str, Any]) -> Flow:
    """Load with the engine."""
    flow = Flow()
    flow.deserialize(data)
    return flow


@define
class PlainStage:
    """A stage that is no routine, and can't run."""

    url: str
    limit: int
    rate: float
    strict: bool
    label: str | None


def to_plain_objects(data: dict[str, Any]) -> Any:
    """Load by hand into objects that can't run: no slots, no events, no wiring."""
    stages = {name: PlainStage(**each["fields"]) for name, each in data["routines"].items()}
    return stages, [
        (each["source"], each["event"], stages[each["target"]], each["slot"], each["mapping"])
        for each in data["connections"]
    ]


def check_same(made: Any, expected: dict[str, Any]) -> None:
    """Refuse a figure for anything but the whole work."""
    if made != expected:
        raise RuntimeError("what was made is not the flow that was saved")
