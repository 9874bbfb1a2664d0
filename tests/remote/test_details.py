"""The detail hooks are told of calls that are sent and of what comes home of them, as of calls in one thread."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from routilux_core import ErrorHandler, Flow, FlowStateError, JobState, Routine, event, hookimpl
from shipped.routines import Appender, Fails, FailsWithout, Gatherer, Newest, SlowSource, Source, Square
from shipped.strategies import Mortal

MakeFlow = Callable[..., Flow]
SECONDS = 30.0
SEQUENTIAL = {"execution_strategy": "sequential"}


class Sends(Routine):
    """Emits in this process what can't leave it."""

    item = event("n")

    def __call__(self, n: int) -> None:
        self.emit("item", n=threading.Lock())


class Listener:
    """Notes all that it is told, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []
        self.processes: set[int] = set()

    def note(self, kind: str, record: Any) -> None:
        self.told.append((kind, record))
        self.processes.add(os.getpid())

    @hookimpl
    def routilux_activation_started(self, activation: Any) -> None:
        self.note("activation", activation)

    @hookimpl
    def routilux_event_emitted(self, emission: Any) -> None:
        self.note("emission", emission)

    @hookimpl
    def routilux_job_finished(self, job: JobState) -> None:
        self.note("finished", job)

    def of(self, kind: str) -> list[Any]:
        return [record for name, record in self.told if name == kind]


def normal(data: Any) -> str:
    return repr({key: sorted(value) if isinstance(value, list) else value for key, value in data.items()})


def answer(listener: Listener) -> dict[str, Counter[Any]]:
    """Return all that has to be the same as in one thread."""
    return {
        "activations": Counter(
            (each.routine_id, each.slot, each.attempt, each.cause is None, normal(each.data))
            for each in listener.of("activation")
        ),
        "emissions": Counter(
            (each.routine_id, each.event, each.targets, normal(each.data)) for each in listener.of("emission")
        ),
    }


def wire(flow: Flow, *routines: Any) -> Flow:
    """Let a source send numbers to some routines, and another one hear what these say."""
    flow.add_routine(Source(), "source")
    flow.add_routine(Square(), "end")
    for number, routine in enumerate(routines):
        flow.add_routine(routine, f"r{number}")
        flow.connect("source", "item", f"r{number}", "n")
        for name in sorted({"done", "gathered", "passed"} & set(routine._routilux.events)):
            flow.connect(f"r{number}", name, "end", "n")
    return flow


def run(flow: Flow, count: int) -> JobState:
    job = flow.execute("source", {"count": count})
    assert job.wait(SECONDS), job.explain()
    assert (job.ledger.balanced, job.ledger.pending) == (True, 0)
    return job


FLOWS: dict[str, Callable[[], list[Any]]] = {
    "calls and state": lambda: [Square(), Square()],
    "merges": lambda: [Appender(), Newest()],
    "gather": lambda: [Gatherer()],
    "errors": lambda: [FailsWithout(bad=frozenset({3})), Fails(times={5: 99, 7: 1})],
}


@pytest.mark.parametrize("routines", FLOWS.values(), ids=FLOWS)
def test_each_call_and_each_emission_is_told_as_in_one_thread(
    make_flow: MakeFlow, shipped: dict[str, Any], routines: Callable[[], list[Any]]
) -> None:
    retry = ErrorHandler("retry", max_retries=2, retry_delay=0.0, after_retries="continue")
    answers = []
    for strategy in (SEQUENTIAL, shipped):
        listener = Listener()
        flow = wire(make_flow(**strategy, plugins=[listener], error_handler=retry, history_size=1000), *routines())
        job = run(flow, count=12)
        answers.append(answer(listener))
        assert len(listener.of("emission")) == job.ledger.emitted
        assert len(listener.of("activation")) == len(job.get_execution_history())
        assert listener.processes == {os.getpid()}
        assert [kind for kind, _ in listener.told].index("finished") == len(listener.told) - 1
    assert answers[0] == answers[1]


def test_what_a_shipped_call_emits_is_told_before_the_end_of_the_call(
    make_flow: MakeFlow, shipped: dict[str, Any]
) -> None:
    seen: list[tuple[str, int]] = []

    class Compares:
        @hookimpl
        def routilux_event_emitted(self, emission: Any) -> None:
            seen.append(("emitted", emission.activation))

        @hookimpl
        def routilux_activations_finished(self, records: Any) -> None:
            seen.extend(("ended", each.id) for each in records)

    flow = make_flow(**shipped, plugins=[Compares()])
    flow.add_routine(Square(), "only")
    assert run_of_one(flow).status == "completed"
    assert seen == [("emitted", 1), ("ended", 1)]


def run_of_one(flow: Flow) -> JobState:
    job = flow.execute("only", {"n": 3})
    assert job.wait(SECONDS), job.explain()
    return job


def test_emissions_are_told_while_the_shipped_call_runs(make_flow: MakeFlow) -> None:
    listener = Listener()
    flow = make_flow("f", Mortal(max_workers=1), plugins=[listener])
    flow.add_routine(SlowSource(), "only")
    job = flow.execute("only", {"count": 40})
    assert job.wait(SECONDS), job.explain()
    (record,) = job.get_execution_history()
    times = [each.time for each in listener.of("emission")]
    assert [each.data["n"] for each in listener.of("emission")] == list(range(40))
    assert sum(time < record.ended for time in times) > 20


def test_what_can_not_be_sent_is_not_told_as_about_to_be_called(make_flow: MakeFlow, shipped: dict[str, Any]) -> None:
    listener = Listener()
    flow = make_flow(**shipped, plugins=[listener], error_handler="continue")
    flow.add_routine(Sends(), "sends", execution_strategy="concurrent")
    flow.add_routine(Square(), "only")
    flow.connect("sends", "item", "only", "n")
    job = flow.execute("sends", {"n": 7})
    assert job.wait(SECONDS), job.explain()
    assert [each.routine_id for each in listener.of("activation")] == ["sends"]
    assert [(each.routine_id, each.slot) for each in job.errors] == [("only", "n")]


@pytest.mark.parametrize("hook", ["routilux_activation_started", "routilux_event_emitted"])
def test_a_detail_hook_may_cancel_and_is_refused_to_wait(
    make_flow: MakeFlow, shipped: dict[str, Any], hook: str
) -> None:
    refused: list[FlowStateError] = []
    acted = threading.Event()

    class Holds(Routine):
        """Of this process: while it waits its job goes on, however soon the call that was sent has come home."""

        item = event("n")

        def __call__(self) -> None:
            self.emit("item", n=3)
            assert acted.wait(SECONDS)

    def act(**told: Any) -> None:
        about = told["activation"] if hook == "routilux_activation_started" else told["emission"]
        if about.routine_id != "only":
            return
        with pytest.raises(FlowStateError) as caught:
            flow.job_state.wait()
        refused.append(caught.value)
        flow.cancel()
        acted.set()

    hooks = {
        "routilux_activation_started": lambda activation: act(activation=activation),
        "routilux_event_emitted": lambda emission: act(emission=emission),
    }
    flow = make_flow(**shipped, plugins=[SimpleNamespace(**{hook: hookimpl(hooks[hook])})])
    flow.add_routine(Holds(), "holds", execution_strategy="concurrent")
    flow.add_routine(Square(), "only")
    flow.connect("holds", "item", "only", "n")
    job = flow.execute("holds")
    assert job.wait(SECONDS), job.explain()
    assert len(refused) == 1
    assert (job.status, job.ledger.balanced, job.ledger.pending) == ("cancelled", True, 0)
    assert job.ledger.completed + job.ledger.discarded == 2  # what was sent already may have been made


def test_a_detail_hook_that_raises_changes_nothing(make_flow: MakeFlow, shipped: dict[str, Any]) -> None:
    def fail() -> None:
        raise RuntimeError("a broken tracker")

    broken = SimpleNamespace(routilux_activation_started=hookimpl(fail), routilux_event_emitted=hookimpl(fail))
    ledgers = []
    for plugins in ([], [broken]):
        flow = wire(make_flow(**shipped, plugins=plugins, error_handler="continue"), FailsWithout(bad=frozenset({3})))
        job = run(flow, count=10)
        ledgers.append((job.status, job.ledger, job.routine_states, len(job.errors)))
    assert ledgers[0] == ledgers[1]
