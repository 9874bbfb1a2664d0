"""What a flow asks of plugins. Where there are none, pluggy is not imported: it takes longer than a small flow."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from routilux_core._registry import strategies
from routilux_core._registry.entry_points import PLUGINS, disabled_plugins, mentioned
from routilux_core.errors import ConfigurationError, brief
from routilux_core.strategy import ExecutionStrategy

if TYPE_CHECKING:
    from routilux_core._registry.plugins import PluginSet


class Plugins:
    """What one flow asks: the plugins of the process, and its own, if it has any."""

    def __init__(self, own: Iterable[Any] = ()) -> None:
        self._own = _listed(own)
        self._all: PluginSet | None = None
        if self._own:
            from routilux_core._registry import plugins as plugins_module

            self._own = plugins_module.checked(self._own)  # what can't work is refused here, and not at the first job

    def add(self, plugin: Any) -> None:
        """Take in one more of the flow's own, which listens from the next job on."""
        from routilux_core._registry import plugins as plugins_module

        self._own = (*self._own, *plugins_module.checked((plugin,)))
        self._all = None

    def all(self) -> PluginSet | None:
        """Return the plugins, None where there are none; the first call in a process looks for installed ones."""
        if self._all is None and (self._own or _are_installed()):
            from routilux_core._registry import plugins as plugins_module

            self._all = plugins_module.with_own(self._own)
        return self._all


def _listed(own: Any) -> tuple[Any, ...]:
    """Return what was given as `plugins=`; names with their options need no list around them."""
    if isinstance(own, Mapping):
        return (own,) if own else ()
    if isinstance(own, str) or not isinstance(own, Iterable):
        raise ConfigurationError(f"plugins= is a list of plugins and of names of installed ones, not {brief(own)}")
    return tuple(own)


@functools.cache  # a process looks once
def _are_installed() -> bool:
    return "*" not in disabled_plugins() and mentioned(PLUGINS)


def resolve_strategy(
    plugins: Plugins,
    strategy: str | ExecutionStrategy,
    max_workers: int | None,
    options: Mapping[str, Any] | None,
    flow_id: str | None = None,
    routine_id: str | None = None,
) -> ExecutionStrategy:
    """Return a strategy by name or as given, with its numbers; every wrong value is refused here."""
    if isinstance(strategy, ExecutionStrategy):
        if max_workers is not None or options:
            raise ConfigurationError(
                f"max_workers and strategy_options go with the name of a strategy; set them on {brief(strategy)} itself"
            )
        strategies.check_object(strategy)
        return strategy
    if not isinstance(strategy, str):
        raise ConfigurationError(f"execution_strategy is a name or an ExecutionStrategy, not {strategy!r}")
    # The names of the bundled ones are reserved: nobody else is asked, and nothing is looked up.
    asked = None if strategy in strategies.BUNDLED else plugins.all()
    if asked is None:
        return strategies.make_strategy(strategy, max_workers, dict(options or {}))
    from routilux_core._registry import plugins as plugins_module
    from routilux_core.hookspecs import StrategyRequest

    request = StrategyRequest(
        name=strategy, max_workers=max_workers, options=dict(options or {}), flow_id=flow_id, routine_id=routine_id
    )
    return plugins_module.make_strategy(asked, request)
