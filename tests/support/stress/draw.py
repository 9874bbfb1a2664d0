"""Drawing a plan from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator

from attrs import evolve

from stress.model import answer_of
from stress.plan import (
    APPEND,
    BOUNDED,
    GATHER,
    OVERRIDE,
    PER_JOB,
    STATE,
    STATELESS,
    SUM,
    FlowPlan,
    Job,
    Node,
    Policy,
    Wire,
)


def draw(seed: int, most: int = 300, least: int = 0, waves: int | None = None) -> FlowPlan:
    """Return the plan of a seed, with at most `most` activations in a job, and at least `least` if that can be had."""
    dice = random.Random(seed)
    for _ in range(200):
        plan = _draw(seed, dice, waves)
        for ttl in range(12 if least else dice.randint(2, 8), -1, -1):
            trial = _with_ttl(plan, ttl)
            answer = answer_of(trial, limit=most)
            if answer is not None and answer.largest_job >= least:
                return trial
            if answer is not None:
                break
    raise AssertionError(f"seed {seed}: no plan of {least} to {most} activations was found")


def _with_ttl(plan: FlowPlan, ttl: int) -> FlowPlan:
    return evolve(plan, waves=tuple(tuple(evolve(job, ttl=ttl) for job in wave) for wave in plan.waves))


def _draw(seed: int, dice: random.Random, waves: int | None) -> FlowPlan:
    strategy = dice.choice(("sequential", "concurrent", "concurrent", "concurrent"))
    other = "concurrent" if strategy == "sequential" else "sequential"
    mixed = dice.random() < 0.3
    policy = _policy(dice) if dice.random() < 0.7 else None
    nodes = tuple(_node(i, dice, other if mixed else None, policy) for i in range(dice.randint(2, 10)))
    return FlowPlan(
        seed=seed,
        strategy=strategy,
        workers=dice.choice((1, 1, 2, 2, 3, 4, 6, 8, 12, 16)),
        max_pending=dice.choice((2, 3, 5, 8, 16, 64, 256, 1024, 1024)),
        policy=policy,
        nodes=nodes,
        wires=tuple(_wires(nodes, dice)),
        waves=tuple(_waves(nodes, dice, waves)),
        from_threads=dice.random() < 0.3,
        with_context=dice.random() < 0.2,
        between=dice.choice(("nothing", "nothing", "shutdown", "strategy")),
    )


def _policy(dice: random.Random) -> Policy:
    if dice.random() < 0.5:
        return Policy(dice.choice(("continue", "skip")))
    return Policy(
        "retry", dice.randint(0, 3), dice.choice((0.0, 0.0, 0.0005, 0.002)), dice.choice(("continue", "skip"))
    )


def _node(index: int, dice: random.Random, other: str | None, flow_policy: Policy | None) -> Node:
    kind = dice.choice((STATE, STATE, STATE, STATE, STATELESS, STATELESS, BOUNDED, PER_JOB))
    merges = (OVERRIDE, OVERRIDE, OVERRIDE, APPEND, SUM, GATHER) if kind in (STATE, PER_JOB) else (OVERRIDE, GATHER)
    slots = [dice.choice(merges) for _ in range(dice.choice((1, 1, 1, 2)))]
    if index == 0:
        slots[0] = OVERRIDE
    events = dice.randint(1, 3)
    fans = [dice.choice((0, 1, 1, 1, 1, 2, 2, 3, 5, 16)) for _ in range(events)]
    policy = _policy(dice) if dice.random() < 0.3 else None
    can_fail = policy or flow_policy
    return Node(
        index=index,
        kind=kind,
        slots=tuple(slots),
        fans=(dice.randint(0, 2), *fans),
        outputs=tuple(dice.random() < 0.4 for _ in range(events + 1)),
        policy=policy,
        percent_failing=dice.choice((0, 0, 5, 20)) if can_fail else 0,
        strategy=other if dice.random() < 0.3 else None,
        percent_napping=dice.choice((0, 0, 5, 30)),
        spawns=dice.random() < 0.05,
    )


def _wires(nodes: tuple[Node, ...], dice: random.Random) -> Iterator[Wire]:
    """Draw connections: forward ones, and backward ones that close no circle through a gather slot."""
    gathering = [node.index for node in nodes if GATHER in node.slots]
    seen = set()
    for source in nodes:
        for event in range(1, len(source.fans)):
            for _ in range(dice.choice((1, 1, 1, 2, 3))):
                target = dice.choice(nodes)
                backward = target.index <= source.index
                if backward and any(target.index <= each <= source.index for each in gathering):
                    continue
                slot = dice.randrange(len(target.slots))
                renames = target.slots[slot] in (OVERRIDE, SUM) and dice.random() < 0.25
                wire = Wire(source.index, event, target.index, slot, renames)
                if wire not in seen:
                    seen.add(wire)
                    yield wire


def _waves(nodes: tuple[Node, ...], dice: random.Random, waves: int | None) -> Iterator[tuple[Job, ...]]:
    number = 0
    for _ in range(waves or dice.choice((1, 1, 1, 2, 3))):
        wave = []
        for _ in range(dice.choice((1, 1, 1, 2, 3, 5))):
            number += 1
            node = nodes[0] if dice.random() < 0.6 else dice.choice(nodes)
            wave.append(Job(number, node.index, dice.randrange(len(node.slots)), dice.getrandbits(60), 0))
        yield tuple(wave)
