"""From a strategy's name to its class: the bundled ones, entry points, and the messages when that fails."""

from __future__ import annotations

import inspect
from typing import Any

from routilux_core._registry.entry_points import Declared, Refused, declared, load_target
from routilux_core._text.printable import printable
from routilux_core.errors import ConfigurationError, StrategyError, UnknownStrategyError, brief
from routilux_core.strategy import CONTRACT, Capabilities, ExecutionStrategy

GROUP = "routilux_core.strategies"

# Declared in pyproject.toml as everyone's are; known here, too, so that finding them reads no package metadata.
BUNDLED = {
    "sequential": "routilux_core_plugins.sequential:SequentialStrategy",
    "concurrent": "routilux_core_plugins.threaded:ConcurrentStrategy",
    "process": "routilux_core_plugins.process:ProcessStrategy",
    "asyncio": "routilux_core_plugins.asyncio_loop:AsyncioStrategy",
}
INSTALLABLE = {"dask": "routilux-dask", "loky": "routilux-loky"}  # what to install for names that are known to exist
OTHER_WORDS = {"threads": "concurrent", "threaded": "concurrent", "thread": "concurrent", "parallel": "concurrent"}


OURS = ("routilux_core", "routilux_core_plugins")  # what a class inherits from these says nothing of the class


class OtherContractError(StrategyError):
    """A strategy was made for another version of the contract."""


def make_strategy(name: str, max_workers: int | None, options: dict[str, Any]) -> ExecutionStrategy:
    """Return the strategy of an installed name, with its numbers; every wrong value is refused here."""
    return made_of(load(name), name, max_workers, options)


def made_of(
    cls: type[ExecutionStrategy], name: str, max_workers: int | None, options: dict[str, Any]
) -> ExecutionStrategy:
    """Return a strategy of a class that was loaded."""
    try:
        made = cls(max_workers=max_workers, **options)
    except TypeError as error:
        known = _options_of(cls)
        unknown = [option for option in options if known is not None and option not in known]
        if unknown and known is not None:
            from routilux_core._text.hints import Hints  # only for a mistake

            hint = Hints().hint(unknown[0], known)
            there = f"it has {', '.join(map(repr, known))}" if known else "it has none"
            raise ConfigurationError(
                f"strategy {name!r} has no option {printable(repr(unknown[0]))}{hint}; {there}"
            ) from error
        why = printable(str(error))
        raise ConfigurationError(f"strategy {name!r} can't take the options {options!r}: {why}") from error
    if not isinstance(made.capabilities, Capabilities):
        raise StrategyError(f"strategy {name!r} has capabilities={brief(made.capabilities)}, no Capabilities(...)")
    return made


def _options_of(cls: type[ExecutionStrategy]) -> list[str] | None:
    """Return the names of the options that a strategy takes beside its number of workers; None where it takes any."""
    parameters = inspect.signature(cls).parameters.values()
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return None
    return [each.name for each in parameters if each.name != "max_workers"]


def load(name: str) -> type[ExecutionStrategy]:
    """Import the class of a strategy that is installed."""
    if name in BUNDLED:
        return load_class(name, BUNDLED[name])
    found = claims()
    mine = found.get(name, [])
    if not mine:
        raise UnknownStrategyError("execution strategy", name, {*BUNDLED, *found}, _advice(name))
    if len(mine) > 1:
        raise StrategyError(
            f"strategy {name!r} is claimed by {_names(mine)}: which one is meant can't be told; uninstall one of them"
        )
    return load_class(name, mine[0].target, f" of {mine[0]}")


def claims() -> dict[str, list[Declared]]:
    """Return who declares which strategy, apart from the bundled ones: their names are reserved."""
    found: dict[str, list[Declared]] = {}
    for each in declared(GROUP):
        if each.name not in BUNDLED:
            found.setdefault(each.name, []).append(each)
    return found


def load_class(name: str, target: str, owner: str = "") -> type[ExecutionStrategy]:
    """Import a class from `module:attribute` and check it; `owner` names the distribution in messages."""
    what = f"strategy {name!r}{owner}"
    try:
        cls = load_target(target)
    except Refused as refusal:
        raise StrategyError(f"{what}: {refusal}") from refusal.__cause__
    return _checked(what, name, target, cls)


def _checked(what: str, name: str, target: str, cls: Any) -> type[ExecutionStrategy]:
    if not (isinstance(cls, type) and issubclass(cls, ExecutionStrategy)):
        raise StrategyError(f"{what}: {target!r} is {cls!r}, not a subclass of ExecutionStrategy")
    _check_contract(what, target, cls)
    own = getattr(cls, "name", None)
    if own != name:
        raise StrategyError(f"{what}: {target!r} calls itself {own!r}; the two names have to agree")
    if not isinstance(getattr(cls, "capabilities", None), Capabilities | property):  # or each object's own
        raise StrategyError(f"{what}: {target!r} declares no capabilities = Capabilities(...)")
    if cls.__abstractmethods__:
        missing = ", ".join(sorted(cls.__abstractmethods__))
        raise StrategyError(f"{what}: {target!r} does not implement {missing}")
    return cls


def _check_contract(what: str, target: str, cls: type) -> None:
    """Refuse a class that was made for another version of the contract, or does not say for which."""
    stated = stated_contract(cls)
    write = f"`contract: ClassVar[int] = {CONTRACT}`"
    if stated is None:
        raise OtherContractError(
            f"{what}: {target!r} does not say for which version of the strategy contract it was made; this "
            f"routilux-core has version {CONTRACT}: if the class was made for that, write {write} in it, else install "
            "a newer version of that strategy"
        )
    if type(stated) is not int:
        raise OtherContractError(
            f"{what}: {target!r} has contract = {brief(stated)}, which is no version: a whole number is, as in {write}"
        )
    if stated != CONTRACT:
        raise OtherContractError(
            f"{what} was made for version {stated} of the strategy contract, and this routilux-core has version "
            f"{CONTRACT}: install a {'newer routilux-core' if stated > CONTRACT else 'newer version of that strategy'}"
        )


def check_object(strategy: ExecutionStrategy) -> None:
    """Refuse an object whose class says that it was made for another version; a program's own class need not say."""
    cls = type(strategy)
    if stated_contract(cls) is not None:
        _check_contract(f"strategy {strategy.name!r}", f"{cls.__module__}:{cls.__qualname__}", cls)


def stated_contract(cls: type) -> Any:
    """Return what a class, or one that it was made from, says of itself; None where only the core's own do."""
    is_ours = cls.__module__.partition(".")[0] in OURS
    for each in cls.__mro__:
        if "contract" in vars(each):
            theirs = is_ours or each.__module__.partition(".")[0] not in OURS
            return vars(each)["contract"] if theirs else None
    return None


def _advice(name: str) -> str:
    if name in INSTALLABLE:
        return f"It is not installed: pip install {INSTALLABLE[name]}"
    if name in OTHER_WORDS:
        return f"Threads are called {OTHER_WORDS[name]!r}"
    return "Install the package that provides it; `routilux strategies` lists what is installed"


def _names(claimed: list[Declared]) -> str:
    return " and by ".join(f"{each} ({each.target})" for each in claimed)
