"""Log records and warnings of a worker process: noted there, and replayed at home as if they had been made there."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import re
import sys
import threading
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO
from weakref import WeakSet

from routilux_core._remote.pickling import PROTOCOL, dumps, loads
from routilux_core._remote.wire import LogLines
from routilux_core._text.log import NAME, log
from routilux_core._text.values import described
from routilux_core.errors import is_interrupt

MOST = 10_000  # records kept between two messages; of more, the oldest are lost, which is told


class Relay(logging.Handler):
    """Keeps what is logged and warned of in this process, until the next message takes it along.

    The program's modules, imported here, too, may have set up log handlers: those are muted for what goes home, where
    they handle it. Handlers that a call adds are its own affair.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: deque[tuple[str, bytes]] = deque()
        self._dropped = 0
        self._guard = threading.Lock()
        self._environment: bytes | None = None
        self._installed = False
        self._unknown: set[str] = set()  # modules not imported here, whose warnings have filters
        self._muted: WeakSet[logging.Handler] = WeakSet()

    def apply(self, environment: bytes) -> None:
        """Take over the log levels and warning filters of the process that the work comes from."""
        if environment == self._environment and not any(name in sys.modules for name in self._unknown):
            return
        self._environment = environment
        if not self._installed:
            self._installed = True
            self.mute(_handlers())
            logging.getLogger().addHandler(self)
            self._show = warnings.showwarning
            warnings.showwarning = self._warned
        levels, disabled, filters = pickle.loads(environment)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        logging.disable(disabled)
        self._unknown.clear()
        warnings.resetwarnings()
        for action, message, module, name, where, line in filters:
            category = _category(module, name)
            if category is None:
                self._unknown.add(module)
            else:
                warnings.filterwarnings(action, message, category, where, line)
        self._unknown -= sys.modules.keys()

    def leave(self) -> None:
        """Let this process log and warn for itself again: nobody takes home what is kept here."""
        if self._installed:
            self._installed, self._environment = False, None
            logging.getLogger().removeHandler(self)
            warnings.showwarning = self._show
            for handler in list(self._muted):
                handler.removeFilter(_stays_here)
            self._muted.clear()

    @contextmanager
    def muting(self) -> Iterator[None]:
        """Mute the log handlers that come with what is imported meanwhile."""
        before = _handlers()
        yield
        if self._installed:
            self.mute(_handlers() - before)

    def mute(self, handlers: set[logging.Handler]) -> None:
        """Let handlers pass over what goes home."""
        for handler in handlers - {self}:
            handler.addFilter(_stays_here)
            self._muted.add(handler)

    def taken(self) -> LogLines:
        """Return what was kept, and forget it."""
        with self._guard:
            taken, self._kept = list(self._kept), deque()
            dropped, self._dropped = self._dropped, 0
        if dropped:
            taken.insert(0, ("log", _packed(_told_of(dropped))))
        return taken

    def _keep(self, kind: str, packed: bytes) -> None:
        with self._guard:
            self._kept.append((kind, packed))
            if len(self._kept) > MOST:
                self._kept.popleft()
                self._dropped += 1

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._keep("log", _packed(record))
        except Exception:
            self.handleError(record)

    def _warned(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if file is not None:  # the caller wants it there
            self._show(message, category, filename, lineno, file, line)
            return
        try:
            packed = dumps((message, category, filename, lineno))
            loads(packed)
        except Exception:
            packed = dumps((UserWarning(f"{category.__name__}: {message}"), UserWarning, filename, lineno))
        self._keep("warning", packed)


def _handlers() -> set[logging.Handler]:
    """Return the handlers of all loggers."""
    loggers = (logging.root, *logging.root.manager.loggerDict.copy().values())
    return {handler for each in loggers if isinstance(each, logging.Logger) for handler in each.handlers}


def _stays_here(record: logging.LogRecord) -> bool:
    """Return whether a record does not reach the root logger, from where it would go home."""
    logger: logging.Logger | None = logging.getLogger(record.name)
    while logger is not None and logger.propagate:
        logger = logger.parent
    return logger is not None and logger is not logging.root


def _told_of(dropped: int) -> logging.LogRecord:
    text = (
        "%d log records and warnings of worker process %d were dropped, the oldest: it keeps %d until its next "
        "message to the flow; log less in one call, or let the call log to a file of its own"
    )
    arguments = (dropped, os.getpid(), MOST)
    return logging.LogRecord(NAME, logging.WARNING, __file__, 0, text, arguments, None, "_told_of")


def _packed(record: logging.LogRecord) -> bytes:
    """Pickle a record with its text made, and without what can't be pickled."""
    ready = copy.copy(record)
    ready.msg, ready.args = record.getMessage(), None
    if record.exc_info:
        ready.exc_text = record.exc_text or logging.Formatter().formatException(record.exc_info)
        ready.exc_info = None
    try:
        return dumps(vars(ready))
    except Exception:
        return dumps({name: value if _can_go(value) else described(value) for name, value in vars(ready).items()})


def _can_go(value: Any) -> bool:
    try:
        dumps(value)
    except Exception:
        return False
    return True


def environment() -> bytes:
    """Return the log levels and warning filters of this process, for its workers: plain data."""
    loggers = logging.root.manager.loggerDict.copy()  # other threads make loggers meanwhile
    levels = {name: each.level for name, each in loggers.items() if isinstance(each, logging.Logger) and each.level}
    levels[""] = logging.root.level
    filters = [
        (action, _text(message) or "", *_name_of(category), _text(module) or "", line)
        for action, message, category, module, line in reversed(list(warnings.filters))
    ]
    return pickle.dumps((levels, logging.root.manager.disable, filters), PROTOCOL)


def _name_of(category: Any) -> tuple[str, str]:
    return category.__module__, category.__qualname__


def _category(module: str, name: str) -> type[Warning] | None:
    """Return a class of warnings if its module was imported here; nothing is imported for a filter's sake."""
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) and issubclass(found, Warning) else None


def _text(pattern: Any) -> str | None:
    """Return a filter's pattern as `warnings.filterwarnings` takes it."""
    if pattern is None:
        return None
    if isinstance(pattern, str):  # of the interpreter's own filters: the name as it is
        return rf"{re.escape(pattern)}\Z"
    return str(pattern.pattern)


def replay(lines: LogLines) -> None:
    """Log and warn here as it was done there. A handler or filter that raises costs its line."""
    for kind, packed in lines:
        try:
            if kind == "log":
                _log(logging.makeLogRecord(loads(packed)))
            else:
                warnings.showwarning(*loads(packed))
        except BaseException as error:  # a handler that exits, say: that is no way to end a pool's thread
            if is_interrupt(error):
                raise
            log.warning("a %s of a worker process could not be replayed", kind, exc_info=True)


def _log(record: logging.LogRecord) -> None:
    origin = logging.getLogger(record.name)
    if origin.isEnabledFor(record.levelno):
        origin.handle(record)
