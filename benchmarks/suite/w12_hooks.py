"""W12: what a hook point costs, with nobody listening and with one listener; W3's sequential stream, per event."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from suite.model import Comparison, Row, Workload, difference
from suite.work import best_of, check_each_once, require

EVENTS = 10_000
RUNS = 10
LOOPS = 200_000


def empty_loop(count: int) -> float:
    """Seconds for each turn of a loop over an object with an attribute, and nothing in it."""
    run = _with_slot(None)

    def turn() -> None:
        for _ in range(count):
            run  # noqa: B018

    return _best(turn) / count


def comparison(count: int) -> float:
    """Seconds for each turn of the same loop with what a hook point is: a slot that is compared with None."""
    run = _with_slot(None)

    def turn() -> None:
        for _ in range(count):
            if run.listeners is not None:
                raise AssertionError

    return _best(turn) / count


def _with_slot(value: Any) -> Any:
    class Run:
        __slots__ = ("listeners",)

    run = Run()
    run.listeners = value
    return run


def _best(turn: Callable[[], None]) -> float:
    return best_of(RUNS, turn, lambda: None)


def stream_with(count: int, *, hook: str | None = None, reads: bool = False) -> float:
    """Seconds for each event with one listener to one hook; ``reads`` makes it look at every record."""
    from suite.flows import Sink, runner, stream, warm_up  # the limit rows must not load the engine

    warm_up("sequential")
    told = [0]
    plugins = [_listener(hook, reads, told)] if hook else []
    flow = stream(count, Sink(), "sequential", plugins=plugins)
    seconds = best_of(RUNS, runner(flow, "source", count + 1), lambda: check_each_once(count)) / count
    each = {None: 0, "routilux_job_finished": 1, "routilux_event_emitted": count}.get(hook, count + 1)
    require(told[0] == RUNS * each, f"expected {RUNS} x {each} to be told by {hook}, got {told[0]}")
    return seconds


def _listener(hook: str, reads: bool, told: list[int]) -> Any:
    """A plugin that counts what it is told."""
    from types import SimpleNamespace

    from routilux_core import hookimpl

    def finished(records: Any) -> None:
        told[0] += sum(1 for record in records if record.run_time >= 0.0) if reads else len(records)

    def job(job: Any) -> None:
        told[0] += 1

    def activation(activation: Any) -> None:
        told[0] += 1

    def emission(emission: Any) -> None:
        told[0] += 1

    functions = {
        "routilux_activations_finished": finished,
        "routilux_job_finished": job,
        "routilux_activation_started": activation,
        "routilux_event_emitted": emission,
    }
    return SimpleNamespace(**{hook: hookimpl(functions[hook])})


def _row(name: str, **settings: Any) -> Row:
    return Row(name=name, measure=partial(stream_with, **settings), size=EVENTS, quick_size=500)


WORKLOAD = Workload(
    name="W12",
    title="what a hook costs, on W3's sequential stream, per event",
    rows=(
        Row(name="empty loop", measure=empty_loop, size=LOOPS, quick_size=2_000, limit=True),
        Row(name="comparison with None", measure=comparison, size=LOOPS, quick_size=2_000, limit=True),
        _row("no listener"),
        _row("a job listener", hook="routilux_job_finished"),
        _row("a batch listener", hook="routilux_activations_finished"),
        _row("a batch listener, reading", hook="routilux_activations_finished", reads=True),
        _row("a listener to starts", hook="routilux_activation_started"),
        _row("a listener to emissions", hook="routilux_event_emitted"),
    ),
    comparisons=(
        Comparison(
            goal="G12",
            text="a hook point that nobody listens to",
            compute=difference("comparison with None", "empty loop", 1e9),
            gate=25,
            ambition=5,
            unit=" ns",
        ),
        Comparison(
            goal="G12",
            text="one listener to batches",
            compute=difference("a batch listener", "no listener", 1e9),
            gate=150,
            ambition=60,
            unit=" ns",
        ),
        Comparison(
            goal="",
            text="one listener to batches that reads every record",
            compute=difference("a batch listener, reading", "no listener", 1e9),
            unit=" ns",
        ),
        Comparison(
            goal="",
            text="one listener to the job hooks",
            compute=difference("a job listener", "no listener", 1e9),
            unit=" ns",
        ),
        Comparison(
            goal="",
            text="one listener to starts",
            compute=difference("a listener to starts", "no listener", 1e9),
            unit=" ns",
        ),
        Comparison(
            goal="",
            text="one listener to emissions",
            compute=difference("a listener to emissions", "no listener", 1e9),
            unit=" ns",
        ),
    ),
)
