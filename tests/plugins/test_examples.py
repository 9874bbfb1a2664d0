"""The plugins that are there to be copied do what they say, under every strategy."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from places import CHECKOUT
from routilux_core import ErrorHandler, Flow, Routine, event, slot

sys.path.insert(0, str(CHECKOUT / "examples" / "plugins"))
from circuit_breaker import CircuitBreaker
from dead_letter import DeadLetters
from prometheus import Metrics

MakeFlow = Callable[..., Flow]
SECONDS = 20.0


class Source(Routine):
    out = event("n")

    def __call__(self, count: int) -> None:
        for n in range(count):
            self.emit("out", n=n)


class Fails(Routine):
    """Fails for odd numbers until it is mended."""

    mended: bool = False
    done = event("n")

    @slot
    def n(self, n: int) -> None:
        if n % 2 and not self.mended:
            raise ValueError(n)
        self.emit("done", n=n)


class Calls(Routine):
    """Counts its calls, and fails until it is mended, or has been called so often."""

    count: int = 0
    mended: bool = False
    heals_after: int = 1_000_000

    @slot
    def n(self, n: int) -> None:
        self.count += 1
        if not self.mended and self.count <= self.heals_after:
            raise ValueError(n)


def build(flow: Flow) -> Fails:
    fails = Fails()
    flow.add_routine(Source(), "source")
    flow.add_routine(fails, "fails")
    flow.connect("source", "out", "fails", "n")
    flow.add_output("fails", "done")
    return fails


def test_metrics_count_calls_and_jobs(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    metrics = Metrics()
    flow = make_flow(**strategy, plugins=[metrics], error_handler="continue")
    build(flow)
    for _ in range(2):
        assert flow.execute("source", {"count": 6}).wait(SECONDS)
    lines = metrics.text().splitlines()
    assert 'routilux_activations_total{routine="fails",slot="n",outcome="completed"} 6' in lines
    assert 'routilux_activations_total{routine="fails",slot="n",outcome="failed"} 6' in lines
    assert 'routilux_jobs_total{status="completed"} 2' in lines
    assert "routilux_jobs_running 0" in lines
    assert "# TYPE routilux_jobs_running gauge" in lines
    assert all(line.startswith("#") or float(line.rpartition(" ")[2]) >= 0 for line in lines)


def test_dead_letters_are_kept_and_replayed(make_flow: MakeFlow, strategy: dict[str, Any], tmp_path: Path) -> None:
    letters = DeadLetters(tmp_path / "dead.jsonl")
    flow = make_flow(**strategy, plugins=[letters], error_handler="continue")
    fails = build(flow)
    assert flow.execute("source", {"count": 6}).wait(SECONDS)
    kept = letters.letters()
    assert sorted(each["payload"]["n"] for each in kept) == [1, 3, 5]
    assert {(each["routine"], each["slot"]) for each in kept} == {("fails", "n")}
    fails.mended = True
    jobs = letters.replay(flow)
    assert all(job.wait(SECONDS) for job in jobs)
    assert sorted(output["n"] for job in jobs for output in job.outputs["fails.done"]) == [1, 3, 5]
    assert letters.letters() == letters.replay(flow) == []


def test_a_dead_letter_that_is_no_json_is_kept_for_people_to_read(make_flow: MakeFlow, tmp_path: Path) -> None:
    letters = DeadLetters(tmp_path / "dead.jsonl")
    flow = make_flow(plugins=[letters], error_handler="continue")
    flow.add_routine(Fails(), "fails")
    flow.run("fails", {"n": 1 + 0j}, slot="n")
    flow.run("fails", {"n": 3}, slot="n")
    for _ in range(2):  # what fails again comes back, and what can't be replayed stays
        assert [job.wait(SECONDS) for job in letters.replay(flow)] == [True]
        assert sorted((each["payload"] or {}).get("n", 0) for each in letters.letters()) == [0, 3]
    assert "(1+0j)" in letters.letters()[0]["text"]


def test_a_circuit_breaker_spares_calls_until_a_trial_succeeds(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    now = [0.0]
    breaker = CircuitBreaker(limit=3, seconds=10.0, clock=lambda: now[0])
    flow = make_flow(**strategy, plugins=[breaker], error_handler="continue")
    calls = Calls()
    flow.add_routine(Source(), "source")
    flow.add_routine(calls, "calls")
    flow.connect("source", "out", "calls", "n")

    def job(count: int) -> tuple[int, int, int]:
        """Return how often it was called, and how many calls failed and were spared."""
        before = calls.count
        job = flow.execute("source", {"count": count})
        assert job.wait(SECONDS)
        assert (job.status, job.ledger.balanced) == ("completed", True)
        return calls.count - before, job.ledger.failed, job.ledger.skipped

    assert job(2) == (2, 2, 0)
    assert not breaker.is_open("calls")
    assert job(9) == (1, 1, 8)  # failures in a row, whichever job they are in
    assert breaker.is_open("calls")
    assert job(5) == (0, 0, 5)
    now[0] = 10.0
    assert job(5) == (1, 1, 4)  # one is let through, and fails
    now[0] = 20.0
    calls.mended = True
    job(1)
    assert not breaker.is_open("calls")
    assert job(5) == (5, 0, 0)
    calls.mended = False
    assert job(2) == (2, 2, 0)  # it begins to count anew


def test_a_circuit_breaker_may_put_off_what_it_spares(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    breaker = CircuitBreaker(limit=1, seconds=0.05, instead="retry")
    flow = make_flow(**strategy, plugins=[breaker])
    calls = Calls()
    calls.set_error_handler(ErrorHandler("retry", max_retries=99, retry_delay=0.0))
    calls.heals_after = 2
    flow.add_routine(Source(), "source")
    flow.add_routine(calls, "calls")
    flow.connect("source", "out", "calls", "n")
    job = flow.execute("source", {"count": 3})
    assert job.wait(SECONDS)
    assert (job.status, job.ledger.completed, calls.count) == ("completed", 4, 5)


@pytest.mark.parametrize("text", ['a"b', "a\\b", "a\nb"])
def test_labels_of_metrics_are_escaped(text: str) -> None:
    metrics = Metrics()
    metrics._add("routilux_jobs_total", 1, status=text)
    [line] = [line for line in metrics.text().splitlines() if line.startswith("routilux_jobs_total")]
    assert line.endswith("} 1")
