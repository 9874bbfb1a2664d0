"""Routines with a long time limit, and without any, in a module that workers can import."""

from __future__ import annotations

from routilux_core import Routine, event, slot

MONTH = 30 * 24 * 3600.0  # seconds; more than epoll takes


class Patient(Routine, stateless=True, timeout=MONTH):
    done = event("n")

    @slot
    def input(self, n: int) -> None:
        self.emit("done", n=n)


class Plain(Routine, stateless=True):
    @slot
    def input(self, n: int) -> None: ...
