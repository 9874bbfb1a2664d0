"""Who listens to one job, and how they are told: one by one, so that none of them can hurt another, or the job."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import get_ident
from time import perf_counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, overload

from routilux_core._context import CURRENT, Frame
from routilux_core._history import Note, records
from routilux_core._plan import Inlet, Node, Outlet
from routilux_core._plugins import PluginSet, trace
from routilux_core.errors import EmitError
from routilux_core.hookspecs import Activation, Emission
from routilux_core.job import ActivationRecord, JobState

if TYPE_CHECKING:
    from routilux_core._timers import Timer, Timers
    from routilux_core.routine import Routine

BATCH = 256  # records in one call
PATIENCE = 0.05  # seconds that a record waits for others

log = logging.getLogger("routilux_core")


class Hub(Protocol):
    """What is needed of the dispatcher."""

    lock: threading.Lock
    inlets: list[Inlet]
    timers: Timers

    @property
    def calls(self) -> deque[Any]: ...


class Listener:
    """One plugin's implementation of one hook."""

    __slots__ = ("arguments", "function", "plugin")

    def __init__(self, plugin: str, function: Callable[..., Any], arguments: tuple[str, ...]) -> None:
        self.plugin, self.function, self.arguments = plugin, function, arguments


class Records(Sequence[ActivationRecord]):
    """A batch of records, each made when it is looked at: most listeners look at few of them, or only count."""

    __slots__ = ("_inlets", "_notes")

    def __init__(self, notes: list[Note], inlets: Sequence[Inlet]) -> None:
        self._notes, self._inlets = notes, inlets

    def __len__(self) -> int:
        return len(self._notes)

    def __iter__(self) -> Iterator[ActivationRecord]:
        return iter(records(self._notes, self._name))

    @overload
    def __getitem__(self, index: int) -> ActivationRecord: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ActivationRecord]: ...
    def __getitem__(self, index: int | slice) -> ActivationRecord | Sequence[ActivationRecord]:
        if isinstance(index, slice):
            return Records(self._notes[index], self._inlets)
        return next(iter(records([self._notes[index]], self._name)))

    def _name(self, number: int) -> tuple[str, str]:
        inlet = self._inlets[number]
        return inlet.node.routine_id, inlet.name


class Listeners:
    """The listeners to one job, by hook. A hook that nobody listens to is an empty list."""

    def __init__(self, plugins: PluginSet, job: JobState, hub: Hub) -> None:
        self._by_hook = {
            hook: [Listener(each.plugin_name, each.function, each.argnames) for each in implementations]
            for hook, implementations in plugins.listening.items()
        }
        self._job, self._hub = job, hub
        self._telling = threading.RLock()  # the calls for one job never overlap, those of the detail hooks apart
        self._muting = threading.Lock()
        self._muted: set[str] = set()
        self._waiting: list[Note] = []
        self._timer: Timer | None = None
        self._observed: dict[Node, dict[str, Outlet]] = {}
        self.starts = self.hears("routilux_job_started")
        self.counts = self.hears("routilux_activations_finished")
        self.details = self.hears("routilux_activation_started") or self.hears("routilux_event_emitted")

    def hears(self, hook: str) -> bool:
        """Return whether anyone listens to a hook."""
        return bool(self._by_hook.get(hook))

    # -- the job

    def job_started(self) -> None:
        """Tell that the job begins."""
        self._tell_outside("routilux_job_started", {"job": self._job})

    def job_finished(self) -> None:
        """Tell what has not been told yet, and that the job has ended."""
        with self._telling:
            self._tell_records()
            self._tell_outside("routilux_job_finished", {"job": self._job})
        with self._hub.lock:
            if self._timer is not None:
                self._timer.cancel()
                self._hub.timers.wake()

    # -- batches

    def note(self, note: Note) -> None:
        """Keep what the worker loop noted until a batch is due. The lock of the dispatcher is held."""
        waiting = self._waiting
        waiting.append(note)
        if len(waiting) == BATCH:
            self._hub.calls.append(self)
        elif self._timer is None:
            self._timer = self._hub.timers.add(PATIENCE, self._due)

    def _due(self) -> None:
        """The time is over for the oldest record, if it has not been told. The lock of the dispatcher is held."""
        self._timer = None
        if not self._waiting:
            return
        left = self._waiting[0][8] + PATIENCE - perf_counter()
        if left <= 0:
            self._hub.calls.append(self)
        else:
            self._timer = self._hub.timers.add(left, self._due)

    def recruit(self) -> None:
        """Tell what is due: called for through the dispatcher, as workers are. No lock of the engine is held."""
        with self._telling:
            self._tell_records()

    def _tell_records(self) -> None:
        while batch := self._next_batch():
            self._tell_outside("routilux_activations_finished", {"job": self._job, "records": batch})

    def _next_batch(self) -> Sequence[ActivationRecord]:
        with self._hub.lock:
            notes, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
        return Records(notes, self._hub.inlets)

    # -- details

    def activation_started(
        self, inlet: Inlet, number: int, attempt: int, item: Any, data: Mapping[str, Any], worker: int | None = None
    ) -> None:
        """Tell that a handler is about to be called with `data`; without `worker`, in this thread."""
        if not self.hears("routilux_activation_started"):
            return
        activation = Activation(
            job_id=self._job.job_id,
            id=number,
            cause=item[4] or None,
            routine_id=inlet.node.routine_id,
            slot=inlet.name,
            attempt=attempt,
            worker=get_ident() if worker is None else worker,
            posted=item[5],
            started=perf_counter(),
            data=MappingProxyType(dict(data)),
        )
        self._tell_outside("routilux_activation_started", {"activation": activation})

    def event_emitted(self, node: Node, outlet: Outlet, number: int, time: float, data: Mapping[str, Any]) -> None:
        """Tell that an emission was posted."""
        if not self.hears("routilux_event_emitted"):
            return
        emission = Emission(
            job_id=self._job.job_id,
            activation=number,
            routine_id=node.routine_id,
            event=outlet.name,
            targets=tuple((inlet.node.routine_id, inlet.name) for inlet, _ in outlet.targets),
            time=time,
            data=MappingProxyType(dict(data)),
        )
        self._tell_outside("routilux_event_emitted", {"emission": emission})

    def outlets_of(self, node: Node) -> dict[str, Outlet]:
        """Return the events of a routine with no short way to a lone target, so that each emission is told."""
        found = self._observed.get(node)
        if found is None or len(found) < len(node.outlets):
            found = {name: outlet.without_short_way() for name, outlet in node.outlets.items()}
            self._observed[node] = found
        return found

    # -- telling

    def _tell_outside(self, hook: str, record: dict[str, Any]) -> None:
        """Tell in a place where a wait for the flow would never end, so that it is refused there."""
        if not self.hears(hook):
            return
        token = CURRENT.set(_Telling(self._hub))
        try:
            self._tell(hook, record)
        finally:
            CURRENT.reset(token)

    def _tell(self, hook: str, record: dict[str, Any]) -> None:
        for each in self._by_hook[hook]:
            try:
                each.function(*[record[name] for name in each.arguments])
            except (Exception, SystemExit) as error:
                self._mute(each.plugin, hook, error)
            trace("plugin %r, %s: told about job %s", each.plugin, hook, self._job.job_id)

    def _mute(self, plugin: str, hook: str, error: BaseException) -> None:
        """Log that a plugin raised, once, and never call it again for this job."""
        with self._muting:
            if plugin in self._muted:
                return
            self._muted.add(plugin)
            for name, listeners in self._by_hook.items():
                self._by_hook[name] = [each for each in listeners if each.plugin != plugin]
        text = "plugin %r raised %s in %s, and is not told about job %s any more"
        name = type(error).__name__
        log.log(logging.WARNING, text, plugin, name, hook, self._job.job_id, exc_info=error)


def in_detail(listeners: Listeners | None) -> Listeners | None:
    """Return the listeners of a job if any of them is told of each call, or of each emission."""
    return listeners if listeners is not None and listeners.details else None


class _Telling:
    """The frame around a listener: no routine's, so nothing can be emitted, but inside the flow."""

    routine: Routine | None = None

    def __init__(self, hub: object) -> None:
        self.hub = hub
        self.thread = get_ident()
        self.outer: Frame | None = CURRENT.get()

    def emit(self, event_name: str, data: dict[str, Any], /) -> None:
        raise EmitError(f"{event_name!r} can't be emitted in a tracking hook: no handler runs here")

    def is_cancelled(self) -> bool:
        return False

    def resource(self, key: tuple[object, str], factory: Callable[[], Any], /) -> Any:
        return factory()
