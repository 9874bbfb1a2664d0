"""The commands about what is installed: `routilux strategies` and `routilux plugins`."""

from __future__ import annotations

from typing import Any


def add_commands(subparsers: Any) -> None:
    """Add the commands of this module."""
