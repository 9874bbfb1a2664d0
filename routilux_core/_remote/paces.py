"""How long the calls of each slot take, and how many of them a batch may have: measured, and asked for each batch."""

from __future__ import annotations

from math import inf

from routilux_core._engine.plan import Inlet
from routilux_core.strategy import Capabilities

BULKY = 8 << 20  # bytes of payloads in a batch, about
WEIGHT = 0.25  # of the newest measurement in the mean


class Paces:
    """What is known of the calls of each inlet, by its number. Guarded by the engine's lock."""

    __slots__ = ("_bounds", "_max_batch", "seconds")

    def __init__(self, capabilities: Capabilities) -> None:
        self._max_batch = capabilities.max_batch
        self.seconds: dict[int, float] = {}  # of a call, in the mean
        self._bounds: dict[int, int] = {}  # calls in a batch, where that is bounded

    def of(self, inlet: Inlet) -> float:
        """Return the mean seconds of a call; where none was measured, it may take for ever."""
        return self.seconds.get(inlet.number, inf)

    def most(self, inlet: Inlet) -> int:
        """Return how many calls a batch may have."""
        return self._bounds.get(inlet.number, self._max_batch)

    def measure(self, inlet: Inlet, seconds: float) -> None:
        """Take the run time of a call into the mean."""
        old = self.seconds.get(inlet.number)
        self.seconds[inlet.number] = seconds if old is None else old + WEIGHT * (seconds - old)

    def weigh(self, inlet: Inlet, size: int, weight: int) -> None:
        """Send fewer calls together where they are heavy: a worker holds a whole batch, and so do we."""
        most = max(1, BULKY * size // weight)
        if most < self._max_batch:
            self._bounds[inlet.number] = min(most, self._bounds.get(inlet.number, most))

    def learn(self, inlet: Inlet, done: int, size: int) -> None:
        """Send fewer calls together where batches came home early, since the rest has to be sent again."""
        bound = self._bounds.get(inlet.number)
        if done < size:
            bound = 2 * max(done, 1)
        elif bound is not None:
            bound *= 2
        if bound is None or bound > self._max_batch:
            self._bounds.pop(inlet.number, None)
        else:
            self._bounds[inlet.number] = bound
