"""What travels and what comes back: refusals before the run, errors, log, warnings, time, and the worker's own side."""

from __future__ import annotations

import logging
import os
import pickle
import ssl
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
from attrs import frozen

from routilux_core import (
    ActivationTimeout,
    EmitError,
    ErrorHandler,
    Flow,
    FlowStateError,
    Host,
    JobState,
    RemoteError,
    Routine,
    ShippingError,
    Task,
    WorkerPool,
    event,
    slot,
)
from routilux_core._remote import cache
from shipped.routines import (
    AddsToIt,
    Carries,
    Emits,
    Executes,
    Fails,
    Heavy,
    Holder,
    KeepsLock,
    Late,
    LateStateless,
    Pause,
    Repeats,
    Says,
    SaysWhich,
    Source,
    Square,
    Stubborn,
    Sum,
    TwoArguments,
    UsesClient,
    Waits,
)
from shipped.strategies import Mortal, MortalPool

MakeFlow = Callable[..., Flow]
SECONDS = 20.0


def finished(job: JobState) -> JobState:
    assert job.wait(SECONDS), job.explain()
    assert job.ledger.balanced
    return job


def test_a_list_of_the_callers_that_a_worker_changes_is_named_once(
    make_flow: MakeFlow, shipped: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    flow, mine = make_flow(**shipped), [0]
    total = Sum(seen=mine)
    flow.add_routine(total, "sum")
    for n in (1, 2):
        finished(flow.execute("sum", {"n": n}))
    text = "routine 'sum': a call in a worker process has changed what its attribute 'seen' holds, which somebody else"
    assert [record.getMessage()[: len(text)] for record in caplog.records] == [text]
    assert "flow.routines['sum'].seen" in caplog.text
    assert (mine, total.seen) == ([0], [0, 1, 2])


def test_a_list_that_nobody_else_holds_may_change_in_a_worker(
    make_flow: MakeFlow, shipped: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    flow = make_flow(**shipped)
    flow.add_routine(Sum(seen=[0]), "given")
    flow.add_routine(Sum(), "made")
    mine = [1]
    kept = Carries(other=mine)
    flow.add_routine(kept, "carries")
    for name in ("given", "made", "carries"):
        finished(flow.execute(name, {"n": 1}))
    assert caplog.records == []
    assert kept.other is mine  # it came home as it was


def test_what_several_calls_of_a_batch_were_given_is_each_ones_own(
    make_flow: MakeFlow, shipped: dict[str, Any]
) -> None:
    flow = make_flow(**shipped)
    flow.add_routine(Repeats(), "repeats", execution_strategy="sequential")
    flow.add_routine(AddsToIt(), "adds")
    flow.connect("repeats", "item", "adds", "seen")
    flow.add_output("adds", "length")
    job = finished(flow.execute("repeats", {"count": 40}))
    assert [each["length"] for each in job.outputs["adds.length"]] == [2] * 40


# -- before the run


def test_an_attribute_that_cannot_be_sent_is_refused_by_its_path(make_flow: MakeFlow, shipped: dict[str, Any]) -> None:
    flow = make_flow(**shipped)
    client = Holder(session=ssl.create_default_context())
    flow.add_routine(Carries(client=client, other=[1]), "fetch")
    with pytest.raises(ShippingError, match=r"routine 'fetch': attribute 'client.session' \(SSLContext\)") as caught:
        flow.execute("fetch")
    assert "per_worker" in str(caught.value)
    assert caught.value.path == "client.session"
    assert caught.value.value is client.session
    assert flow.job_state is None
    del client.session
    assert finished(flow.execute("fetch")).status == "completed"


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ([1, {"a": threading.Lock()}], "thing[1]['a']"),
        ({"k": (0, Holder(x=[threading.Lock()]))}, "thing['k'][1].x[0]"),
        (Holder(me=Square()), "thing.me"),
    ],
)
def test_the_path_leads_to_the_smallest_part(
    make_flow: MakeFlow, shipped: dict[str, Any], value: Any, path: str
) -> None:
    flow = make_flow(**shipped)
    flow.add_routine(Carries(thing=value), "carries")
    with pytest.raises(ShippingError) as caught:
        flow.execute("carries")
    assert caught.value.path == path


def test_entry_params_that_cannot_be_sent_are_refused(make_flow: MakeFlow, shipped: dict[str, Any]) -> None:
    flow = make_flow(**shipped)
    flow.add_routine(Carries(), "carries")
    with pytest.raises(ShippingError, match=r"entry_params of routine 'carries', slot 'n': key 'n.inner' \(lock\)"):
        flow.execute("carries", {"n": Holder(inner=threading.Lock())})
    assert flow.job_state is None


def test_a_payload_that_cannot_be_sent_fails_the_call_that_it_was_for(
    make_flow: MakeFlow, shipped: dict[str, Any]
) -> None:
    class Local(Routine):
        out = event("n")

        def __call__(self) -> None:
            for n in (1, threading.Lock(), 3):
                self.emit("out", n=n)

    flow = make_flow(**shipped, error_handler="continue")
    flow.add_routine(Local(), "local", execution_strategy="concurrent")
    flow.add_routine(Square(), "square")
    flow.connect("local", "out", "square", "n")
    job = finished(flow.execute("local"))
    assert [(each.routine_id, type(each.exception)) for each in job.errors] == [("square", ShippingError)]
    assert "routine 'square', slot 'n': key 'n' (lock) can't be sent" in str(job.errors[0].exception)
    assert (job.ledger.completed, job.ledger.failed) == (3, 1)


# -- errors


def errors_of(make_flow: MakeFlow, shipped: dict[str, Any], kind: str) -> list[Any]:
    flow = make_flow(**shipped, error_handler="continue")
    flow.add_routine(Fails(kind=kind, times={1: 1}), "fails")
    finished(flow.execute("fails", {"n": 0}))
    job = finished(flow.execute("fails", {"n": 1}))
    assert flow.routines["fails"].last == 1
    finished(flow.execute("fails", {"n": 2}))  # the pool is as good as before
    return job.errors


def test_an_exception_of_two_arguments_comes_home_as_itself(make_flow: MakeFlow, shipped: dict[str, Any]) -> None:
    (failure,) = errors_of(make_flow, shipped, "two arguments")
    assert type(failure.exception) is TwoArguments
    assert str(failure.exception) == "a and 2"
    assert failure.exception.number == 2
    assert "in n\n" in failure.traceback


def test_an_exception_that_cannot_come_home_is_told_of(make_flow: MakeFlow, shipped: dict[str, Any]) -> None:
    (failure,) = errors_of(make_flow, shipped, "hidden")
    error = failure.exception
    assert isinstance(error, RemoteError)
    assert (error.type_name, error.text) == ("Unsendable", "away")
    assert str(error) == "Unsendable: away"
    assert "raise ERRORS[self.kind]()" in error.traceback == failure.traceback
    assert pickle.loads(pickle.dumps(error)).args == error.args


@pytest.mark.parametrize("kind", ["lock", "argument", "exit", "interrupt", "stubborn"])
def test_other_exceptions_come_home_as_what_they_are(make_flow: MakeFlow, shipped: dict[str, Any], kind: str) -> None:
    from shipped.routines import ERRORS

    (failure,) = errors_of(make_flow, shipped, kind)
    assert type(failure.exception) is type(ERRORS[kind]())


def test_what_a_handler_emits_and_cannot_be_sent_fails_that_call(make_flow: MakeFlow, shipped: dict[str, Any]) -> None:
    flow = make_flow(**shipped, error_handler="continue")
    flow.add_routine(Emits(), "emits")
    flow.add_output("emits", "out")
    job = finished(flow.execute("emits", {"n": 7}))
    (failure,) = job.errors
    assert "routine 'emits', event 'out': key 'value.inner[1]' (lock) can't be sent" in str(failure.exception)
    assert job.outputs == {"emits.out": [{"value": 7}]}
    assert failure.emitted == 1


def test_an_attribute_that_cannot_come_home_fails_the_call_and_the_rest_comes(
    make_flow: MakeFlow, shipped: dict[str, Any]
) -> None:
    flow = make_flow(**shipped, error_handler="continue")
    flow.add_routine(KeepsLock(), "keeps")
    job = finished(flow.execute("keeps", {"n": 5}))
    assert "routine 'keeps': attribute 'lock' (lock) can't be sent" in str(job.errors[0].exception)
    assert flow.routines["keeps"].fine == 5
    assert not hasattr(flow.routines["keeps"], "lock")


# -- what else comes home


def test_log_records_and_warnings_come_home(executor: Any, make_flow: MakeFlow, caplog: Any) -> None:
    from shipped.strategies import Shared

    caplog.set_level(logging.INFO, "shipped.says")
    flow = make_flow(execution_strategy=Shared(max_workers=2, executor=executor))
    flow.add_routine(Says(), "says")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        finished(flow.execute("says", {"n": 3}))
    assert [str(each.message) for each in caught] == ["warned of 3"]
    assert caught[0].filename.endswith("routines.py")
    found = [record for record in caplog.records if record.name == "shipped.says"]
    assert [record.getMessage() for record in found] == ["number 3 of MainThread", f"it was caught: {object}"]
    assert "LookupError: caught" in found[1].exc_text
    assert found[0].process != os.getpid()


def test_a_filter_that_makes_errors_of_warnings_holds_in_the_worker(executor: Any, make_flow: MakeFlow) -> None:
    from shipped.strategies import Shared

    flow = make_flow(execution_strategy=Shared(max_workers=2, executor=executor))
    flow.add_routine(Says(), "says")
    job = finished(flow.execute("says", {"n": 3}))  # pytest's own filter says so
    assert [str(each.exception) for each in job.errors] == ["warned of 3"]


def test_times_and_workers_are_told_on_this_clock(make_flow: MakeFlow, executor: Any) -> None:
    from shipped.strategies import Shared

    flow = make_flow(execution_strategy=Shared(max_workers=2, executor=executor))
    flow.add_routine(Square(), "square")
    before = perf_counter()
    job = finished(flow.execute("square", {"n": 3}))
    (record,) = job.get_execution_history()
    assert before <= record.posted <= record.started <= record.ended <= perf_counter()
    assert record.worker != os.getpid()
    assert record.run_time < 1.0


def test_state_over_a_megabyte_is_warned_of_once(
    make_flow: MakeFlow, shipped: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    flow = make_flow(**shipped)
    flow.add_routine(Heavy(data=bytes(2 << 20)), "heavy")
    for _ in range(3):
        finished(flow.execute("heavy"))
    assert flow.routines["heavy"].calls == 3
    said = [record.getMessage() for record in caplog.records if "MB" in record.getMessage()]
    assert len(said) == 1
    assert "routine 'heavy' holds 2.0 MB" in said[0]
    assert "execution_strategy=" in said[0]


def test_a_handler_knows_which_activation_it_is(make_flow: MakeFlow, shipped: dict[str, Any]) -> None:
    flow = make_flow(**shipped, error_handler=ErrorHandler("retry", 1, 0.0))
    flow.add_routine(Source(), "source")
    flow.add_routine(SaysWhich(), "says")
    flow.connect("source", "item", "says", "n")
    flow.add_output("says", "said")
    job = flow.run("source", {"count": 60}, timeout=SECONDS)
    said = {each["n"]: each["key"] for each in job.outputs["says.said"]}
    assert said == {n: f"{job.job_id}:{n + 2}" for n in range(60)}


def test_each_worker_makes_its_own_resource_once(make_flow: MakeFlow, shipped: dict[str, Any]) -> None:
    flow = make_flow(**shipped)
    flow.add_routine(UsesClient(), "uses")
    flow.add_output("uses", "used")
    makers = set()
    for _ in range(12):
        makers |= {row["made_by"] for row in finished(flow.execute("uses")).outputs["uses.used"]}
    assert 1 <= len(makers) <= 3
    with pytest.raises(EmitError):
        _ = flow.routines["uses"].client


def test_a_call_that_took_too_long_has_failed(make_flow: MakeFlow, shipped: dict[str, Any]) -> None:
    class Timed(Pause, stateless=True, timeout=0.005):
        """Is late."""

    flow = make_flow(**shipped)
    flow.add_routine(Timed(seconds=0.02), "timed")
    (failure,) = finished(flow.execute("timed", {"n": 1})).errors
    assert isinstance(failure.exception, ActivationTimeout)
    assert failure.routine_id == "timed"
    assert "0.005 s" in str(failure.exception)  # who ends the call says so in words of its own


@pytest.mark.parametrize("kind", [Late, LateStateless])
def test_what_a_call_emits_after_its_time_is_dropped_and_counted(
    make_flow: MakeFlow, shipped: dict[str, Any], kind: type[Routine]
) -> None:
    flow = make_flow(**shipped, error_handler="continue")
    flow.add_routine(kind(), "late")
    flow.add_output("late", "out")
    ends = flow.execution_strategy == "process"  # a call, with its worker, unless that was the quicker to judge
    for raises in (False, True):
        job = finished(flow.execute("late", {"n": 1, "raises": raises}))
        assert [type(failure.exception) for failure in job.errors] == [ActivationTimeout]
        assert job.outputs["late.out"] == [{"n": 1}] or (ends and job.outputs["late.out"] == [] and kind is Late)
        assert job.late_emissions == 2 or (ends and job.late_emissions == 0)


def test_a_stateless_routine_changed_between_jobs_is_sent_anew(make_flow: MakeFlow, shipped: dict[str, Any]) -> None:
    class Table(Routine, stateless=True):
        out = event("value")

        def __init__(self) -> None:
            super().__init__()
            self.table = {"a": 1}

        @slot
        def key(self, key: str) -> None:
            self.emit("out", value=self.table[key])

    flow, table = make_flow(**shipped), Table()
    flow.add_routine(table, "table")
    flow.add_output("table", "out")
    assert finished(flow.execute("table", {"key": "a"})).outputs["table.out"] == [{"value": 1}]
    table.table["a"] = 2
    for _ in range(4):
        assert finished(flow.execute("table", {"key": "a"})).outputs["table.out"] == [{"value": 2}]


# -- execute, cancel, pause


def test_a_flow_of_a_module_is_refused_in_a_worker_and_one_of_the_handler_runs(
    make_flow: MakeFlow, executor: Any
) -> None:
    from shipped.strategies import Shared

    flow = make_flow(execution_strategy=Shared(max_workers=2, executor=executor))
    flow.add_routine(Executes(), "executes")
    flow.add_output("executes", "ran")
    (failure,) = finished(flow.execute("executes", {"own": False})).errors
    assert isinstance(failure.exception, FlowStateError)
    assert "execute('source') of flow 'of a module' was called in a worker process" in str(failure.exception)
    assert finished(flow.execute("executes", {"own": True})).outputs == {"executes.ran": [{"count": 3}]}


def test_cancel_reaches_a_handler_that_asks(make_flow: MakeFlow, tmp_path: Path) -> None:
    flow = make_flow(execution_strategy=Mortal(max_workers=1))
    flow.add_routine(Waits(), "waits")
    flow.add_routine(Square(), "square")
    flow.connect("waits", "passed", "square", "n")
    job = flow.execute("waits", {"n": 1, "path": str(tmp_path / "never")})
    job.cancel()
    finished(job)
    assert (job.status, job.ledger.completed) == ("cancelled", 1 if job.ledger.emitted else 0)


def test_cancel_can_end_the_workers(make_flow: MakeFlow, tmp_path: Path) -> None:
    began = threading.Event()

    class Hears(Routine):
        @slot
        def n(self, n: int) -> None:
            began.set()

    class WaitsWithout(Waits, stateless=True):
        """Keeps nothing, so what it emits is heard at once."""

    flow = make_flow(execution_strategy=Mortal(max_workers=1))
    flow.add_routine(WaitsWithout(), "waits")
    flow.add_routine(Hears(), "hears", execution_strategy="concurrent")
    flow.connect("waits", "passed", "hears", "n")
    job = flow.execute("waits", {"n": 1, "path": str(tmp_path / "never")})
    assert began.wait(SECONDS)
    job.cancel(kill=True)
    finished(job)
    assert (job.status, job.ledger.failed, str(job.errors[0].exception)) == (
        "cancelled",
        1,
        "the worker was lost while it ran this activation: killed",
    )


def test_what_a_worker_made_is_closed_at_its_end(
    make_flow: MakeFlow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shipped.strategies import Spawned

    monkeypatch.setenv("SHIPPED_CLOSED", str(tmp_path / "closed"))
    flow = make_flow(execution_strategy=Spawned(max_workers=1))
    flow.add_routine(UsesClient(), "uses")
    flow.add_output("uses", "used")
    made = [finished(flow.execute("uses")).outputs["uses.used"][0]["made_by"] for _ in range(3)]
    flow.shutdown()
    assert len(set(made)) == 1
    assert (tmp_path / "closed").read_text() == "{} {}\n".format(*made[0])


def test_what_is_streamed_arrives_while_its_handler_runs(make_flow: MakeFlow, tmp_path: Path) -> None:
    class Opens(Routine):
        seen: list

        @slot
        def n(self, n: int) -> None:
            self.seen.append(n)
            (tmp_path / "open").touch()

    class WaitsWithout(Routine, stateless=True):
        passed = event("n")

        @slot
        def n(self, path: str) -> None:
            self.emit("passed", n=1)
            while not os.path.exists(path):
                os.stat(".")
            self.emit("passed", n=2)

    flow, opens = make_flow(execution_strategy=Mortal(max_workers=1)), Opens(seen=[])
    flow.add_routine(WaitsWithout(), "waits")
    flow.add_routine(opens, "opens", execution_strategy="concurrent")
    flow.connect("waits", "passed", "opens", "n")
    finished(flow.execute("waits", {"path": str(tmp_path / "open")}))
    assert opens.seen == [1, 2]


def test_pause_lets_what_is_away_end_and_sends_no_more(make_flow: MakeFlow, shipped: dict[str, Any]) -> None:
    flow = make_flow(**shipped)
    flow.add_routine(Source(), "source")
    flow.add_routine(Sum(), "sum")
    flow.connect("source", "item", "sum", "n")
    job = flow.execute("source", {"count": 200})
    for _ in range(20):
        job.pause()
        job.resume()
    finished(job)
    assert flow.routines["sum"].seen == list(range(200))


def test_an_executor_that_breaks_fails_the_job_and_the_next_job_has_a_new_one(make_flow: MakeFlow) -> None:
    from shipped.strategies import Spawned

    class Dies(Routine):
        @slot
        def n(self, n: int) -> None:
            if n:
                os._exit(1)

    flow = make_flow(execution_strategy=Spawned(max_workers=1))
    flow.add_routine(Dies(), "dies")
    flow.add_routine(Source(), "source")
    flow.connect("source", "item", "dies", "n")
    job = finished(flow.execute("source", {"count": 3}))
    assert job.status == "failed"
    assert {type(each.exception).__name__ for each in job.errors} == {"WorkerLost"}
    assert finished(flow.execute("dies", {"n": 0})).status == "completed"


# -- the worker's side by itself


def test_a_part_that_the_worker_lost_is_sent_again(make_flow: MakeFlow) -> None:
    flow = make_flow(execution_strategy=Mortal(max_workers=2))
    flow.add_routine(Square(), "square")
    for _ in range(6):
        finished(flow.execute("square", {"n": 1}))
        cache.process()._parts.clear()  # as if other flows had pushed everything out
    assert flow.routines["square"].stats() == {"calls": 6}


def test_stubborn_is_as_stubborn_as_it_claims() -> None:
    with pytest.raises(RuntimeError):
        pickle.loads(pickle.dumps(Stubborn("a")))


def test_a_task_says_whose_calls_it_holds(make_flow: MakeFlow) -> None:
    seen: set[tuple[str, ...]] = set()

    class Looks(MortalPool):
        def submit(self, task: Task) -> None:
            seen.add(task.routine_ids)
            super().submit(task)

    @frozen(kw_only=True)
    class Looking(Mortal):
        def open(self, host: Host) -> WorkerPool:
            return Looks(self)

    flow = make_flow(execution_strategy=Looking(max_workers=1))
    flow.add_routine(Source(), "source")
    flow.add_routine(Square(), "square")
    flow.connect("source", "item", "square", "n")
    assert flow.execute("source", {"count": 5}).wait(SECONDS)
    assert seen == {("source",), ("square",)}
