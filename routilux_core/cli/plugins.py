"""The commands about what is installed: `routilux strategies` and `routilux plugins`."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from attrs import asdict

from routilux_core._registry import strategies as strategies_module
from routilux_core._registry.entry_points import ENABLE, PLUGINS, Declared, declared, in_one_line, mentioned
from routilux_core._registry.plugins import Candidate, PluginSet, offered, scan
from routilux_core._registry.requirements import unmet
from routilux_core._text.printable import printable
from routilux_core.errors import RoutiluxError
from routilux_core.hookspecs import StrategyRequest
from routilux_core.strategy import CONTRACT, Capabilities

Entry = dict[str, Any]
PATIENCE_S = 3.0  # with an import, before it is named


def add_commands(subparsers: Any) -> None:
    """Add the commands of this module."""
    for name, function, text in (
        (
            "strategies",
            strategies,
            "list the execution strategies that are installed (exit code 1 if one is broken)",
        ),
        (
            "plugins",
            plugins,
            "list the plugins for errors and tracking that are installed (exit code 1 if one is broken)",
        ),
    ):
        command = subparsers.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        command.add_argument("--json", action="store_true", help="print one JSON list, and nothing else")
        command.set_defaults(run=function)


def strategies(options: argparse.Namespace) -> int:
    """Print what is installed as an execution strategy."""
    return _print(_quietly(_list_strategies), "capabilities", options.json)


def plugins(options: argparse.Namespace) -> int:
    """Print what is installed as a plugin."""
    return _print(_quietly(_list_plugins), "hooks", options.json)


def _quietly(listing: Callable[[], list[Entry]]) -> list[Entry]:
    """Return a list for which code of others is imported; what that prints goes to standard error."""
    with contextlib.redirect_stdout(sys.stderr):
        return listing()


def _list_strategies() -> list[Entry]:
    version = importlib.metadata.version("routilux-core")
    found = [
        _strategy(Declared(name=name, target=target, distribution="routilux-core", version=version))
        for name, target in strategies_module.BUNDLED.items()
    ]
    for _, claimed in sorted(strategies_module.claims().items()):
        if len(claimed) == 1:
            found.append(_strategy(claimed[0]))
        for each in claimed if len(claimed) > 1 else ():
            others = ", ".join(str(other) for other in claimed if other is not each)
            why = f"{others} claims the name, too, and none of them runs: uninstall all but one"
            found.append(_entry(each, "clash", why, {}))
    for each in declared(strategies_module.GROUP):
        if each.name in strategies_module.BUNDLED and each.distribution != "routilux-core":
            why = "the name is reserved for the bundled strategy, and that one runs"
            found.append(_entry(each, "clash", why, {}))
    _note_makers([each for each in found if each["name"] not in strategies_module.BUNDLED])
    return found


def _note_makers(entries: list[Entry]) -> None:
    """Note with each strategy which plugins make one of its name: the first of them runs in its place."""
    if not (entries and mentioned(PLUGINS)):
        return
    plugins = PluginSet()
    scan(plugins, quiet=True)
    for each in entries:
        request = StrategyRequest(name=each["name"], max_workers=None, options={})
        try:
            each["made_by"] = [maker for maker, _ in offered(plugins, request)]
        except RoutiluxError as error:  # of a plugin whose own the name is
            each["made_by"] = [f"a plugin that refuses: {in_one_line(error)}"]


def _strategy(each: Declared) -> Entry:
    """Load a strategy, and make it as `Flow(execution_strategy=name)` does."""
    missing = "; ".join(unmet(each.distribution)) if each.distribution != "routilux-core" else ""
    also = f"; {missing}" if missing else ""
    with _told_while_it_takes_long(each):
        try:
            cls = strategies_module.load_class(each.name, each.target)
            made = strategies_module.made_of(cls, each.name, None, {})
        except strategies_module.OtherContractError as error:
            return _entry(each, "other contract", str(error) + also, {})
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # of a class that raises when it is made
            said = str(error) if isinstance(error, RoutiluxError) else f"it can't be made: {in_one_line(error)}"
            return _entry(each, "broken", said + also, {})
    capabilities = asdict(made.capabilities) | {"contract": CONTRACT}
    return _entry(each, "unmet", missing, capabilities) if missing else _entry(each, "ok", "", capabilities)


@contextlib.contextmanager
def _told_while_it_takes_long(each: Declared) -> Iterator[None]:
    """Say what is being imported, when it has taken some seconds: else the command would seem to hang."""
    text = f"routilux: still importing strategy {each.name!r} of {each} ({printable(each.target)})"
    timer = threading.Timer(PATIENCE_S, lambda: print(text, file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _entry(each: Declared, state: str, why: str, capabilities: Entry) -> Entry:
    return each._asdict() | {"state": state, "why": why, "capabilities": capabilities, "made_by": []}


def _list_plugins() -> list[Entry]:
    found = PluginSet()
    scan(found, quiet=True)
    return [_plugin(each) for each in found.candidates]


def _plugin(each: Candidate) -> Entry:
    missing = "" if each.state == "disabled" else "; ".join(unmet(each.declared.distribution))
    state = "unmet" if missing and each.state == "ok" else each.state
    why = "; ".join(filter(None, (each.why, missing)))
    return each.declared._asdict() | {
        "state": state,
        "why": why,
        "hooks": list(each.hooks),
        "active": list(each.active),
    }


def _print(entries: list[Entry], last: str, as_json: bool) -> int:
    code = int(any(each["state"] not in ("ok", "disabled") for each in entries))
    if as_json:
        print(json.dumps(entries, indent=2))
        return code
    rows = [("name", "distribution", "state", last)]
    for each in entries:
        facts = each["why"] if each["state"] != "ok" else ", ".join(_words(each[last])) + _asleep(each)
        facts += _made_by(each.get("made_by"))
        named, state = f"{each['distribution']} {each['version']}", each["state"]
        rows.append((printable(each["name"]), printable(named), state, printable(facts)))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        line = "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=False))
        print(f"{line}  {row[3]}".rstrip())
    if len(rows) == 1:
        print("(none)")
    return code


def _made_by(makers: list[str] | None) -> str:
    if not makers:
        return ""
    also = f", and is known to {', '.join(makers[1:])}, too" if len(makers) > 1 else ""
    return f" (another one runs: the name is made by {makers[0]}{also})"


def _asleep(each: Entry) -> str:
    """Say how to let those hooks of a plugin act that do so only where somebody names it."""
    if "active" not in each or each["active"] == each["hooks"]:
        return ""
    asleep = ", ".join(hook for hook in each["hooks"] if hook not in each["active"])
    return f" (not active: {asleep}; name it in Flow(plugins=[...]) or {ENABLE})"


def _words(facts: Any) -> list[str]:
    """Return hooks as they are, and of capabilities those that there are, and the numbers that a strategy chose."""
    if not isinstance(facts, dict):
        return list(facts)
    usual = asdict(Capabilities(shares_memory=True))
    numbers = [f"{name} {n}" for name, n in facts.items() if not isinstance(n, bool) and n != usual.get(name)]
    return [name for name, value in facts.items() if value is True] + numbers
