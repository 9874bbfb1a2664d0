"""The kit's routines that wait for others to come; and, for strategies that await, the same ones as coroutines."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import sleep

from routilux_core.ports import event, slot
from routilux_core.routine import Routine
from routilux_core.testing._board import Party, gate_is_open, note, until, until_awaited


class Patient(Routine, stateless=True):
    """Waits for so many seconds at most, by a function that lets others run."""

    folder: str
    patience: float
    sleep: Callable[[float], None] = sleep

    def wait(self, condition: Callable[[], bool]) -> bool:
        return until(condition, self.patience, self.sleep)

    def wait_at_gate(self) -> bool:
        return self.wait(partial(gate_is_open, self.folder))


class Turn:
    """What a task does that no engine has made: as `Gated` does, in memory that is shared."""

    def __init__(self, folder: str, patience: float, sleep: Callable[[float], None], n: int) -> None:
        self._folder, self._patience, self._sleep, self._n = folder, patience, sleep, n

    def take(self) -> None:
        note(self._folder, "entered", self._n)
        until(partial(gate_is_open, self._folder), self._patience, self._sleep)
        note(self._folder, "left", self._n)

    async def take_awaited(self) -> None:
        note(self._folder, "entered", self._n)
        await until_awaited(partial(gate_is_open, self._folder), self._patience)
        note(self._folder, "left", self._n)


class Gated(Patient, stateless=True):
    """Waits at a gate that the case opens."""

    out = event("n", "opened")

    @slot
    def n(self, n: int) -> None:
        note(self.folder, "entered", n)
        self.emit("out", n=n, opened=self.wait_at_gate())
        note(self.folder, "left", n)


class Meeting(Patient, stateless=True):
    """Waits until a party of calls are made at the same time."""

    party: int
    out = event("met")

    @slot
    def n(self, n: int) -> None:
        note(self.folder, "calls", n)
        with Party(self.folder, "meeting", self.party) as party:
            met = self.wait(party.has_met)
        self.emit("out", met=met)


class AwaitingMeeting(Patient, stateless=True):
    """The same, as a coroutine."""

    party: int
    out = event("met")

    @slot
    async def n(self, n: int) -> None:
        note(self.folder, "calls", n)
        with Party(self.folder, "meeting", self.party) as party:
            met = await until_awaited(party.has_met, self.patience)
        self.emit("out", met=met)


class Early(Patient, stateless=True):
    """Emits, and then waits until what it emitted has arrived."""

    sent = event("n")
    out = event("opened")

    @slot
    def n(self, n: int) -> None:
        self.emit("sent", n=n)
        self.emit("out", opened=self.wait_at_gate())


class AwaitingEarly(Patient, stateless=True):
    """The same, as a coroutine."""

    sent = event("n")
    out = event("opened")

    @slot
    async def n(self, n: int) -> None:
        self.emit("sent", n=n)
        self.emit("out", opened=await until_awaited(partial(gate_is_open, self.folder), self.patience))


class Watches(Patient, stateless=True):
    """Goes on until its job is cancelled."""

    @slot
    def n(self, n: int) -> None:
        note(self.folder, "entered", n)
        try:
            self.wait(lambda: self.cancelled)
        finally:
            note(self.folder, "left", n)


class AwaitingWatches(Patient, stateless=True):
    """The same, as a coroutine."""

    @slot
    async def n(self, n: int) -> None:
        note(self.folder, "entered", n)
        try:
            await until_awaited(lambda: self.cancelled, self.patience)
        finally:
            note(self.folder, "left", n)


STUCK_S = 1.5  # the time-out of what is stuck


class Stuck(Patient, stateless=True, timeout=STUCK_S):
    """Waits at a gate for number 0, for longer than its time-out."""

    out = event("n")

    @slot
    def n(self, n: int) -> None:
        if n == 0:
            note(self.folder, "entered", n)
            self.wait_at_gate()
        self.emit("out", n=n)


class AwaitingStuck(Patient, stateless=True, timeout=STUCK_S):
    """The same, as a coroutine."""

    out = event("n")

    @slot
    async def n(self, n: int) -> None:
        if n == 0:
            note(self.folder, "entered", n)
            await until_awaited(partial(gate_is_open, self.folder), self.patience)
        self.emit("out", n=n)


# What stands in for a plain routine where coroutines are awaited: there a plain handler that waits holds up all others.
AWAITING: dict[type[Patient], type[Patient]] = {
    Meeting: AwaitingMeeting,
    Early: AwaitingEarly,
    Stuck: AwaitingStuck,
    Watches: AwaitingWatches,
}
