"""What a plugin sends along to worker processes, and handlers that look for it there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from routilux_core import Routine, event, slot

TENANT: ContextVar[str] = ContextVar("tenant", default="nobody")
ENTERED: ContextVar[int] = ContextVar("entered", default=0)  # how many, and not left again


@contextmanager
def on_behalf_of(tenant: str) -> Iterator[None]:
    token = TENANT.set(tenant)
    entered = ENTERED.set(ENTERED.get() + 1)
    try:
        yield
    finally:
        ENTERED.reset(entered)
        TENANT.reset(token)


@contextmanager
def raises() -> Iterator[None]:
    raise RuntimeError("not here")
    yield


@contextmanager
def raises_at_end() -> Iterator[None]:
    yield
    raise RuntimeError("not there")


class Asks(Routine, stateless=True):
    """Says for whom it works, and leaves something of its own."""

    said = event("n", "tenant", "entered")

    @slot
    def n(self, n: int) -> None:
        self.emit("said", n=n, tenant=TENANT.get(), entered=ENTERED.get())
        TENANT.set("somebody else")
