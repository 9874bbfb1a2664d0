"""The plugins that are there to be copied do what they say, under every strategy."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from places import CHECKOUT
from routilux_core import Flow, Routine, event, slot

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


def test_a_circuit_breaker_skips_while_a_routine_fails(make_flow: MakeFlow) -> None:
    now = [0.0]
    breaker = CircuitBreaker(limit=3, seconds=10.0, clock=lambda: now[0])
    flow = make_flow(plugins=[breaker], error_handler="continue")
    fails = build(flow)
    job = flow.run("source", {"count": 12})
    assert [each.decision for each in job.errors if each.decision == "continue"] == ["continue"] * 2
    assert (job.ledger.failed, job.ledger.skipped) == (2, 4)
    assert breaker.is_open("fails")
    now[0] = 10.0
    assert not breaker.is_open("fails")
    fails.mended = True
    flow.run("source", {"count": 4})
    fails.mended = False
    job = flow.run("source", {"count": 4})
    assert (job.ledger.failed, job.ledger.skipped) == (2, 0), "a call that succeeds closes it for good"
    assert not breaker.is_open("fails")


@pytest.mark.parametrize("text", ['a"b', "a\\b", "a\nb"])
def test_labels_of_metrics_are_escaped(text: str) -> None:
    metrics = Metrics()
    metrics._add("routilux_jobs_total", 1, status=text)
    [line] = [line for line in metrics.text().splitlines() if line.startswith("routilux_jobs_total")]
    assert line.endswith("} 1")
