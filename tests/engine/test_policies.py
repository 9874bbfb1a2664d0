"""One table: every policy, under every bundled strategy, wherever the handler stands, comes to the same."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from attrs import frozen

from failing import by_policy as routines
from quickest import keywords
from routilux_core import ErrorHandler, Failure, Flow, JobState, hookimpl

MakeFlow = Callable[..., Flow]
SECONDS = 30.0
ALWAYS = 99
STRATEGIES: dict[str, dict[str, Any]] = {
    "sequential": {"execution_strategy": "sequential"},
    "concurrent": {"execution_strategy": "concurrent", "max_workers": 4},
    "process": keywords("process", 2),
}


@frozen
class Case:
    """A policy, how often the handler fails and with what, and what has to come of it."""

    handler: ErrorHandler
    fails: int
    status: str
    state: str
    decisions: tuple[str, ...]  # for each failure, in order
    outputs: int
    completed: int = 0  # of the one activation: each of these is 0 or 1
    failed: int = 0
    skipped: int = 0
    error: str = "ConnectionError"

    @property
    def calls(self) -> int:
        return len(self.decisions) + self.completed


def retry(retries: int, **settings: Any) -> ErrorHandler:
    return ErrorHandler("retry", max_retries=retries, retry_delay=0.001, **settings)


# What is emitted before an exception is delivered under CONTINUE and SKIP, and never under RETRY.
CASES = {
    "stop": Case(ErrorHandler("stop"), ALWAYS, "failed", "failed", ("stop",), 0, failed=1),
    "continue": Case(ErrorHandler("continue"), ALWAYS, "completed", "error_continued", ("continue",), 1, failed=1),
    "skip": Case(ErrorHandler("skip"), ALWAYS, "completed", "skipped", ("skip",), 1, skipped=1),
    "retry, succeeds later": Case(retry(3), 2, "completed", "completed", ("retry",) * 2, 1, completed=1),
    "retry, exhausted": Case(retry(2), ALWAYS, "failed", "failed", ("retry", "retry", "stop"), 0, failed=1),
    "retry, not retryable": Case(
        retry(2, retryable_exceptions=OSError), ALWAYS, "failed", "failed", ("stop",), 0, failed=1, error="ValueError"
    ),
    "retry, exhausted, then continue": Case(
        retry(2, after_retries="continue"),
        *(ALWAYS, "completed", "error_continued", ("retry", "retry", "continue"), 0),
        failed=1,
    ),
}


@frozen
class Place:
    """Where the failing handler stands: what is called before it, and what that emits."""

    slot: str
    before: tuple[str, ...] = ()
    emitted: int = 0
    gathered: int = 0


PLACES = {
    "entry": Place("__call__"),
    "slot": Place("input", ("start",), 1),
    "deep slot": Place("input", ("start", "one", "two"), 3),
    "fan-in": Place("input", ("start", "one", "two"), 3, 2),
}
WIRES = {
    "entry": (),
    "slot": (("start", "bad"),),
    "deep slot": (("start", "one"), ("one", "two"), ("two", "bad")),
    "fan-in": (("start", "one"), ("start", "two"), ("one", "bad"), ("two", "bad")),
}
WITH_STATE = {"entry": routines.BadEntry, "fan-in": routines.BadJoin}
STATELESS = {"entry": routines.BadEntryWithout, "fan-in": routines.BadJoinWithout}
KINDS = {
    "with state": lambda place: WITH_STATE.get(place, routines.BadSlot),
    "stateless": lambda place: STATELESS.get(place, routines.BadSlotWithout),
}


def build(flow: Flow) -> Flow:
    """Wire a graph of its own for each kind of routine and each place; jobs start at one of them."""
    for kind, bad_for in KINDS.items():
        for place, wires in WIRES.items():
            kinds = {"start": routines.Start, "one": routines.Pass, "two": routines.Pass, "end": routines.End}
            for name in (*PLACES[place].before, "bad", "end"):
                flow.add_routine(kinds.get(name, bad_for(place))(), f"{kind}, {place}: {name}")
            for source, target in (*wires, ("bad", "end")):
                flow.connect(f"{kind}, {place}: {source}", "out", f"{kind}, {place}: {target}", "input")
            flow.add_output(f"{kind}, {place}: bad", "out", f"{kind}, {place}")
    return flow


def raises(*_: Any) -> Any:
    raise RuntimeError("a broken plugin")


HOOKS = {
    "routilux_handle_error": lambda failure: raises(),
    "routilux_job_started": lambda job: raises(),
    "routilux_job_finished": lambda job: raises(),
    "routilux_activations_finished": lambda records: raises(),
    "routilux_activation_started": lambda activation: raises(),
    "routilux_event_emitted": lambda emission: raises(),
}


def six_that_raise() -> list[Any]:
    """Return a plugin for each hook that is called while a job runs: one that raises would mute its other hooks."""
    return [SimpleNamespace(**{name: hookimpl(function)}) for name, function in HOOKS.items()]


@pytest.fixture(scope="module")
def on_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[bool, Flow]]:
    """A flow without plugins, and one with them; their workers have started when the first test has them."""
    flows = {}
    for broken in (False, True):
        flows[broken] = build(Flow(**STRATEGIES["process"], plugins=six_that_raise() if broken else ()))
        job = run_cell(flows[broken], "stateless", "skip", "slot", tmp_path_factory.mktemp("warm") / "calls", True)
        assert job.status == "completed"
    yield flows
    for flow in flows.values():
        flow.shutdown()


@pytest.fixture
def flow_for(make_flow: MakeFlow, on_processes: dict[bool, Flow]) -> Callable[..., Flow]:
    """A flow with all the graphs under a strategy, with or without plugins that raise; that of `process` is shared."""

    def give(strategy: str, broken: bool = False) -> Flow:
        if strategy == "process":
            return on_processes[broken]
        return build(make_flow(**STRATEGIES[strategy], plugins=six_that_raise() if broken else ()))

    return give


def run_cell(flow: Flow, kind: str, name: str, place: str, calls: Path, on_flow: bool) -> JobState:
    case = CASES[name]
    bad = flow.routines[f"{kind}, {place}: bad"]
    bad.set_error_handler(None if on_flow else case.handler)
    flow.set_error_handler(case.handler if on_flow else ErrorHandler("stop"))
    order = {
        "calls": str(calls),
        "fails": case.fails,
        "error": case.error,
        "emits_first": name != "stop",  # it would be in flight
    }
    entry = f"{kind}, {place}: {'bad' if place == 'entry' else 'start'}"
    calls.touch()
    job = flow.execute(entry, {"order": order})
    assert job.wait(SECONDS), job.explain()
    return job


def check_cell(job: JobState, kind: str, name: str, place: str, calls: Path) -> None:
    case, where = CASES[name], PLACES[place]
    before, prefix = len(where.before), f"{kind}, {place}: "
    assert job.status == case.status
    lines = calls.read_text().split()
    assert {line: lines.count(line) for line in ("bad", "other", "end")} == {
        "bad": case.calls,
        "other": before,
        "end": case.outputs,
    }
    assert len(job.outputs[f"{kind}, {place}"]) == case.outputs
    states = dict.fromkeys((prefix + each for each in where.before), "completed") | {f"{prefix}bad": case.state}
    assert job.routine_states == states | ({f"{prefix}end": "completed"} if case.outputs else {})
    ledger = job.ledger
    assert ledger.balanced
    assert (ledger.posted, ledger.pending, ledger.discarded) == (before + 1 + case.outputs, 0, 0)
    assert (ledger.failed, ledger.skipped, ledger.completed) == (
        case.failed,
        case.skipped,
        before + case.completed + case.outputs,
    )
    assert ledger.retried == case.decisions.count("retry")
    assert (ledger.emitted, ledger.gathered) == (where.emitted + case.outputs, where.gathered)
    assert [(each.routine_id, each.slot, each.attempt, each.decision) for each in job.errors] == [
        (f"{prefix}bad", where.slot, number, decision) for number, decision in enumerate(case.decisions, 1)
    ]
    for failure in job.errors:
        check_failure(failure, job, case)


def check_failure(failure: Failure, job: JobState, case: Case) -> None:
    assert failure.job_id == job.job_id
    assert type(failure.exception).__name__ == case.error
    assert str(failure.exception) == "as told"
    assert "in fail_as_told" in failure.traceback  # of the worker, where that is another process
    assert failure.payload_keys == ("order",)


def check_log(caplog: pytest.LogCaptureFixture, job: JobState) -> None:
    """Each failure has one line, with the ids of job and routine."""
    lines = [each.getMessage() for each in caplog.records if " -> " in each.getMessage()]
    assert len(lines) == len(job.errors)
    for line, failure in zip(lines, job.errors, strict=True):
        assert job.job_id in line
        assert repr(failure.routine_id) in line
        assert line.endswith(f"-> {failure.decision}")


VARIANTS = {
    "on the flow": ("stateless", True, False),
    "on the routine": ("with state", False, False),
    "beside six plugins that raise": ("stateless", False, True),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_policy_comes_to_the_same_everywhere(
    flow_for: Callable[..., Flow],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    strategy: str,
    name: str,
    place: str,
    variant: str,
) -> None:
    kind, on_flow, broken = VARIANTS[variant]
    flow = flow_for(strategy, broken)
    with caplog.at_level(logging.INFO, logger="routilux_core"):
        job = run_cell(flow, kind, name, place, tmp_path / "calls", on_flow)
    check_cell(job, kind, name, place, tmp_path / "calls")
    check_log(caplog, job)


@pytest.mark.parametrize("error", ["SystemExit", "GeneratorExit", "MemoryError", "RecursionError", "KeyboardInterrupt"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_is_no_ordinary_exception_is_a_failure_like_any_other(
    flow_for: Callable[..., Flow], tmp_path: Path, strategy: str, error: str
) -> None:
    if strategy == "sequential" and error in ("KeyboardInterrupt", "SystemExit"):
        pytest.skip("in the main thread it cancels the job, and is raised again: this has tests of its own")
    flow = flow_for(strategy)
    flow.routines["stateless, slot: bad"].set_error_handler("continue")
    order = {"calls": str(tmp_path / "calls"), "fails": ALWAYS, "error": error, "emits_first": False}
    job = flow.execute("stateless, slot: start", {"order": order})
    assert job.wait(SECONDS), job.explain()
    (failure,) = job.errors
    assert (type(failure.exception).__name__, failure.decision, job.status) == (error, "continue", "completed")


@pytest.mark.parametrize("strategy", ["concurrent", "process"])
def test_stop_of_a_busy_pool_balances_and_nothing_starts_afterwards(
    make_flow: MakeFlow, tmp_path: Path, strategy: str
) -> None:
    calls = tmp_path / "calls"
    flow = make_flow(**STRATEGIES[strategy])
    flow.add_routine(routines.Numbers(), "numbers")
    flow.add_routine(routines.Noted(calls=str(calls), bad=50), "noted")
    flow.connect("numbers", "item", "noted", "n")
    job = flow.execute("numbers", {"count": 400})
    assert job.wait(SECONDS), job.explain()
    called, ledger = calls.read_text().split(), job.ledger
    assert (job.status, job.routine_states["noted"]) == ("failed", "failed")
    assert (ledger.balanced, ledger.pending, ledger.failed) == (True, 0, 1)
    assert len(called) == ledger.completed + ledger.failed - 1  # without the source's own
    assert ledger.discarded > 0
    assert [str(failure.exception) for failure in job.errors] == ["50"]
    assert flow.run("numbers", {"count": 1}).status == "completed"
    flow.shutdown()
    assert calls.read_text().split() == called


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_hundred_quick_calls_go_before_a_retry_of_the_only_worker(
    make_flow: MakeFlow, tmp_path: Path, strategy: str
) -> None:
    handler = ErrorHandler("retry", max_retries=1, retry_delay=0.5)
    flow = make_flow(**{**STRATEGIES[strategy], "max_workers": 1}, error_handler=handler)
    flow.add_routine(routines.Numbers(), "numbers")
    flow.add_routine(routines.Noted(calls=str(tmp_path / "fails"), bad=0, once=True), "fails")
    flow.add_routine(routines.Noted(calls=str(tmp_path / "quick")), "quick")
    flow.connect("numbers", "first", "fails", "n")
    flow.connect("numbers", "item", "quick", "n")
    job = flow.execute("numbers", {"count": 101})
    assert job.wait(SECONDS), job.explain()
    first, second = job.get_execution_history("fails")
    quick = job.get_execution_history("quick")
    assert (job.status, job.ledger.retried, len(quick)) == ("completed", 1, 100)
    assert second.started - first.ended >= 0.5
    assert max(record.ended for record in quick) <= second.started
