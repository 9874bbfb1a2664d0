"""A random flow as data: what a seed stands for, and what each call in it does.

Everything a call does follows from the node and the token that it was called with, never from the order in which calls
happen. So the engine and the model read the same description, and have to come to the same answer.
"""

from __future__ import annotations

import random

from attrs import frozen

MASK = (1 << 63) - 1
DONE = 0  # the event that every node has and nothing is connected to; outputs are often taken from it
ALWAYS = 99  # more failing attempts than any policy allows

# Kinds of nodes: one call at a time; calls in parallel; that with a bound; one call at a time, a fresh copy for a job.
STATE, STATELESS, BOUNDED, PER_JOB = "state", "stateless", "bounded", "per_job"
BOUND = 2

OVERRIDE, APPEND, SUM, GATHER = "override", "append", "sum", "gather"


def mix(*values: int) -> int:
    """Return a number that follows from the values alone, on every run and every interpreter."""
    return hash(values) & MASK  # the hash of integers is not salted


@frozen
class Policy:
    """An error policy: what happens, and with RETRY how often, and what then."""

    decision: str
    retries: int = 0
    delay: float = 0.0
    after: str = "continue"


@frozen
class Node:
    index: int
    kind: str
    slots: tuple[str, ...]  # how each slot merges
    fans: tuple[int, ...]  # how many emissions of each event a call makes
    outputs: tuple[bool, ...]  # which events are collected
    policy: Policy | None
    percent_failing: int
    strategy: str | None
    percent_napping: int
    spawns: bool

    @property
    def has_state(self) -> bool:
        return self.kind in (STATE, PER_JOB)

    @property
    def routine_id(self) -> str:
        return f"r{self.index}"


@frozen
class Wire:
    """A connection; where it renames, the value arrives as `alt` instead of `value`."""

    source: int
    event: int
    target: int
    slot: int
    renames: bool = False


@frozen
class Job:
    number: int
    node: int
    slot: int
    token: int
    ttl: int


@frozen
class FlowPlan:
    seed: int
    strategy: str
    workers: int
    max_pending: int
    policy: Policy | None
    nodes: tuple[Node, ...]
    wires: tuple[Wire, ...]
    waves: tuple[tuple[Job, ...], ...]
    from_threads: bool  # each job of a wave is executed and waited for by a thread of its own
    with_context: bool  # the caller of `execute` has context variables
    between: str  # what happens between waves: nothing, a shutdown, another strategy

    def policy_of(self, node: Node) -> Policy:
        return node.policy or self.policy or Policy("stop")

    @property
    def has_exact_order(self) -> bool:
        """Whether even the order between upstreams is promised: first come, first served, and nothing put back."""
        return (
            self.strategy == "sequential"
            and not self.from_threads
            and all(node.strategy in (None, "sequential") for node in self.nodes)
            and all(self.policy_of(node).decision != "retry" for node in self.nodes)
            and not any(node.spawns for node in self.nodes)
            and sum(slot == GATHER for node in self.nodes for slot in node.slots) < 2
            and all(len(wave) == 1 for wave in self.waves)
        )


@frozen
class Call:
    """What one call does: emit these events in this order, unless it fails before."""

    events: tuple[int, ...]
    failing: int  # how many attempts fail
    fails_at: int  # emissions made before the exception
    fatal: bool  # the exception is one that no policy retries
    spawns: bool
    naps: bool


def call_of(node: Node, me: int, ttl: int) -> Call:
    """Return what the call with the identity `me` does."""
    dice = random.Random(mix(me, node.index))
    fans = node.fans if ttl > 0 else node.fans[:1]
    events = [event for event, fan in enumerate(fans) for _ in range(fan)]
    dice.shuffle(events)
    fails = dice.randrange(100) < node.percent_failing
    return Call(
        events=tuple(events),
        failing=dice.choice((1, 1, 2, ALWAYS)) if fails else 0,
        fails_at=dice.randint(0, len(events)),
        fatal=dice.randrange(8) == 0,
        spawns=node.spawns and ttl > 0 and dice.randrange(6) == 0,
        naps=dice.randrange(100) < node.percent_napping,
    )


def payload_of(node: Node, job: int, me: int, sequence: int, event: int, ttl: int) -> dict[str, int]:
    """Return what the call `me` sends as its emission number `sequence`."""
    token = mix(me, sequence)
    return {
        "job": job,
        "source": node.index,
        "call": me,
        "sequence": sequence,
        "event": event,
        "token": token,
        "ttl": ttl - 1,
        "value": token % 1000,
    }


def entry_payload(job: Job) -> dict[str, int]:
    """Return what a job begins with: an emission of nobody's."""
    return {
        "job": job.number,
        "source": -1,
        "call": mix(job.token),
        "sequence": 0,
        "event": -1,
        "token": job.token,
        "ttl": job.ttl,
        "value": job.token % 1000,
    }


def spawned_by(plan: FlowPlan, node: Node, me: int) -> Job:
    """Return the job that the call `me` executes: a short one, at a node that follows from the call."""
    entries = [each for each in plan.nodes if OVERRIDE in each.slots]
    target = entries[me % len(entries)]
    # Numbers that no emission of the call has: those are made of two.
    return Job(mix(me, 0, 1), target.index, target.slots.index(OVERRIDE), mix(me, 0, 2), 0)


def identity(node: Node, slot: int, token: int, renamed: bool) -> int:
    """Return the number that stands for one activation: the same payload may reach a node on several ways."""
    return mix(token, node.index, slot, renamed)


def gathered_identity(node: Node, slot: int, tokens: list[int]) -> int:
    return mix(node.index, slot, *sorted(tokens))
