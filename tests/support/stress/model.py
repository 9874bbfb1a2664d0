"""The answer to a plan, worked out without the engine: a plain walk over a queue."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

from attrs import Factory, define

from stress.plan import (
    ALWAYS,
    APPEND,
    GATHER,
    MASK,
    PER_JOB,
    SUM,
    FlowPlan,
    Job,
    Node,
    Wire,
    call_of,
    entry_payload,
    gathered_identity,
    identity,
    payload_of,
    spawned_by,
)

Frozen = tuple[tuple[str, int], ...]
GRAVITY = ("completed", "skipped", "error_continued", "failed")
STATES = {"continue": "error_continued", "skip": "skipped"}


def freeze(payload: dict[str, Any]) -> Frozen:
    return tuple(sorted(payload.items()))


@define(eq=False)
class Attributes:
    """What a routine with state holds in the end."""

    calls: int = 0
    total: int = 0
    seen: list[int] = Factory(list)


@define(eq=False)
class JobAnswer:
    """What one job comes to. `records` are (node, slot, attempt, outcome)."""

    job: Job
    outputs: dict[str, list[dict[str, int]]] = Factory(dict)
    ledger: Counter[str] = Factory(Counter)
    errors: Counter[tuple[str, str, int, str]] = Factory(Counter)
    records: list[tuple[str, str, int, str]] = Factory(list)
    states: dict[str, str] = Factory(dict)
    calls: Counter[int] = Factory(Counter)  # handlers entered, by node
    merged: dict[tuple[int, int], Any] = Factory(dict)  # by node and slot: the tokens appended, or the sum
    own: dict[int, Attributes] = Factory(dict)  # of routines with a copy for each job


@define(eq=False)
class Answer:
    jobs: dict[int, JobAnswer] = Factory(dict)
    attributes: dict[int, Attributes] = Factory(dict)

    @property
    def largest_job(self) -> int:
        return max(answer.ledger["posted"] for answer in self.jobs.values())


class _TooLarge(Exception):
    pass


def answer_of(plan: FlowPlan, limit: int = 1_000_000) -> Answer | None:
    """Return the answer to a plan, or None if a job in it has more than `limit` activations."""
    answer = Answer()
    for node in plan.nodes:
        answer.attributes[node.index] = Attributes()
    jobs = deque(job for wave in plan.waves for job in wave)
    try:
        while jobs:
            walk = _Walk(plan, jobs.popleft(), answer, limit)
            walk.walk()
            jobs.extend(walk.spawned)
    except _TooLarge:
        return None
    return answer


class _Walk:
    """One job, one activation after the other in the order posted."""

    def __init__(self, plan: FlowPlan, job: Job, answer: Answer, limit: int) -> None:
        self.plan = plan
        self.limit = limit
        self.flow_answer = answer
        self.answer = answer.jobs[job.number] = JobAnswer(job)
        for node in plan.nodes:
            for event, collected in enumerate(node.outputs):
                if collected:
                    self.answer.outputs[f"{node.routine_id}.e{event}"] = []
        self.queue: deque[tuple[Node, int, dict[str, Any]]] = deque()
        self.gathered: dict[tuple[int, int], list[int]] = {}
        self.gathered_ttl: dict[tuple[int, int], int] = {}
        self.spawned: list[Job] = []
        self.targets: dict[tuple[int, int], list[Wire]] = {}
        for wire in plan.wires:
            self.targets.setdefault((wire.source, wire.event), []).append(wire)

    def walk(self) -> None:
        job = self.answer.job
        self._deliver(self.plan.nodes[job.node], job.slot, entry_payload(job))
        while self.queue or self.gathered:
            if self.queue:
                self._arrive(*self.queue.popleft())
            else:
                self._gather()

    def _deliver(self, node: Node, slot: int, payload: dict[str, Any]) -> None:
        ledger = self.answer.ledger
        if node.slots[slot] == GATHER:
            ledger["gathered"] += 1
            self.gathered.setdefault((node.index, slot), []).append(payload["token"])
            self.gathered_ttl[node.index, slot] = max(payload["ttl"], self.gathered_ttl.get((node.index, slot), 0))
            return
        ledger["posted"] += 1
        if ledger["posted"] > self.limit:
            raise _TooLarge
        self.queue.append((node, slot, payload))

    def _arrive(self, node: Node, slot: int, payload: dict[str, Any]) -> None:
        me = identity(node, slot, payload["token"], "alt" in payload)
        where = (node.index, slot)
        if node.slots[slot] == APPEND:
            self.answer.merged.setdefault(where, []).append(payload["token"])
        elif node.slots[slot] == SUM:
            self.answer.merged[where] = (self.answer.merged.get(where, 0) + payload["token"]) & MASK
        self._activate(node, slot, me, payload["ttl"])

    def _gather(self) -> None:
        """Call the gather slot that no other one with arrivals can reach: plans order nodes topologically there."""
        where = min(self.gathered)
        node, tokens = self.plan.nodes[where[0]], self.gathered.pop(where)
        self.answer.ledger["posted"] += 1
        self._activate(node, where[1], gathered_identity(node, where[1], tokens), self.gathered_ttl.pop(where))

    def _activate(self, node: Node, slot: int, me: int, ttl: int) -> None:
        policy, call = self.plan.policy_of(node), call_of(node, me, ttl)
        emits_when_it_fails = policy.decision != "retry"
        attempt = 1
        while True:
            self._enter(node, me)
            if attempt > call.failing:
                self._emit(node, me, call.events, ttl)
                self._record(node, slot, attempt, "completed")
                self.answer.ledger["completed"] += 1
                if call.spawns:
                    self.spawned.append(spawned_by(self.plan, node, me))
                return
            if emits_when_it_fails:
                self._emit(node, me, call.events[: call.fails_at], ttl)
            decision = policy.decision
            if decision == "retry" and (call.fatal or attempt > policy.retries):
                decision = policy.after
            self._fail(node, slot, attempt, decision)
            if decision != "retry":
                return
            attempt += 1
            assert attempt < ALWAYS

    def _enter(self, node: Node, me: int) -> None:
        self.answer.calls[node.index] += 1
        attributes = self.flow_answer.attributes[node.index]
        if node.kind == PER_JOB:
            attributes = self.answer.own.setdefault(node.index, Attributes())
        attributes.calls += 1
        attributes.total = (attributes.total + me) & MASK
        attributes.seen.append(me)

    def _fail(self, node: Node, slot: int, attempt: int, decision: str) -> None:
        self.answer.errors[node.routine_id, f"s{slot}", attempt, decision] += 1
        outcome = {"retry": "retried", "skip": "skipped"}.get(decision, "failed")
        self.answer.ledger[outcome] += 1
        self._record(node, slot, attempt, outcome)
        if decision != "retry":
            self._state(node, STATES[decision])

    def _record(self, node: Node, slot: int, attempt: int, outcome: str) -> None:
        self.answer.records.append((node.routine_id, f"s{slot}", attempt, outcome))
        self._state(node, "completed")

    def _state(self, node: Node, state: str) -> None:
        old = self.answer.states.get(node.routine_id, "completed")
        self.answer.states[node.routine_id] = max(old, state, key=GRAVITY.index)

    def _emit(self, node: Node, me: int, events: tuple[int, ...], ttl: int) -> None:
        ledger = self.answer.ledger
        for sequence, event in enumerate(events):
            payload = payload_of(node, self.answer.job.number, me, sequence, event, ttl)
            ledger["emitted"] += 1
            wires = self.targets.get((node.index, event), ())
            for wire in wires:
                self._deliver(self.plan.nodes[wire.target], wire.slot, renamed(payload) if wire.renames else payload)
            if node.outputs[event]:
                self.answer.outputs[f"{node.routine_id}.e{event}"].append(payload)
            elif not wires:
                ledger["unconnected"] += 1


def renamed(payload: dict[str, Any]) -> dict[str, Any]:
    """Return the payload as it arrives over a connection that renames: the old name is not passed as well."""
    return {("alt" if key == "value" else key): value for key, value in payload.items()}
