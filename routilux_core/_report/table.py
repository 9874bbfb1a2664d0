"""The figures of a job's routines as a table of text: what `routilux run --watch` draws again and again."""

from __future__ import annotations

from routilux_core._report.picture import columns_of, shortened
from routilux_core.job import JobState
from routilux_core.tracking import RoutinePerformance

NAME_COLUMNS, ROWS = 28, 24  # columns of a name, and routines that are shown: those with the most work
HEADS = ("routine", "calls", "errors", "retried", "in all", "mean", "p95", "mean wait", "running")


def table_of(job: JobState) -> list[str]:
    """Return a line for each routine, the one with the most work first."""
    figures = job.tracker.get_all_performances()
    running = job.activity.running
    rows = sorted(figures.values(), key=lambda each: -(each["total_execution_time"] or each["total_executions"]))
    cells = [HEADS, *(_cells(each, running.get(each["routine_id"], 0)) for each in rows[:ROWS])]
    widths = [max(map(columns_of, column)) for column in zip(*cells, strict=True)]
    lines = [_line(row, widths) for row in cells]
    if len(rows) > ROWS:
        lines.append(f"and {len(rows) - ROWS:,} more")
    return lines


def _cells(each: RoutinePerformance, running: int) -> tuple[str, ...]:
    return (
        shortened(each["routine_id"], NAME_COLUMNS),
        f"{each['total_executions']:,}",
        f"{each['failed'] + each['skipped']:,}",
        f"{each['retried']:,}",
        *(_seconds(each[name]) for name in ("total_execution_time", "avg_execution_time", "p95_execution_time")),
        _seconds(each["avg_queue_wait"]),
        f"{running:,}" if running else "-",
    )


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    cells = [" " * (width - columns_of(cell)) + cell for cell, width in zip(row[1:], widths[1:], strict=True)]
    return "  ".join([row[0] + " " * (widths[0] - columns_of(row[0])), *cells]).rstrip()


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.0f} µs" if seconds >= 1e-5 else f"{seconds * 1e6:.2g} µs"
