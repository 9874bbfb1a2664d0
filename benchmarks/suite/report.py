"""From the figures of all rounds to a table and to JSON."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from suite.model import Comparison, Row, Workload

Round = Mapping[str, float]
"""What one round measured for the rows of one workload; a row that failed is left out."""


def summarise(workload: Workload, rounds: Sequence[Round]) -> dict[str, Any]:
    """One workload's part of the JSON."""
    rows = {row.name: _row_summary(row, [r[row.name] for r in rounds if row.name in r]) for row in workload.rows}
    return {
        "title": workload.title,
        "rows": rows,
        "comparisons": [_compare(comparison, rounds) for comparison in workload.comparisons],
    }


def _row_summary(row: Row, figures: list[float]) -> dict[str, Any]:
    return {
        "unit": row.unit,
        "limit": row.limit,
        "median": statistics.median(figures) if figures else None,
        "all": figures,
    }


def _compare(comparison: Comparison, rounds: Sequence[Round]) -> dict[str, Any]:
    figures = list(_computed(comparison, rounds))
    summary: dict[str, Any] = {
        "goal": comparison.goal,
        "text": comparison.text,
        "unit": comparison.unit,
        "measured": None,
        "at_least": comparison.at_least,
        "gate": comparison.gate,
        "ambition": comparison.ambition,
        "meets_gate": None,
        "meets_ambition": None,
    }
    if figures:
        measured = statistics.median(figures)
        summary |= {
            "measured": measured,
            "low": min(figures),
            "high": max(figures),
            "meets_gate": comparison.meets(measured, comparison.gate),
            "meets_ambition": comparison.meets(measured, comparison.ambition),
        }
    return summary


def _computed(comparison: Comparison, rounds: Sequence[Round]) -> Iterable[float]:
    """The figure of each round in which all of its rows were measured."""
    for measured in rounds:
        try:
            yield comparison.compute(measured)
        except KeyError:
            continue


def environment() -> dict[str, Any]:
    """What one needs to know to read the figures; call it before the first round, for the load of others."""
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "cpus": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def table(name: str, summary: Mapping[str, Any]) -> str:
    """One workload as text."""
    lines = [f"{name}  {summary['title']}"]
    for row_name, row in summary["rows"].items():
        lines.append(f"    {row_name:<46}{amount(row['median'], row['unit']):>14}")
    lines.extend(f"  {_comparison_line(comparison)}" for comparison in summary["comparisons"])
    return "\n".join(lines)


def _comparison_line(comparison: Mapping[str, Any]) -> str:
    unit = comparison["unit"]
    head = f"{comparison['goal']:<4}{comparison['text']:<46}"
    if comparison["measured"] is None:
        return f"{head}{'not measured':>14}"
    spread = f"[{_number(comparison['low'])} .. {_number(comparison['high'])}]"
    line = f"{head}{_number(comparison['measured']) + unit:>14}  {spread:<20}"
    if comparison["gate"] is None:
        return line.rstrip()
    return f"{line}  {_verdict(comparison, 'gate')}  {_verdict(comparison, 'ambition')}".rstrip()


def _verdict(comparison: Mapping[str, Any], target: str) -> str:
    word = "pass" if comparison[f"meets_{target}"] else "MISS"
    return f"{target} {_number(comparison[target])}{comparison['unit']}: {word:<4}"


def amount(figure: float | None, unit: str) -> str:
    """A figure with its unit; seconds in the largest unit that leaves something before the point."""
    if figure is None:
        return "failed"
    if unit != "s":
        return f"{_number(figure)} {unit}"
    for size, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if figure >= size:
            return f"{figure / size:.3f} {name}"
    return f"{figure * 1e9:.0f} ns"


def _number(figure: float) -> str:
    return f"{figure:.4g}"
