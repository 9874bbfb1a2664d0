"""What a workload is: rows that are measured, and comparisons of rows with a gate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Medians = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One thing to measure: ``measure(size)`` runs in a fresh process and returns one number in ``unit``.

    ``limit`` marks the rows that use no engine at all: they must not import it. ``needs`` is a module that is not the
    engine's: where it is not installed, the row is skipped, and so is what is compared with it.
    """

    name: str
    measure: Callable[[int], float]
    size: int
    quick_size: int
    unit: str = "s"
    limit: bool = False
    needs: str = ""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A figure computed from the rows of one round, beside what it has to reach.

    Without a gate the comparison is information only. ``at_least`` turns the direction round (a speed-up).
    """

    goal: str
    text: str
    compute: Callable[[Medians], float]
    gate: float | None = None
    ambition: float | None = None
    unit: str = "x"
    at_least: bool = False

    def meets(self, measured: float, target: float | None) -> bool | None:
        """Whether ``measured`` reaches ``target``; None where there is no target."""
        if target is None:
            return None
        return measured >= target if self.at_least else measured <= target


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A group of rows that belong together and are measured close to each other in time.

    ``needs`` is a module that is not the engine's: where it is not installed, the workload is skipped.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    comparisons: tuple[Comparison, ...]
    needs: str = ""

    def row(self, name: str) -> Row:
        """The row of that name."""
        for row in self.rows:
            if row.name == name:
                return row
        known = ", ".join(repr(row.name) for row in self.rows)
        raise LookupError(f"{self.name} has no row {name!r}; it has {known}")


def ratio(row: str, limit: str) -> Callable[[Medians], float]:
    """``row`` divided by ``limit``."""
    return lambda measured: measured[row] / measured[limit]


def over_constant(row: str, seconds: float) -> Callable[[Medians], float]:
    """``row`` divided by a fixed time (the sum or the longest of the sleeps)."""
    return lambda measured: measured[row] / seconds


def difference(row: str, limit: str, scale: float = 1.0) -> Callable[[Medians], float]:
    """``row`` minus ``limit``, times ``scale``."""
    return lambda measured: (measured[row] - measured[limit]) * scale


def value(row: str) -> Callable[[Medians], float]:
    """The row itself."""
    return lambda measured: measured[row]
