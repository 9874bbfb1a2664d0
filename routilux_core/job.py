"""JobState: one execution of a flow, as its user sees it."""

from __future__ import annotations

import importlib
import os
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, overload

from routilux_core._text.printable import printable
from routilux_core.error_handling import ErrorStrategy, Failure, LeftOut
from routilux_core.errors import ConfigurationError, UnknownNameError
from routilux_core.graph import Graph
from routilux_core.journal import InDoubt
from routilux_core.routine import Routine
from routilux_core.strategy import ExecutionStrategy

if TYPE_CHECKING:
    from routilux_core.records import ActivationRecord, Ledger
    from routilux_core.tracking import ExecutionTracker, Source

SHOWN = 10  # tracebacks in what `raise_for_errors` raises: for those of very many failures nobody looks there
FINAL_STATUSES = ("completed", "failed", "cancelled")
ROUTINE_STATES = ("running", "completed", "skipped", "error_continued", "failed")  # each graver than those before


class Controls(Protocol):
    """What a job's run gives its `JobState`."""

    def status(self) -> str: ...
    def errors(self) -> list[Failure]: ...
    def left_out(self) -> LeftOut: ...
    def outputs(self) -> dict[str, list[dict[str, Any]]]: ...
    def ledger(self) -> Ledger: ...
    def routines(self) -> Mapping[str, Routine]: ...
    def routine_states(self) -> dict[str, str]: ...
    def history_of(self, routine_id: str | None) -> list[ActivationRecord]: ...
    def source(self) -> Source: ...
    def late_emissions(self) -> int: ...
    def in_doubt(self) -> list[InDoubt]: ...
    def times(self) -> tuple[float | None, float | None]: ...
    def activity(self) -> Activity: ...
    def explain(self) -> str: ...
    def wait(self, timeout: float | None) -> bool: ...
    async def done(self, timeout: float | None) -> bool: ...
    def stream(self, names: tuple[str, ...]) -> Stream: ...
    def reason(self) -> str: ...
    def pause(self, reason: str = "") -> None: ...
    def resume(self) -> None: ...
    def cancel(self, kill: bool, reason: str = "") -> None: ...


class Stream(Protocol):
    """What a job collects, as it comes: for `for`, and for `async for`."""

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]: ...
    def __next__(self) -> tuple[str, dict[str, Any]]: ...
    def __aiter__(self) -> AsyncIterator[tuple[str, dict[str, Any]]]: ...
    async def __anext__(self) -> tuple[str, dict[str, Any]]: ...


class Activity(NamedTuple):
    """What a job does at this moment: the calls that workers have in hand, by routine, and retries that wait."""

    running: dict[str, int]
    retrying: int


class Origin(NamedTuple):
    """What a job came from, and when: `at` by the clock of the day, `began` by the one of its records."""

    graph: Graph
    strategy: ExecutionStrategy
    named: dict[str, str]  # routine id -> the strategy that it has of its own
    at: float
    began: float


if TYPE_CHECKING:
    class_only = classmethod
else:

    class class_only(classmethod):  # noqa: N801 - reads as the decorator that it is
        """A class method that refuses to be called on an object, which it would not change."""

        def __get__(self, instance, owner=None):
            return super().__get__(instance, owner) if instance is None else partial(_refuse, instance, self.__name__)

    def _refuse(instance, name, *_, **__):
        kind = type(instance).__name__
        raise ConfigurationError(
            f"{kind}.{name}(...) returns a new {kind}, and leaves the one that it is called on as it is: "
            f"write again = {kind}.{name}(...)"
        )


class JobState:
    """One execution of a flow. All of it may be read from any thread, also while the job runs.

    >>> from routilux_core import Flow
    >>> flow = Flow()
    >>> entry = flow.add(len)
    >>> output = flow.add_output(entry, "out")
    >>> job = flow.run(entry, {"obj": "Oslo"})
    >>> job.status, job.results(output), job.errors, job.ledger.completed
    ('completed', [{'value': 4}], [], 1)
    """

    def __init__(self, job_id: str, flow_id: str, controls: Controls, origin: Origin | None = None) -> None:
        self.job_id = job_id
        self.flow_id = flow_id
        self._controls = controls
        self._seen = False
        self._origin = origin

    def __repr__(self) -> str:
        name = printable(self.job_id)
        return f"<JobState {name} of flow {self.flow_id!r}: {self.status}{self.errors_left_out.said}>"

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        shown: str = _module("_report.notebook").job_as_html(self)
        return shown

    def __reduce__(self) -> Any:
        raise TypeError("a JobState can't be pickled: it belongs to a live flow; use job.serialize() or job.save()")

    @property
    def status(self) -> str:
        """One of pending, running, paused, completed, failed, cancelled."""
        self._seen = True
        return self._controls.status()

    @property
    def errors(self) -> list[Failure]:
        """The failures with the decisions taken for them, in the order of the decisions.

        Of those decided STOP or CONTINUE the first 10,000 are kept, with any that stopped the job; of retried attempts
        and skips the newest, as many as the flow's `history_size` says, and at least 100. `errors_left_out` says how
        many more there were. The exceptions have no frames any more, unless the flow captures them.
        """
        self._seen = True
        return self._controls.errors()

    @property
    def errors_left_out(self) -> LeftOut:
        """How many `failures`, and retried or skipped `attempts`, there were beside those in `errors`."""
        return self._controls.left_out()

    @property
    def outputs(self) -> dict[str, list[dict[str, Any]]]:
        """The payloads of the events named with `Flow.add_output`, by name, in the order emitted; maybe none."""
        return self._controls.outputs()

    @property
    def ledger(self) -> Ledger:
        """The counts as of now; they balance at any moment."""
        return self._controls.ledger()

    @property
    def routines(self) -> Mapping[str, Routine]:
        """The routine instances of this job by id: the flow's own, and this job's copies where `scope="job"`."""
        return self._controls.routines()

    @property
    def routine_states(self) -> dict[str, str]:
        """The state of each routine that was reached: failed, error_continued, skipped, completed or running."""
        return self._controls.routine_states()

    @property
    def tracker(self) -> ExecutionTracker:
        """What this job has done, in figures."""
        from routilux_core.tracking import ExecutionTracker

        return ExecutionTracker(self._controls.source())

    @property
    def late_emissions(self) -> int:
        """How many emissions came from calls that had timed out, and were dropped."""
        return self._controls.late_emissions()

    @property
    def in_doubt(self) -> list[InDoubt]:
        """The calls that ran when the process died from which this job was recovered; see `Flow.recover`.

        They are made again, with the same key, unless their routine says `on_crash="fail"`.
        """
        return self._controls.in_doubt()

    @property
    def started_at(self) -> float | None:
        """When the job began, in seconds since 1970; None in a record from before that was kept."""
        return self._controls.times()[0]

    @property
    def ended_at(self) -> float | None:
        """When the job ended, in seconds since 1970; None while it runs, or where that was not kept."""
        return self._controls.times()[1]

    @overload
    def results(self) -> dict[str, list[dict[str, Any]]]: ...
    @overload
    def results(self, name: str) -> list[dict[str, Any]]: ...
    def results(self, name: str | None = None) -> dict[str, list[dict[str, Any]]] | list[dict[str, Any]]:
        """Return the payloads collected under a name, `job.results("report.done")`, or all of them by name.

        Each is a dict of what was emitted, in the order emitted. `Flow.add_output("report", "done")` says before the
        job what is collected.
        """
        collected = self.outputs
        if name is None:
            return collected
        try:
            return collected[name]
        except KeyError:
            raise _unknown_output(name, collected) from None

    @property
    def activity(self) -> Activity:
        """What runs at this moment, by routine, and how many retries wait for their time."""
        return self._controls.activity()

    def get_routine_state(self, routine_id: str) -> str | None:
        """Return the state of a routine, or None if nothing has reached it."""
        states, known = self.routine_states, self.routines
        if routine_id not in states and known and routine_id not in known:
            raise UnknownNameError("routine", routine_id, known, f"Job {printable(self.job_id)} has none of that name")
        return states.get(routine_id)

    def get_execution_history(self, routine_id: str | None = None) -> Sequence[ActivationRecord]:
        """Return the newest records, oldest first: at most the flow's `history_size` for the whole job."""
        return self._controls.history_of(routine_id)

    def lineage(self, of: Failure | int) -> list[ActivationRecord]:
        """Return the chain of calls that led to a failure, or to the call of this id, the entry first.

        Each emitted what started the next. The chain ends early where the history, a ring of `history_size` records,
        keeps an earlier call no more. Of a call with several attempts it has the last.
        """
        records = {record.id: record for record in self.get_execution_history()}
        step: int | None = of if isinstance(of, int) else of.activation
        chain: list[ActivationRecord] = []
        while step is not None and step in records:
            chain.append(records[step])
            step = records[step].cause
        return chain[::-1]

    def explain(self) -> str:
        """Say what a job that has not finished is waiting for, and what costs it time."""
        return self._controls.explain()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the job has ended, however it ended; False when `timeout` seconds were over first."""
        return self._controls.wait(timeout)

    @property
    def reason(self) -> str:
        """What was given as the reason when the job was last paused or cancelled; `explain()` shows it, too."""
        return self._controls.reason()

    async def done(self, timeout: float | None = None) -> bool:
        """`wait` for an event loop: `await job.done()`. Cancelling what awaits it does not cancel the job."""
        return await self._controls.done(timeout)

    def stream(self, *names: str) -> Stream:
        """Return what is collected under these names, or all names, as it comes: `for name, payload in job.stream()`.

        In a coroutine write `async for`. It begins with the first, and ends with the job; those of one name come in the
        order emitted. `Flow.add_output` says before the job what is collected.
        """
        collected = self._controls.outputs()
        for name in names:
            if name not in collected:
                raise _unknown_output(name, collected)
        return self._controls.stream(names or tuple(collected))

    def pause(self, reason: str = "") -> None:
        """Start nothing new; what runs is left to finish."""
        self._controls.pause(reason)

    def resume(self) -> None:
        """Go on after `pause`."""
        self._controls.resume()

    def cancel(self, kill: bool = False, *, reason: str = "") -> None:
        """Discard calls that have not begun, retries included, and count them; calls that run may finish.

        When this has returned, no worker commits to another call of this job. A call that a worker had committed to
        goes on, even if its handler is only about to begin: at most one for each worker. With `kill` workers that run
        calls of this job are ended at once, where the strategy can do that: those calls fail as lost.
        """
        self._controls.cancel(kill, reason)

    def has_failed_unseen(self) -> bool:
        """Return whether the job has failed, and nobody has asked for its status or its errors."""
        return not self._seen and self._controls.status() == "failed"

    def raise_for_errors(self) -> None:
        """Raise an `ExceptionGroup` of the errors that stopped the job or that it went on after (STOP, CONTINUE).

        It has the first tracebacks as notes, and says how many failures were not kept. What was skipped, and attempts
        that were retried, stay in `errors` alone. An exception that is no `Exception` (SystemExit, say) makes it a
        `BaseExceptionGroup`.
        """
        counted = (ErrorStrategy.STOP, ErrorStrategy.CONTINUE)
        failures = [failure for failure in self.errors if failure.decision in counted]
        if failures:
            names = ", ".join(sorted({failure.routine_id for failure in failures}))
            more = LeftOut(self.errors_left_out.failures).said
            message = f"job {printable(self.job_id)} of flow {self.flow_id!r}: errors in {printable(names)}{more}"
            group = BaseExceptionGroup(message, [failure.exception for failure in failures])
            for failure in [each for each in failures if not _shows_where(each.exception)][:SHOWN]:
                group.add_note(f"routine {failure.routine_id!r}, slot {failure.slot!r}: {failure.traceback}")
            raise group

    def serialize(self) -> dict[str, Any]:
        """Return the record of the job as plain JSON types: all that can be read here, but for the routines.

        What can't be saved is one `SerializationError` that names each value. Exceptions become text. While the job
        runs, parts of the record may be moments apart.
        """
        found: dict[str, Any] = _module("serialization").job_to_dict(self)
        return found

    def report(self, path: str | os.PathLike[str]) -> None:
        """Write a page that shows this job: time line, graph, critical path, figures, errors, hints.

        It is one HTML file that asks for nothing from elsewhere. It shows the records that the job still has: at most
        the flow's `history_size`. See `Flow.report` for several jobs side by side.
        """
        _module("_report.page").write_report(path, [self], f"{self.job_id} of {self.flow_id}")

    def trace(self, path: str | os.PathLike[str]) -> None:
        """Write what ran when, where and why in Chrome's trace-event format, for Perfetto and chrome://tracing.

        It has the records that the job still has: at most the flow's `history_size`. A name that ends with `.gz` is
        compressed.
        """
        _module("_report.trace").write_trace(path, [self])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `serialize()` to a JSON file: written beside and renamed over, so the file is always whole."""
        _module("serialization").write_file(path, self.serialize())

    @class_only
    def deserialize(cls, data: Mapping[str, Any], *, types: Iterable[type | ModuleType] = ()) -> Self:
        """Return the record that `serialize` gave: to be read; it can't go on. `types` as in `Flow.deserialize`."""
        saved = _module("serialization").job_from_dict(data, types)
        return cls(saved.job_id, saved.flow_id, saved)

    @class_only
    def load(cls, path: str | os.PathLike[str], *, types: Iterable[type | ModuleType] = ()) -> Self:
        """Return the record that `save` wrote; see `deserialize`."""
        return cls.deserialize(_module("serialization").read_file(path), types=types)


def _unknown_output(name: str, collected: Mapping[str, Any]) -> UnknownNameError:
    return UnknownNameError(
        "output", name, collected, "What a job is to collect, flow.add_output(routine_id, event_name) says"
    )


def _shows_where(error: BaseException) -> bool:
    """Return whether what is printed of an exception says where it was raised."""
    try:
        cause: BaseException | None = error
        while cause is not None and not hasattr(type(cause), "shows_where"):
            cause = cause.__cause__
        return error.__traceback__ is not None or cause is not None
    except Exception:  # a class may make of these names what it likes
        return False


def _module(name: str) -> Any:
    """Return a module that stands above this one, and is needed only by who asks for what it does."""
    return importlib.import_module(f"routilux_core.{name}")
