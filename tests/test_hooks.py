"""Every hook: when it is called, with what, and that no plugin can change what a job does by failing."""

from __future__ import annotations

import ast
import asyncio
import inspect
import logging
import re
import textwrap
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextvars import Context
from pathlib import Path
from time import perf_counter, sleep
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from attrs import fields as attrs_fields
from attrs import frozen

from places import DOCS
from routilux_core import (
    ActivationRecord,
    Capabilities,
    ConfigurationError,
    Decision,
    ErrorHandler,
    ErrorStrategy,
    ExecutionStrategy,
    Failure,
    Flow,
    FlowStateError,
    Host,
    JobState,
    Routine,
    StrategyError,
    Task,
    UnknownStrategyError,
    WorkerPool,
    event,
    hookimpl,
    hookspecs,
    make_strategy,
    slot,
)

MakeFlow = Callable[..., Flow]
SECONDS = 20.0
HOOKS = {name: hook for name, hook in vars(hookspecs).items() if name.startswith("routilux_")}
ASKED = {"routilux_make_strategy", "routilux_handle_error", "routilux_admit", "routilux_carry"}
TRACKING = sorted(HOOKS.keys() - ASKED)
GUIDE = DOCS / "plugins.md"


class Source(Routine):
    item = event("n")

    def __call__(self, count: int) -> None:
        for n in range(count):
            self.emit("item", n=n)


class Keeps(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.got: list[int] = []

    @slot
    def n(self, n: int) -> None:
        self.got.append(n)


class Fails(Routine):
    """Raises for odd numbers."""

    out = event("n")

    @slot
    def n(self, n: int) -> None:
        if n % 2:
            raise ValueError(n)
        self.emit("out", n=n)


class Recorder:
    """Listens to everything, and keeps it."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    @hookimpl
    def routilux_job_started(self, job: JobState) -> None:
        self.told.append(("started", (job.job_id, job.status, job.ledger.pending)))

    @hookimpl
    def routilux_job_finished(self, job: JobState) -> None:
        self.told.append(("finished", (job.job_id, job.status, job.ledger.pending)))

    @hookimpl
    def routilux_activations_finished(self, job: JobState, records: Any) -> None:
        self.told.append(("records", records))

    @hookimpl
    def routilux_activation_started(self, activation: Any) -> None:
        self.told.append(("activation", activation))

    @hookimpl
    def routilux_event_emitted(self, emission: Any) -> None:
        self.told.append(("emission", emission))

    def of(self, kind: str) -> list[Any]:
        return [what for name, what in self.told if name == kind]


def tracker(**hooks: Callable[..., Any]) -> SimpleNamespace:
    """A plugin made of functions."""
    return SimpleNamespace(**{f"routilux_{name}": hookimpl(function) for name, function in hooks.items()})


def build(flow: Flow, *targets: Routine) -> None:
    flow.add_routine(Source(), "source")
    for number, target in enumerate(targets):
        flow.add_routine(target, f"target{number}")
        flow.connect("source", "item", f"target{number}", "n")


def run(flow: Flow, entry: str = "source", **params: Any) -> JobState:
    job = flow.execute(entry, params)
    assert job.wait(SECONDS), job.explain()
    return job


# -- every hook is documented, and has a test


def test_every_hook_says_when_it_is_called_and_whether_it_may_raise() -> None:
    assert len(HOOKS) == 10
    for name, hook in HOOKS.items():
        text = inspect.getdoc(hook) or ""
        assert "Called on" in text, name
        assert re.search("raise|exception", text), name


@pytest.mark.once
def test_every_hook_has_a_test_of_its_name() -> None:
    tests = {
        node.name
        for path in Path(__file__).parent.rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    untested = [hook for hook in HOOKS if not any(name.startswith(f"test_{hook}_") for name in tests)]
    assert not untested


def signatures_in_docs() -> Iterator[tuple[str, str]]:
    text = GUIDE.read_text("utf-8")
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        for node in ast.walk(ast.parse(textwrap.dedent(block))):
            if isinstance(node, ast.FunctionDef):
                arguments = [each.arg for each in node.args.args if each.arg != "self"]
                yield node.name, ", ".join(arguments)


@pytest.mark.once
@pytest.mark.skipif(not GUIDE.exists(), reason="the documentation is not beside the tests")
def test_the_documentation_names_every_hook_with_its_signature() -> None:
    text = GUIDE.read_text("utf-8")
    for name, hook in HOOKS.items():
        assert f"`{name}({', '.join(inspect.signature(hook).parameters)})`" in text, name
    mentioned = set(re.findall(r"\broutilux_\w+(?=\()", text))
    assert mentioned <= HOOKS.keys()
    for name, arguments in signatures_in_docs():
        if name in HOOKS:
            assert set(filter(None, arguments.split(", "))) <= inspect.signature(HOOKS[name]).parameters.keys(), name


@pytest.mark.once
@pytest.mark.skipif(not GUIDE.exists(), reason="the documentation is not beside the tests")
@pytest.mark.parametrize(
    "record", [Capabilities, Failure, Decision, ActivationRecord, hookspecs.Activation, hookspecs.Emission]
)
def test_the_documentation_names_every_attribute_of_what_plugins_get_and_give(record: type) -> None:
    unnamed = {field.name for field in attrs_fields(record) if f"`{field.name}`" not in GUIDE.read_text("utf-8")}
    assert not unnamed - {"decision"}  # it is taken when all have been asked


# -- strategies


class ThreadForEach(WorkerPool):
    workers = 2

    def submit(self, task: Task) -> None:
        threading.Thread(target=task).start()

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> None: ...


@frozen(kw_only=True)
class Own(ExecutionStrategy):
    name: ClassVar[str] = "own"
    capabilities: ClassVar[Capabilities] = Capabilities(shares_memory=True)
    colour: str = "red"

    def open(self, host: Host) -> WorkerPool:
        return ThreadForEach()


def test_routilux_make_strategy_answers_for_its_own_names(make_flow: MakeFlow) -> None:
    asked: list[Any] = []

    def make_strategy(request: Any) -> Any:
        asked.append(request)
        return Own(max_workers=request.max_workers, **request.options) if request.name == "mine" else None

    plugin, keeps = tracker(make_strategy=make_strategy), Keeps()
    flow = make_flow(execution_strategy="mine", max_workers=3, strategy_options={"colour": "blue"}, plugins=[plugin])
    assert (flow.execution_strategy, flow.max_workers) == ("own", 3)
    build(flow, keeps)
    assert run(flow, count=4).status == "completed"
    assert keeps.got == [0, 1, 2, 3]
    assert [(each.name, each.max_workers, each.options) for each in asked] == [("mine", 3, {"colour": "blue"})]
    with pytest.raises(UnknownStrategyError, match="'theirs'"):
        flow.set_execution_strategy("theirs")
    flow.set_execution_strategy("concurrent")  # a bundled name is reserved: nobody is asked
    assert [each.name for each in asked] == ["mine", "theirs"]
    with pytest.raises(UnknownStrategyError, match="'mine'"):
        Flow(execution_strategy="mine")  # the plugin belongs to the other flow


def test_routilux_make_strategy_that_fails_counts_as_none_unless_the_name_is_its_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(request: Any) -> Any:
        raise ZeroDivisionError

    def wrong(request: Any) -> Any:
        return "sequential"

    def knows(request: Any) -> Any:
        raise StrategyError("the cluster has no such queue")

    with pytest.raises(StrategyError, match="no such queue"):
        Flow(execution_strategy="mine", plugins=[tracker(make_strategy=each) for each in (knows, wrong, broken)])
    assert [record.getMessage().partition(", routilux_")[2] for record in caplog.records] == [
        "make_strategy: raised ZeroDivisionError; this counts as None",
        "make_strategy: returned 'sequential', no ExecutionStrategy; this counts as None",
    ]


def test_what_is_saved_is_the_name_and_the_options_as_given(make_flow: MakeFlow) -> None:
    def auto(request: Any) -> Any:
        return Own(max_workers=7, colour="blue") if request.name == "auto" else None

    plugins = [tracker(make_strategy=auto)]
    flow = make_flow(execution_strategy="auto", strategy_options={"size": 3}, plugins=plugins)
    flow.add_routine(Source(), "source", execution_strategy="auto")
    assert flow.execution_strategy == "own", "what runs"
    saved = flow.serialize()
    assert saved["strategy"] == {"name": "auto", "max_workers": None, "options": {"size": 3}}
    flow.set_execution_strategy("auto", 2)
    assert flow.serialize()["strategy"] == {"name": "auto", "max_workers": 2, "options": {"size": 3}}
    again = make_flow(plugins=plugins)
    again.deserialize(saved)
    assert again.serialize()["strategy"] == saved["strategy"]
    flow.set_execution_strategy(Own(colour="green"))
    assert flow.serialize()["strategy"] == {"name": "own", "max_workers": None, "options": {"colour": "green"}}


def test_a_routine_may_name_a_strategy_that_a_plugin_calls_otherwise(make_flow: MakeFlow) -> None:
    asked: list[Any] = []

    def auto(request: Any) -> Any:
        asked.append((request.name, request.flow_id, request.routine_id))
        return Own() if request.name == "auto" else None

    flow, keeps = make_flow("f", plugins=[tracker(make_strategy=auto)]), Keeps()
    flow.add_routine(Source(), "source")
    flow.add_routine(keeps, "keeps", execution_strategy="auto")
    flow.add_routine(Keeps(), "more", execution_strategy="auto")
    flow.connect("source", "item", "keeps", "n")
    assert run(flow, count=3).status == "completed"
    assert sorted(keeps.got) == [0, 1, 2]
    assert asked == [("auto", "f", "keeps")], "one strategy, and one pool, for a name"


def test_two_plugins_for_one_strategy_are_named_once(make_flow: MakeFlow, caplog: pytest.LogCaptureFixture) -> None:
    def mine(request: Any) -> Any:
        return Own(colour="mine") if request.name == "contested" else None

    def theirs(request: Any) -> Any:
        return Own(colour="theirs") if request.name == "contested" else None

    for _ in range(2):
        make_flow(execution_strategy="contested", plugins=[tracker(make_strategy=each) for each in (mine, theirs)])
    [record] = caplog.records
    assert record.getMessage().startswith("strategy 'contested' is made by plugin ")
    assert record.getMessage().count("SimpleNamespace") == 2
    assert record.getMessage().endswith(": the first of them is used")


def test_a_wrapper_makes_what_it_wraps_by_name(make_flow: MakeFlow) -> None:
    inner = make_strategy("concurrent", max_workers=3)
    assert (inner.name, inner.max_workers) == ("concurrent", 3)
    with pytest.raises(ConfigurationError, match="'colour'"):
        make_strategy("concurrent", options={"colour": "blue"})
    with pytest.raises(UnknownStrategyError, match="'conccurrent'"):
        make_strategy("conccurrent")
    flow, keeps = make_flow(execution_strategy=inner), Keeps()
    build(flow, keeps)
    assert run(flow, count=4).status == "completed"


# -- error handling


def failing(make_flow: MakeFlow, strategy: dict[str, Any], *plugins: Any, **settings: Any) -> tuple[Flow, Fails]:
    flow, fails = make_flow(**strategy, plugins=plugins, **settings), Fails()
    build(flow, fails)
    return flow, fails


def test_routilux_handle_error_decides_before_the_policies(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    seen: list[Failure] = []

    def handle_error(failure: Failure) -> Decision | None:
        seen.append(failure)
        number = int(str(failure.exception))
        return {1: Decision("skip"), 3: Decision("continue")}.get(number)

    flow, fails = failing(make_flow, strategy, tracker(handle_error=handle_error))
    fails.set_error_handler(ErrorHandler("stop"))
    job = run(flow, count=6)
    assert [failure.decision for failure in job.errors] == [
        ErrorStrategy.SKIP,
        ErrorStrategy.CONTINUE,
        ErrorStrategy.STOP,
    ]
    assert (job.status, job.ledger.skipped, job.ledger.failed) == ("failed", 1, 2)
    assert [(failure.routine_id, failure.slot, failure.attempt) for failure in seen] == [("target0", "n", 1)] * 3


def test_a_retry_that_a_plugin_decides_is_recorded_as_another_attempt(
    make_flow: MakeFlow, strategy: dict[str, Any]
) -> None:
    class FailsTwice(Routine, stateless=True):
        @slot
        def n(self, n: int) -> None:
            tries.append(n)
            if tries.count(n) < 3:
                raise ValueError(n)

    tries: list[int] = []
    flow = make_flow(**strategy, plugins=[tracker(handle_error=lambda failure: Decision("retry", 0.001))])
    flow.add_routine(FailsTwice(), "fails")
    job = Context().run(flow.run, "fails", {"n": 1})
    outcomes = [(record.attempt, record.outcome) for record in job.get_execution_history()]
    assert outcomes == [(1, "retried"), (2, "retried"), (3, "completed")]
    assert (job.ledger.completed, job.ledger.retried) == (1, 2)


def test_routilux_handle_error_that_raises_counts_as_none(
    make_flow: MakeFlow, strategy: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    def raises(failure: Failure) -> Decision | None:
        raise SystemExit(7)

    def wrong() -> Any:
        return "skip"

    plain, _ = failing(make_flow, strategy, error_handler="continue")
    flow, _ = failing(
        make_flow, strategy, tracker(handle_error=wrong), tracker(handle_error=raises), error_handler="continue"
    )
    expected, job = run(plain, count=8), run(flow, count=8)
    assert (job.status, job.ledger, job.routine_states) == (expected.status, expected.ledger, expected.routine_states)
    said = Counter(record.getMessage() for record in caplog.records if "counts as None" in record.getMessage())
    assert sorted(said.values()) == [4, 4]
    assert "raised SystemExit: 7" in "".join(said)
    assert "returned 'skip', no Decision" in "".join(said)


def test_routilux_handle_error_may_be_wrapped(make_flow: MakeFlow, caplog: pytest.LogCaptureFixture) -> None:
    class Wrapper:
        @hookimpl(wrapper=True)
        def routilux_handle_error(self, failure: Failure) -> Any:
            decision = yield
            if failure.exception.args == (3,):
                raise KeyError("broken wrapper")
            return decision if failure.exception.args == (1,) else Decision("skip")

    flow, _ = failing(make_flow, {}, Wrapper(), error_handler="continue")
    job = run(flow, count=6)
    assert [failure.decision for failure in job.errors] == ["continue", "continue", "skip"]
    assert "routilux_handle_error failed; the policy decides" in caplog.text


def test_routilux_handle_error_may_retry_what_has_not_emitted(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    class Appends(Routine):
        out = event("n")

        def __init__(self) -> None:
            super().__init__()
            self.seen: list[list[int]] = []

        @slot(merge_strategy="append")
        def n(self, n: list[int]) -> None:
            self.seen.append(n)
            if len(self.seen) in (2, 3):
                raise ValueError(len(self.seen))
            self.emit("out", n=n[-1])

    def handle_error(failure: Failure) -> Decision | None:
        return Decision("retry", 0.001)

    flow, appends, keeps = make_flow(**strategy, plugins=[tracker(handle_error=handle_error)]), Appends(), Keeps()
    build(flow, appends)
    flow.add_routine(keeps, "keeps")
    flow.connect("target0", "out", "keeps", "n")
    job = run(flow, count=3)
    assert appends.seen == [[0], [0, 1], [0, 1], [0, 1], [0, 1, 2]]  # what arrived is merged once
    assert keeps.got == [0, 1, 2]
    assert (job.status, job.ledger.retried, job.ledger.completed) == ("completed", 2, 7)


def test_routilux_handle_error_cannot_retry_what_has_emitted(
    make_flow: MakeFlow, strategy: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    class EmitsAndFails(Routine):
        out = event("n")

        @slot
        def n(self, n: int) -> None:
            self.emit("out", n=n)
            raise ValueError(n)

    def handle_error(failure: Failure) -> Decision | None:
        return Decision("retry")

    flow, keeps = make_flow(**strategy, plugins=[tracker(handle_error=handle_error)], error_handler="skip"), Keeps()
    build(flow, EmitsAndFails())
    flow.add_routine(keeps, "keeps")
    flow.connect("target0", "out", "keeps", "n")
    job = run(flow, count=2)
    assert keeps.got == [0, 1]
    assert [failure.decision for failure in job.errors] == ["skip", "skip"]
    assert caplog.text.count("RETRY is refused, because routine 'target0', slot 'n'") == 2


@pytest.mark.parametrize("decision", ["skip", "continue", "stop"])
def test_routilux_admit_spares_calls_which_count_as_it_has_decided(
    make_flow: MakeFlow, strategy: dict[str, Any], decision: str
) -> None:
    told: list[str] = []

    def admit(activation: Any) -> Decision | None:
        return Decision(decision) if activation.data.get("n") in (1, 3) else None

    def failure_decided(failure: Failure, payload: Any) -> None:
        told.append(f"{type(failure.exception).__name__} {failure.decision} {payload['n']}")

    recorder, keeps = Recorder(), Keeps()
    flow = make_flow(**strategy, plugins=[tracker(admit=admit, failure_decided=failure_decided), recorder])
    build(flow, keeps)
    job = run(flow, count=5)
    ledger = job.ledger
    outcomes = [record.outcome for record in recorder.of("records")[-1] if record.routine_id == "target0"]
    if decision == "stop":
        assert (job.status, keeps.got, ledger.failed, ledger.completed + ledger.discarded) == ("failed", [0], 1, 5)
        assert told == ["NotAdmitted stop 1"]
        assert "routine 'target0', slot 'n': the call was not made" in str(job.errors[0].exception)
        return
    assert (job.status, keeps.got) == ("completed", [0, 2, 4])
    assert (ledger.skipped, ledger.failed) == ((2, 0) if decision == "skip" else (0, 2))
    assert ledger.balanced
    assert sorted(told) == [f"NotAdmitted {decision} 1", f"NotAdmitted {decision} 3"]
    assert Counter(each.data["n"] for each in recorder.of("activation") if each.routine_id == "target0") == {
        0: 1,
        2: 1,
        4: 1,
    }
    assert Counter(outcomes)["skipped" if decision == "skip" else "failed"] == 2


def test_routilux_admit_may_put_a_call_off_and_what_is_merged_is_merged_once(
    make_flow: MakeFlow, strategy: dict[str, Any]
) -> None:
    class Appends(Routine):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[list[int]] = []

        @slot(merge_strategy="append")
        def n(self, n: list[int]) -> None:
            self.seen.append(n)

    asked: list[tuple[int, int]] = []

    def admit(activation: Any) -> Decision | None:
        if activation.routine_id == "source":
            return None
        asked.append((activation.data["n"], activation.attempt))
        return Decision("retry", 0.001) if activation.attempt < 3 else None

    flow, appends = make_flow(**strategy, plugins=[tracker(admit=admit)]), Appends()
    build(flow, appends)
    job = run(flow, count=2)
    assert asked == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3)]  # a routine with state keeps the order
    assert appends.seen == [[0], [0, 1]]
    assert (job.status, job.ledger.retried, job.ledger.completed) == ("completed", 4, 3)


def test_routilux_admit_is_asked_about_what_comes_after_a_failure(
    make_flow: MakeFlow, strategy: dict[str, Any]
) -> None:
    """What is known of a call counts for the next one, also where calls travel."""
    broken, calls = threading.Event(), []

    def handle_error(failure: Failure) -> Decision | None:
        calls.append(failure.exception)
        if not isinstance(failure.exception, ValueError):
            return None
        broken.set()
        return Decision("continue")

    def admit(activation: Any) -> Decision | None:
        return Decision("skip") if broken.is_set() and activation.routine_id == "target0" else None

    flow = make_flow(**strategy, plugins=[tracker(admit=admit, handle_error=handle_error)])
    build(flow, Fails())
    job = run(flow, count=40)
    assert (job.status, job.ledger.failed, job.ledger.skipped) == ("completed", 1, 38)
    assert len(calls) == 1  # what was not admitted is decided already


@pytest.mark.parametrize("answer", ["no", RuntimeError("no"), None])
def test_routilux_admit_that_fails_lets_the_call_be_made(
    make_flow: MakeFlow, strategy: dict[str, Any], answer: object, caplog: pytest.LogCaptureFixture
) -> None:
    def admit(activation: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    flow, keeps = make_flow(**strategy, plugins=[tracker(admit=admit)]), Keeps()
    build(flow, keeps)
    assert run(flow, count=3).status == "completed"
    assert keeps.got == [0, 1, 2]
    assert ("counts as None" in caplog.text) is (answer is not None)


# -- tracking


def test_routilux_job_started_comes_before_anything_runs(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    keeps, seen = Keeps(), []

    def job_started(job: JobState) -> None:
        seen.append((job.status, list(keeps.got), job.ledger.posted, job.ledger.completed, threading.get_ident()))

    flow = make_flow(**strategy, plugins=[tracker(job_started=job_started)])
    build(flow, keeps)
    run(flow, count=3)
    assert seen == [("running", [], 1, 0, threading.get_ident())]
    assert keeps.got == [0, 1, 2]


@pytest.mark.parametrize("action", ["cancel", "pause"])
def test_routilux_job_started_may_cancel_or_pause(make_flow: MakeFlow, strategy: dict[str, Any], action: str) -> None:
    keeps, recorder = Keeps(), Recorder()
    act = tracker(job_started=lambda job: getattr(job, action)())
    flow = make_flow(**strategy, plugins=[recorder, act])
    build(flow, keeps)
    job = flow.execute("source", {"count": 3})
    if action == "pause":
        assert (job.status, keeps.got) == ("paused", [])
        job.resume()
    assert job.wait(SECONDS)
    assert (job.status, keeps.got) == (("cancelled", []) if action == "cancel" else ("completed", [0, 1, 2]))
    assert job.ledger.balanced
    assert job.ledger.pending == 0
    assert recorder.of("finished") == [(job.job_id, job.status, 0)]
    assert run(flow, count=0).status == job.status if action == "cancel" else True
    flow.set_execution_strategy("sequential")  # refused while a job runs: none is left behind


def test_routilux_job_finished_comes_before_those_who_wait_go_on(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    recorder = Recorder()
    flow = make_flow(**strategy, plugins=[recorder])
    build(flow, Fails())
    for number in range(30):
        job = run(flow, count=1 + number % 2)
        assert recorder.told[-1] == ("finished", (job.job_id, "failed" if number % 2 else "completed", 0))
    assert len(recorder.of("started")) == len(recorder.of("finished")) == 30


def test_who_waits_for_the_flow_waits_for_its_listeners_too(make_flow: MakeFlow) -> None:
    telling, go_on = threading.Event(), threading.Event()

    def job_finished(job: JobState) -> None:
        telling.set()
        assert go_on.wait(SECONDS)

    flow = make_flow(execution_strategy="concurrent", plugins=[tracker(job_finished=job_finished)])
    build(flow)
    job = flow.execute("source", {"count": 3})
    try:
        assert telling.wait(SECONDS)
        assert not job.wait(0.05)
        assert not flow.wait_for_completion(0.05)
    finally:
        go_on.set()
    assert flow.wait_for_completion(SECONDS)
    assert job.wait(0.0)


@pytest.mark.parametrize(
    "size", [pytest.param(0, marks=pytest.mark.once), 10, pytest.param(5000, marks=pytest.mark.once)]
)
def test_routilux_activations_finished_has_every_attempt_once(
    make_flow: MakeFlow, strategy: dict[str, Any], size: int
) -> None:
    recorder = Recorder()
    retrying = ErrorHandler("retry", max_retries=1, retry_delay=0.0, after_retries="skip")
    flow = make_flow(**strategy, plugins=[recorder], history_size=size, error_handler="continue")
    fails = Fails()
    build(flow, fails, Keeps())
    fails.set_error_handler(retrying)
    job = run(flow, count=700)
    batches = recorder.of("records")
    assert max(map(len, batches)) <= 256
    records = [record for batch in batches for record in batch]
    assert len({(record.id, record.attempt) for record in records}) == len(records) == 1 + 700 + 700 + 350
    outcomes = Counter((record.routine_id, record.outcome) for record in records)
    assert outcomes == {
        ("source", "completed"): 1,
        ("target0", "completed"): 350,
        ("target0", "retried"): 350,
        ("target0", "skipped"): 350,
        ("target1", "completed"): 700,
    }
    assert {record.cause for record in records if record.routine_id != "source"} == {1}
    assert all(record.posted <= record.started <= record.ended for record in records)
    kinds = [kind for kind, _ in recorder.told if kind in ("started", "records", "finished")]
    assert (kinds[0], kinds[-1]) == ("started", "finished")
    in_order = sorted(records, key=lambda record: record.ended)
    assert job.get_execution_history() == in_order[len(records) - min(size, len(records)) :]
    assert job.tracker.get_flow_performance()["total_executions"] == len(records)


def test_routilux_activations_finished_comes_while_a_long_call_runs(make_flow: MakeFlow) -> None:
    told = threading.Event()

    class Waits(Routine):
        @slot
        def n(self, n: int) -> None:
            assert told.wait(SECONDS)

    def activations_finished(records: Any) -> None:
        if any(record.routine_id == "source" for record in records):
            told.set()

    flow = make_flow(execution_strategy="concurrent", plugins=[tracker(activations_finished=activations_finished)])
    build(flow, Waits())
    assert run(flow, count=1).status == "completed"


def test_a_listener_that_takes_its_time_keeps_one_worker_and_not_the_others(make_flow: MakeFlow) -> None:
    count, emitted, all_ran, heard = 2000, threading.Event(), threading.Event(), []

    class EmitsAll(Routine):
        item = event("n")

        def __call__(self) -> None:
            for n in range(count):
                self.emit("item", n=n)
            emitted.set()

    class Ends(Routine, stateless=True):
        @slot
        def n(self, n: int) -> None:
            assert emitted.wait(SECONDS)  # else the source could be the worker that tells
            if n == count - 1:
                all_ran.set()

    def activations_finished(records: Any) -> None:
        assert all_ran.wait(SECONDS)
        heard.extend(record.id for record in records)

    plugin = tracker(activations_finished=activations_finished)
    flow = make_flow(execution_strategy="concurrent", max_workers=2, max_pending=count, plugins=[plugin])
    flow.add_routine(EmitsAll(), "source")
    flow.add_routine(Ends(), "ends")
    flow.connect("source", "item", "ends", "n")
    assert run(flow).status == "completed"
    assert sorted(heard) == list(range(1, count + 2))


def test_routilux_activation_started_comes_before_each_call(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    keeps, seen = Keeps(), []

    def activation_started(activation: Any) -> None:
        if activation.slot == "n":
            assert activation.data["n"] not in keeps.got
            with pytest.raises(TypeError):
                activation.data["n"] = 7
        seen.append(
            (activation.routine_id, activation.slot, activation.attempt, activation.cause, dict(activation.data))
        )

    flow = make_flow(**strategy, plugins=[tracker(activation_started=activation_started)])
    build(flow, keeps)
    run(flow, count=3)
    assert seen[0] == ("source", "__call__", 1, None, {"count": 3})
    assert seen[1:] == [("target0", "n", 1, 1, {"n": n}) for n in range(3)]
    assert keeps.got == [0, 1, 2]


def test_routilux_event_emitted_comes_for_each_emission(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    seen: list[Any] = []
    flow = make_flow(**strategy, plugins=[tracker(event_emitted=lambda emission: seen.append(emission))])
    build(flow, Fails(), Keeps())
    flow.get_error_handler()
    flow.set_error_handler(ErrorHandler("retry", max_retries=0, after_retries="skip"))
    job = run(flow, count=4)
    counts = Counter((each.routine_id, each.event, each.targets) for each in seen)
    assert counts == {
        ("source", "item", (("target0", "n"), ("target1", "n"))): 4,
        ("target0", "out", ()): 2,
    }
    assert len(seen) == job.ledger.emitted
    assert [each.data["n"] for each in seen if each.routine_id == "source"] == [0, 1, 2, 3]


def test_routilux_failure_decided_tells_each_attempt_with_its_decision_and_what_had_arrived(
    make_flow: MakeFlow, strategy: dict[str, Any]
) -> None:
    told: list[tuple[Any, ...]] = []
    ends: list[int] = []

    def failure_decided(failure: Failure, payload: Any) -> None:
        told.append((failure.activation, failure.cause, failure.attempt, str(failure.decision), dict(payload)))

    plugin = tracker(failure_decided=failure_decided, job_finished=lambda job: ends.append(len(told)))
    flow, fails = make_flow(**strategy, plugins=[plugin], error_handler="continue"), Fails()
    build(flow, fails, Keeps())
    fails.set_error_handler(ErrorHandler("retry", max_retries=1, retry_delay=0.0, after_retries="skip"))
    job = run(flow, count=4)
    assert sorted(told, key=lambda each: (each[4]["n"], each[2])) == [
        (failure.activation, 1, failure.attempt, str(failure.decision), {"n": failure.exception.args[0]})
        for failure in sorted(job.errors, key=lambda each: (each.exception.args[0], each.attempt))
    ]
    assert [each[3] for each in sorted(told, key=lambda each: each[2])] == ["retry", "retry", "skip", "skip"]
    assert ends == [4]  # all of them are told before the end


def test_a_call_of_a_gather_slot_has_the_causes_of_all_that_arrived(
    make_flow: MakeFlow, strategy: dict[str, Any]
) -> None:
    class Gathers(Routine):
        @slot(merge_strategy="gather")
        def n(self, n: list[int]) -> None: ...

    recorder = Recorder()
    flow = make_flow(**strategy, plugins=[recorder])
    build(flow, Fails())
    flow.add_routine(Gathers(), "gathers")
    flow.connect("target0", "out", "gathers", "n")
    flow.connect("source", "item", "gathers", "n")
    flow.set_error_handler(ErrorHandler("skip"))
    for _ in range(2):
        recorder.told.clear()
        run(flow, count=4)
        records = [record for batch in recorder.of("records") for record in batch]
        (gathered,) = [record for record in records if record.routine_id == "gathers"]
        emitted = [record.id for record in records if record.routine_id == "target0" and record.outcome == "completed"]
        assert sorted(gathered.extra["causes"]) == sorted([1] * 4 + emitted)
        assert gathered.cause is None
        assert not any(record.extra for record in records if record is not gathered)
        (activation,) = [each for each in recorder.of("activation") if each.routine_id == "gathers"]
        assert activation.causes == gathered.extra["causes"]


def test_routilux_failure_decided_has_what_a_gather_slot_got_as_lists(
    make_flow: MakeFlow, strategy: dict[str, Any]
) -> None:
    class Gathers(Routine):
        @slot(merge_strategy="gather")
        def n(self, n: list[int]) -> None:
            raise ValueError("no")

    told: list[Any] = []
    plugin = tracker(failure_decided=lambda failure, payload: told.append((failure.cause, dict(payload))))
    flow = make_flow(**strategy, plugins=[plugin], error_handler="continue")
    build(flow, Gathers())
    run(flow, count=3)
    assert told == [(None, {"n": [0, 1, 2]})]


def test_routilux_failure_decided_may_take_its_time_and_run_the_call_again_elsewhere(
    make_flow: MakeFlow, strategy: dict[str, Any]
) -> None:
    """A dead letter is posted to another flow, where it succeeds; neither job minds."""
    other, keeps, again = make_flow(), Keeps(), []
    other.add_routine(keeps, "keeps")

    def failure_decided(failure: Failure, payload: Any) -> None:
        sleep(0.01)
        again.append(other.execute("keeps", dict(payload), slot="n"))

    flow = make_flow(**strategy, plugins=[tracker(failure_decided=failure_decided)], error_handler="skip")
    build(flow, Fails())
    job = run(flow, count=6)
    assert (job.ledger.skipped, len(again)) == (3, 3)
    assert other.wait_for_completion(SECONDS)
    assert sorted(keeps.got) == [1, 3, 5]


def test_a_lost_executor_is_told_as_a_failure(make_flow: MakeFlow) -> None:
    told: list[Any] = []
    plugin = tracker(failure_decided=lambda failure, payload: told.append((str(failure.decision), dict(payload))))

    class Breaks(ThreadForEach):
        def __init__(self, host: Host) -> None:
            super().__init__()
            self.host = host

        def submit(self, task: Task) -> None:
            self.host.lost(StrategyError("the cable was pulled"))

    @frozen(kw_only=True)
    class Broken(ExecutionStrategy):
        name: ClassVar[str] = "broken"
        contract: ClassVar[int] = 2
        capabilities: ClassVar[Capabilities] = Capabilities(shares_memory=True)

        def open(self, host: Host) -> WorkerPool:
            return Breaks(host)

    flow = make_flow(execution_strategy=Broken(), plugins=[plugin])
    build(flow)
    job = run(flow, count=2)
    assert (job.status, told) == ("failed", [("stop", {"count": 2})])


class RaisesAlways:
    """A tracker whose every method raises."""

    calls = 0


def _raises(name: str) -> Any:
    arguments = ", ".join(inspect.signature(HOOKS[name]).parameters)
    scope: dict[str, Any] = {}
    exec(f"def {name}(self, {arguments}):\n    type(self).calls += 1\n    raise RuntimeError('no')", scope)
    return hookimpl(scope[name])


for _name in TRACKING:
    setattr(RaisesAlways, _name, _raises(_name))


def test_a_tracker_that_raises_at_every_call_changes_nothing_but_one_log_line(
    make_flow: MakeFlow, strategy: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    answers, recorder = [], Recorder()
    RaisesAlways.calls = 0
    for plugins in ([], [recorder, RaisesAlways]):
        flow, keeps = make_flow(**strategy, plugins=plugins, error_handler="continue"), Keeps()
        build(flow, Fails(), keeps)
        flow.add_output("target0", "out")
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            job = run(flow, count=300)
        answers.append((job.status, job.ledger, job.outputs, job.routine_states, keeps.got))
    assert answers[0] == answers[1]
    (line,) = [
        record.getMessage() for record in caplog.records if record.levelname == "WARNING" and "plugin" in record.msg
    ]
    assert line == (
        f"plugin 'RaisesAlways' raised RuntimeError in routilux_job_started, and is not told about job {job.job_id} "
        "any more"
    )
    assert RaisesAlways.calls == 1
    assert len([record for batch in recorder.of("records") for record in batch]) == 601
    assert len(recorder.of("emission")) == 450
    assert run(flow, count=1).status == "completed"
    assert RaisesAlways.calls == 2  # the next job tells it again


@pytest.mark.parametrize("kind", [asyncio.CancelledError, GeneratorExit, BaseException])
def test_no_kind_of_exception_in_a_plugin_changes_a_job(
    make_flow: MakeFlow, strategy: dict[str, Any], kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    def raises(**_: Any) -> Any:
        raise kind

    hooks = {
        "job_started": lambda job: raises(),
        "activations_finished": lambda records: raises(),
        "job_finished": lambda job: raises(),
        "handle_error": lambda failure: raises(),
    }
    plugins = [tracker(**{name: function}) for name, function in hooks.items()]
    (flow, _), (plain, _) = (failing(make_flow, strategy, *each, error_handler="skip") for each in (plugins, []))
    expected, job = run(plain, count=4), run(flow, count=4)
    assert (job.status, job.ledger, job.routine_states) == (expected.status, expected.ledger, expected.routine_states)
    lines = [record.getMessage() for record in caplog.records if "plugin" in record.msg or "counts as" in record.msg]
    assert len(lines) == 3 + 2, lines


def test_an_interrupt_that_a_plugin_raises_in_a_workers_thread_is_its_own(
    make_flow: MakeFlow, caplog: pytest.LogCaptureFixture
) -> None:
    def activations_finished(records: Any) -> None:
        raise KeyboardInterrupt

    plugin = tracker(activations_finished=activations_finished)
    flow, keeps = make_flow(execution_strategy="concurrent", plugins=[plugin]), Keeps()
    build(flow, keeps)
    assert run(flow, count=3).status == "completed"
    assert keeps.got == [0, 1, 2]
    assert caplog.text.count("raised KeyboardInterrupt in routilux_activations_finished") == 1


@pytest.mark.parametrize("hook", TRACKING)
def test_waiting_for_the_flow_in_a_tracking_hook_is_refused(
    make_flow: MakeFlow, strategy: dict[str, Any], hook: str
) -> None:
    refused: list[Exception] = []

    def wait(*_: Any) -> None:
        for call in (flow.wait_for_completion, flow.job_state.wait):
            try:
                call()
            except FlowStateError as error:
                refused.append(error)

    scope: dict[str, Any] = {"wait": wait}
    arguments = ", ".join(inspect.signature(HOOKS[hook]).parameters)
    exec(f"def {hook}({arguments}): wait()", scope)
    plugin = SimpleNamespace(**{hook: hookimpl(scope[hook])})
    flow = make_flow(**strategy, plugins=[plugin], error_handler="continue")
    build(flow, Fails())
    assert run(flow, count=2).status == "completed"
    assert len(refused) >= 2
    assert len(refused) % 2 == 0


def test_a_job_may_be_started_in_the_hook_that_tells_of_the_end_of_another(
    make_flow: MakeFlow, strategy: dict[str, Any]
) -> None:
    started: list[JobState] = []

    def job_finished(job: JobState) -> None:
        if len(started) < 3:
            started.append(flow.execute("source", {"count": 1}))

    keeps = Keeps()
    flow = make_flow(**strategy, plugins=[tracker(job_finished=job_finished)])
    build(flow, keeps)
    run(flow, count=1)
    assert flow.wait_for_completion(SECONDS)
    assert [job.wait(SECONDS) for job in started] == [True] * 3
    assert keeps.got == [0] * 4


class Held:
    """A listener that takes its time, once, until the test lets it go."""

    def __init__(self, hook: str) -> None:
        self.held, self.go_on = threading.Event(), threading.Event()
        setattr(self, f"routilux_{hook}", hookimpl(lambda: self.hold()))

    def hold(self) -> None:
        if not self.held.is_set():
            self.held.set()
            assert self.go_on.wait(SECONDS)


@pytest.fixture
def held() -> Iterator[Callable[[str], Held]]:
    made: list[Held] = []

    def make(hook: str) -> Held:
        made.append(Held(hook))
        return made[-1]

    yield make
    for each in made:
        each.go_on.set()


class Stuck(Routine, timeout=0.05):
    """Goes on after its time is over, until the test lets it go."""

    def __init__(self, go_on: threading.Event) -> None:
        super().__init__()
        self.go_on = go_on

    @slot
    def n(self) -> None:
        self.go_on.wait(SECONDS)


def test_a_listener_that_takes_its_time_over_one_job_keeps_no_worker_from_the_next(
    make_flow: MakeFlow, held: Callable[[str], Held]
) -> None:
    plugin = held("job_finished")
    flow = make_flow(execution_strategy="concurrent", max_workers=1, plugins=[plugin])
    build(flow, Keeps())
    first = flow.execute("source", {"count": 1})
    assert plugin.held.wait(SECONDS)
    assert run(flow, count=5).status == "completed"
    assert not first.wait(0.0)  # those who wait for it are told after the listener
    plugin.go_on.set()
    assert first.wait(SECONDS)


@pytest.mark.parametrize("hook", ["job_finished", "activations_finished"])
def test_a_listener_that_takes_its_time_keeps_no_time_limit_from_coming(
    make_flow: MakeFlow, held: Callable[[str], Held], hook: str
) -> None:
    """The thread that waits for time limits, and for retries, tells nobody itself."""
    plugin = held(hook)
    flow = make_flow(execution_strategy="concurrent", max_workers=4, plugins=[plugin], error_handler="continue")
    for number in range(3):
        flow.add_routine(Stuck(plugin.go_on), f"stuck{number}")
    jobs = [flow.execute("stuck0")]
    assert plugin.held.wait(SECONDS)
    jobs += [flow.execute("stuck1"), flow.execute("stuck2")]
    for job in jobs[1:]:
        assert job.wait(SECONDS), job.explain()
    assert [job.errors[0].routine_id for job in jobs] == ["stuck0", "stuck1", "stuck2"]
    assert not plugin.go_on.is_set()


def test_a_listener_that_takes_its_time_keeps_no_retry_from_coming(
    make_flow: MakeFlow, held: Callable[[str], Held]
) -> None:
    plugin, again = held("activations_finished"), threading.Event()

    class FailsOnce(Routine):
        @slot
        def n(self) -> None:
            if not plugin.held.wait(SECONDS) or again.is_set():
                return
            again.set()
            raise ValueError

    class Quick(Routine):
        @slot
        def n(self) -> None: ...

    flow = make_flow(execution_strategy="concurrent", max_workers=3, plugins=[plugin])
    flow.set_error_handler(ErrorHandler("retry", retry_delay=0.01))
    flow.add_routine(FailsOnce(), "fails")
    flow.add_routine(Quick(), "quick")
    flow.execute("quick")
    job = flow.execute("fails")
    assert job.wait(SECONDS) or plugin.go_on.set(), job.explain()
    assert job.ledger.retried == 1


def test_the_strategy_may_be_changed_in_the_hook_that_tells_of_the_end_of_a_job(
    make_flow: MakeFlow, strategy: dict[str, Any]
) -> None:
    took: list[float] = []

    def job_finished(job: JobState) -> None:
        began = perf_counter()
        flow.set_execution_strategy("concurrent" if flow.execution_strategy == "sequential" else "sequential")
        took.append(perf_counter() - began)

    keeps = Keeps()
    flow = make_flow(**strategy, plugins=[tracker(job_finished=job_finished)])
    build(flow, keeps)
    names = []
    for _ in range(4):
        names.append(flow.execution_strategy)
        run(flow, count=2)
    assert set(names) == {"sequential", "concurrent"}
    assert keeps.got == [0, 1] * 4
    assert max(took) < SECONDS / 4


@pytest.mark.parametrize(
    ("plugin", "why"),
    [
        (object(), "an object of type 'object' implements none of the hooks"),
        (3, "implements none of the hooks"),
        (tracker(job_started=lambda flow: None), "flow"),
        (tracker(job_started=lambda job, flow: None), "flow"),
        (SimpleNamespace(routilux_job_started=print), "not marked with @hookimpl"),
    ],
)
def test_a_plugin_object_that_cannot_work_is_refused_at_once(plugin: Any, why: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(why)):
        Flow(plugins=[plugin])


def test_one_listener_does_not_hear_of_the_jobs_of_another_flow(make_flow: MakeFlow) -> None:
    mine, theirs = Recorder(), Recorder()
    for recorder in (mine, theirs):
        flow = make_flow(flow_id=f"flow{len(theirs.told)}", plugins=[recorder])
        build(flow, Keeps())
        run(flow, count=1)
    assert len(mine.of("finished")) == len(theirs.of("finished")) == 1


def test_the_time_of_a_slow_listener_is_in_no_record(make_flow: MakeFlow) -> None:
    calls: list[int] = []

    def slow(records: Sequence[ActivationRecord]) -> None:
        calls.append(len(records))
        if len(calls) <= 3:
            sleep(0.4)

    class Ignores(Routine):
        @slot
        def n(self, n: int) -> None:
            pass

    plugin = tracker(activations_finished=slow)
    flow = make_flow(execution_strategy="concurrent", max_workers=2, plugins=[plugin], history_size=10_000)
    flow.add_routine(Source(), "source")
    flow.add_routine(Ignores(), "ignores")
    flow.connect("source", "item", "ignores", "n")
    job = Context().run(flow.run, "source", {"count": 2000})
    slow_ones = [each for each in job.get_execution_history("ignores") if each.ended - each.started >= 0.4]
    assert len(slow_ones) < 2, "three would be the listener's; one may be a moment that the machine took"
