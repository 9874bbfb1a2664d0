"""The commands about flows: `routilux validate`, `routilux show` and `routilux run`."""

from __future__ import annotations

from typing import Any


def add_commands(subparsers: Any) -> None:
    """Add the commands of this module."""
