"""The `routilux` command."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any, TextIO

from routilux_core._text.printable import Lines

# Each has `add_commands(subparsers)`; a command sets `run=function(options) -> exit code`.
COMMANDS = tuple(f"routilux_core.cli.{name}" for name in ("flows", "journals", "plugins", "new", "demo", "completion"))

NOBODY_READS = 141  # as a shell tells of a program that SIGPIPE has ended


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0 if it succeeded, 1 if what was asked failed, 2 for a wrong command line, 130
    when it was interrupted, 141 when nobody reads any more what it prints."""
    try:
        return _main(argv)
    except BrokenPipeError:  # `routilux ... | head` has seen enough
        _print_no_more(sys.stdout, sys.stderr)
        return NOBODY_READS
    except OSError as error:  # the disk is full, perhaps
        _print_no_more(sys.stdout)
        print(Lines(f"routilux: {error}"), file=sys.stderr)
        return 1


def _main(argv: Sequence[str] | None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a letter is no reason to stop
    parser = _Parser(
        prog="routilux", description="Run flows, look at strategies, plugins and saved flows, and begin new ones."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version, and exit")
    subparsers = parser.add_subparsers(metavar="COMMAND")
    for name in COMMANDS:
        importlib.import_module(name).add_commands(subparsers)
    try:
        options, rest = parser.parse_known_args(argv)
        options.rest = rest
        if rest and not getattr(options, "hands_on", False):  # to another program, which knows them
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        if not hasattr(options, "run"):
            parser.print_help()
            return 0
        code: int = options.run(options)
    except KeyboardInterrupt:
        print("routilux: interrupted", file=sys.stderr)
        return 130
    finally:
        if sys.stdout is not None:  # a shell may close it
            sys.stdout.flush()  # here, and not when the interpreter exits, where nobody can catch what it raises
    return code


class _Version(argparse.Action):
    """Prints the version, which is looked up only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"routilux-core {version('routilux-core')}")
        parser.exit()


class _Parser(argparse.ArgumentParser):
    """Spells out what a terminal would obey in what it repeats of a command line."""

    def _print_message(self, message: str, file: Any = None) -> None:
        super()._print_message(Lines(message), file)


def _print_no_more(*streams: TextIO) -> None:
    """Let what is still in a buffer go nowhere when the interpreter exits."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        with contextlib.suppress(OSError, ValueError):  # it may be no file
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
