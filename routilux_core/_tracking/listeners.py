"""Who listens to one job, and how they are told: one by one, so that none of them can hurt another, or the job."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import copy_context
from operator import itemgetter
from threading import get_ident
from time import perf_counter
from types import MappingProxyType
from typing import Any, overload

from routilux_core._engine.engine import Engine
from routilux_core._engine.plan import Inlet, Node, Outlet
from routilux_core._routines.frame import CURRENT, Awaited, Frame
from routilux_core._routines.signature import Payload
from routilux_core._text.log import log
from routilux_core._text.trace import trace
from routilux_core._threads.guard import guarded
from routilux_core._threads.timers import Timer
from routilux_core._tracking.activations import activation_of
from routilux_core._tracking.history import Chunk, Record
from routilux_core._tracking.records import activation_records
from routilux_core.error_handling import Failure
from routilux_core.errors import EmitError, is_interrupt
from routilux_core.hookspecs import Emission
from routilux_core.job import JobState
from routilux_core.records import ActivationRecord
from routilux_core.routine import Routine

BATCH = 256  # records in one call
PATIENCE = 0.05  # seconds that a record waits for others
BEHIND = 64  # batches that may wait for a slow listener before workers wait for it, and nothing more is shipped
BATCHES = "routilux_activations_finished"
FAILURES = "routilux_failure_decided"
CARRIERS = "routilux_carry"
ARGUMENTS = {  # what each hook tells of
    "routilux_job_started": "job",
    "routilux_job_finished": "job",
    BATCHES: "records",
    FAILURES: "failure",
    "routilux_activation_started": "activation",
    "routilux_event_emitted": "emission",
    CARRIERS: "job",
}


class Listener:
    """One plugin's implementation of one hook."""

    __slots__ = ("arguments", "function", "plugin")

    def __init__(self, plugin: str, function: Callable[..., Any], arguments: tuple[str, ...]) -> None:
        self.plugin, self.function, self.arguments = plugin, function, arguments


class _Decided:
    """A failure, and what had arrived for the call: the failure itself, which a job keeps, has only the names of it."""

    __slots__ = ("failure", "payload")

    def __init__(self, failure: Failure, payload: Payload) -> None:
        self.failure, self.payload = failure, MappingProxyType(dict(payload))


class Records(Sequence[ActivationRecord]):
    """A batch of records, each made when it is looked at: most listeners look at few of them, or only count."""

    __slots__ = ("_causes", "_chunks", "_inlets", "_made")

    def __init__(self, chunks: list[Chunk], inlets: Sequence[Inlet], causes: Mapping[int, tuple[int, ...]]) -> None:
        self._chunks, self._inlets, self._causes = chunks, inlets, causes
        self._made: list[Record] | None = None

    @property
    def _records(self) -> list[Record]:
        if self._made is None:
            made = [record for chunk in self._chunks for record in chunk.records()]
            made.sort(key=itemgetter(8))  # by their end: several workers have made them
            self._made = made
        return self._made

    def __len__(self) -> int:
        return sum(map(len, self._chunks))

    def __iter__(self) -> Iterator[ActivationRecord]:
        return iter(activation_records(self._records, self._name, self._causes))

    @overload
    def __getitem__(self, index: int) -> ActivationRecord: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ActivationRecord]: ...
    def __getitem__(self, index: int | slice) -> ActivationRecord | Sequence[ActivationRecord]:
        if isinstance(index, slice):
            return Records([Chunk.of(*self._records[index])], self._inlets, self._causes)
        return next(iter(activation_records([self._records[index]], self._name, self._causes)))

    def _name(self, number: int) -> tuple[str, str]:
        inlet = self._inlets[number]
        return inlet.node.routine_id, inlet.name


class Listeners:
    """The listeners to one job, by hook. A hook that nobody listens to is an empty list.

    They may take their time. So they are told by a worker that runs handlers, or aside: never by a thread that others
    wait for, as those of the timers and of the pools' own.
    """

    def __init__(
        self,
        listening: Mapping[str, Iterable[tuple[str, Callable[..., Any], tuple[str, ...]]]],
        job: JobState,
        run: Awaited,
        engine: Engine,
    ) -> None:
        self._by_hook = {hook: [Listener(*each) for each in listeners] for hook, listeners in listening.items()}
        self._job, self._run, self._engine = job, run, engine
        self._telling = threading.RLock()  # the calls for one job never overlap, those of the detail hooks apart
        self._muting = threading.RLock()
        self._muted: set[str] = set()
        self._untold: deque[tuple[str, Any]] = deque()  # hook and what it is told: a record, or a batch of records
        self._asked = False  # whether a thread aside has been asked to tell
        self._behind = False  # whether more than `BEHIND` is untold
        self._waiting: list[Chunk] = []  # until they are enough for a batch
        self._count = 0  # of the records in them
        self._timer: Timer | None = None
        self.causes: dict[int, tuple[int, ...]] = {}  # of the calls of gather slots; set under the lock
        self.armed = False  # whether what workers record for themselves will be asked for in time
        self.starts = self.hears("routilux_job_started")
        self.counts = self.hears("routilux_activations_finished")
        self.carries = self.hears(CARRIERS)  # whether anything goes along with what is sent to workers elsewhere
        self._carried: list[tuple[str, Any]] | None = None
        self.details = self.hears("routilux_activation_started") or self.hears("routilux_event_emitted")

    def hears(self, hook: str) -> bool:
        """Return whether anyone listens to a hook."""
        return bool(self._by_hook.get(hook))

    # -- the job

    def job_started(self) -> None:
        """Tell that the job begins."""
        self._tell_outside("routilux_job_started", self._job)

    def job_finished(self) -> None:
        """Tell what has not been told yet, and that the job has ended."""
        with self._engine.lock:
            self._close_batch()
        with self._telling:
            self._tell_untold()
            self._tell_outside("routilux_job_finished", self._job)
        with self._engine.lock:
            if self._timer is not None:
                self._timer.cancel()
                self._engine.timers.wake()

    # -- batches
    #
    # Nothing is called for each record: workers keep them for themselves, and a timer asks for them in time. Where none
    # runs (`armed`), a worker brings its next record at once.

    @guarded
    def record(self, chunk: Chunk) -> None:
        """Keep what was recorded until there is enough for a batch, or the time is over."""
        while len(chunk) > BATCH:
            head, chunk = chunk.split(BATCH)
            self._add(head)
        self._add(chunk)
        if self._untold:
            self._engine.deferred.append(self.tell)
        if self._timer is None:
            self._arm(PATIENCE)

    def _arm(self, seconds: float) -> None:
        self._timer, self.armed = self._engine.timers.add(seconds, self._due), True

    def _add(self, chunk: Chunk) -> None:
        if self._count + len(chunk) > BATCH:
            self._close_batch()
        self._waiting.append(chunk)
        self._count += len(chunk)
        if self._count == BATCH:
            self._close_batch()

    @guarded
    def _close_batch(self) -> None:
        """Let what waits be told."""
        if self._waiting:
            self._untold.append((BATCHES, self._waiting))
            self._waiting, self._count = [], 0
            if len(self._untold) > BEHIND and not self._behind:
                self._behind = True
                self._engine.behind += 1

    @guarded
    def _due(self) -> None:
        """The time is over for the oldest record, if it is in no batch."""
        self._timer, self.armed = None, False
        self._engine.collect(self._run)
        if not self._waiting:
            return
        left = self._waiting[0].records()[0][8] + PATIENCE - perf_counter()
        if left <= 0 and not self._untold:
            self._close_batch()
            self._engine.deferred.append(self.tell)
        elif self._timer is None:
            self._arm(left if left > 0 else PATIENCE)  # a listener is slow: it will get a full batch

    def tell(self) -> None:
        """Tell what is due, when the engine has let its lock go.

        Where somebody is telling already, it is left to them: they look again when they have let go.
        """
        if not _may_take_time():
            self._tell_aside()
            return
        while self._untold and self._telling.acquire(blocking=len(self._untold) > BEHIND):
            try:
                self._tell_untold()
            finally:
                self._telling.release()

    def _tell_aside(self) -> None:
        with self._engine.lock:
            asked, self._asked = self._asked, True
        if not asked:
            self._engine.aside.do(self._tell_here)

    def _tell_here(self) -> None:
        with self._engine.lock:
            self._asked = False
        with self._telling:
            self._tell_untold()

    def _tell_untold(self) -> None:
        """Tell the oldest first, until nothing is left. Nobody else tells meanwhile."""
        while True:
            with self._engine.lock:
                if not self._untold:
                    return
                hook, record = self._untold.popleft()
                catches_up = self._behind and 2 * len(self._untold) < BEHIND
                if catches_up:
                    self._behind = False
                    self._engine.behind -= 1
                    self._engine.want_workers()
            self._tell_outside(hook, Records(record, self._engine.inlets, self.causes) if hook == BATCHES else record)
            if catches_up:
                self._engine.run_deferred()

    # -- what goes along

    def carried(self) -> list[tuple[str, Any]]:
        """Return what plugins send along with each task of the job, by plugin; they are asked once."""
        with self._muting:
            if self._carried is None:
                self._carried = []
                copy_context().run(self._tell, CARRIERS, {"job": self._job}, self._carried)
            return self._carried

    # -- failures

    def failure_decided(self, failure: Failure, payload: Payload) -> None:
        """Tell what was decided about a failure, before its activation is counted."""
        if self.hears(FAILURES):
            self._tell_detail(FAILURES, _Decided(failure, payload))

    @guarded
    def failure_decided_here(self, failure: Failure, payload: Payload) -> None:
        """Let it be told when the lock has been let go."""
        if self.hears(FAILURES):
            self._untold.append((FAILURES, _Decided(failure, payload)))
            self._engine.deferred.append(self.tell)

    # -- details

    def activation_started(
        self, inlet: Inlet, number: int, attempt: int, item: Any, data: Mapping[str, Any], worker: int | None = None
    ) -> None:
        """Tell that a handler is about to be called with `data`; without `worker`, in this thread."""
        if not self.hears("routilux_activation_started"):
            return
        worker = get_ident() if worker is None else worker
        activation = activation_of(self._job.job_id, item, attempt, data, worker)
        self._tell_detail("routilux_activation_started", activation)

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
        self._tell_detail("routilux_event_emitted", emission)

    def _tell_detail(self, hook: str, record: Any) -> None:
        """Tell at once in a worker's thread, else aside, in the order of what happened."""
        if _may_take_time():
            self._tell_outside(hook, record)
            return
        with self._engine.lock:
            self._untold.append((hook, record))
        self._tell_aside()

    # -- telling

    def _tell_outside(self, hook: str, record: Any) -> None:
        """Tell in a context of its own, where a wait for the flow, which would never end, is refused."""
        if self.hears(hook):
            told = {"job": self._job, ARGUMENTS[hook]: record}
            if isinstance(record, _Decided):
                told |= {"failure": record.failure, "payload": record.payload}
            copy_context().run(self._tell, hook, told)

    def _tell(self, hook: str, record: dict[str, Any], answers: list[tuple[str, Any]] | None = None) -> None:
        CURRENT.set(_Telling(self._engine, self._run))
        for each in self._by_hook[hook]:
            try:
                answer = each.function(*[record[name] for name in each.arguments])
                if answers is not None and answer is not None:
                    answers.append((each.plugin, answer))
            except BaseException as error:  # a CancelledError, or an exit, is the plugin's own, too
                if is_interrupt(error):
                    raise
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
        log.warning(text, plugin, name, hook, self._job.job_id, exc_info=error)


def _may_take_time() -> bool:
    """Return whether this thread runs a handler, or is about to: then it is nobody's but a worker's."""
    frame = CURRENT.get()
    return getattr(frame, "tells", False) and frame is not None and frame.thread == get_ident()


class _Telling:
    """The frame around a listener: no routine's, so nothing can be emitted, but inside the flow."""

    routine: Routine | None = None

    def __init__(self, engine: object, run: Awaited) -> None:
        self.engine = engine
        self.at = run
        self.thread = get_ident()
        self.outer: Frame | None = CURRENT.get()

    def emit(self, event_name: str, data: dict[str, Any], /) -> None:
        raise EmitError(f"{event_name!r} can't be emitted in a tracking hook: no handler runs here")

    def is_cancelled(self) -> bool:
        return False

    def call_id(self) -> tuple[str, int, int]:
        raise EmitError("no handler runs in a tracking hook, so there is no activation")

    def resource(self, key: tuple[object, str], factory: Callable[[], Any], /) -> Any:
        return factory()

    def drop(self, key: tuple[object, str], /) -> None:
        pass
