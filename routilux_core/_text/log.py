"""The engine's log: what somebody else's handler or filter does with a line costs that line, and nothing more."""

from __future__ import annotations

import logging
import sys
from typing import Any

from routilux_core._text.printable import Told
from routilux_core.errors import is_interrupt, trace_of

NAME = "routilux_core"


class GuardedLogger(logging.Logger):
    """The logger `routilux_core`, with its level, filters and handlers; its calls raise nothing but a Ctrl-C."""

    def __init__(self) -> None:
        super().__init__(NAME)
        self._own = logging.getLogger(NAME)

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - the name that logging calls
        return self._own.isEnabledFor(level)

    def makeRecord(self, *args: Any, **kwargs: Any) -> logging.LogRecord:  # noqa: N802
        args = (*args[:5], _each_told(args[5]), *args[6:])
        try:
            return super().makeRecord(*args, **kwargs)
        except BaseException as error:  # the factory of records may be anybody's
            _raise_interrupt(error)
            return logging.LogRecord(*args[:8])

    def handle(self, record: logging.LogRecord) -> None:
        try:
            self._own.handle(record)
        except BaseException as error:  # handlers that end the program on an error raise SystemExit
            _raise_interrupt(error)
            _tell(record, error)


def _each_told(values: Any) -> Any:
    """Return what goes into a line: ids and names may come from a file, and could forge another line."""
    if not isinstance(values, tuple):
        return values
    return tuple(Told(each) if type(each) is str else each for each in values)


def _raise_interrupt(error: BaseException) -> None:
    if is_interrupt(error):
        raise error


def _tell(record: logging.LogRecord, error: BaseException) -> None:
    """Write to standard error what could not be logged, and why, as logging does with what its handlers raise."""
    try:
        said = f"{record.levelname}: {record.getMessage()}"
    except BaseException as broken:
        _raise_interrupt(broken)
        said = f"{record.levelname}: {record.msg!s}"
    try:
        if logging.raiseExceptions and sys.stderr is not None:
            sys.stderr.write(f"--- Logging error ---\n{trace_of(error)}what was to be logged: {said}\n")
    except BaseException as broken:  # standard error may be closed, or anybody's, too
        _raise_interrupt(broken)


log = GuardedLogger()
