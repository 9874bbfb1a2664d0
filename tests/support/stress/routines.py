"""The routines of a random flow, and what watches them from inside their handlers."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from time import sleep
from typing import Any, Self

from routilux_core import JobState, Routine
from stress.plan import (
    APPEND,
    BOUND,
    BOUNDED,
    GATHER,
    MASK,
    PER_JOB,
    STATELESS,
    SUM,
    Call,
    FlowPlan,
    Job,
    Node,
    call_of,
    gathered_identity,
    identity,
    payload_of,
    spawned_by,
)

CALLER: ContextVar[int] = ContextVar("caller")  # the job's number, where the caller of `execute` set it
NAP = 0.0002


class Planted(Exception):
    """An error that the plan asks for."""


class Fatal(Planted):
    """One that no policy retries."""


class World:
    """What the handlers of one flow share: counts of their own, and the breaches of promise that they saw."""

    def __init__(self, plan: FlowPlan) -> None:
        self.plan = plan
        self.execute: Callable[[Job], JobState]  # for handlers
        self.lock = threading.Lock()
        self.breaches: list[str] = []
        self.calls: Counter[tuple[int, int]] = Counter()  # handlers entered, by job and node
        self.entered = 0
        self.running = 0
        self.attempts: Counter[int] = Counter()  # by activation
        self.spawned: list[JobState] = []
        self.alarms: dict[int, threading.Event] = {}  # set when so many handlers have been entered
        self.inside: dict[int, Any] = {}  # called inside the handler that is entered as number so-and-so
        self.closed: dict[int, Counter[int]] = {}  # job -> handlers entered since it was closed, by thread
        self.wires: dict[tuple[int, int, int, int, bool], int] = {}
        for number, wire in enumerate(plan.wires):
            self.wires[wire.source, wire.event, wire.target, wire.slot, wire.renames] = number

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def breach(self, text: str) -> None:
        with self.lock:
            self.breaches.append(text)

    def close(self, jobs: list[int]) -> None:
        """Count from now on which threads still enter handlers of these jobs."""
        with self.lock:
            for job in jobs:
                self.closed.setdefault(job, Counter())

    def enter(self, job: int, node: Node) -> int:
        """Count a handler in; return its number."""
        with self.lock:
            self.calls[job, node.index] += 1
            self.entered += 1
            self.running += 1
            if job in self.closed:
                self.closed[job][threading.get_ident()] += 1
            alarm = self.alarms.get(self.entered)
            number = self.entered
        if alarm is not None:
            alarm.set()
        return number

    def leave(self) -> None:
        with self.lock:
            self.running -= 1

    def attempt(self, me: int) -> int:
        with self.lock:
            self.attempts[me] += 1
            return self.attempts[me]


class Probe:
    """What watches one node."""

    def __init__(self, world: World, node: Node) -> None:
        self.world = world
        self.node = node
        self.limit = {STATELESS: MASK, BOUNDED: BOUND}.get(node.kind, 1)
        self.inside: Counter[int] = Counter()  # calls under way; by job, where each job has a copy
        self.newest: dict[tuple[int, int], tuple[int, int]] = {}  # (job, upstream call) -> what came last of it
        self.merged: dict[tuple[int, int], Any] = {}  # (job, slot) -> the tokens appended, or the sum
        self.arrived: Counter[tuple[int, int]] = Counter()  # (job, slot) -> activations, without retries
        self.gathered: Counter[tuple[int, int]] = Counter()

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def enter(self, job: int) -> None:
        key = job if self.node.kind == PER_JOB else 0
        with self.world.lock:
            self.inside[key] += 1
            inside = self.inside[key]
        if inside > self.limit:
            self.breach(f"{inside} calls at once, {self.limit} are allowed")

    def leave(self, job: int) -> None:
        with self.world.lock:
            self.inside[job if self.node.kind == PER_JOB else 0] -= 1

    def breach(self, text: str) -> None:
        self.world.breach(f"{self.node.routine_id} ({self.node.kind}): {text}")

    def check_order(self, slot: int, payload: dict[str, Any], attempt: int) -> None:
        """What one call emits has to come in the order emitted. Only a routine with state is promised that."""
        if payload["source"] < 0:
            return
        key = (payload["job"], payload["call"])
        now = (payload["sequence"], self.wire(slot, payload))
        before = self.newest.get(key, (-1, -1))
        if not (now > before or (attempt > 1 and now == before)):
            self.breach(f"of call {payload['call']} in job {payload['job']}, {now} came after {before}")
        self.newest[key] = now

    def wire(self, slot: int, payload: dict[str, Any]) -> int:
        return self.world.wires[payload["source"], payload["event"], self.node.index, slot, "alt" in payload]

    def check_appended(self, slot: int, data: dict[str, Any], attempt: int) -> None:
        """The handler sees what it saw last time and one more; a retry sees the same again."""
        where = (data["job"][0], slot)
        before, tokens = self.merged.get(where, []), data["token"]
        expected = before if attempt > 1 else [*before, tokens[-1]]
        if tokens != expected or any(len(values) != len(tokens) for values in data.values()):
            self.breach(f"slot s{slot}: appended {tokens}, expected {expected}")
        if set(data["job"]) != {where[0]}:
            self.breach(f"slot s{slot}: jobs mixed: {sorted(set(data['job']))}")
        self.merged[where] = tokens

    def check_sum(self, slot: int, payload: dict[str, Any], attempt: int) -> None:
        where = (payload["job"], slot)
        if attempt == 1:
            self.arrived[where] += 1
            self.merged[where] = (self.merged.get(where, 0) + payload["token"]) & MASK
        found, expected = (payload["n"], payload["sum"]), (self.arrived[where], self.merged[where])
        if found != expected:
            self.breach(f"slot s{slot}: merged {found}, expected {expected}")

    def check_gathered(self, slot: int, data: dict[str, list[Any]], attempt: int) -> None:
        job = data["job"][0]
        if set(data["job"]) != {job} or any(len(values) != len(data["job"]) for values in data.values()):
            self.breach(f"slot s{slot}: gathered {data}")
        if attempt == 1:
            self.gathered[job, slot] += 1
        if self.gathered[job, slot] != 1:
            self.breach(f"slot s{slot}: gather called {self.gathered[job, slot]} times in job {job}")
        newest: dict[int, tuple[int, int]] = {}
        for at, call in enumerate(data["call"]):
            payload = {key: values[at] for key, values in data.items()}
            now = (payload["sequence"], self.wire(slot, payload) if payload["source"] >= 0 else 0)
            if now <= newest.get(call, (-1, -1)):
                self.breach(f"slot s{slot}: gathered of call {call}: {now} after {newest[call]}")
            newest[call] = now


def add_up(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Merge: the newest payload, with the number and the sum of all tokens so far."""
    return {**new, "n": old.get("n", 0) + 1, "sum": (old.get("sum", 0) + new["token"]) & MASK}


class Played:
    """Handlers that do what the plan says. A mix-in: each kind of node is a class of its own."""

    probe: Probe

    def first(self, **data: Any) -> None:
        self.take(0, data)

    def second(self, data: dict[str, Any]) -> None:
        self.take(1, data)

    def take(self, slot: int, data: dict[str, Any]) -> None:
        node = self.probe.node
        merge = node.slots[slot]
        payload = {key: values[-1] for key, values in data.items()} if merge in (APPEND, GATHER) else data
        if merge == GATHER:
            me = gathered_identity(node, slot, data["token"])
            ttl = max(data["ttl"])
        else:
            me = identity(node, slot, payload["token"], "alt" in payload)
            ttl = payload["ttl"]
        job = payload["job"]
        world = self.probe.world
        number = world.enter(job, node)
        self.probe.enter(job)
        try:
            attempt = world.attempt(me)
            self.check(slot, merge, data, payload, attempt)
            self.count(me)
            if number in world.inside:
                world.inside[number]()
            self.act(call_of(node, me, ttl), me, job, ttl, attempt)
        finally:
            self.probe.leave(job)
            world.leave()

    def check(self, slot: int, merge: str, data: dict[str, Any], payload: dict[str, Any], attempt: int) -> None:
        probe, plan = self.probe, self.probe.world.plan
        if plan.with_context and CALLER.get(None) != payload["job"]:
            probe.breach(f"the context of job {payload['job']} is that of {CALLER.get(None)}")
        if merge == GATHER:
            probe.check_gathered(slot, data, attempt)
        elif probe.node.has_state:
            probe.check_order(slot, payload, attempt)
        if merge == APPEND:
            probe.check_appended(slot, data, attempt)
        elif merge == SUM:
            probe.check_sum(slot, payload, attempt)

    def count(self, me: int) -> None:
        """Keep nothing: only a routine with state may."""
        self.increment_stat("calls")

    def act(self, call: Call, me: int, job: int, ttl: int, attempt: int) -> None:
        node, world = self.probe.node, self.probe.world
        fails = attempt <= call.failing
        events = call.events[: call.fails_at] if fails else call.events
        if call.naps:
            sleep(NAP if me & 1 else 0)
        for sequence, event in enumerate(events):
            self.emit(f"e{event}", **payload_of(node, job, me, sequence, event, ttl))
        if fails:
            raise (Fatal if call.fatal else Planted)(f"{me}, attempt {attempt}")
        if call.spawns:
            spawned = world.execute(spawned_by(world.plan, node, me))
            with world.lock:
                world.spawned.append(spawned)


class Keeping(Played):
    """A routine with state: it counts in the way that loses counts when two calls overlap."""

    def count(self, me: int) -> None:
        super().count(me)
        calls, total = self.calls, self.total
        self.seen.append(me)
        if me % 4 == 0:
            sleep(0)
        self.calls, self.total = calls + 1, (total + me) & MASK


class State(Keeping, Routine):
    def __init__(self, probe: Probe) -> None:
        super().__init__()
        self.probe = probe
        self.calls, self.total, self.seen = 0, 0, []


class PerJob(Keeping, Routine, scope="job"):
    def __init__(self, probe: Probe) -> None:
        super().__init__()
        self.probe = probe
        self.calls, self.total, self.seen = 0, 0, []


class Stateless(Played, Routine, stateless=True):
    def __init__(self, probe: Probe) -> None:
        super().__init__()
        self.probe = probe


class Bounded(Played, Routine, stateless=True, concurrency=BOUND):
    def __init__(self, probe: Probe) -> None:
        super().__init__()
        self.probe = probe


KINDS = {"state": State, "per_job": PerJob, "stateless": Stateless, "bounded": Bounded}


def routine_for(probe: Probe) -> Routine:
    """Return the routine of a node, with its slots and events."""
    node = probe.node
    routine = KINDS[node.kind](probe)
    for slot, merge in enumerate(node.slots):
        handler = (routine.first, routine.second)[slot]
        merges = add_up if merge == SUM else merge
        routine.define_slot(f"s{slot}", handler=handler, merge_strategy=merges, whole=slot == 1)
    for event in range(len(node.fans)):
        routine.define_event(f"e{event}")
    return routine
