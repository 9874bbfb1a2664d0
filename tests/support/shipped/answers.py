"""All of an answer that has to be the same, wherever the handlers of a flow ran."""

from __future__ import annotations

from collections import Counter
from typing import Any

from routilux_core import Flow, JobState, Routine
from shipped.routines import GathererOfJob, SumOfJob

SECONDS = 20.0
SEQUENTIAL = {"execution_strategy": "sequential"}


def finished(job: JobState) -> JobState:
    assert job.wait(SECONDS), job.explain()
    assert job.ledger.balanced
    return job


def attributes(routine: Routine) -> dict[str, Any]:
    return {name: value for name, value in vars(routine).items() if name != "_routilux"}


def answer(flow: Flow, jobs: list[JobState]) -> dict[str, Any]:
    """Return everything that has to be the same under every strategy, but for the order of independent calls."""
    return {
        "attributes": {name: normal(attributes(each)) for name, each in flow.routines.items()},
        "stats": {name: each.stats() for name, each in flow.routines.items()},
        "jobs": [answer_of(job) for job in jobs],
    }


def answer_of(job: JobState) -> dict[str, Any]:
    own = {
        name: normal(attributes(each))
        for name, each in job.routines.items()
        if isinstance(each, (SumOfJob, GathererOfJob))
    }
    return {
        "status": job.status,
        "ledger": job.ledger,
        "states": job.routine_states,
        "outputs": {name: sorted(map(repr, rows)) for name, rows in job.outputs.items()},
        "errors": Counter(
            (each.routine_id, each.slot, each.attempt, type(each.exception), str(each.exception), each.decision)
            for each in job.errors
        ),
        "own": own,
        "records": Counter((each.routine_id, each.outcome, each.attempt) for each in job.get_execution_history()),
    }


def normal(values: dict[str, Any]) -> dict[str, Any]:
    return {name: sorted(value) if isinstance(value, list) else value for name, value in values.items()}
