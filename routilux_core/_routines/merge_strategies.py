"""How a slot merges what arrives: the merge strategies, each a row of one table, or a function of a user's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from routilux_core._routines.signature import Payload
from routilux_core.errors import PayloadError, brief

Merge = str | Callable[[Payload, Payload], Payload]


class Merging(NamedTuple):
    """What merging means for the engine.

    `function` is given what the slot has in a job, and what arrives; what it returns is kept until the end of the job.
    None keeps nothing. `snapshot` makes what a handler sees of it. Where a slot `gathers`, what arrives waits until
    nothing else of the job is left, and comes to the handler in one call.
    """

    function: Callable[[Payload, Payload], Payload] | None = None
    snapshot: Callable[[Payload], Payload] = dict
    gathers: bool = False

    @property
    def keeps_state(self) -> bool:
        """Whether something is kept between calls, which a stateless routine can't do."""
        return self.function is not None


def _append(old: Payload, new: Payload) -> Payload:
    for key, value in new.items():
        old.setdefault(key, []).append(value)
    return old


def _copied_lists(merged: Payload) -> Payload:
    return {key: list(values) for key, values in merged.items()}


MERGES = {
    "override": Merging(),
    "append": Merging(_append, _copied_lists),
    "gather": Merging(gathers=True),
}


def merging_of(merge: Merge, where: str = "") -> Merging:
    """Return what a merge strategy means; `where` names the slot if what its function returns is no dict."""
    if isinstance(merge, str):
        return MERGES[merge]

    def checked(old: Payload, new: Payload) -> Payload:
        merged = merge(old, new)
        if not isinstance(merged, dict):
            raise PayloadError(f"{where}: the merge function has to return a dict, not {brief(merged)}")
        return merged

    return Merging(checked)
