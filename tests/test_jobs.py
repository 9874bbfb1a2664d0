"""Jobs: what one execution counts, remembers and shows, and that several at a time don't see each other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import Context
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import pytest

from routilux_core import (
    ConfigurationError,
    ErrorHandler,
    Flow,
    FlowStateError,
    JobState,
    Ledger,
    Routine,
    event,
    field,
    slot,
)

pytestmark = pytest.mark.in_processes_too

MakeFlow = Callable[..., Flow]
SECONDS = 20.0


class Source(Routine):
    item = event("n")
    unheard = event()

    def __call__(self, count: int, start: int = 0) -> None:
        for n in range(start, start + count):
            self.emit("item", n=n)
        self.emit("unheard")


class Relay(Routine, stateless=True):
    passed = event("n")

    @slot
    def n(self, n: int) -> None:
        self.emit("passed", n=n)


class Collect(Routine):
    """Has one slot of each kind."""

    seen: list[int] = field(factory=list)
    complete = event("n")

    @slot
    def plain(self, n: int) -> None:
        self.seen.append(n)

    @slot(merge_strategy="append")
    def appended(self, n: list[int]) -> None:
        if len(n) == 100:
            self.emit("complete", n=sorted(n))

    @slot(merge_strategy="gather")
    def gathered(self, n: list[int]) -> None:
        self.emit("complete", n=sorted(n))


class Fails(Routine):
    @slot
    def n(self, n: int) -> None:
        raise ValueError(f"item {n}")


class Meets(Routine, stateless=True):
    """Each call waits until as many others are here: calls of all jobs together."""

    met = event("n")

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.barrier = threading.Barrier(calls, timeout=SECONDS)

    def __call__(self, n: int) -> None:
        self.barrier.wait()
        self.emit("met", n=n)


class Blocks(Routine):
    done = event("n")

    def __init__(self) -> None:
        super().__init__()
        self.running, self.release = threading.Event(), threading.Event()

    def __call__(self, n: int = 0) -> None:
        self.running.set()
        assert self.release.wait(SECONDS)
        self.emit("done", n=n)


def build(flow: Flow, *, slot: str = "plain", relays: int = 1) -> Collect:
    """Source -> relays -> collect."""
    collect = Collect()
    flow.add_routine(Source(), "source")
    flow.add_routine(collect, "collect")
    flow.add_output("collect", "complete")
    for number in range(relays):
        flow.add_routine(Relay(), f"relay{number}")
        flow.connect("source", "item", f"relay{number}", "n")
        flow.connect(f"relay{number}", "passed", "collect", slot)
    return collect


def run(flow: Flow, entry: str = "source", **params: Any) -> JobState:
    job = flow.execute(entry, params)
    assert job.wait(SECONDS), job.explain()
    return job


# -- what a job counts


def test_the_ledger_counts_exactly(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow = make_flow(**strategy)
    build(flow, relays=3)
    job = run(flow, count=10)
    assert job.ledger == Ledger(
        posted=1 + 30 + 30,
        completed=61,
        failed=0,
        skipped=0,
        discarded=0,
        pending=0,
        retried=0,
        emitted=10 + 1 + 30,
        unconnected=1,
        gathered=0,
    )
    assert job.ledger.balanced


def test_the_ledger_counts_what_was_gathered_and_its_one_call(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow = make_flow(**strategy)
    build(flow, slot="gathered", relays=2)
    job = run(flow, count=10)
    ledger = job.ledger
    assert (ledger.posted, ledger.completed, ledger.gathered) == (1 + 20 + 1, 22, 20)
    # "complete" is collected as an output, so it is not unconnected.
    assert (ledger.emitted, ledger.unconnected) == (10 + 1 + 20 + 1, 1)


def test_the_ledger_balances_while_a_job_runs(make_flow: MakeFlow) -> None:
    flow, blocks = make_flow(execution_strategy="concurrent", max_workers=1), Blocks()
    build(flow)
    flow.add_routine(blocks, "blocks")
    flow.connect("source", "item", "blocks", "__call__")
    job = flow.execute("source", {"count": 5})
    assert blocks.running.wait(SECONDS)
    ledger = job.ledger
    # One worker: the source is done and the first relay, which has posted to "collect"; "blocks" has the worker.
    assert (ledger.posted, ledger.completed, ledger.pending) == (1 + 5 + 5 + 1, 2, 10)
    assert ledger.balanced
    blocks.release.set()
    assert job.wait(SECONDS)
    assert (job.ledger.pending, job.ledger.completed) == (0, 1 + 5 + 5 + 5)


def test_failed_work_is_counted_by_its_decision(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow, fails = make_flow(**strategy), Fails()
    flow.add_routine(Source(), "source")
    flow.add_routine(fails, "fails")
    flow.connect("source", "item", "fails", "n")
    fails.set_error_handler("continue")
    ledger = run(flow, count=4).ledger
    assert (ledger.completed, ledger.failed, ledger.skipped) == (1, 4, 0)
    fails.set_error_handler("skip")
    ledger = run(flow, count=4).ledger
    assert (ledger.completed, ledger.failed, ledger.skipped) == (1, 0, 4)


# -- outputs


def test_outputs_are_the_payloads_by_name_in_the_order_emitted(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow = make_flow(**strategy)
    build(flow)
    flow.add_output("source", "item")
    flow.add_output("source", "item", "again")
    flow.add_output("relay0", "passed")
    job = run(flow, count=5)
    expected = [{"n": n} for n in range(5)]
    assert job.outputs["source.item"] == expected
    assert job.outputs["again"] == expected
    assert sorted(job.outputs["relay0.passed"], key=lambda payload: payload["n"]) == expected
    assert job.outputs["collect.complete"] == []


def test_an_output_that_got_nothing_is_an_empty_list(
    make_flow: MakeFlow, strategy: dict[str, Any], tmp_path: Path
) -> None:
    class Silent(Routine):
        said = event("n")

        @slot
        def n(self, n: int) -> None:
            if n:
                raise ValueError(n)

    flow = make_flow(**strategy)
    flow.add_routine(Silent(), "silent")
    flow.add_output("silent", "said")
    for n in range(2):
        job = flow.execute("silent", {"n": n})
        assert job.wait(SECONDS)
        assert (job.status, job.outputs) == ("failed" if n else "completed", {"silent.said": []})
    job.save(tmp_path / "job.json")
    assert JobState.load(tmp_path / "job.json").outputs == {"silent.said": []}


def test_outputs_given_away_are_copies(make_flow: MakeFlow) -> None:
    flow = make_flow()
    build(flow)
    flow.add_output("source", "item")
    job = run(flow, count=2)
    job.outputs["source.item"].clear()
    assert len(job.outputs["source.item"]) == 2


# -- history and states


def test_the_history_has_a_record_of_every_call(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow = make_flow(**strategy)
    build(flow)
    job = run(flow, count=3)
    records = job.get_execution_history()
    assert sorted(record.id for record in records) == list(range(1, 8))
    assert [(r.routine_id, r.slot, r.cause) for r in records if r.id == 1] == [("source", "__call__", None)]
    by_id = {record.id: record for record in records}
    for record in records:
        assert (record.attempt, record.outcome) == (1, "completed")
        assert record.posted <= record.started <= record.ended
        assert record.run_time >= 0
        assert record.queue_wait >= 0
        if record.cause is not None:
            caused_by = {"relay0": "source", "collect": "relay0"}[record.routine_id]
            assert by_id[record.cause].routine_id == caused_by
    assert [record.slot for record in job.get_execution_history("collect")] == ["plain"] * 3
    assert job.get_execution_history("nobody") == []


def test_the_history_is_bounded_and_the_counts_are_not(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow = make_flow(**strategy, history_size=10)
    build(flow)
    job = run(flow, count=3_000)
    assert len(job.get_execution_history()) == 10
    assert job.ledger.completed == 6_001


def test_no_history_at_all(make_flow: MakeFlow) -> None:
    flow = make_flow(history_size=0)
    build(flow)
    job = run(flow, count=3)
    assert (job.get_execution_history(), job.ledger.completed) == ([], 7)
    assert job.get_routine_state("collect") == "completed"


def test_states_are_those_of_the_routines_that_were_reached(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow = make_flow(**strategy)
    build(flow)
    flow.add_routine(Fails(), "fails")
    flow.connect("relay0", "passed", "fails", "n")
    flow.routines["fails"].set_as_optional()
    job = run(flow, count=0)
    assert job.routine_states == {"source": "completed"}
    assert job.get_routine_state("collect") is None
    job = run(flow, count=1)
    assert job.routine_states == {
        "source": "completed",
        "relay0": "completed",
        "collect": "completed",
        "fails": "error_continued",
    }


def test_explain_says_what_a_job_waits_for(make_flow: MakeFlow) -> None:
    flow, blocks = make_flow("prices", execution_strategy="concurrent", max_workers=1), Blocks()
    flow.add_routine(Source(), "source")
    flow.add_routine(blocks, "blocks")
    flow.add_routine(Collect(), "collect")
    flow.connect("source", "item", "collect", "gathered")
    flow.connect("source", "item", "blocks", "__call__")
    job = flow.execute("source", {"count": 4})
    assert blocks.running.wait(SECONDS)
    text = job.explain()
    assert text.startswith(f"job {job.job_id} is running: 4 of 5 activations are pending, 1 are done")
    assert "'blocks': 3 queued" in text
    assert "1 running now" in text
    assert "collect.gathered" in text
    blocks.release.set()
    assert job.wait(SECONDS)
    assert "is completed: 0 of 6 activations are pending" in job.explain()


# -- several jobs at a time


def test_jobs_run_side_by_side(make_flow: MakeFlow) -> None:
    flow = make_flow(execution_strategy="concurrent", max_workers=6)
    flow.add_routine(Meets(6), "meets")
    flow.add_output("meets", "met")
    jobs = [flow.execute("meets", {"n": n}) for n in range(6)]
    assert flow.wait_for_completion(SECONDS)
    assert [job.outputs for job in jobs] == [{"meets.met": [{"n": n}]} for n in range(6)]
    assert len({job.job_id for job in jobs}) == 6


def test_jobs_side_by_side_do_not_see_each_other(make_flow: MakeFlow) -> None:
    """Slot data, gathered lists, outputs, errors, history and ledger are each job's own."""
    flow = make_flow(execution_strategy="concurrent", max_workers=4, history_size=10_000, error_handler="continue")
    meets = Meets(4)
    meets.define_event("item", ["n"])
    meets.define_slot("begin", lambda start: begin(meets, start))
    collect = Collect()
    flow.add_routine(meets, "source")
    flow.add_routine(collect, "collect")
    flow.add_routine(Fails(), "fails")
    flow.add_routine(Collect(), "gather")
    flow.connect("source", "item", "collect", "appended")
    flow.connect("source", "item", "gather", "gathered")
    flow.connect("source", "item", "fails", "n")
    flow.add_output("collect", "complete", "appended")
    flow.add_output("gather", "complete", "gathered")
    for _ in range(4):
        jobs = [flow.execute("source", {"start": 1000 * number}, slot="begin") for number in range(4)]
        assert flow.wait_for_completion(SECONDS)
        for number, job in enumerate(jobs):
            mine = list(range(1000 * number, 1000 * number + 100))
            assert job.outputs == {"appended": [{"n": mine}], "gathered": [{"n": mine}]}
            assert [str(failure.exception) for failure in job.errors] == [f"item {n}" for n in mine]
            assert {failure.job_id for failure in job.errors} == {job.job_id}
            assert len(job.get_execution_history()) == job.ledger.posted == 1 + 100 + 100 + 1
            assert (job.ledger.failed, job.ledger.gathered) == (100, 100)


def begin(routine: Meets, start: int) -> None:
    routine.barrier.wait()
    for n in range(start, start + 100):
        routine.emit("item", n=n)


def test_200_runs_of_100_concurrent_events_lose_and_double_nothing(make_flow: MakeFlow) -> None:
    flow = make_flow(execution_strategy="concurrent", max_workers=8)
    appends = build(flow, slot="appended", relays=10)
    keeps = Collect()
    flow.add_routine(keeps, "keeps")
    for number in range(10):
        flow.connect(f"relay{number}", "passed", "keeps", "plain")
    expected = sorted(list(range(10)) * 10)
    for _ in range(200):
        keeps.seen.clear()
        job = run(flow, count=10)
        assert job.outputs == {"collect.complete": [{"n": expected}]}
        assert sorted(keeps.seen) == expected
        assert (job.ledger.posted, job.ledger.completed) == (1 + 100 + 200, 301)
    assert appends.seen == []


@pytest.mark.in_this_process("executes its own flow in a handler")
def test_a_job_started_in_a_handler_is_returned_running(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow, blocks = make_flow(**strategy), Blocks()
    statuses: list[str] = []
    children: list[JobState] = []

    class Parent(Routine):
        def __call__(self, count: int) -> None:
            children.extend(flow.execute("blocks", {"n": n}) for n in range(count))
            statuses.extend(child.status for child in children)
            blocks.release.set()

    flow.add_routine(Parent(), "parent")
    flow.add_routine(blocks, "blocks")
    flow.add_output("blocks", "done")
    parent = flow.execute("parent", {"count": 3})
    assert flow.wait_for_completion(SECONDS)
    assert statuses == ["running"] * 3
    assert [child.outputs for child in children] == [{"blocks.done": [{"n": n}]} for n in range(3)]
    assert (parent.status, parent.ledger.posted, flow.job_state) == ("completed", 1, children[-1])


@pytest.mark.in_this_process("holds the other flow")
def test_a_handler_may_run_another_flow(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    outer, inner = make_flow(**strategy), make_flow(**strategy)
    inner.add_routine(Relay(), "relay")
    inner.add_output("relay", "passed")

    class Delegates(Routine):
        done = event("n")

        def __call__(self, n: int) -> None:
            job = inner.run("relay", {"n": n})
            self.emit("done", n=job.outputs["relay.passed"][0]["n"] + 1)

    outer.add_routine(Delegates(), "delegates")
    outer.add_output("delegates", "done")
    assert run(outer, "delegates", n=5).outputs == {"delegates.done": [{"n": 6}]}


# -- scope="job"


class PerJob(Routine, scope="job"):
    counts: dict[str, int] = field(factory=dict)
    counted = event("count")

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self.define_slot("more", handler=self.count, merge_strategy="append")

    @slot
    def n(self, n: int) -> None:
        self.counts["n"] = self.counts.get("n", 0) + 1
        self.emit("counted", count=self.counts["n"])

    def count(self, n: list[int]) -> None:
        self.counts["more"] = len(n)


class Hops(Routine):
    """Runs the same in the next of the flows, and waits for it."""

    flows: list[Flow] = field(factory=list)

    def __call__(self, at: int, hops: int) -> None:
        if hops:
            after = (at + 1) % len(self.flows)
            self.flows[after].run("hop", {"at": after, "hops": hops - 1}).raise_for_errors()


class HopsFreely(Routine, stateless=True):
    flows: list[Flow] = field(factory=list)
    __call__ = Hops.__call__


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("routine_type", [Hops, HopsFreely])
@pytest.mark.parametrize("ring", ["cc", "cccc", "sc", "csc", "sss"])
def test_flows_that_run_each_other_in_a_ring_are_refused_by_name(
    make_flow: MakeFlow, ring: str, routine_type: type[Hops], workers: int
) -> None:
    names = {"c": "concurrent", "s": "sequential"}
    flows = [make_flow(f"f{n}", names[each], workers) for n, each in enumerate(ring)]
    for flow in flows:
        flow.add_routine(routine_type(flows=flows), "hop")
    job = flows[0].execute("hop", {"at": 0, "hops": 20})
    assert job.wait(SECONDS), job.explain()
    assert job.status == "failed"
    direct = set(ring) == {"s"}
    assert ("handler of the same flow" if direct else "routine 'hop' of flow 'f0' waits") in job.errors[0].traceback
    assert flows[0].run("hop", {"at": 0, "hops": len(ring) - 1}).status == "completed"  # once round is no ring


def test_two_jobs_that_begin_to_wait_for_each_other_at_once_do_not_both_wait(make_flow: MakeFlow) -> None:
    meet = threading.Barrier(2, timeout=SECONDS)
    jobs: list[JobState] = []

    class WaitsFor(Routine):
        other: int

        def __call__(self) -> None:
            meet.wait()
            meet.wait()
            jobs[self.other].wait()

    flows = [make_flow(f"f{n}", "concurrent", 1) for n in range(2)]
    for n, flow in enumerate(flows):
        flow.add_routine(WaitsFor(other=1 - n), "waits")
    for _ in range(20):
        jobs[:] = [flow.execute("waits") for flow in flows]
        assert [job.wait(SECONDS) for job in jobs] == [True, True]
        errors = [failure.exception for job in jobs for failure in job.errors]
        assert 1 <= len(errors) <= 2
        assert {type(error) for error in errors} == {FlowStateError}


def test_explain_says_who_waits_for_a_job(make_flow: MakeFlow) -> None:
    outer, inner, blocks = make_flow("outer", "concurrent"), make_flow("inner", "concurrent"), Blocks()
    inner.add_routine(blocks, "blocks")
    outer.add_routine(Runs(inner), "runs")
    job = outer.execute("runs")
    try:
        assert blocks.running.wait(SECONDS)
        assert inner.job_state is not None
        deadline = perf_counter() + SECONDS
        while "waited for by routine 'runs' of flow 'outer'" not in inner.job_state.explain():
            assert perf_counter() < deadline
            sleep(0.001)
    finally:
        blocks.release.set()
    assert job.wait(SECONDS)
    assert "waited for" not in inner.job_state.explain()


class Runs(Routine):
    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def __call__(self) -> None:
        self.flow.run("blocks")


@pytest.mark.parametrize("slot", ["n", "more"])
def test_a_routine_of_scope_job_is_fresh_in_each_job(make_flow: MakeFlow, strategy: dict[str, Any], slot: str) -> None:
    flow, original = make_flow(**strategy), PerJob(counts={"n": 0})
    flow.add_routine(Source(), "source")
    flow.add_routine(original, "counts")
    flow.connect("source", "item", "counts", slot)
    flow.add_output("counts", "counted")
    jobs = [flow.execute("source", {"count": count}) for count in (3, 5)]
    assert flow.wait_for_completion(SECONDS)
    assert original.counts == {"n": 0}
    copies = [job.routines["counts"] for job in jobs]
    assert copies[0] is not copies[1]
    assert original not in copies
    for copy, count, job in zip(copies, (3, 5), jobs, strict=True):
        assert isinstance(copy, PerJob)
        assert copy.counts[slot] == count
        assert job.routines["source"] is flow.routines["source"]
    if slot == "n":
        assert [payload["count"] for payload in jobs[1].outputs["counts.counted"]] == [1, 2, 3, 4, 5]


class Refuses:
    """Can't be copied, as often as `times` says."""

    times = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Refuses:
        if Refuses.times:
            Refuses.times -= 1
            raise TypeError("no copies of this")
        return Refuses()


class Uncopied(Routine, scope="job"):
    """Its copy for a job may fail."""

    item = event("n")

    def __init__(self) -> None:
        super().__init__()
        self.client, self.seen = Refuses(), 0
        self.define_slot("merged", self.n, merge_strategy=self.merge)

    def merge(self, old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
        self.seen += 1
        return new

    @slot
    def n(self, n: int = 0) -> None:
        self.emit("item", n=self.seen)


def test_an_entry_that_can_not_be_copied_for_its_job_is_refused_and_leaves_nothing_behind(
    make_flow: MakeFlow, strategy: dict[str, Any]
) -> None:
    flow = make_flow(**strategy)
    flow.add_routine(Uncopied(), "uncopied")
    Refuses.times = 1
    with pytest.raises(ConfigurationError, match=r"Uncopied can't be copied.*scope='job'.*no copies of this.*'client'"):
        flow.execute("uncopied", slot="n")
    assert flow.job_state is None
    assert flow.wait_for_completion(SECONDS)
    flow.add_routine(Relay(), "relay")
    flow.connect("uncopied", "item", "relay", "n")
    assert flow.run("uncopied", slot="n").status == "completed"


@pytest.mark.parametrize("policy", ["stop", "continue", "skip", "retry"])
def test_a_copy_for_the_job_that_fails_behind_an_emission_is_an_error_of_that_call(
    make_flow: MakeFlow, strategy: dict[str, Any], policy: str
) -> None:
    retry = ErrorHandler("retry", max_retries=3, retry_delay=0.0)
    flow = make_flow(**strategy, error_handler=retry if policy == "retry" else policy)
    flow.add_routine(Source(), "source")
    flow.add_routine(Uncopied(), "uncopied")
    flow.add_output("uncopied", "item")
    flow.connect("source", "item", "uncopied", "n")
    for _ in range(2):
        Refuses.times = 1
        job = run(flow, count=5)
        assert [str(failure.exception).split(" can't")[0] for failure in job.errors] == ["a Uncopied"]
        assert job.status == ("failed" if policy == "stop" else "completed")
        assert job.ledger.balanced
        assert job.ledger.pending == 0
        if policy != "stop":
            assert len(job.outputs["uncopied.item"]) == (5 if policy == "retry" else 4)
            assert flow.routines["uncopied"] is not job.routines["uncopied"]


def test_a_merge_function_of_scope_job_is_a_method_of_the_copy(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow = make_flow(**strategy)
    routine = Uncopied()
    flow.add_routine(Source(), "source")
    flow.add_routine(routine, "uncopied")
    flow.add_output("uncopied", "item")
    flow.connect("source", "item", "uncopied", "merged")
    for _ in range(2):
        job = run(flow, count=3)
        assert routine.seen == 0
    if strategy["execution_strategy"] in ("sequential", "concurrent"):
        assert job.outputs["uncopied.item"] == [{"n": 1}, {"n": 2}, {"n": 3}]


@pytest.mark.in_this_process("holds the flow")
def test_a_copy_for_the_job_may_ask_the_flow(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    """It is made without a lock of the engine."""
    ledgers: list[Ledger] = []

    class Asks:
        def __deepcopy__(self, memo: dict[int, Any]) -> Asks:
            if flow.job_state is not None:
                ledgers.append(flow.job_state.ledger)
            return Asks()

    flow = make_flow(**strategy)
    uncopied = Uncopied()
    uncopied.client = Asks()  # type: ignore[assignment]
    flow.add_routine(Source(), "source")
    flow.add_routine(uncopied, "uncopied")
    flow.connect("source", "item", "uncopied", "n")
    run(flow, count=2)
    assert [ledger.balanced for ledger in ledgers] == [True]


def test_a_routine_of_scope_flow_is_the_flows_own_in_each_job(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow = make_flow(**strategy)
    collect = build(flow)
    jobs = [flow.execute("source", {"count": 10}) for _ in range(4)]
    assert flow.wait_for_completion(SECONDS)
    assert sorted(collect.seen) == sorted(list(range(10)) * 4)
    assert all(job.routines["collect"] is collect for job in jobs)


def test_the_newest_records_are_kept_whoever_noted_them(make_flow: MakeFlow) -> None:
    """A worker in a long call brings what it noted before that call when others have noted much more since."""

    class Begins(Routine, stateless=True):
        begun = event()

        def __call__(self) -> None:
            self.emit("begun")

    class Early(Routine, stateless=True):
        again = event("n")

        @slot
        def n(self, n: int = 0) -> None:
            if n < 250:
                self.emit("again", n=n + 1)
            else:
                early.set()
                assert late.wait(SECONDS)

    class Late(Routine, stateless=True):
        again = event("n")

        @slot
        def n(self, n: int = 0) -> None:
            assert early.wait(SECONDS)
            if n < many:
                self.emit("again", n=n + 1)
            else:
                late.set()

    early, late = threading.Event(), threading.Event()
    flow = make_flow(execution_strategy="concurrent", max_workers=2, history_size=10)
    for name, routine in (("begins", Begins()), ("early", Early()), ("late", Late())):
        flow.add_routine(routine, name)
    for name in ("early", "late"):
        flow.connect("begins", "begun", name, "n")
        flow.connect(name, "again", name, "n")
    for many in range(2000, 2800, 50):
        early.clear()
        late.clear()
        job = Context().run(flow.execute, "begins")
        assert job.wait(SECONDS)
        kept = [record.routine_id for record in job.get_execution_history()]
        assert (len(kept), kept.count("early")) in ((10, 0), (10, 1)), many
