"""W3b: 10,000 events through a stateless routine to an aggregator, per event: what threads pay for the second hop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median

from suite.model import Comparison, Row, Workload, ratio, value
from suite.w3_stream import THREADS, counting_pool
from suite.work import check_each_once, median_of

EVENTS = 10_000
RUNS = 10
BLOCKED = 40  # jobs with a call that blocks
BEHIND, MOST_BEHIND = "behind a call that blocks", "behind a call that blocks, at most"


def ours(count: int, *, workers: int | None, stateless: bool) -> float:
    """Seconds for each event: under `sequential`, or with so many threads."""
    from suite.flows import OrderedSink, Pass, Sink, runner, stream, warm_up

    strategy = "sequential" if workers is None else "concurrent"
    warm_up(strategy, workers)
    flow = stream(count, Sink() if stateless else OrderedSink(), strategy, workers, through=Pass())
    return median_of(RUNS, runner(flow, "source", 2 * count + 1), lambda: check_each_once(count)) / count


def held_up(count: int, *, pick: Callable[[list[float]], float]) -> float:
    """Milliseconds for which the next call waits behind one that blocks, after 3,000 that were quick."""
    from suite.flows import Blocks, runner, stream

    waited: list[float] = []
    flow = stream(2 * count, Blocks(at=count, seconds=0.05), "concurrent", THREADS)
    run = runner(flow, "source", 2 * count + 1)
    for _ in range(BLOCKED):
        Blocks.clock.clear()
        run()
        began, next_began = Blocks.clock
        waited.append((next_began - began) * 1000)
    return pick(waited)


def _rows(stateless: bool) -> tuple[Row, ...]:
    return tuple(
        Row(
            name=_name(workers, stateless),
            measure=partial(ours, workers=workers, stateless=stateless),
            size=EVENTS,
            quick_size=500,
        )
        for workers in (None, 1, 2, 8)
    )


def _name(workers: int | None, stateless: bool) -> str:
    where = "sequential" if workers is None else f"{workers} threads" if workers > 1 else "1 thread"
    return f"{where}, stateless sink" if stateless else f"{where}, sink with state"


def _comparison(workers: int, stateless: bool, gate: float) -> Comparison:
    one, other = _name(workers, stateless), _name(None, stateless)
    return Comparison(goal="G5b", text=f"{one} / sequential", compute=ratio(one, other), gate=gate, ambition=1.0)


WORKLOAD = Workload(
    name="W3b",
    title="one source, 10,000 events, a stateless routine, a sink, per event",
    rows=(
        *_rows(stateless=False),
        *_rows(stateless=True),
        Row(
            name="counting pool",
            measure=partial(counting_pool, hops=2),
            size=EVENTS,
            quick_size=500,
            limit=True,
        ),
        *(
            Row(name=name, measure=partial(held_up, pick=pick), size=3_000, quick_size=500)
            for name, pick in ((BEHIND, median), (MOST_BEHIND, max))
        ),
    ),
    comparisons=(
        *(_comparison(workers, False, 1.4) for workers in (2, 8)),
        *(_comparison(workers, True, 1.2) for workers in (2, 8)),
        Comparison(
            goal="G4",
            text=f"{_name(THREADS, True)} / counting pool",
            compute=ratio(_name(THREADS, True), "counting pool"),
            gate=2.0,
            ambition=1.5,
        ),
        Comparison(goal="G5b", text=BEHIND, compute=value(BEHIND), gate=5.0, ambition=2.0, unit=" ms"),
        Comparison(goal="G5b", text=MOST_BEHIND, compute=value(MOST_BEHIND), gate=10.0, ambition=5.0, unit=" ms"),
    ),
)
