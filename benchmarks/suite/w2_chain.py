"""W2: a sequential chain of trivial routines, per routine; building it is not in the time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from suite.bare import drain
from suite.model import Comparison, Row, Workload, ratio
from suite.work import best_of, check_only, note

BEST_OF = 10


def bare_chain(length: int) -> float:
    """A deque loop over ``length`` functions, each of which queues the next."""
    queue: deque[tuple[Callable[[Any], None], Any]] = deque()

    def last(n: int) -> None:
        note(n)

    def link(target: Callable[[int], None]) -> Callable[[int], None]:
        def handler(n: int) -> None:
            queue.append((target, n + 1))

        return handler

    first: Callable[[int], None] = last
    for _ in range(length - 1):
        first = link(first)

    def run() -> None:
        queue.append((first, 0))
        drain(queue)

    return best_of(BEST_OF, run, lambda: check_only(length - 1)) / length


def our_chain(length: int) -> float:
    """The same as a flow: one job, wait and shutdown."""
    from suite.flows import chain, runner, warm_up  # the limit rows must not load the engine

    warm_up("sequential")
    run = runner(chain(length), "link0", length, {"n": 0})
    return best_of(BEST_OF, run, lambda: check_only(length - 1)) / length


WORKLOAD = Workload(
    name="W2",
    title="a sequential chain of 1,000 trivial routines, per routine",
    rows=(
        Row(name="bare deque", measure=bare_chain, size=1_000, quick_size=100, limit=True),
        Row(name="ours", measure=our_chain, size=1_000, quick_size=100),
    ),
    comparisons=(
        Comparison(goal="G2", text="chain / bare deque", compute=ratio("ours", "bare deque"), gate=12, ambition=6),
    ),
)
