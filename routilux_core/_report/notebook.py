"""A job as a notebook shows it: how it stands, its ledger, and the first of its errors."""

from __future__ import annotations

from html import escape

from attrs import asdict

from routilux_core._report.picture import shortened
from routilux_core.errors import FlowStateError, SavedError
from routilux_core.job import JobState

ERRORS, COLUMNS = 5, 100
COLOURS = {"completed": "#12a594", "failed": "#e5484d", "cancelled": "#e8920c"}
MAIN = ("posted", "completed", "failed", "skipped", "discarded", "pending", "retried")


def job_as_html(job: JobState) -> str:
    """Return a job as a few lines of HTML; what is text there stays text."""
    status, counts = job.status, asdict(job.ledger)
    colour = COLOURS.get(status, "#4c6ef5")
    heads = "".join(f'<th style="text-align:right">{name}</th>' for name in MAIN)
    cells = "".join(f'<td style="text-align:right">{counts[name]:,}</td>' for name in MAIN)
    table = f"<table><tr>{heads}</tr><tr>{cells}</tr></table>"
    return (
        f'<div><strong>{_text(job.job_id)}</strong> <span style="color:{colour}">&#9679; {status}</span>'
        f" &middot; flow {_text(job.flow_id)}{_took(job)}{table}{_errors(job)}</div>"
    )


def _took(job: JobState) -> str:
    try:
        return f" &middot; {job.tracker.get_flow_performance()['wall_time']:.3g} s"
    except FlowStateError:  # it was read from its record
        return ""


def _errors(job: JobState) -> str:
    errors = job.errors
    lines = [
        f"<li>{_text(each.routine_id)}.{_text(each.slot)}: {_text(brief(each.exception))}</li>"
        for each in errors[:ERRORS]
    ]
    more = len(errors) - len(lines)
    if more > 0:
        lines.append(f"<li>and {more:,} more</li>")
    return f"<ul>{''.join(lines)}</ul>" if lines else ""


def brief(error: BaseException) -> str:
    """Return type and text of an exception, whatever its class makes of the latter."""
    try:
        if isinstance(error, SavedError):
            return f"{error.type_name.rpartition(':')[2]}: {error.message}"
        return f"{type(error).__name__}: {error}"
    except Exception as broken:
        return f"{type(error).__name__} (its text can't be had: {type(broken).__name__})"


def _text(text: str) -> str:
    return escape(shortened(text, COLUMNS), quote=True)
