"""The `routilux` command."""

from __future__ import annotations

import argparse
import importlib
import io
import sys
from collections.abc import Sequence

# Each has `add_commands(subparsers)`; a command sets `run=function(options) -> exit code`.
COMMANDS = ("routilux_core._cli_plugins", "routilux_core._cli_flows")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0 if it succeeded, 1 if what was asked failed, 2 for a wrong command line, 130
    when it was interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a letter is no reason to stop
    parser = argparse.ArgumentParser(prog="routilux", description="Look at strategies, plugins and saved flows.")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in COMMANDS:
        importlib.import_module(name).add_commands(subparsers)
    options = parser.parse_args(argv)
    try:
        code: int = options.run(options)
    except KeyboardInterrupt:
        print("routilux: interrupted", file=sys.stderr)
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main())
