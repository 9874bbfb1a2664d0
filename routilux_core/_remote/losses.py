"""Workers that were lost, the activations that may be why, and what is decided about those."""

from __future__ import annotations

from collections.abc import Iterable

from routilux_core._engine.failures import decide
from routilux_core._engine.plan import JOB, NUMBER, Item, Node
from routilux_core._engine.run import Run
from routilux_core._threads.guard import guarded
from routilux_core.error_handling import Decision, ErrorStrategy, Failure
from routilux_core.errors import WorkerLost

MAX_LOSSES = 3  # workers that an activation may kill, where the strategy has no `max_worker_losses`


class Losses:
    """How many workers each suspect activation has killed. A suspect travels alone: its batch is no longer at risk."""

    __slots__ = ("_killed", "_most")

    def __init__(self, most: int) -> None:
        self._most = most
        self._killed: dict[tuple[str, int], int] = {}  # by job and activation

    def __bool__(self) -> bool:
        return bool(self._killed)

    def __contains__(self, item: Item) -> bool:
        return (item[JOB].job_id, item[NUMBER]) in self._killed

    def suspect(self, items: Iterable[Item]) -> None:
        """Take activations as suspects: a worker was lost that had run them, and any of them may be why."""
        # Without the lock: one step each, and before they are put back, where the next batch could take them.
        for item in items:
            self._killed.setdefault((item[JOB].job_id, item[NUMBER]), 0)

    def add(self, job_id: str, number: int) -> bool:
        """Note that an activation has killed a worker; return whether it has killed enough of them."""
        killed = self._killed[job_id, number] = self._killed.get((job_id, number), 0) + 1
        return killed >= self._most

    @guarded
    def clear(self, items: Iterable[Item]) -> None:
        """Suspect activations no longer: they are over."""
        if self._killed:  # most often nothing is suspected, and this is asked for each activation
            for item in items:
                self._killed.pop((item[JOB].job_id, item[NUMBER]), None)

    def forget(self) -> None:
        self._killed.clear()


def retries_losses(node: Node) -> bool:
    """Return whether a routine's calls are made again when their worker was lost."""
    return node.routine.__routilux_settings__.on_worker_lost == "retry"


def judge(losses: Losses, run: Run, number: int, node: Node, failure: Failure) -> Decision:
    """Decide about a failure; a worker's loss is tried again where the routine says so, but not for ever."""
    if not isinstance(failure.exception, WorkerLost):
        return decide(failure, run)
    enough = losses.add(run.job_id, number)
    if not enough and retries_losses(node):
        return Decision(ErrorStrategy.RETRY, 0.0)
    decision = decide(failure, run)
    if enough and decision.strategy is ErrorStrategy.RETRY:
        return Decision(failure.policy.after_retries)
    return decision
