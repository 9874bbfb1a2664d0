"""What installed distributions declare in an entry-point group, read only when it is needed.

Importing the standard library's reader costs some 34 ms, more than a small flow. A look at the files that it would read
is enough to know that nobody mentions a group.
"""

from __future__ import annotations

import importlib
import itertools
import os
import re
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from time import perf_counter
from typing import Any, NamedTuple

from routilux_core._text.printable import printable

PLUGINS = "routilux_core.plugins"  # the group of the plugins; that of the strategies is in `_strategies`
DISABLE = "ROUTILUX_DISABLE_PLUGINS"
ENABLE = "ROUTILUX_PLUGINS"
SLOW_S = 5.0  # of an import, from which on it is named


class Refused(Exception):
    """A plugin or a strategy can't be used; the message says why, in one line."""


class Declared(NamedTuple):
    """One entry point: `target` is `module:attribute`; what extras it wants is left out, as nobody acts on that."""

    name: str
    target: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return printable(f"{self.distribution} {self.version}".strip())


def declared(group: str) -> list[Declared]:
    """Return what every installed distribution declares in a group, by name; unreadable metadata declares nothing."""
    if not mentioned(group):
        return []
    from importlib.metadata import distributions

    found: dict[str, list[Declared]] = {}
    for distribution in distributions():
        try:
            name = str(distribution.metadata["Name"] or "") or _folder_name(distribution)
            key = re.sub(r"[-_.]+", "-", name).lower()
            if key not in found:  # the first on the path is the one that is imported
                found[key] = [
                    Declared(
                        name=point.name,
                        target=point.value.partition("[")[0].strip(),
                        distribution=name,
                        version=_version(distribution),
                    )
                    for point in distribution.entry_points
                    if point.group == group
                ]
        except Exception:
            continue
    # Not in the order of a folder's listing, which differs from machine to machine.
    return sorted(itertools.chain(*found.values()), key=lambda each: (each.name, each.distribution))


def disabled_plugins() -> set[str]:
    """Return the names of the plugins that the user does not want; `*` is all of them."""
    return _names_in(DISABLE)


def enabled_plugins() -> set[str]:
    """Return the names of the plugins that may decide in every flow of this process; `*` is all of them."""
    return _names_in(ENABLE)


def _names_in(variable: str) -> set[str]:
    return {name.strip() for name in os.environ.get(variable, "").split(",")} - {""}


def load_target(target: str) -> Any:
    """Import what `module:attribute` names; whatever goes wrong is `Refused`, and what takes long is named."""
    module, _, attribute = target.partition(":")
    began = perf_counter()
    try:
        found: Any = importlib.import_module(module.strip())
        for part in filter(None, attribute.strip().split(".")):
            found = getattr(found, part)
    except SyntaxError as error:
        place = f"{os.path.basename(error.filename or '?')}, line {error.lineno}"
        raise Refused(f"{target!r} can't be imported: {type(error).__name__}: {error.msg} ({place})") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise Refused(f"{target!r} can't be imported: {in_one_line(error)}") from error
    took = perf_counter() - began
    if took > SLOW_S:
        from routilux_core._text.log import log

        log.warning("the import of %r took %.3g s: what is slow can be imported when a pool is opened", target, took)
    return found


def in_one_line(error: BaseException) -> str:
    """Return the kind and the message of an exception, on one line that moves no cursor."""
    text = printable(" ".join(str(error).split()))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def mentioned(group: str) -> bool:
    """Return whether any distribution could declare something in a group; True where that can't be told cheaply."""
    if any(finder is not PathFinder and hasattr(finder, "find_distributions") for finder in sys.meta_path):
        return True
    sought = group.encode()
    return any(_mentions(file, sought) for folder in dict.fromkeys(sys.path) for file in _declarations(folder))


def _declarations(folder: Any) -> Iterator[str | None]:
    """Yield the files of a folder on `sys.path` that may declare entry points; None for what is no folder."""
    try:
        names = os.listdir(folder or ".")
    except NotADirectoryError:
        yield None  # a zip archive may hold distributions
        return
    except (OSError, TypeError):
        return
    is_egg = str(folder).lower().endswith(".egg")
    for name in names:
        low = name.lower()
        if low.endswith((".dist-info", ".egg-info")) or (is_egg and low == "egg-info"):
            yield os.path.join(folder, name, "entry_points.txt")


def _mentions(file: str | None, sought: bytes) -> bool:
    if file is None:
        return True
    try:
        with open(file, "rb") as stream:
            return sought in stream.read()
    except OSError:
        return False


def _folder_name(distribution: Any) -> str:
    path = getattr(distribution, "_path", None)
    return str(getattr(path, "name", "unknown")).partition("-")[0]


def _version(distribution: Any) -> str:
    return str(distribution.metadata["Version"] or "")
