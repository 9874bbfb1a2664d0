"""A stateless routine that changes what its attributes hold, which is lost in a worker process."""

from __future__ import annotations

from routilux_core import Routine, event, field, slot


class Collects(Routine, stateless=True):
    seen: list[int] = field(factory=list)
    table: dict[str, int] = field(factory=lambda: {"a": 1})
    out = event("n")

    @slot
    def take(self, n: int) -> None:
        if n >= 0:
            self.seen.append(n)
        self.emit("out", n=n + self.table["a"])
