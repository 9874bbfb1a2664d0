"""Routines whose replies do harm where they come home, or bring many log records; workers import this module."""

from __future__ import annotations

import logging
import os
import threading
from typing import Any

from routilux_core import Routine, event, slot


class ExitsAtHome:
    """Ends whoever unpickles it a second time: here, where it comes home."""

    def __init__(self) -> None:
        self.home = threading.get_ident()

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise SystemExit(3)


class Makes(Routine, stateless=True):
    out = event("value")

    @slot
    def n(self, n: int) -> None:
        self.emit("out", value=ExitsAtHome() if n else n)


class Becomes(Routine):
    def __setstate__(self, state: dict[str, Any]) -> None:
        if state.get("grown"):
            raise SystemExit(3)
        vars(self).update(state)

    @slot
    def n(self, n: int) -> None:
        if n:
            self.grown = True


class Logs(Routine, stateless=True):
    @slot
    def n(self, n: int) -> None:
        logging.getLogger("shipped.ends").warning("number %d of %d", n, os.getpid())


class LogsMany(Routine, stateless=True):
    @slot
    def n(self, n: int) -> None:
        for number in range(n):
            logging.getLogger("shipped.many").warning("line %d", number)
