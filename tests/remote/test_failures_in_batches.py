"""A failure or a loss in a batch: what goes on behind it, what does not, and that little is sent twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from attrs import frozen

from routilux_core import (
    Decision,
    ErrorHandler,
    Failure,
    Flow,
    Host,
    JobState,
    Routine,
    Task,
    WorkerLost,
    WorkerPool,
    event,
    hookimpl,
    slot,
    worker,
)
from shipped.strategies import Mortal, MortalPool

MakeFlow = Callable[..., Flow]
SECONDS = 30.0
COUNT = 600
KEEP_GOING = ErrorHandler("retry", 1, 0.0, after_retries="continue")


class Here(Routine):
    """A source of this process: all that it emits waits at once."""

    item = event("n")

    def __call__(self, count: int) -> None:
        for n in range(count):
            self.emit("item", n=n)


class Tries(Routine, stateless=True):
    """Fails for each `every`-th number, `times` times. The workers of these tests are threads: all see its calls."""

    calls: ClassVar[list[int]] = []
    every: int = 2
    times: int = 1 << 30
    done = event("n")

    @slot
    def n(self, n: int) -> None:
        self.calls.append(n)
        self.emit("done", n=n)
        if n % self.every == 0 and self.calls.count(n) <= self.times:
            raise ValueError(n)


class TriesInTurn(Tries):
    """The same with state."""

    seen: list[int]

    @slot
    def n(self, n: int) -> None:
        self.seen.append(n)
        super().n(n)


def tries(with_state: bool, **settings: Any) -> Tries:
    return TriesInTurn(seen=[], **settings) if with_state else Tries(**settings)


def run(make_flow: MakeFlow, target: Routine, handler: Any, strategy: Mortal, **settings: Any) -> tuple[Flow, JobState]:
    flow = make_flow(execution_strategy=strategy, error_handler=handler, max_pending=100_000, **settings)
    flow.add_routine(Here(), "source", execution_strategy="concurrent")
    flow.add_routine(target, "target")
    flow.add_output("target", "done")
    flow.connect("source", "item", "target", "n")
    Tries.calls.clear()
    job = flow.execute("source", {"count": COUNT})
    assert job.wait(SECONDS), job.explain()
    assert job.ledger.balanced
    return flow, job


@pytest.mark.parametrize("with_state", [True, False])
@pytest.mark.parametrize(
    "every", [pytest.param(1, marks=pytest.mark.once), 2, pytest.param(10, marks=pytest.mark.once)]
)
@pytest.mark.parametrize("policy", ["continue", "skip"])
def test_a_batch_goes_on_behind_failures_that_cannot_stop_the_job(
    make_flow: MakeFlow, policy: str, every: int, with_state: bool
) -> None:
    strategy = Mortal(max_workers=2)
    flow, job = run(make_flow, tries(with_state, every=every), policy, strategy)
    failed = len(range(0, COUNT, every))
    assert (job.status, job.ledger.failed + job.ledger.skipped) == ("completed", failed)
    assert sum(size for size, _ in strategy.sizes) == COUNT  # nothing was sent twice
    assert max(size for size, _ in strategy.sizes) > 5
    assert sorted(Tries.calls) == list(range(COUNT))
    assert sorted(payload["n"] for payload in job.outputs["target.done"]) == list(range(COUNT))
    assert all(int(str(each.exception)) % every == 0 for each in job.errors)
    if with_state:
        assert flow.routines["target"].seen == list(range(COUNT))


@pytest.mark.parametrize("with_state", [True, False])
@pytest.mark.parametrize(
    ("handler", "times"),
    [(ErrorHandler("retry", 2, 0.0), 1), pytest.param(KEEP_GOING, 1, marks=pytest.mark.once), (KEEP_GOING, 5)],
)
def test_little_is_sent_twice_where_each_second_call_is_retried(
    make_flow: MakeFlow, handler: ErrorHandler, with_state: bool, times: int
) -> None:
    strategy = Mortal(max_workers=2)
    flow, job = run(make_flow, tries(with_state, times=times), handler, strategy)
    assert job.status == "completed"
    assert job.ledger.retried == COUNT // 2
    assert sum(size for size, _ in strategy.sizes) <= 4 * (COUNT + job.ledger.retried)
    if with_state:  # order holds, attempts included
        assert flow.routines["target"].seen == sorted(flow.routines["target"].seen)


def test_what_a_failed_attempt_held_back_holds_back_nothing_of_the_calls_behind_it(make_flow: MakeFlow) -> None:
    strategy = Mortal(max_workers=1)
    flow = make_flow(execution_strategy=strategy, error_handler="continue")
    held, free = Tries(), Tries(every=1 << 30)
    held.set_error_handler(KEEP_GOING)
    flow.add_routine(Here(), "source", execution_strategy="concurrent")
    for name, routine in (("held", held), ("free", free)):
        flow.add_routine(routine, name)
        flow.add_output(name, "done")
        flow.connect("source", "item", name, "n")
    for _ in range(2):  # the second time, both have been measured, and travel together
        Tries.calls.clear()
        strategy.sizes.clear()
        job = flow.execute("source", {"count": COUNT})
        assert job.wait(SECONDS), job.explain()
    assert max(size for size, _ in strategy.sizes) > 1
    assert sorted(payload["n"] for payload in job.outputs["free.done"]) == list(range(COUNT))
    assert sorted(payload["n"] for payload in job.outputs["held.done"]) == list(range(1, COUNT, 2))


class FailsLate(Tries, stateless=True):
    @slot
    def n(self, n: int) -> None:
        self.calls.append(n)
        if n == 300:
            raise ValueError(n)


class FailsLateInTurn(FailsLate):
    """The same with state."""


@pytest.mark.parametrize("target", [FailsLate(), FailsLateInTurn()])
def test_nothing_more_begins_behind_a_failure_that_stops_the_job(make_flow: MakeFlow, target: Routine) -> None:
    strategy = Mortal(max_workers=1)
    _, job = run(make_flow, target, ErrorHandler(), strategy)
    assert max(size for size, _ in strategy.sizes) > 1
    assert job.status == "failed"
    assert Tries.calls[-1] == 300


@pytest.mark.parametrize("with_state", [True, False])
def test_a_plugin_that_decides_is_asked_before_more_begins(make_flow: MakeFlow, with_state: bool) -> None:
    class Stops:
        @hookimpl
        def routilux_handle_error(self, failure: Failure) -> Decision:
            return Decision("stop" if str(failure.exception) == "300" else "continue")

    strategy = Mortal(max_workers=1)
    _, job = run(make_flow, tries(with_state, every=300), "continue", strategy, plugins=[Stops()])
    assert job.status == "failed"
    assert Tries.calls[-1] == 300


# -- a call that damages its worker


class Poison(Routine, stateless=True):
    """One of its calls dooms the worker, which dies when the batch has ended."""

    bad: int = 300
    calls: ClassVar[list[int]] = []
    doomed: ClassVar[bool] = False
    done = event("n")

    @slot
    def n(self, n: int) -> None:
        self.calls.append(n)
        if n == self.bad:
            Poison.doomed = True
        self.emit("done", n=n)


class PoisonInTurn(Poison):
    seen: list[int]

    @slot
    def n(self, n: int) -> None:
        self.seen.append(n)
        super().n(n)


class DiesLate(MortalPool):
    def _run(self, task: Task, payload: bytes) -> bool:
        at = -1

        def mark(index: int) -> None:
            nonlocal at
            at = index

        reply = worker.run(payload, mark=mark)
        self._count_away(-1)
        if Poison.doomed:
            Poison.doomed = False
            task.fail(WorkerLost(reason="it could not reply"), at)
            return False
        task.finish(reply)
        return True


@frozen(kw_only=True)
class LateDeaths(Mortal):
    def open(self, host: Host) -> WorkerPool:
        return DiesLate(self)


@pytest.mark.parametrize("target", [Poison(), PoisonInTurn(seen=[])])
def test_a_call_that_damages_its_worker_costs_one_other_and_is_found(make_flow: MakeFlow, target: Routine) -> None:
    strategy = LateDeaths(max_workers=1)
    Poison.calls.clear()
    flow, job = run(make_flow, target, "continue", strategy)
    failed = [each for each in job.errors if isinstance(each.exception, WorkerLost)]
    assert job.status == "completed"
    assert len(failed) == job.ledger.failed <= 2
    assert Counter(Poison.calls)[300] <= 3
    done = {payload["n"] for payload in job.outputs["target.done"]}
    assert 300 not in done
    assert len(done) == COUNT - len(failed)
    assert not flow._runtime.engine.schedulers[0].losses  # type: ignore[attr-defined] # nobody is suspected for longer than needed
    if isinstance(target, PoisonInTurn):
        assert flow.routines["target"].seen == [n for n in range(COUNT) if n in done]
