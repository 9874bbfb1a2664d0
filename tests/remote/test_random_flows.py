"""Random flows: what share no memory with their handlers give the answers that they give in one thread."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from routilux_core import Flow, JobState, Routine
from shipped.answers import SEQUENTIAL, answer, finished
from shipped.routines import Appender, FailsWithout, GathererOfJob, Source, Square, Sum, SumOfJob
from shipped.strategies import Mortal

MakeFlow = Callable[..., Flow]
SPREADS = (Square, FailsWithout, GathererOfJob)
ENDS = (Sum, SumOfJob)


class SourceAgain(Source, stateless=True, on_worker_lost="retry"):
    """Is made again when its worker dies, as all of these are."""


class SquareAgain(Square, stateless=True, on_worker_lost="retry"):
    """Emits a square."""


class FailsAgain(FailsWithout, stateless=True, on_worker_lost="retry"):
    """Fails for some numbers."""


class SumAgain(Sum, on_worker_lost="retry"):
    """Sums."""


def build(flow: Flow, seed: int, mortal: bool) -> list[JobState]:
    """Draw a flow and its jobs, and run them: sources, some levels of what emits, and what only listens."""
    draw = random.Random(seed)
    emitting: list[tuple[str, str]] = [("source", "item")]
    flow.add_routine(SourceAgain() if mortal else Source(), "source")
    spreads = (SquareAgain, FailsAgain) if mortal else SPREADS
    for number in range(draw.randint(1, 5)):
        kind, name = draw.choice(spreads), f"spread{number}"
        bad = {"bad": frozenset(draw.sample(range(20), 4))} if issubclass(kind, FailsWithout) else {}
        flow.add_routine(kind(**bad), name)
        if bad:
            flow.routines[name].set_error_handler(draw.choice(["continue", "skip"]))
        listen(flow, draw, emitting, name)
        event = {Square: "done", FailsWithout: "passed", GathererOfJob: "gathered"}
        emitting.append((name, next(event[base] for base in kind.__mro__ if base in event)))
    for number in range(draw.randint(1, 4)):
        flow.add_routine(SumAgain() if mortal else draw.choice(ENDS)(), f"end{number}")
        listen(flow, draw, emitting, f"end{number}")
    if not mortal:
        flow.add_routine(Appender(), "append")
        flow.connect("source", "item", "append", "n")
    for source, event_name in emitting:
        if draw.random() < 0.5:
            flow.add_output(source, event_name)
    counts = [draw.randint(1, 25) for _ in range(draw.randint(1, 3))]
    return [finished(flow.execute("source", {"count": count})) for count in counts]


def listen(flow: Flow, draw: random.Random, emitting: list[tuple[str, str]], name: str) -> None:
    for source, event_name in draw.sample(emitting, draw.randint(1, len(emitting))):
        flow.connect(source, event_name, name, "n")


@pytest.mark.parametrize("seed", range(25))
def test_a_random_flow_gives_the_same_answers(make_flow: MakeFlow, seed: int) -> None:
    settings: dict[str, Any] = {"history_size": 100_000, "max_pending": random.Random(seed).choice([4, 1024])}
    here = make_flow("f", **SEQUENTIAL, **settings)
    there = make_flow("f", Mortal(max_workers=3), **settings)
    expected, found = answer(here, build(here, seed, False)), answer(there, build(there, seed, False))
    assert found == expected


@pytest.mark.parametrize("seed", range(25))
def test_a_random_flow_gives_the_same_answers_when_workers_die(make_flow: MakeFlow, seed: int) -> None:
    here = make_flow("f", **SEQUENTIAL)
    there = make_flow("f", Mortal(max_workers=3, deaths=0.03, seed=seed, max_worker_losses=1000))
    expected, found = attributes_of(here, build(here, seed, True)), attributes_of(there, build(there, seed, True))
    assert found == expected


def attributes_of(flow: Flow, jobs: list[JobState]) -> dict[str, Any]:
    """Return what has to be the same although calls were made again."""
    ends: dict[str, Routine] = {name: each for name, each in flow.routines.items() if name.startswith("end")}
    ledgers = [job.ledger for job in jobs]
    return {
        "ends": {name: (each.total, sorted(each.seen), each.stats()) for name, each in ends.items()},
        "ledgers": [(each.posted, each.completed, each.failed, each.skipped, each.emitted) for each in ledgers],
        "outputs": [{name: sorted(map(repr, rows)) for name, rows in job.outputs.items()} for job in jobs],
    }
