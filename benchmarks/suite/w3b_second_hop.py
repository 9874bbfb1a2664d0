"""W3b: 10,000 events through a stateless routine to an aggregator, per event: what threads pay for the second hop."""

from __future__ import annotations

from functools import partial

from suite.model import Comparison, Row, Workload, ratio
from suite.work import check_each_once, median_of

EVENTS = 10_000
RUNS = 10


def ours(count: int, *, workers: int | None, stateless: bool) -> float:
    """Seconds for each event: under `sequential`, or with so many threads."""
    from suite.flows import OrderedSink, Pass, Sink, runner, stream, warm_up

    strategy = "sequential" if workers is None else "concurrent"
    warm_up(strategy, workers)
    flow = stream(count, Sink() if stateless else OrderedSink(), strategy, workers, through=Pass())
    return median_of(RUNS, runner(flow, "source", 2 * count + 1), lambda: check_each_once(count)) / count


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
    return Comparison(goal="G4", text=f"{one} / sequential", compute=ratio(one, other), gate=gate, ambition=1.0)


WORKLOAD = Workload(
    name="W3b",
    title="one source, 10,000 events, a stateless routine, a sink, per event",
    rows=(*_rows(stateless=False), *_rows(stateless=True)),
    comparisons=(
        *(_comparison(workers, False, 1.4) for workers in (2, 8)),
        *(_comparison(workers, True, 1.2) for workers in (2, 8)),
    ),
)
