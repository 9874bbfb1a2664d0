"""What the slots of a job keep between calls; `_routines.merge_strategies` says how each of them merges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from routilux_core._engine.plan import CAUSES, GATHERED, Inlet, Node
from routilux_core._engine.retries import Retries
from routilux_core._routines.signature import Payload
from routilux_core._threads.guard import guarded


class SlotMemory:
    """What the slots of one job keep."""

    __slots__ = ("arrivals", "causes", "merged")

    def __init__(self) -> None:
        self.merged: dict[Inlet, Payload] = {}  # guarded by the permit of the routine
        self.arrivals: dict[Inlet, list[Payload]] = {}  # at gather slots
        self.causes: dict[Inlet, list[int]] = {}  # of these, the activations that emitted them, where they are kept

    @guarded
    def gather(self, inlet: Inlet, payload: Payload, cause: int) -> None:
        """Keep what arrives at a gather slot, and its cause, if that is not 0."""
        self.arrivals.setdefault(inlet, []).append(payload)
        if cause:
            self.causes.setdefault(inlet, []).append(cause)

    @guarded
    def next_gathered(self, order: Iterable[Inlet], own: Mapping[Node, Node]) -> tuple[Inlet, Payload] | None:
        """Return the next gather slot to be called, with what has arrived there."""
        for inlet in order:
            mine = own.get(inlet.node, inlet.node).inlets[inlet.name]
            if mine in self.arrivals:
                return mine, {GATHERED: self.arrivals.pop(mine), CAUSES: self.causes.pop(mine, ())}
        return None

    def merge(self, inlet: Inlet, payload: Payload, number: int, retries: Retries, again: bool) -> Payload:
        """Merge what arrived into what the slot has in this job, and return what the handler sees.

        The routine's permit guards it. Where activation `number` may run `again`, it sees then what was merged the
        first time: `retries` knows.
        """
        # Without the lock: who has the one permit of a routine is the only one that merges there.
        old = self.merged.get(inlet, {})
        if number not in retries.merged:
            assert inlet.merge is not None
            self.merged[inlet] = old = inlet.merge(old, payload)
            if again:
                retries.merged.add(number)
        return inlet.snapshot(old)
