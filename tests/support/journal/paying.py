"""Routines that pay bills in worker processes: a payment is a file, whose name says for which call it was."""

from __future__ import annotations

from pathlib import Path

from routilux_core import Routine, event, slot


class Bills(Routine):
    bill = event("amount")

    @slot
    def begin(self, count: int) -> None:
        for amount in range(count):
            self.emit("bill", amount=amount)


class PaysIntoFolder(Routine, stateless=True):
    folder: str = ""
    paid = event("amount")

    @slot
    def pay(self, amount: int) -> None:
        Path(self.folder, self.activation.key.replace(":", "-")).write_text(f"{amount}")
        self.emit("paid", amount=amount)
