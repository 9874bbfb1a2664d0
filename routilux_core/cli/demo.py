"""The command `routilux demo`: the main example, as it lies in the wheel or in the checkout."""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path
from typing import Any

SCRIPT = "concurrent_flow_demo.py"


def add_commands(subparsers: Any) -> None:
    """Add the command of this module."""
    demo = subparsers.add_parser(
        "demo",
        help="run the main example: weather of two cities, fetched from two servers and a database",
        description="Run the main example. What follows is given to it: routilux demo --help",
        add_help=False,  # it has one of its own
    )
    demo.set_defaults(run=_demo, hands_on=True)


def _demo(options: argparse.Namespace) -> int:
    script = _script()
    if script is None:
        print("routilux: the example is missing from this installation: install routilux-core anew", file=sys.stderr)
        return 1
    before = sys.argv
    sys.argv = [str(script), *options.rest]
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.argv = before
    return 0


def _script() -> Path | None:
    package = Path(__file__).parents[1]
    for folder in (package / "_example", package.parent / "examples"):
        if (folder / SCRIPT).is_file():
            return folder / SCRIPT
    return None
