"""The check of random flows looks at everything: its plans have all there is, and each wrong answer is noticed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stress import harness, inside, interrupt, model
from stress.draw import draw

pytestmark = pytest.mark.once

SEEDS = 60


def test_the_plans_have_all_that_flows_are_made_of() -> None:
    plans = [draw(seed) for seed in range(SEEDS)]
    nodes = [node for plan in plans for node in plan.nodes]
    policies = [plan.policy_of(node).decision for plan in plans for node in plan.nodes]
    assert {plan.strategy for plan in plans} == {"sequential", "concurrent"}
    assert {plan.workers for plan in plans} >= {1, 2, 4, 8, 16}
    assert {plan.max_pending for plan in plans} >= {2, 8, 64, 1024}
    assert {node.kind for node in nodes} == {"state", "stateless", "bounded", "per_job"}
    assert {slot for node in nodes for slot in node.slots} == {"override", "append", "sum", "gather"}
    assert any(node.strategy for node in nodes), "no routine names its own strategy"
    assert max(fan for node in nodes for fan in node.fans) >= 16
    assert {"continue", "skip", "retry"} <= set(policies)
    assert any(wire.target <= wire.source for plan in plans for wire in plan.wires), "no cycle"
    assert any(job.ttl for plan in plans for wave in plan.waves for job in wave), "no cycle has a budget"
    assert any(wire.renames for plan in plans for wire in plan.wires)
    assert max(len(wave) for plan in plans for wave in plan.waves) >= 3, "no jobs at once"
    assert any(len(plan.waves) > 1 for plan in plans), "no jobs one after the other"
    assert {plan.between for plan in plans if len(plan.waves) > 1} == {"nothing", "shutdown", "strategy"}
    assert any(node.spawns for node in nodes)
    assert any(plan.from_threads for plan in plans)
    assert any(plan.with_context for plan in plans)
    ledgers = [job.ledger for plan in plans for job in model.answer_of(plan).jobs.values()]
    for count in ("completed", "failed", "skipped", "retried", "unconnected", "gathered"):
        assert any(ledger[count] for ledger in ledgers), f"no flow has anything {count}"


def job_of(answer: Any) -> Any:
    return max(answer.jobs.values(), key=lambda job: job.ledger["posted"])


def one_more_output(answer: Any) -> None:
    payloads = next(some for job in answer.jobs.values() for some in job.outputs.values() if some)
    payloads.append({**payloads[0], "value": -1})


def one_more_call(answer: Any) -> None:
    job_of(answer).calls[0] += 1


def another_record(answer: Any) -> None:
    job = job_of(answer)
    job.records[0] = ("r0", "s0", 7, "completed")


def one_more_error(answer: Any) -> None:
    job_of(answer).errors["r0", "s0", 1, "continue"] += 1


def another_state(answer: Any) -> None:
    states = job_of(answer).states
    states[next(iter(states))] = "failed"


def another_total(answer: Any) -> None:
    for attributes in answer.attributes.values():  # those of stateless routines are nobody's
        attributes.total += 1


def another_appended(answer: Any) -> None:
    next(job.merged for job in answer.jobs.values() if job.merged).update({(0, 0): [1]})


def another_copy(answer: Any) -> None:
    own = next(job.own for job in answer.jobs.values() if job.own)
    next(iter(own.values())).seen.append(1)


def one_job_more(answer: Any) -> None:
    answer.jobs[-1] = job_of(answer)


def in_ledger(count: str) -> Callable[[Any], None]:
    def change(answer: Any) -> None:
        job_of(answer).ledger[count] += 1

    change.__name__ = f"one_more_{count}"
    return change


LEDGER = ("posted", "completed", "failed", "skipped", "retried", "emitted", "unconnected", "gathered")
CHANGES = [
    one_more_output,
    one_more_call,
    another_record,
    one_more_error,
    another_state,
    another_total,
    another_appended,
    another_copy,
    one_job_more,
    *map(in_ledger, LEDGER),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_wrong_answer_is_noticed(change: Callable[[Any], None]) -> None:
    """The first plan that has what is changed: it agrees with its answer, and not with the changed one."""
    for seed in range(SEEDS):
        plan = draw(seed)
        answer = model.answer_of(plan)
        try:
            change(answer)
        except StopIteration:
            continue
        break
    else:
        pytest.fail("no plan has that")
    stage = harness.Stage(plan)
    with harness.quiet_log():
        stage.run()
        stage.flow.shutdown()
    assert list(harness.differences(stage, model.answer_of(plan))) == []
    assert list(harness.differences(stage, answer)) != []


LEAVINGS = ("hold_a_permit", "leave_one_waiting", "leave_one_ready", "leave_a_job", "leave_a_timer")


@pytest.mark.parametrize("leave", LEAVINGS)
def test_what_the_dispatcher_leaves_behind_is_noticed(leave: str) -> None:
    stage = finished_stage()
    take_back = getattr(inside, leave)(stage.flow)
    found = list(harness.leftovers(stage))
    if take_back is not None:
        take_back()
    assert found != []


def test_a_handler_that_still_runs_is_noticed() -> None:
    stage = finished_stage()
    stage.world.running += 1
    assert list(harness.leftovers(stage)) == ["1 handlers still run"]


def test_a_second_handler_that_a_thread_begins_behind_a_cancel_is_noticed() -> None:
    stage = finished_stage()
    job, index = next(iter(stage.world.calls))
    node = stage.world.plan.nodes[index]
    interrupter = interrupt.Interrupter(stage, [])
    stage.world.close([job])
    for allowed in (True, False):  # the one that this thread had committed to, and another
        stage.world.enter(job, node)
        stage.world.enter(-1, node)
        assert (list(interrupt.late_calls(interrupter)) == []) is allowed


def finished_stage() -> Any:
    stage = harness.Stage(draw(0))
    with harness.quiet_log():
        stage.run()
        stage.flow.shutdown()
    assert list(harness.leftovers(stage)) == []
    return stage
