"""The steps of a coroutine, from one wait to the next: each keeps an event loop from everyone else."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from time import perf_counter
from typing import Any

from routilux_core._engine.engine import logger
from routilux_core._engine.plan import Inlet

SLOW_S = 0.1  # of one step, beyond which it is told

Ended = Callable[[Any, BaseException | None], None]


class Steps(Coroutine[Any, Any, None]):
    """A handler's coroutine as the task of its call runs it: step by step, telling of the first that takes too long.

    `ended` is called with what the handler has returned, or raised, as the last thing that its task does. The task
    itself never fails: a SystemExit in it would end the whole event loop. Nothing but the handler's coroutine is
    suspended while it waits: no frame of ours is kept, and none is passed through at each step.
    """

    __slots__ = ("_ended", "_handler", "_inlet")

    def __init__(self, handler: Coroutine[Any, Any, Any], inlet: Inlet, ended: Ended) -> None:
        self._handler, self._inlet, self._ended = handler, inlet, ended

    def send(self, value: Any, /) -> Any:
        return self._step(self._handler.send, value)

    def throw(self, error: Any, value: Any = None, trace: Any = None, /) -> Any:
        """Throw a cancellation into the handler: also into one that has not begun, which ends with it."""
        return self._step(self._handler.throw, error)

    def _step(self, go_on: Callable[[Any], Any], given: Any) -> Any:
        began = perf_counter()
        returned, raised = None, None
        try:
            waits_for = go_on(given)
        except StopIteration as end:
            returned = end.value
        except BaseException as error:
            raised = error
        else:
            if perf_counter() - began > SLOW_S:
                _tell(self._inlet, perf_counter() - began)
            return waits_for
        if perf_counter() - began > SLOW_S:
            _tell(self._inlet, perf_counter() - began)
        # Outside of any `except`: the end of one call is where the next begins, and that handles no exception.
        self._ended(returned, raised)
        raise StopIteration

    def close(self) -> None:
        self._handler.close()

    def __await__(self) -> Generator[Any, Any, None]:
        raise TypeError("the steps of a handler are for a task")

    def __getattr__(self, name: str) -> Any:
        """Look like the handler to who shows tasks: its name, its frame, and where it waits."""
        return getattr(self._handler, name)


def _tell(inlet: Inlet, seconds: float) -> None:
    """Note for `explain` how long a routine has blocked the loop at most, and warn of the first time."""
    node = inlet.node
    # Without the lock: all steps are taken in the one thread of the loop.
    told, node.told_blocked = node.told_blocked, max(node.told_blocked, seconds)
    if not told:
        logger().warning(
            "routine %r, slot %r: the handler kept its event loop from all others for %.3g s between two waits (said "
            "once): await what waits, or make it a plain `def`, which runs in a thread",
            node.routine_id,
            inlet.name,
            seconds,
        )
