"""Building the flow of a plan, running it, and comparing all there is to compare with the answer."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from routilux_core import ErrorHandler, Flow, JobState, Routine
from stress import inside
from stress.draw import draw
from stress.model import Answer, Attributes, JobAnswer, answer_of, freeze
from stress.plan import PER_JOB, SUM, FlowPlan, Job, Policy, entry_payload
from stress.routines import CALLER, Fatal, Probe, World, routine_for
from stress.watch import switching_often, watched

LIMIT = 30.0  # seconds for one flow, which takes a fraction of one
HISTORY = 100_000
CHECK_TIMES = True
COUNTED = ("posted", "completed", "failed", "skipped", "retried", "emitted", "unconnected", "gathered")


class Difference(AssertionError):
    """The engine and the model disagree."""


class Seen:
    """What a job shows in the very moment in which it ends: nothing of it may come later."""

    def __init__(self, state: JobState) -> None:
        self.records = state.get_execution_history()
        self.ledger = state.ledger
        self.status = state.status
        self.errors = state.errors
        self.outputs = state.outputs
        self.states = state.routine_states
        self.routines = state.routines


class Stage:
    """One flow of a plan, on the engine."""

    def __init__(self, plan: FlowPlan) -> None:
        self.plan = plan
        self.world = World(plan)
        self.probes = [Probe(self.world, node) for node in plan.nodes]
        self.routines = [routine_for(probe) for probe in self.probes]
        self.world.execute = self.execute
        self.jobs: dict[int, JobState] = {}
        self.seen: dict[int, Seen] = {}
        self.flow = Flow(
            f"seed-{plan.seed}",
            plan.strategy,
            plan.workers,
            error_handler=handler_of(plan.policy),
            max_pending=plan.max_pending,
            history_size=HISTORY,
        )
        for node, routine in zip(plan.nodes, self.routines, strict=True):
            routine.set_error_handler(handler_of(node.policy))
            self.flow.add_routine(routine, node.routine_id, execution_strategy=node.strategy)
        for wire in plan.wires:
            mapping = {"value": "alt"} if wire.renames else None
            self.flow.connect(f"r{wire.source}", f"e{wire.event}", f"r{wire.target}", f"s{wire.slot}", mapping)
        for node in plan.nodes:
            for event, collected in enumerate(node.outputs):
                if collected:
                    self.flow.add_output(node.routine_id, f"e{event}")

    def execute(self, job: Job) -> JobState:
        token = CALLER.set(job.number) if self.plan.with_context else None
        try:
            state = self.flow.execute(f"r{job.node}", entry_payload(job), slot=f"s{job.slot}")
        finally:
            if token is not None:
                CALLER.reset(token)
        self.look_at_the_end(job.number, state)
        return state

    def look_at_the_end(self, number: int, state: JobState) -> None:
        """Note what the job shows when it ends, in the thread that ends it: a waiter would wake a little later."""
        self.jobs[number] = state
        inside.at_the_end(state, lambda: self.seen.update({number: Seen(state)}))

    def run_wave(self, wave: tuple[Job, ...]) -> None:
        if self.plan.from_threads:
            in_threads(lambda job: self.execute(job).wait(), wave)
        else:
            for job in wave:
                self.execute(job)
        self.flow.wait_for_completion()
        with self.world.lock:
            spawned = list(self.world.spawned)
        for state in spawned:  # executed in a handler, and waited for by nobody else; it executes no others
            state.wait()

    def run(self) -> None:
        """Run all waves. A job that did not complete is seen in its ledger."""
        for number, wave in enumerate(self.plan.waves):
            if number and self.plan.between == "shutdown":
                self.flow.shutdown()
            elif number and self.plan.between == "strategy":
                name = "concurrent" if self.flow.execution_strategy == "sequential" else "sequential"
                self.flow.set_execution_strategy(name, max_workers=self.plan.workers)
            self.run_wave(wave)


def in_threads(work: Callable[[Job], None], jobs: Iterable[Job]) -> None:
    threads = [threading.Thread(target=work, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def handler_of(policy: Policy | None) -> ErrorHandler | None:
    if policy is None:
        return None
    return ErrorHandler(
        policy.decision,
        max_retries=policy.retries,
        retry_delay=policy.delay,
        retry_backoff=1.5,
        non_retryable_exceptions=(Fatal,),
        after_retries=policy.after,
    )


def check_flow(plan: FlowPlan, limit: float = LIMIT) -> int:
    """Run a plan and compare it with its answer; return how many handlers were called."""
    answer = answer_of(plan)
    assert answer is not None
    stage = Stage(plan)
    with switching_often(), quiet_log():
        watched(stage.run, limit, f"seed {plan.seed}: the run, before shutdown")
        found = list(leftovers(stage))
        watched(stage.flow.shutdown, limit, f"seed {plan.seed}: shutdown")
    found = [*stage.world.breaches, *differences(stage, answer), *found, *inside.idle_pools(stage.flow)]
    if found:
        raise Difference("\n".join(found[:20]))
    return stage.world.entered


def check_seed(seed: int, limit: float = LIMIT) -> int:
    """Draw the plan of a seed, run and compare it."""
    return check_flow(draw(seed), limit)


def differences(stage: Stage, answer: Answer) -> Iterator[str]:
    """Compare every job and every routine with the answer."""
    if missing := answer.jobs.keys() ^ stage.jobs.keys():
        yield f"jobs missing or too many: {missing}"
        return
    for number, expected in answer.jobs.items():
        for text in job_differences(stage, stage.seen[number], expected):
            yield f"job {number}: {text}"
    for node, routine in zip(stage.plan.nodes, stage.routines, strict=True):
        yield from attribute_differences(node.routine_id, routine, answer.attributes[node.index], node.has_state)
        calls = sum(count for (_, index), count in stage.world.calls.items() if index == node.index)
        if node.kind != PER_JOB and routine.stats().get("calls", 0) != calls:
            yield f"{node.routine_id}: stats() has {routine.stats()}, called {calls} times"


def attribute_differences(name: str, routine: Routine, expected: Attributes, has_state: bool) -> Iterator[str]:
    if not has_state:
        return
    found = (routine.calls, routine.total, sorted(routine.seen))
    if found != (expected.calls, expected.total, sorted(expected.seen)):
        yield (
            f"{name}: attributes calls={routine.calls}, total={routine.total}, {len(routine.seen)} seen; "
            f"expected calls={expected.calls}, total={expected.total}, {len(expected.seen)} seen"
        )


def job_differences(stage: Stage, seen: Seen, expected: JobAnswer) -> Iterator[str]:
    yield from ledger_differences(seen, expected)
    yield from count_differences(stage, seen, expected)
    exact = stage.plan.has_exact_order and seen.ledger.posted < stage.plan.max_pending // 2
    yield from output_differences(seen, expected, exact and stage.plan.between != "strategy")
    errors = Counter((e.routine_id, e.slot, e.attempt, str(e.decision)) for e in seen.errors)
    if errors != expected.errors:
        yield f"errors too many: {errors - expected.errors}, missing: {expected.errors - errors}"
    if seen.states != expected.states:
        yield f"routine states {seen.states}, expected {expected.states}"
    yield from merge_differences(stage, expected)
    for index, attributes in expected.own.items():
        routine = seen.routines[f"r{index}"]
        yield from attribute_differences(f"r{index} of the job", routine, attributes, True)
        if routine.stats() != {"calls": attributes.calls}:
            yield f"r{index} of the job: stats() has {routine.stats()}, expected {attributes.calls} calls"


def ledger_differences(seen: Seen, expected: JobAnswer) -> Iterator[str]:
    ledger = seen.ledger
    found = {name: getattr(ledger, name) for name in COUNTED}
    wanted = {name: expected.ledger[name] for name in COUNTED}
    if seen.status != "completed":
        yield f"is {seen.status}"
    if found != wanted or not ledger.balanced or ledger.pending or ledger.discarded:
        yield f"{ledger}, expected {wanted}"


def count_differences(stage: Stage, seen: Seen, expected: JobAnswer) -> Iterator[str]:
    """Compare what the handlers counted with ledger, records and answer."""
    number, ledger = expected.job.number, seen.ledger
    called = Counter({index: count for (job, index), count in stage.world.calls.items() if job == number})
    if called != expected.calls:
        yield f"handlers called {dict(called)}, expected {dict(expected.calls)}"
    ended = ledger.completed + ledger.failed + ledger.skipped + ledger.retried
    if sum(called.values()) != ended:
        yield f"{sum(called.values())} handlers called, the ledger has {ended}"
    records = [(r.routine_id, r.slot, r.attempt, r.outcome) for r in seen.records]
    if Counter(records) != Counter(expected.records):
        surplus, missing = Counter(records) - Counter(expected.records), Counter(expected.records) - Counter(records)
        yield f"records too many: {surplus}, missing: {missing}"
    yield from cause_differences(stage.plan, seen)


def cause_differences(plan: FlowPlan, seen: Seen) -> Iterator[str]:
    """Every record has to name as its cause one that is connected to it, and times that follow each other."""
    records = seen.records
    routines = {record.id: record.routine_id for record in records}
    connected = {(f"r{wire.source}", f"r{wire.target}", f"s{wire.slot}") for wire in plan.wires}
    for record in records:
        if record.cause is not None:
            edge = (routines.get(record.cause, "?"), record.routine_id, record.slot)
            if edge not in connected:
                yield f"the cause of {record} is {edge[0]}"
        if CHECK_TIMES and not record.posted <= record.started <= record.ended:
            yield f"times out of order: {record}"


def output_differences(seen: Seen, expected: JobAnswer, exact: bool) -> Iterator[str]:
    outputs = seen.outputs
    if outputs.keys() != expected.outputs.keys():
        yield f"outputs {sorted(outputs)}, expected {sorted(expected.outputs)}"
        return
    for name, wanted in expected.outputs.items():
        found = outputs[name]
        if Counter(map(freeze, found)) != Counter(map(freeze, wanted)):
            yield f"output {name}: {len(found)} payloads differ from the {len(wanted)} expected"
        elif exact and found != wanted:
            yield f"output {name}: not first come, first served"
        yield from output_order(name, found)


def output_order(name: str, payloads: Iterable[dict[str, Any]]) -> Iterator[str]:
    newest: dict[int, int] = {}
    for payload in payloads:
        if payload["sequence"] <= newest.get(payload["call"], -1):
            yield f"output {name}: {payload} came behind a later one of the same call"
        newest[payload["call"]] = payload["sequence"]


def merge_differences(stage: Stage, expected: JobAnswer) -> Iterator[str]:
    for (index, slot), wanted in expected.merged.items():
        found = stage.probes[index].merged.get((expected.job.number, slot))
        kind = stage.plan.nodes[index].slots[slot]
        same = found == wanted if kind == SUM else sorted(found or []) == sorted(wanted)
        if not same:
            yield f"r{index}.s{slot} merged {found}, expected {wanted}"


# -- what the ledger can't show, because it would balance all the same


def leftovers(stage: Stage) -> Iterator[str]:
    """Look for what a flow without jobs must not have."""
    yield from inside.leftovers(stage.flow, stage.jobs.values())
    if stage.world.running:
        yield f"{stage.world.running} handlers still run"


@contextmanager
def quiet_log() -> Iterator[None]:
    """Drop what the engine logs of planted errors: tens of thousands of lines."""
    log = logging.getLogger("routilux_core")
    log.disabled, before = True, log.disabled
    try:
        yield
    finally:
        log.disabled = before
