"""The steps of a coroutine, from one wait to the next: each keeps an event loop from everyone else."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from time import perf_counter
from typing import Any

from routilux_core._engine.engine import logger
from routilux_core._engine.plan import Inlet

SLOW_S = 0.1  # of one step, beyond which it is told


class Steps:
    """Awaits a handler as it is, and tells of its first step that has taken too long."""

    __slots__ = ("_handler", "_inlet")

    def __init__(self, handler: Coroutine[Any, Any, Any], inlet: Inlet) -> None:
        self._handler, self._inlet = handler, inlet

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._handler.__await__()
        go_on: Callable[[Any], Any] = steps.send
        given: Any = None
        while True:
            began = perf_counter()
            try:
                waits_for = go_on(given)
            except StopIteration as end:
                return end.value
            finally:
                took = perf_counter() - began
                if took > SLOW_S:
                    _tell(self._inlet, took)
            try:
                given = yield waits_for
                go_on = steps.send
            except BaseException as error:  # a cancellation: it is for the handler
                given, go_on = error, steps.throw


def _tell(inlet: Inlet, seconds: float) -> None:
    """Note for `explain` how long a routine has blocked the loop at most, and warn of the first time."""
    node = inlet.node
    told, node.told_blocked = node.told_blocked, max(node.told_blocked, seconds)
    if not told:
        logger().warning(
            "routine %r, slot %r: the handler kept its event loop from all others for %.3g s between two waits (said "
            "once): await what waits, or make it a plain `def`, which runs in a thread",
            node.routine_id,
            inlet.name,
            seconds,
        )
