"""What the engine keeps on a routine, in one attribute, so that a user's own names stay free."""

from __future__ import annotations

import threading
from collections.abc import Callable

from routilux_core.error_handling import ErrorHandler
from routilux_core.ports import Event, Slot


class Internals:
    """Slots and events of one routine, its policy and its counters, and the flow that it is in."""

    __slots__ = (
        "change",
        "error_handler",
        "events",
        "given",
        "lock",
        "owner",
        "policy_changed",
        "sealed",
        "slots",
        "stats",
    )

    def __init__(self) -> None:
        self.slots: dict[str, Slot] = {}
        self.events: dict[str, Event] = {}
        self.stats: dict[str, float] = {}
        self.lock = threading.RLock()  # a signal handler may ask in the middle of a change
        self.error_handler: ErrorHandler | None = None
        self.sealed = False
        self.given: dict[str, object] | None = None  # the fields that its constructor was given; None: not known
        self.owner: tuple[str, str] | None = None  # (flow id, routine id)
        # Set by the flow, which makes what it is given: a slot or an event comes later.
        self.change: Callable[[Callable[[], None]], None] | None = None
        self.policy_changed: Callable[[], None] | None = None

    def claim(self, flow_id: str, routine_id: str) -> tuple[str, str] | None:
        """Let the routine belong to a flow, under an id; return whose it is already, if it is."""
        with self.lock:
            owner = self.owner
            self.owner = owner or (flow_id, routine_id)
        return owner
