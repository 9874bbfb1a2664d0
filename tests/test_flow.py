"""Flows: wiring, outputs, running, switching strategies, opening and closing."""

from __future__ import annotations

import contextvars
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest

from routilux_core import (
    ConfigurationError,
    Connection,
    Flow,
    FlowStateError,
    JobState,
    Routine,
    UnknownStrategyError,
    event,
    field,
    slot,
)

pytestmark = pytest.mark.in_processes_too

MakeFlow = Callable[..., Flow]
SECONDS = 60.0


class Source(Routine):
    item = event("n")

    def __call__(self, count: int) -> None:
        for n in range(count):
            self.emit("item", n=n)


class Square(Routine, stateless=True):
    squared = event("n")

    @slot
    def n(self, n: int) -> None:
        self.emit("squared", n=n * n)


class Total(Routine):
    total: int = 0
    grown = event("total")

    @slot
    def n(self, n: int) -> None:
        self.total += n
        self.emit("grown", total=self.total)


class Blocks(Routine):
    """Its handler runs until the test says so."""

    done = event("n")

    def __init__(self) -> None:
        super().__init__()
        self.running, self.release = threading.Event(), threading.Event()

    def __call__(self, n: int = 0) -> None:
        self.running.set()
        assert self.release.wait(SECONDS)
        self.emit("done", n=n)


class Loop(Routine):
    """Goes round until its budget is used."""

    left: int = field(default=0)
    again = event()

    @slot
    def step(self) -> None:
        if self.left:
            self.left -= 1
            self.emit("again")


class Step(Routine):
    done = event("n")

    @slot
    def n(self, n: int) -> None:
        self.emit("done", n=n + 1)


def run(flow: Flow, entry: str, params: dict[str, Any] | None = None, slot: str | None = None) -> JobState:
    job = flow.execute(entry, params, slot=slot)
    assert flow.wait_for_completion(SECONDS), job.explain()
    return job


def squares(flow: Flow) -> Total:
    total = Total()
    flow.add_routine(Source(), "source")
    flow.add_routine(Square(), "square")
    flow.add_routine(total, "total")
    flow.connect("source", "item", "square", "n")
    flow.connect("square", "squared", "total", "n")
    return total


# -- building


def test_a_flow_shows_what_it_is_made_of(make_flow: MakeFlow) -> None:
    flow = make_flow("squares", "concurrent", 3)
    total = squares(flow)
    assert (flow.flow_id, flow.execution_strategy, flow.max_workers) == ("squares", "concurrent", 3)
    assert list(flow.routines) == ["source", "square", "total"]
    assert flow.routines["total"] is total
    assert flow.connections == (
        Connection("source", "item", "square", "n"),
        Connection("square", "squared", "total", "n"),
    )
    assert repr(flow) == "<Flow 'squares': 3 routines, strategy 'concurrent'>"
    with pytest.raises(TypeError):
        flow.routines["more"] = Total()  # type: ignore[index]


def test_names_that_nobody_gave(make_flow: MakeFlow) -> None:
    first, second = make_flow(), make_flow()
    assert first.flow_id != second.flow_id
    assert first.add_routine(Total()) == "total"
    assert first.add_routine(Total(), "again") == "again"
    assert first.add_output("total", "grown") == "total.grown"
    assert first.add_output("again", "grown", "growth") == "growth"


@pytest.mark.parametrize("name", ["max_pending", "history_size"])
@pytest.mark.parametrize("value", [-1, "3", 2.5, True, None])
def test_a_wrong_number_of_a_flow_is_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=name):
        Flow(**{name: value})  # type: ignore[arg-type]


def test_a_connection_that_cannot_supply_what_is_required_warns(make_flow: MakeFlow) -> None:
    flow = make_flow()
    flow.add_routine(Total(), "first")
    flow.add_routine(Total(), "second")
    with pytest.warns(UserWarning, match=r"second\.n requires 'n', but first\.grown declares 'total'") as warned:
        flow.connect("first", "grown", "second", "n")
    assert warned[0].filename == __file__
    flow.connect("first", "grown", "second", "n", {"total": "n"})


@pytest.mark.in_this_process("collects in a list of this process")
def test_what_a_merge_function_may_supply_is_not_warned_of(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow, got = make_flow(**strategy), []
    merges = Routine()
    merges.define_slot("n", lambda total: got.append(total), lambda old, new: {"total": old.get("total", 0) + new["n"]})
    flow.add_routine(Source(), "source")
    flow.add_routine(merges, "merges")
    flow.connect("source", "item", "merges", "n")  # a warning is an error here
    assert flow.run("source", {"count": 3}).status == "completed"
    assert got == [0, 1, 3]


def test_two_connections_with_different_mappings_deliver_twice(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow, total = make_flow(**strategy), Total()
    flow.add_routine(Source(), "source")
    flow.add_routine(total, "total")
    flow.connect("source", "item", "total", "n")
    flow.connect("source", "item", "total", "n", {"n": "n"})
    run(flow, "source", {"count": 4})
    assert total.total == 2 * (1 + 2 + 3)


def test_neither_a_flow_nor_a_job_can_be_pickled(make_flow: MakeFlow) -> None:
    flow = make_flow()
    squares(flow)
    job = run(flow, "source", {"count": 1})
    with pytest.raises(TypeError, match="Flow can't be pickled"):
        pickle.dumps(flow)
    with pytest.raises(TypeError, match="JobState can't be pickled"):
        pickle.dumps(job)


# -- running


def test_a_flow_computes(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow = make_flow(**strategy)
    total = squares(flow)
    job = run(flow, "source", {"count": 50})
    assert (job.status, total.total) == ("completed", sum(n * n for n in range(50)))
    assert flow.job_state is job


def test_run_returns_the_job_when_it_has_ended(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow = make_flow(**strategy)
    total = squares(flow)
    assert flow.run("source", {"count": 20}).status == "completed"
    assert total.total == sum(n * n for n in range(20))


def test_waiting_for_nothing_is_true_at_once(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow = make_flow(**strategy)
    assert flow.wait_for_completion() is True
    assert flow.job_state is None


def test_waiting_with_a_timeout_is_false_while_a_job_runs(make_flow: MakeFlow) -> None:
    flow, blocks = make_flow(execution_strategy="concurrent"), Blocks()
    flow.add_routine(blocks, "blocks")
    job = flow.execute("blocks")
    assert blocks.running.wait(SECONDS)
    assert (flow.wait_for_completion(0.01), job.wait(0.0), job.status) == (False, False, "running")
    blocks.release.set()
    assert (flow.wait_for_completion(SECONDS), job.wait(), job.status) == (True, True, "completed")


def test_the_payload_of_an_entry_is_the_callers_own(make_flow: MakeFlow) -> None:
    flow, params = make_flow(), {"count": 2}
    squares(flow)
    run(flow, "source", params)
    assert params == {"count": 2}


def test_an_event_goes_to_everything_that_is_connected(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow = make_flow(**strategy)
    flow.add_routine(Source(), "source")
    totals = [Total() for _ in range(20)]
    for number, total in enumerate(totals):
        flow.add_routine(total, f"total{number}")
        flow.connect("source", "item", f"total{number}", "n")
    run(flow, "source", {"count": 11})
    assert [total.total for total in totals] == [55] * 20


@pytest.mark.parametrize("length", [10_000, pytest.param(100_000, marks=pytest.mark.soak)])
def test_a_long_chain_completes(make_flow: MakeFlow, length: int) -> None:
    flow = make_flow()
    flow.add_routine(Step(), "0")
    for number in range(1, length):
        flow.add_routine(Step(), str(number))
        flow.connect(str(number - 1), "done", str(number), "n")
    flow.add_output(str(length - 1), "done", "end")
    job = run(flow, "0", {"n": 0})
    assert job.outputs == {"end": [{"n": length}]}
    assert job.ledger.completed == length


@pytest.mark.in_this_process("takes 20,000 ways there and back")
@pytest.mark.parametrize("budget", [0, 1, 20_000])
def test_a_cycle_ends_when_its_budget_is_used(make_flow: MakeFlow, strategy: dict[str, Any], budget: int) -> None:
    flow, loop = make_flow(**strategy, max_pending=2), Loop(left=budget)
    flow.add_routine(loop, "loop")
    flow.connect("loop", "again", "loop", "step")
    job = run(flow, "loop")
    assert (job.status, loop.left, job.ledger.completed) == ("completed", 0, budget + 1)


def test_a_cycle_that_doubles_ends_when_its_budget_is_used(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow, loop = make_flow(**strategy, max_pending=4), Loop(left=500)
    flow.add_routine(loop, "loop")
    relay = Loop(left=10**9)
    flow.add_routine(relay, "relay")
    flow.connect("loop", "again", "loop", "step")
    flow.connect("loop", "again", "relay", "step")
    flow.connect("relay", "again", "loop", "step")
    job = run(flow, "loop")
    # Each of the 500 steps with budget causes one step directly and one by way of the relay.
    assert (loop.left, job.ledger.completed) == (0, 1 + 500 * 3)


@pytest.mark.parametrize("max_pending", [1, 2, 16])
def test_a_burst_beyond_max_pending_loses_nothing(
    make_flow: MakeFlow, strategy: dict[str, Any], max_pending: int
) -> None:
    flow = make_flow(**strategy, max_pending=max_pending)
    total = squares(flow)
    job = run(flow, "source", {"count": 2_000})
    assert total.total == sum(n * n for n in range(2_000))
    assert (job.ledger.posted, job.ledger.completed, job.ledger.emitted) == (4_001, 4_001, 6_000)


SUBJECT: contextvars.ContextVar[str] = contextvars.ContextVar("subject")


@pytest.mark.in_this_process("context variables don't travel")
def test_context_variables_of_the_caller_are_seen_in_every_handler(
    make_flow: MakeFlow, strategy: dict[str, Any]
) -> None:
    class Reads(Square, stateless=True):
        @slot
        def n(self, n: int) -> None:
            self.emit("squared", n=f"{SUBJECT.get()} {n}")
            SUBJECT.set("changed in a handler")

    flow = make_flow(**strategy)
    flow.add_routine(Source(), "source")
    flow.add_routine(Reads(), "reads")
    flow.add_output("reads", "squared", "read")
    flow.connect("source", "item", "reads", "n")
    for subject in ("weather", "prices"):
        token = SUBJECT.set(subject)
        job = run(flow, "source", {"count": 5})
        assert SUBJECT.get() == subject
        SUBJECT.reset(token)
        assert sorted(payload["n"] for payload in job.outputs["read"]) == [f"{subject} {n}" for n in range(5)]


class Signs(Square, stateless=True):
    """Signs what it squares with what it finds in a context variable, and then puts its own name there."""

    @slot
    def n(self, n: int) -> None:
        self.emit("squared", n=f"{n} of {SUBJECT.get('nobody')}")
        if n % 2:
            SUBJECT.set(f"call {n}")


@pytest.mark.parametrize("history_size", [1000, 0])
def test_what_a_handler_sets_in_a_context_variable_no_other_call_sees_nor_the_caller(
    make_flow: MakeFlow, strategy: dict[str, Any], history_size: int
) -> None:
    flow = make_flow(**strategy, history_size=history_size)
    flow.add_routine(Source(), "source")
    flow.add_routine(Signs(), "signs")
    flow.add_output("signs", "squared", "signed")
    flow.connect("source", "item", "signs", "n")
    for caller in (contextvars.Context(), contextvars.Context(), contextvars.copy_context()):
        job = caller.run(run, flow, "source", {"count": 20})
        assert sorted(payload["n"] for payload in job.outputs["signed"]) == sorted(f"{n} of nobody" for n in range(20))
        assert (job.ledger.completed, job.ledger.emitted, job.errors) == (21, 40, [])
        assert caller.run(SUBJECT.get, "nobody") == "nobody"


class SignsInTurn(Square):
    """The same with state, merged by a function that sets the variable, too."""

    def __init__(self) -> None:
        super().__init__()
        self.define_slot("merged", self.sign, merge_strategy=self.merge)

    def merge(self, old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
        SUBJECT.set("a merge")
        return {"n": new["n"]}

    def sign(self, n: int) -> None:
        self.emit("squared", n=n)
        if n == 7:
            SUBJECT.set("a call that failed")
            raise ValueError(n)


def test_it_ends_with_the_call_also_where_that_fails_or_something_is_merged(
    make_flow: MakeFlow, strategy: dict[str, Any]
) -> None:
    flow = make_flow(**strategy, error_handler="continue")
    flow.add_routine(Source(), "source")
    flow.add_routine(SignsInTurn(), "first")
    flow.add_routine(Signs(), "second")
    flow.add_output("second", "squared", "signed")
    flow.connect("source", "item", "first", "merged")
    flow.connect("first", "squared", "second", "n")
    caller = contextvars.Context()
    job = caller.run(run, flow, "source", {"count": 12})
    assert sorted(payload["n"] for payload in job.outputs["signed"]) == sorted(f"{n} of nobody" for n in range(12))
    assert (job.ledger.failed, job.ledger.posted) == (1, 25)
    assert caller.run(SUBJECT.get, "nobody") == "nobody"


class Executes(Routine):
    def __init__(self, flow: Flow, jobs: list[JobState]) -> None:
        super().__init__()
        self.flow, self.jobs = flow, jobs

    def __call__(self) -> None:
        self.jobs.append(self.flow.execute("signs", {"n": 2}))


def test_a_job_that_another_thread_works_at_sees_the_variables_of_who_executed_it(make_flow: MakeFlow) -> None:
    flow = make_flow()
    flow.add_routine(Signs(), "signs")
    flow.add_output("signs", "squared", "signed")
    jobs: list[JobState] = []
    flow.add_routine(Executes(flow, jobs), "executes")
    flow.run("executes")
    token = SUBJECT.set("who only waits")
    assert flow.wait_for_completion(SECONDS)
    SUBJECT.reset(token)
    assert jobs[0].outputs["signed"] == [{"n": "2 of nobody"}]


class SaysWhere(Routine):
    done = event()

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[int] = []
        self.called = threading.Event()
        self.define_slot("go", self.note)

    def note(self) -> None:
        self.threads.append(threading.get_ident())
        self.emit("done")
        self.called.set()


def test_an_entry_placed_in_the_callers_thread_is_called_there_at_once(make_flow: MakeFlow) -> None:
    flow, first, second, last = make_flow(execution_strategy="concurrent"), SaysWhere(), SaysWhere(), SaysWhere()
    flow.add_routine(first, "first", execution_strategy="sequential")
    flow.add_routine(second, "second")
    flow.add_routine(last, "last", execution_strategy="sequential")
    flow.connect("first", "done", "second", "go")
    flow.connect("second", "done", "last", "go")
    job = flow.execute("first")
    me = threading.get_ident()
    assert first.threads == [me]
    assert second.called.wait(SECONDS)  # though nobody has waited for the job
    assert me not in second.threads
    assert job.wait(SECONDS)
    assert last.threads == [me]


def test_explain_says_that_somebody_has_to_wait_for_what_is_placed_in_a_callers_thread(make_flow: MakeFlow) -> None:
    flow, first, last = make_flow(execution_strategy="concurrent"), SaysWhere(), SaysWhere()
    flow.add_routine(first, "first")
    flow.add_routine(last, "last", execution_strategy="sequential")
    flow.connect("first", "done", "last", "go")
    job = flow.execute("first")
    assert first.called.wait(SECONDS)
    assert "'last': 1 queued for a thread that waits: job.wait() or flow.wait_for_completion()" in job.explain()
    assert job.wait(SECONDS)


# -- switching


def test_one_word_swapped_gives_the_same_answer(make_flow: MakeFlow) -> None:
    flow = make_flow()
    total = squares(flow)
    for name, workers in (("sequential", None), ("concurrent", 10), ("sequential", None), ("concurrent", 1)):
        flow.set_execution_strategy(name, max_workers=workers)
        total.total = 0
        job = run(flow, "source", {"count": 30})
        assert flow.execution_strategy == name
        assert (total.total, job.ledger.completed) == (sum(n * n for n in range(30)), 61)


def test_a_switch_keeps_the_number_of_workers_that_it_does_not_name(make_flow: MakeFlow) -> None:
    flow = make_flow(execution_strategy="concurrent", max_workers=3)
    flow.set_execution_strategy("sequential")
    assert flow.max_workers == 3
    flow.set_execution_strategy("concurrent")
    assert flow.max_workers == 3
    flow.set_execution_strategy("concurrent", max_workers=5)
    assert flow.max_workers == 5


def test_a_switch_that_is_refused_changes_nothing(make_flow: MakeFlow) -> None:
    flow = make_flow(execution_strategy="concurrent", max_workers=3)
    total = squares(flow)
    with pytest.raises(UnknownStrategyError):
        flow.set_execution_strategy("serial")
    assert (flow.execution_strategy, flow.max_workers) == ("concurrent", 3)
    run(flow, "source", {"count": 3})
    assert total.total == 5


def test_the_graph_cannot_change_while_a_job_runs(make_flow: MakeFlow) -> None:
    flow, blocks, extra = make_flow(execution_strategy="concurrent"), Blocks(), Total()
    flow.add_routine(blocks, "blocks")
    flow.add_routine(extra, "extra")
    with pytest.warns(UserWarning, match=r"is flow\.connect"):
        job = flow.execute("blocks")
    assert blocks.running.wait(SECONDS)
    for change in (
        lambda: flow.add_routine(Total(), "late"),
        lambda: flow.connect("blocks", "done", "extra", "n"),
        lambda: flow.add_output("blocks", "done"),
        lambda: flow.set_execution_strategy("sequential"),
        lambda: extra.define_slot("late", handler=print),
        lambda: extra.define_event("late"),
    ):
        with pytest.raises(FlowStateError, match=job.job_id):
            change()
    blocks.release.set()
    assert job.wait(SECONDS)
    flow.connect("blocks", "done", "extra", "n")
    extra.define_event("late")
    assert run(flow, "blocks", {"n": 7}).status == "completed"
    assert extra.total == 7


# -- closing


def test_leaving_the_context_lets_the_work_end(strategy: dict[str, Any]) -> None:
    with Flow(**strategy) as flow:
        total = squares(flow)
        job = flow.execute("source", {"count": 100})
    assert (job.status, total.total) == ("completed", sum(n * n for n in range(100)))


def test_leaving_the_context_by_an_exception_cancels() -> None:
    class UntilCancelled(Blocks):
        def __call__(self, n: int = 0) -> None:
            self.running.set()
            while not self.cancelled:
                self.release.wait(0.001)
            self.emit("done", n=n)

    total, endless = Total(), UntilCancelled()
    with pytest.raises(ZeroDivisionError), Flow(execution_strategy="concurrent", max_workers=1) as flow:
        flow.add_routine(endless, "endless")
        flow.add_routine(total, "total")
        flow.connect("endless", "done", "total", "n")
        job = flow.execute("endless", {"n": 5})
        assert endless.running.wait(SECONDS)
        raise ZeroDivisionError
    assert (job.status, total.total) == ("cancelled", 0)
    assert (job.ledger.completed, job.ledger.discarded, job.ledger.pending) == (1, 1, 0)


def test_shutdown_lets_the_work_end_and_can_be_repeated(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow = make_flow(**strategy)
    total = squares(flow)
    job = flow.execute("source", {"count": 100})
    flow.shutdown(wait=True)
    assert (job.status, total.total) == ("completed", sum(n * n for n in range(100)))
    flow.shutdown()
    flow.shutdown(wait=False)


def test_a_flow_that_was_shut_down_opens_again(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow = make_flow(**strategy)
    total = squares(flow)
    for _ in range(3):
        run(flow, "source", {"count": 3})
        flow.shutdown()
    assert total.total == 15


def test_shutdown_cancels_a_paused_job(make_flow: MakeFlow) -> None:
    flow, blocks = make_flow(execution_strategy="concurrent"), Blocks()
    flow.add_routine(blocks, "blocks")
    flow.add_routine(Total(), "total")
    flow.connect("blocks", "done", "total", "n")
    job = flow.execute("blocks")
    assert blocks.running.wait(SECONDS)
    flow.pause()
    blocks.release.set()
    flow.shutdown()
    assert job.status == "cancelled"
    assert job.ledger.pending == 0


def test_shutdown_that_does_not_wait_closes_behind_the_last_job(make_flow: MakeFlow) -> None:
    flow, blocks = make_flow(execution_strategy="concurrent", max_workers=2), Blocks()
    flow.add_routine(blocks, "blocks")
    flow.add_output("blocks", "done")
    job = flow.execute("blocks", {"n": 3})
    assert blocks.running.wait(SECONDS)
    flow.shutdown(wait=False)
    assert job.status == "running"
    blocks.release.set()
    assert job.wait(SECONDS)
    assert (job.status, job.outputs) == ("completed", {"blocks.done": [{"n": 3}]})


def test_shutdown_with_a_timeout_cancels_what_still_runs(make_flow: MakeFlow) -> None:
    flow, blocks = make_flow(execution_strategy="concurrent", max_workers=2), Blocks()
    flow.add_routine(blocks, "blocks")
    job = flow.execute("blocks")
    assert blocks.running.wait(SECONDS)
    flow.shutdown(timeout=0.01)
    blocks.release.set()
    assert job.wait(SECONDS)
    assert job.status == "cancelled"
