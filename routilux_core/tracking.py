"""ExecutionTracker: what happened, how long it took, where the time went, as read from the engine's own counts."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol, TypedDict

from attrs import define, field

from routilux_core.errors import UnknownNameError

INFINITE = float("inf")


@define(kw_only=True, eq=False)
class Counted:
    """What was counted for one routine; times in seconds, if they are `timed`: without records none are measured.

    `times` are the run times of all calls as a histogram, `newest` those of the calls in the ring of records.
    """

    timed: bool = True
    completed: int = 0
    failed: int = 0
    skipped: int = 0
    retried: int = 0
    run_time: float = 0.0
    queue_wait: float = 0.0
    shortest: float = INFINITE
    longest: float = 0.0
    times: dict[int, int] = field(factory=dict)
    newest: list[float] = field(factory=list)

    @property
    def executions(self) -> int:
        """How many times a handler was called, retries included."""
        return self.completed + self.failed + self.skipped + self.retried


@define(kw_only=True, eq=False)
class Counts:
    """What the engine has counted over one job or several: `wall` is the time in which at least one of them ran."""

    routines: Mapping[str, Counted]
    timed: bool = True  # whether times of calls were measured
    jobs: int = 0
    wall: float = 0.0
    emitted: int = 0


class Source(Protocol):
    """What an `ExecutionTracker` reads."""

    def counts(self) -> Counts: ...
    def hints(self) -> list[str]: ...
    def reset(self) -> None: ...


class RoutinePerformance(TypedDict):
    """One routine in figures; times in seconds, None where there is nothing to take them from.

    With the flow's `history_size=0` nothing is measured, unless a plugin listens to records, and all times are None.

    `total_executions` counts calls, retried attempts included. `success_rate` is the part of the activations that
    completed, of those that ended: an activation that was retried counts once, by its last attempt. All figures are
    over all calls, `percentile_records` of them. The percentiles are exact while all of these calls are still in the
    flow's ring of records (`history_size`); then they come from a histogram, and are right to some 3 %.
    """

    routine_id: str
    total_executions: int
    completed: int
    failed: int
    skipped: int
    retried: int
    success_rate: float | None
    total_execution_time: float | None
    avg_execution_time: float | None
    min_execution_time: float | None
    max_execution_time: float | None
    p50_execution_time: float | None
    p95_execution_time: float | None
    p99_execution_time: float | None
    percentile_records: int
    avg_queue_wait: float | None
    total_queue_wait: float | None


class FlowPerformance(TypedDict):
    """A flow, or one job of it, in figures; times in seconds. Without records `work_time` and `parallelism` are None.

    `wall_time` is the time in which at least one job ran, `work_time` the sum of the time in all handlers, and
    `parallelism` their quotient: how many handlers ran at once on average. `events` counts emissions. `throughput` is
    calls of handlers for each second of wall time.
    """

    jobs: int
    wall_time: float
    work_time: float | None
    parallelism: float | None
    events: int
    total_executions: int
    completed: int
    failed: int
    skipped: int
    retried: int
    success_rate: float | None
    throughput: float | None


class ExecutionTracker:
    """A read-only view of the counts that the engine keeps anyway; it may be read at any time, from any thread.

    `flow.execution_tracker` covers all jobs begun since its `reset()`, `job_state.tracker` one job. All times are in
    seconds.

    >>> from routilux_core import Flow
    >>> flow = Flow()
    >>> entry = flow.add(len)
    >>> job = flow.run(entry, {"obj": "Oslo"})
    >>> figures = job.tracker.get_routine_performance(entry)
    >>> figures["total_executions"], figures["success_rate"], figures["avg_execution_time"] < 60.0
    (1, 1.0, True)
    """

    def __init__(self, source: Source) -> None:
        self._source = source

    def get_routine_performance(self, routine_id: str) -> RoutinePerformance:
        """Return the figures of one routine; zeros where it has not run."""
        routines = self._source.counts().routines
        if routine_id not in routines:
            raise UnknownNameError("routine", routine_id, routines, "The tracker knows the routines of its flow")
        return _of_routine(routine_id, routines[routine_id])

    def get_all_performances(self) -> dict[str, RoutinePerformance]:
        """Return the figures of every routine, by id, in the order in which they were added."""
        return {name: _of_routine(name, counted) for name, counted in self._source.counts().routines.items()}

    def get_flow_performance(self) -> FlowPerformance:
        """Return the figures over all routines together."""
        counts = self._source.counts()
        total = _sum(counts.routines.values())
        return FlowPerformance(
            jobs=counts.jobs,
            wall_time=counts.wall,
            work_time=total.run_time if counts.timed else None,
            parallelism=_divided(total.run_time, counts.wall) if counts.timed else None,
            events=counts.emitted,
            total_executions=total.executions,
            completed=total.completed,
            failed=total.failed,
            skipped=total.skipped,
            retried=total.retried,
            success_rate=_success_rate(total),
            throughput=_divided(total.executions, counts.wall),
        )

    def hints(self) -> list[str]:
        """Return what costs time without need, each with what to do about it."""
        return self._source.hints()

    def reset(self) -> None:
        """Begin anew: jobs begun before are not counted any more. A job's own tracker can't be reset."""
        self._source.reset()


def _of_routine(routine_id: str, counted: Counted) -> RoutinePerformance:
    calls = counted.executions
    timed_calls = calls if counted.timed else 0
    percentile = _percentiles(counted)
    return RoutinePerformance(
        routine_id=routine_id,
        total_executions=calls,
        completed=counted.completed,
        failed=counted.failed,
        skipped=counted.skipped,
        retried=counted.retried,
        success_rate=_success_rate(counted),
        total_execution_time=counted.run_time if counted.timed else None,
        avg_execution_time=_divided(counted.run_time, timed_calls),
        min_execution_time=counted.shortest if timed_calls else None,
        max_execution_time=counted.longest if timed_calls else None,
        p50_execution_time=percentile(0.50),
        p95_execution_time=percentile(0.95),
        p99_execution_time=percentile(0.99),
        percentile_records=timed_calls,
        avg_queue_wait=_divided(counted.queue_wait, timed_calls),
        total_queue_wait=counted.queue_wait if counted.timed else None,
    )


def _sum(parts: Iterable[Counted]) -> Counted:
    total = Counted()
    for part in parts:
        for name in ("completed", "failed", "skipped", "retried", "run_time", "queue_wait"):
            setattr(total, name, getattr(total, name) + getattr(part, name))
    return total


def _success_rate(counted: Counted) -> float | None:
    return _divided(counted.completed, counted.completed + counted.failed + counted.skipped)


def _divided(dividend: float, divisor: float) -> float | None:
    return dividend / divisor if divisor else None


def _percentiles(counted: Counted) -> Callable[[float], float | None]:
    """Return what gives a percentile: exactly, while all calls are still known one by one."""
    if len(counted.newest) == counted.executions or not counted.timed:
        return partial(_percentile, sorted(counted.newest))

    def bounded(part: float) -> float | None:
        found = percentile(counted.times, part)
        return None if found is None else max(counted.shortest, min(counted.longest, found))

    return bounded


def percentile(times: Mapping[int, int], part: float) -> float | None:
    """Return what at least this part of the calls did not exceed, as the middle of its bucket; None without calls.

    A bucket is the first 16 bits of a float, and `times` has how many calls are in each.
    """
    left = part * sum(times.values())
    for value, count in sorted((_middle(bucket), count) for bucket, count in times.items()):
        left -= count
        if left <= 1e-9:
            return value
    return None


def _middle(bucket: int) -> float:
    middle: float = struct.unpack(">d", struct.pack(">HHI", bucket, 0x8000, 0))[0]
    return middle


def _percentile(ordered: Sequence[float], part: float) -> float | None:
    """Return the smallest value that at least this part of the values does not exceed (nearest rank)."""
    if not ordered:
        return None
    rank = -int(-part * len(ordered) // 1)  # rounded up
    return ordered[max(rank, 1) - 1]
