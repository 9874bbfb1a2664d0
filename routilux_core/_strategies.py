"""From a strategy's name to its class: the bundled ones, entry points, and the messages when that fails."""

from __future__ import annotations

import importlib
from typing import Any

from routilux_core.errors import ConfigurationError, StrategyError, UnknownStrategyError
from routilux_core.strategy import CONTRACT, ExecutionStrategy

GROUP = "routilux_core.strategies"

# Declared in pyproject.toml as everyone's are; known here, too, so that finding them reads no package metadata.
BUNDLED = {
    "sequential": "routilux_core_plugins.sequential:SequentialStrategy",
    "concurrent": "routilux_core_plugins.threaded:ConcurrentStrategy",
    "process": "routilux_core_plugins.process:ProcessStrategy",
}


def make_strategy(
    strategy: str | ExecutionStrategy, max_workers: int | None, options: dict[str, Any] | None
) -> ExecutionStrategy:
    """Return a strategy by name or as given, with its numbers; every wrong value is refused here."""
    if isinstance(strategy, ExecutionStrategy):
        if max_workers is not None or options:
            raise ConfigurationError(
                f"max_workers and strategy_options go with the name of a strategy; set them on {strategy!r} itself"
            )
        return strategy
    if not isinstance(strategy, str):
        raise ConfigurationError(f"execution_strategy is a name or an ExecutionStrategy, not {strategy!r}")
    cls = load(strategy)
    try:
        return cls(max_workers=max_workers, **(options or {}))
    except TypeError as error:
        raise ConfigurationError(f"strategy {strategy!r} can't take the options {options!r}: {error}") from error


def load(name: str) -> type[ExecutionStrategy]:
    """Import the class of a strategy that is installed."""
    target = BUNDLED.get(name) or _installed().get(name)
    if target is None:
        raise UnknownStrategyError(
            "execution strategy", name, {*BUNDLED, *_installed()}, "install the package that provides it"
        )
    module, _, attribute = target.partition(":")
    try:
        cls = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise StrategyError(f"strategy {name!r} can't be loaded from {target!r}: {error!r}") from error
    return _checked(name, target, cls)


def _installed() -> dict[str, str]:
    from importlib.metadata import entry_points

    return {point.name: point.value for point in entry_points(group=GROUP)}


def _checked(name: str, target: str, cls: Any) -> type[ExecutionStrategy]:
    if not (isinstance(cls, type) and issubclass(cls, ExecutionStrategy)):
        raise StrategyError(f"strategy {name!r}: {target!r} is {cls!r}, not a subclass of ExecutionStrategy")
    if cls.name != name:
        raise StrategyError(f"strategy {name!r}: {target!r} calls itself {cls.name!r}; the two names have to agree")
    if cls.contract != CONTRACT:
        raise StrategyError(
            f"strategy {name!r} was made for version {cls.contract} of the strategy contract, and this "
            f"routilux-core has version {CONTRACT}: install versions that go together"
        )
    return cls
