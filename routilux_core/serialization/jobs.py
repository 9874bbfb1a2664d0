"""Jobs as plain JSON, and back: a record of what happened, to be read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from operator import attrgetter
from typing import Any, TypeVar

import attrs

from routilux_core._text.compact import compact, quoted
from routilux_core._text.printable import printable
from routilux_core.error_handling import Errors, Failure, LeftOut
from routilux_core.errors import FlowStateError, SavedError
from routilux_core.job import FINAL_STATUSES, ROUTINE_STATES, Activity, JobState
from routilux_core.journal import InDoubt
from routilux_core.records import ActivationRecord, Ledger
from routilux_core.routine import Routine
from routilux_core.seconds import check_patience
from routilux_core.serialization.codecs import reader, writer
from routilux_core.serialization.converter import structure, unstructure
from routilux_core.serialization.fields import shape_of
from routilux_core.serialization.policies import read_policy, write_policy
from routilux_core.serialization.problems import ROOT, Name, Path, Problems, reported
from routilux_core.serialization.schema import ExceptionRecord, FailureRecord, JobRecord, LeftOutRecord, Value
from routilux_core.serialization.type_lookup import KnownTypes, shown, type_name
from routilux_core.serialization.values import BROKEN, Writer
from routilux_core.serialization.versions import JOB, VERSION
from routilux_core.tracking import Source

T = TypeVar("T")

NAMES = tuple(each.name for each in attrs.fields(ActivationRecord))
VALUES = attrgetter(*NAMES)
STATUSES = ("pending", "running", "paused", *FINAL_STATUSES)
ERRORS, OUTPUTS, HISTORY = ((ROOT, Name(name)) for name in ("errors", "outputs", "history"))


def job_to_dict(job: JobState) -> dict[str, Any]:
    """Return the record of a job as plain JSON types."""
    with reported(f"job {printable(job.job_id)} can't be saved") as problems:
        saved = _without_history(job, problems)
        saved["history"] += _history(job, _activation, writer(problems))
        return saved


def job_to_text(job: JobState, status: str) -> str:
    """Return the record of a job as text, with a status that is about to be its own."""
    with reported(f"job {printable(job.job_id)} can't be saved") as problems:
        saved = {**_without_history(job, problems), "status": status}
        del saved["history"]  # it comes last, each record as text at once: most of the time goes there
        return f'{compact(saved)[:-1]},"history":[{",".join(_history(job, _activation_text, writer(problems)))}]}}'


def _history(job: JobState, form: Callable[[ActivationRecord, Path, Writer], T], write: Writer) -> list[T]:
    return [form(each, (HISTORY, index), write) for index, each in enumerate(job.get_execution_history())]


def _without_history(job: JobState, problems: Problems) -> dict[str, Any]:
    write = writer(problems)
    for name in (*job.routine_states, *job.outputs):
        write.text(name, ROOT)
    record = JobRecord(
        format=JOB,
        version=VERSION,
        job_id=write.text(job.job_id, (ROOT, Name("job_id"))),
        flow_id=write.text(job.flow_id, (ROOT, Name("flow_id"))),
        status=job.status,
        ledger=job.ledger,
        late_emissions=job.late_emissions,
        routine_states=job.routine_states,
        errors=[_failure(each, (ERRORS, index), problems) for index, each in enumerate(job.errors)],
        errors_left_out=LeftOutRecord(*job.errors_left_out) if any(job.errors_left_out) else None,
        outputs={name: write.encode(each, (OUTPUTS, name)) for name, each in job.outputs.items()},
        history=[],
        started_at=job.started_at,
        ended_at=job.ended_at,
    )
    saved: dict[str, Any] = unstructure(record)
    return saved


def _failure(failure: Failure, path: Path, problems: Problems) -> FailureRecord:
    error = failure.exception
    if not isinstance(error, SavedError):
        error = SavedError(type_name(type(error)), _message(error))
    return FailureRecord(
        routine=failure.routine_id,
        slot=failure.slot,
        attempt=failure.attempt,
        exception=ExceptionRecord(error.type_name, _readable(error.message)),
        traceback=_readable(failure.traceback),
        payload_keys=[*map(_readable, failure.payload_keys)],
        policy=Value(write_policy(failure.policy, (path, Name("policy")), problems)),
        emitted=failure.emitted,
        decision=failure.decision,
        activation=failure.activation,
        cause=failure.cause,
    )


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:
        return f"(its text can't be had: {type(broken).__name__})"


def _readable(text: str) -> str:
    """Return text that a file can hold: an error should not keep the record of it from being saved."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def _activation(record: ActivationRecord, path: Path, writer: Writer) -> dict[str, Any]:
    if _is_plain(record):
        return {**dict(zip(NAMES, VALUES(record), strict=True)), "extra": {}}
    return _by_fields(record, path, writer)


def _activation_text(record: ActivationRecord, path: Path, writer: Writer) -> str:
    if not _is_plain(record):
        return compact(_by_fields(record, path, writer))
    cause = "null" if record.cause is None else record.cause
    return (
        f'{{"id":{record.id},"cause":{cause},"routine_id":{quoted(record.routine_id)},"slot":{quoted(record.slot)},'
        f'"attempt":{record.attempt},"outcome":"{record.outcome}","worker":{record.worker},'
        f'"posted":{record.posted!r},"started":{record.started!r},"ended":{record.ended!r},"extra":{{}}}}'
    )


def _is_plain(record: ActivationRecord) -> bool:
    """Return whether all of it is as it is in JSON."""
    # Numbers and names, as most have nothing else, are what they are. There are up to a thousand, and a journal has a
    # record of each job that ends.
    ascii_names = record.routine_id.isascii() and record.slot.isascii()
    return ascii_names and not record.extra and isfinite(record.posted + record.started + record.ended)


def _by_fields(record: ActivationRecord, path: Path, writer: Writer) -> dict[str, Any]:
    shape = shape_of(ActivationRecord)
    held = {name: dict(each) if isinstance(each, Mapping) else each for name, each in shape.held(record).items()}
    return writer.fields(shape.fields, held, path)


class JobReader:
    """Turns plain JSON back into the record of a job."""

    def __init__(self, known: KnownTypes, problems: Problems) -> None:
        self.known = known
        self.problems = problems
        self.reader = reader(problems, known)

    def read(self, document: dict[str, Any]) -> SavedRun | None:
        """Return the record; None after problems, which are noted."""
        record = structure(document, JobRecord, self.problems)
        if record is None:
            return None
        self._one_of(record.status, STATUSES, (ROOT, Name("status")))
        for name, state in record.routine_states.items():
            self._one_of(state, ROUTINE_STATES, ((ROOT, Name("routine_states")), name))
        if not record.ledger.balanced or min(attrs.astuple(record.ledger)) < 0:
            self.problems.add((ROOT, Name("ledger")), "it does not balance")
        if min(_counts(record)) < 0:
            self.problems.add((ROOT, Name("errors_left_out")), "a count is at least 0")
        outputs = {
            name: [self.reader.decode(each, ((OUTPUTS, name), index)) for index, each in enumerate(payloads)]
            for name, payloads in record.outputs.items()
        }
        if any(type(each) is not dict and each is not BROKEN for found in outputs.values() for each in found):
            self.problems.add(OUTPUTS, "each payload is an object with the names of parameters")
        errors = [self._error(each, record.job_id, (ERRORS, index)) for index, each in enumerate(record.errors)]
        history = [self._activation(each, (HISTORY, index)) for index, each in enumerate(record.history)]
        if self.problems.found:
            return None
        return SavedRun(record, [each for each in errors if each], outputs, [each for each in history if each])

    def _one_of(self, value: str, allowed: tuple[str, ...], path: Path) -> None:
        if value not in allowed:
            self.problems.add(path, f"expected one of {', '.join(map(repr, allowed))}, not {shown(value)}")

    def _error(self, record: FailureRecord, job_id: str, path: Path) -> Failure | None:
        policy = read_policy(record.policy, (path, Name("policy")), self.problems, self.known)
        if policy is None or self.problems.found:
            return None
        return Failure(
            job_id=job_id,
            routine_id=record.routine,
            slot=record.slot,
            attempt=record.attempt,
            exception=SavedError(record.exception.type, record.exception.message),
            traceback=record.traceback,
            payload_keys=tuple(record.payload_keys),
            policy=policy,
            emitted=record.emitted,
            decision=record.decision,
            activation=record.activation,
            cause=record.cause,
        )

    def _activation(self, data: dict[str, Any], path: Path) -> ActivationRecord | None:
        found = self.reader.fields(shape_of(ActivationRecord).fields, data, path)
        return None if found is None else ActivationRecord(**found)


def _counts(record: JobRecord) -> LeftOut:
    """Return how much there was beside the errors in the record."""
    left_out = record.errors_left_out
    return LeftOut() if left_out is None else LeftOut(left_out.failures, left_out.attempts)


class SavedRun:
    """What a `JobState` that was read from a file shows."""

    def __init__(
        self,
        record: JobRecord,
        errors: list[Failure],
        outputs: dict[str, list[dict[str, Any]]],
        history: list[ActivationRecord],
    ) -> None:
        self.job_id, self.flow_id = record.job_id, record.flow_id
        self._record = record
        self._errors, self._outputs, self._history = errors, outputs, history

    def status(self) -> str:
        return self._record.status

    def errors(self) -> list[Failure]:
        return Errors(self._errors, self.left_out())

    def left_out(self) -> LeftOut:
        return _counts(self._record)

    def outputs(self) -> dict[str, list[dict[str, Any]]]:
        return {name: list(payloads) for name, payloads in self._outputs.items()}

    def ledger(self) -> Ledger:
        return self._record.ledger

    def routines(self) -> Mapping[str, Routine]:
        return {}

    def routine_states(self) -> dict[str, str]:
        return dict(self._record.routine_states)

    def history_of(self, routine_id: str | None) -> list[ActivationRecord]:
        return [each for each in self._history if routine_id in (None, each.routine_id)]

    def source(self) -> Source:
        raise FlowStateError(f"{self.explain()}, so it has no tracker: see its ledger and get_execution_history()")

    def activity(self) -> Activity:
        return Activity({}, 0)

    def reason(self) -> str:
        return ""

    def times(self) -> tuple[float | None, float | None]:
        return self._record.started_at, self._record.ended_at

    def in_doubt(self) -> list[InDoubt]:
        return []

    def late_emissions(self) -> int:
        return self._record.late_emissions

    def explain(self) -> str:
        name = printable(self.job_id)
        return f"job {name} was read from its record: it was {self.status()}, and nothing of it runs here"

    def wait(self, timeout: float | None) -> bool:
        check_patience(timeout, "the timeout of JobState.wait")
        if self.status() not in FINAL_STATUSES:
            raise self._refused("wait")
        return True

    async def done(self, timeout: float | None) -> bool:
        return self.wait(timeout)

    def stream(self, names: tuple[str, ...]) -> RecordedStream:
        return RecordedStream([(name, payload) for name in names for payload in self.outputs()[name]])

    def pause(self, reason: str = "") -> None:
        raise self._refused("pause")

    def resume(self) -> None:
        raise self._refused("resume")

    def cancel(self, kill: bool, reason: str = "") -> None:
        raise self._refused("cancel")

    def _refused(self, what: str) -> FlowStateError:
        return FlowStateError(f"{what} was called on {self.explain()}; execute the flow again for a new job")


class RecordedStream:
    """The outputs of a job that has ended, as its record has them."""

    def __init__(self, outputs: list[tuple[str, dict[str, Any]]]) -> None:
        self._outputs = iter(outputs)

    def __iter__(self) -> RecordedStream:
        return self

    def __next__(self) -> tuple[str, dict[str, Any]]:
        return next(self._outputs)

    def __aiter__(self) -> RecordedStream:
        return self

    async def __anext__(self) -> tuple[str, dict[str, Any]]:
        for output in self._outputs:
            return output
        raise StopAsyncIteration
