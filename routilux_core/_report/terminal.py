"""A few lines at the bottom of a terminal that are drawn again and again; what else is written appears above them."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, TextIO

from routilux_core._report.picture import shortened

WIDTH = 100  # columns, where the terminal does not say


class Block:
    """The lines. `write` and `flush` are those of the stream itself, whatever takes its place meanwhile."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.RLock()
        self._shown: list[str] = []

    def show(self, lines: list[str]) -> None:
        """Draw these lines in the place of those before."""
        width = self._width()
        with self._lock:
            away, self._shown = self._away(), [shortened(line, width) for line in lines]
            self._put(away + "\n".join(self._shown))

    def above(self, text: str) -> None:
        """Write whole lines of text above these."""
        with self._lock:
            self._put(self._away() + text + "\n".join(self._shown))

    def end(self) -> None:
        """Leave the lines where they are, and go on below them."""
        with self._lock:
            self._put("\n" if self._shown else "")
            self._shown = []

    def _away(self) -> str:
        """Return what takes the lines off the screen: up to the first of them, and clear all behind."""
        if not self._shown:
            return ""
        up = len(self._shown) - 1
        return "\r" + (f"\x1b[{up}A" if up else "") + "\x1b[J"

    def _width(self) -> int:
        try:
            return max(20, os.get_terminal_size(self._stream.fileno()).columns - 1)
        except (OSError, ValueError, AttributeError):
            return WIDTH

    def _put(self, text: str) -> None:
        try:
            self._stream.write(text)
        except UnicodeEncodeError:  # a terminal that lacks a sign is no reason to stop
            self._stream.write(text.encode(self._stream.encoding or "ascii", "replace").decode(self._stream.encoding))
        self._stream.flush()


class Above:
    """Stands in for a stream of the terminal while something is drawn there. `write` takes whole lines."""

    def __init__(self, stream: TextIO, write: Callable[[str], None]) -> None:
        self._stream, self._write = stream, write
        self._lock = threading.Lock()
        self._part = ""  # of a line that does not end yet

    def write(self, text: str) -> int:
        """Write above what is drawn, as soon as a line is whole."""
        with self._lock:
            whole, newline, self._part = (self._part + text).rpartition("\n")
        if newline:
            self._write(whole + newline)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write above what is drawn."""
        self.write("".join(lines))

    def rest(self) -> None:
        """Write what never became a whole line, when nothing is drawn any more."""
        with self._lock:
            part, self._part = self._part, ""
        self._stream.write(part)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Redirection:
    """While it lasts, what is written to the terminal, logged or warned goes above: to `write`."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._stood_in: list[tuple[str, Any, Any]] = []
        self._handlers: list[tuple[Any, Any, Any]] = []
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if is_terminal(stream):
                above = Above(stream, write)
                self._stood_in.append((name, stream, above))
                setattr(sys, name, above)
                self._handlers += [(handler, stream, above) for handler in _handlers_of(stream)]
        for handler, _, above in self._handlers:
            handler.setStream(above)

    def end(self) -> None:
        """Put everything back that is still where it was put. Nothing is drawn any more."""
        for handler, stream, above in self._handlers:
            if handler.stream is above:
                handler.setStream(stream)
        for name, stream, above in self._stood_in:
            if getattr(sys, name) is above:
                setattr(sys, name, stream)
            above.rest()


def is_terminal(stream: Any) -> bool:
    """Return whether somebody looks at a stream, who can be shown a line again and again."""
    try:
        return bool(stream is not None and stream.isatty()) and os.environ.get("TERM") != "dumb"
    except ValueError:  # it is closed
        return False


def _handlers_of(stream: TextIO) -> list[logging.StreamHandler[Any]]:
    known = [each for each in logging.root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    return [
        handler
        for logger in (logging.root, *known)
        for handler in logger.handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream is stream
    ]
