"""Modules that are being imported now: what starts workers meanwhile would do so again in each worker, and so on."""

from __future__ import annotations

import sys

ADVICE = "move what runs the flow into a function that the program calls when everything is imported"


def is_incomplete(name: str) -> bool:
    """Return whether a module, or a package around it, is being imported now, by any thread."""
    return any(_is_begun(sys.modules.get(each)) for each in _around(name))


def incomplete() -> list[str]:
    """Return the names of all modules that are being imported now, by any thread: the last is the innermost."""
    return [name for name, module in list(sys.modules.items()) if _is_begun(module)]


def _around(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


def _is_begun(module: object) -> bool:
    # Not by `getattr`: some modules are imported only when somebody looks at them.
    spec = getattr(module, "__dict__", {}).get("__spec__")
    return bool(getattr(spec, "_initializing", False))
