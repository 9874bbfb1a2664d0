"""Random cancels and pauses lose nothing, count everything and hang nowhere: 20 in every run, 200 in a soak."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable

import pytest

from routilux_core import Flow, Routine, event, slot
from stress import interrupt

MakeFlow = Callable[..., Flow]
SHORT, LONG = 20, 200
FEW, MANY = 300, 1_000  # events in a flow
ACTIONS = {"cancel", "pause", "pause, cancel"}


@pytest.mark.stress
@pytest.mark.parametrize("seed", range(SHORT))
def test_a_flow_interrupted_at_a_random_moment_counts_everything(seed: int) -> None:
    assert interrupt.check_interrupted(seed, FEW).total() <= len(ACTIONS)


@pytest.mark.stress
def test_the_short_run_interrupts_in_every_way() -> None:
    moments = [moment for seed in range(SHORT) for moment in interrupt.moments_of(seed, FEW)]
    assert {moment.action for moment in moments} == ACTIONS
    ways = {(moment.inside, moment.whole_flow) for moment in moments if "cancel" in moment.action}
    assert len(ways) == 4


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_200_interrupted_flows_of_1000_events_count_everything() -> None:
    done = sum((interrupt.check_interrupted(seed, MANY) for seed in range(LONG)), Counter())
    assert done.keys() == ACTIONS
    assert done.total() >= LONG * 3 // 4, f"too many flows ended before their moment: {done}"


@pytest.mark.stress
@pytest.mark.parametrize("kind", ["routines with state", "a stateless routine"])
def test_no_worker_commits_to_another_call_after_cancel_has_returned(make_flow: MakeFlow, kind: str) -> None:
    """Sixteen threads that do nothing but begin calls: each may enter the one handler that it had committed to."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        late = [entered_late(make_flow, kind) for _ in range(50)]
    finally:
        sys.setswitchinterval(before)
    assert max(late) <= 1, f"so many calls were entered late in one thread, by job: {late}"


def entered_late(make_flow: MakeFlow, kind: str) -> int:
    """Cancel jobs that keep 16 threads busy; return how many handlers one thread has entered after that, at most."""
    spins = [Spins() for _ in range(16)] if kind == "routines with state" else [SpinsInParallel()]
    flow = make_flow(execution_strategy="concurrent", max_workers=16)
    for number, routine in enumerate(spins):
        flow.add_routine(routine, f"r{number}")
        flow.connect(f"r{number}", "again", f"r{number}", "step")
    entered: list[int] = []
    busy = threading.Event()
    for routine in spins:
        routine.meet(entered, busy)
    jobs = [flow.execute(f"r{number % len(spins)}") for number in range(16)]
    assert busy.wait(20.0)
    flow.cancel()
    seen = len(entered)
    assert flow.wait_for_completion(20.0)
    flow.shutdown()
    assert sum(job.ledger.completed for job in jobs) == len(entered)
    return max(Counter(entered[seen:]).values(), default=0)


class Spin:
    """Goes round for ever, and says when that has begun in earnest."""

    again = event()

    def meet(self, entered: list[int], busy: threading.Event) -> None:
        object.__setattr__(self, "entered", entered)
        object.__setattr__(self, "busy", busy)

    @slot
    def step(self) -> None:
        self.entered.append(threading.get_ident())
        if len(self.entered) > 500:
            self.busy.set()
        self.emit("again")


class Spins(Spin, Routine):
    pass


class SpinsInParallel(Spin, Routine, stateless=True):
    pass
