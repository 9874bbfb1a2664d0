"""What a flow gives to be saved, and gets when it is loaded."""

from __future__ import annotations

from typing import Any

from attrs import frozen

from routilux_core.error_handling import ErrorHandler
from routilux_core.graph import Graph
from routilux_core.strategy import ExecutionStrategy


@frozen(eq=False)
class SavedFlow:
    """The parts of a flow that a file holds. `options` are those of its strategy, as they were given; `named` has the
    strategy of each routine that has its own."""

    strategy: ExecutionStrategy
    options: dict[str, Any]
    error_handler: ErrorHandler
    graph: Graph
    named: dict[str, str]
    settings: dict[str, int]
