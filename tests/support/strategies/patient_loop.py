"""An event loop that never ends a handler itself."""

from __future__ import annotations

from typing import ClassVar

from attrs import frozen

from routilux_core import Capabilities
from strategies.event_loop import EventLoopStrategy


@frozen(kw_only=True)
class PatientLoopStrategy(EventLoopStrategy):
    """The same, but it does not end a handler whose time is over: the engine judges it when it returns."""

    name: ClassVar[str] = "patient-loop"
    contract: ClassVar[int] = 2
    capabilities: ClassVar[Capabilities] = Capabilities(shares_memory=True, coroutines=True)
