"""What a handler finds in a worker: it emits, asks whether it is cancelled, gets its resources; and its time runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import get_ident
from time import perf_counter
from typing import Any

from routilux_core._remote.pickling import ATOMS, dumps_payload
from routilux_core._remote.reporter import Reporter
from routilux_core._remote.routines import Ready
from routilux_core._remote.wire import Activations, Callee, Data
from routilux_core._routines.frame import CURRENT, Frame
from routilux_core._routines.signature import Payload
from routilux_core._threads.resources import Resources
from routilux_core.errors import ActivationTimeout, UnknownNameError
from routilux_core.routine import Routine


class CallTime:
    """The time of the call that runs. Nobody ends it here: it is judged by its time when it returns."""

    __slots__ = ("_late", "due")

    def __init__(self) -> None:
        self.due: float | None = None  # when it is over; None without a time-out
        self._late = 0  # emissions since

    def is_over(self) -> bool:
        return self.due is not None and perf_counter() > self.due

    def drops_emission(self) -> bool:
        """Count an emission that comes too late; return whether it does."""
        late = self.is_over()
        self._late += late
        return late

    def check(self, callee: Callee, slot: str) -> None:
        """Raise if the call that has returned took too long."""
        if self.is_over():
            raise self._too_long(callee, slot)
        self.due = None

    def judged(self, error: BaseException, callee: Callee, slot: str) -> BaseException:
        """Return why a call has failed: one whose time was over, for that, and with what it emitted too late."""
        if isinstance(error, Exception) and self.is_over():
            made = error if isinstance(error, ActivationTimeout) else self._too_long(callee, slot)
            if made is not error:
                made.__cause__ = error
            made.late_emissions, error = self._late, made
        self.due, self._late = None, 0
        return error

    def _too_long(self, callee: Callee, slot: str) -> ActivationTimeout:
        spent = perf_counter() - (self.due or 0.0) + (callee.timeout or 0.0)
        return ActivationTimeout(
            f"routine {callee.routine_id!r}, slot {slot!r}: the call took {spent:.3g} s, its timeout is "
            f"{callee.timeout:g} s"
        )


class RemoteFrame:
    """The frame of the handlers of one task. It tells the reporter what they emit, or holds it back for a while."""

    shipped = True
    at = None  # the job is elsewhere

    __slots__ = (
        "_activations",
        "_data",
        "_events",
        "_names",
        "_reporter",
        "_resources",
        "_routine_id",
        "cancelled",
        "engine",
        "held",
        "outer",
        "routine",
        "thread",
        "time",
    )

    def __init__(
        self,
        reporter: Reporter,
        activations: Activations,
        resources: Resources,
        cancelled: Callable[[], bool] | None,
    ) -> None:
        self.engine: object = self
        self.thread = get_ident()
        self.outer: Frame | None = CURRENT.get()
        self.routine: Routine | None = None
        self.time = CallTime()
        self.cancelled = cancelled
        self.held: list[tuple[str, Data]] | None = None  # by the call that runs, where it may be made again
        self._reporter = reporter
        # Appended to without a lock: the thread of the task is the only one that does.
        self._names, self._data = reporter.names, reporter.data
        self._resources = resources
        self._activations = activations
        self._events: Mapping[str, object] = {}
        self._routine_id = ""

    def enter(self, ready: Ready) -> None:
        """Be the frame of this routine's handlers from now on."""
        self.routine, self._events, self._routine_id = ready.routine, ready.events, ready.routine_id

    def emit(self, event_name: str, data: Payload, /) -> None:
        """Take what a handler emits; what can't be pickled is refused here, in the handler."""
        if event_name not in self._events:
            raise UnknownNameError("event", event_name, self._events, f"routine {self._routine_id!r}")
        if self.time.due is not None and self.time.drops_emission():
            return
        packed: Data = data
        for value in data.values():
            if type(value) not in ATOMS:
                packed = dumps_payload(data, f"routine {self._routine_id!r}, event {event_name!r}")
                if type(packed) is tuple:
                    self._reporter.weigh(packed)
                break
        # What may run again is not told before its end, or success: told twice, it would be done twice.
        if self.held is not None:
            self.held.append((event_name, packed))
            return
        self._data.append(packed)
        self._names.append(event_name)  # the last: what the flusher sees a name of is all there
        if len(self._names) > self._reporter.mark:
            self._reporter.look()

    def let_go(self) -> None:
        """Emit what was held back."""
        for name, data in self.held or ():
            self._data.append(data)
            self._names.append(name)
        self.held = None

    def is_cancelled(self) -> bool:
        return (self.cancelled is not None and self.cancelled()) or self.time.is_over()

    def call_id(self) -> tuple[str, int, int]:
        """Return the job of the activation that runs, its number, and which attempt it is."""
        job_id, numbers, attempts = self._activations
        number = numbers[min(self._reporter.ended, len(numbers) - 1)]  # what is pickled behind the last may ask
        return job_id, number, attempts.get(number, 1)

    def resource(self, key: tuple[object, str], factory: Callable[[], Any], /) -> Any:
        return self._resources.get(key, factory)

    def drop(self, key: tuple[object, str], /) -> None:
        self._resources.drop(key)
