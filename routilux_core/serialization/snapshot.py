"""What a flow gives to be saved, and gets when it is loaded."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
from attrs import field, frozen

from routilux_core._text.secrets import is_secret
from routilux_core.error_handling import ErrorHandler
from routilux_core.errors import StrategyError
from routilux_core.graph import Graph
from routilux_core.strategy import Capabilities, ExecutionStrategy, Host, WorkerPool


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


@frozen(kw_only=True)
class SavedStrategy(ExecutionStrategy):
    """A strategy as a file names it: loaded when a job needs it, because reading a file imports nothing."""

    capabilities: ClassVar[Capabilities] = Capabilities(shares_memory=True, coroutines=True)
    name: str  # type: ignore[misc] # of a class everywhere else
    options: dict[str, Any] = field(factory=dict)

    def open(self, host: Host) -> WorkerPool:
        """Refuse: the flow puts the strategy itself in its place before a job."""
        raise StrategyError(f"strategy {self.name!r} was read from a file and is not loaded yet")


def options_of(strategy: ExecutionStrategy) -> dict[str, Any]:
    """Return the options of a strategy object that are not its defaults, without secrets."""
    if isinstance(strategy, SavedStrategy):
        return strategy.options
    found = {}
    for each in attrs.fields(type(strategy)):
        value, default = getattr(strategy, each.name), each.default
        if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
            default = default.factory(strategy) if default.takes_self else default.factory()
        if each.init and each.name != "max_workers" and not is_secret(each) and value != default:
            found[each.alias] = value
    return found


def secrets_of(cls: type[ExecutionStrategy]) -> set[str]:
    """Return the names of a strategy's options that no file holds."""
    return {each.alias for each in attrs.fields(cls) if is_secret(each)}
