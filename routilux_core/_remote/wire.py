"""What travels to a worker, the request, and what comes back of it, reports: as they are written, and are read.

Each begins with a line that a process of any version can read: `routilux 3 batch-3 5f3a09c1d2e4b7f0`. It has the
version of what follows, and says which task it belongs to. What follows is pickled, in plain tuples: the names in here
are for those who read the code, and would cost bytes on the way.

A message is bytes, or it is pieces: a head, and beside it what is large in there (the buffers of arrays, long pickles),
each from where it lies. Both say the same, and are read by the same functions.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Sequence
from pickle import PickleBuffer
from typing import Any, NamedTuple

from routilux_core._remote.exceptions import Encoded
from routilux_core._remote.pickling import APART, PROTOCOL, Buffer, Pickled, dumps_plain
from routilux_core.errors import StrategyError, brief
from routilux_core.strategy import Piece

NAME, VERSION = "routilux", 3  # the version changes with anything in this module that the other side would misread
LONGEST_LINE = 200  # bytes of the first line: what has none by then is not ours

# How long what a call emits is held back: not at all; until its end, since it is made again if the worker dies; until
# its success, since it is made again if it fails.
NOT, UNTIL_END, UNTIL_SUCCESS = range(3)

Data = dict[str, Any] | Pickled  # a payload as it is where that is plain, else pickled
Message = bytes | Sequence[Piece]
Stats = tuple[int, bool, dict[str, float]]  # index of an activation, whether it reset its counters, what it added
Failed = tuple[int, Encoded]  # index of an activation, and what it has raised
LogLines = list[tuple[str, bytes]]  # log records and warnings, each pickled


class Label(NamedTuple):
    """Which task a message belongs to. An id is one scheduler's; the nonce is the task's alone, whoever made it."""

    task: str
    nonce: str

    def __str__(self) -> str:
        return f"{self.task} ({self.nonce})"


def new_label(task: str) -> Label:
    """Return the label of a new task. Another attempt is another task: what is told late of the first is not its."""
    return Label(task, os.urandom(8).hex())


def _sealed(label: Label, content: object) -> bytes:
    return f"{NAME} {VERSION} {label.task} {label.nonce}\n".encode() + pickle.dumps(content, PROTOCOL)


def _sealed_apart(label: Label, content: object) -> list[Piece]:
    """Write a message whose buffers are not copied. A long head is not copied either: then its line is a piece."""
    line, apart = f"{NAME} {VERSION} {label.task} {label.nonce}\n".encode(), list[PickleBuffer]()
    body = pickle.dumps(content, PROTOCOL, buffer_callback=apart.append)
    head: list[Piece] = [line + body] if len(body) < APART else [line, body]
    return [*head, *(each.raw() for each in apart)]


def _opened(given: Message, what: str) -> tuple[Label, Any]:
    """Return whose a message is, and what is in it, which is unpickled only where it is of our version."""
    try:
        head, *others = (given,) if isinstance(given, bytes | bytearray | memoryview) else given
        message, apart = memoryview(head), list(map(_writable, others))
    except (TypeError, ValueError):
        raise StrategyError(f"{what} is expected, as bytes or as pieces of bytes, not {brief(given)}") from None
    line, end, _ = bytes(message[:LONGEST_LINE]).partition(b"\n")
    name, version, task, nonce, *_ = (*line.decode("ascii", "replace").split(" "), "", "", "", "")
    if not end or name != NAME:
        raise StrategyError(
            f"{what} is expected, and these {message.nbytes} bytes are none: a pool hands on what `payload()` and "
            "`worker.run` return, and `send` was given, as they are"
        )
    if version != str(VERSION):
        raise StrategyError(
            f"{what} of version {version[:20]} has come, and this process reads version {VERSION}: install the same "
            "routilux-core for the flow and for its workers"
        )
    body = message[len(line) + 1 :]
    if apart and not body:
        body = memoryview(apart.pop(0))
    return Label(task, nonce), pickle.loads(body, buffers=apart)


def _writable(piece: Piece) -> Piece:
    """Return a piece as objects may have it that were writable where they came from."""
    return bytearray(piece) if memoryview(piece).readonly else piece


# -- there


class Callee(NamedTuple):
    """A routine of a request."""

    key: str  # of its part
    routine_id: str
    timeout: float | None
    stats: dict[str, float]


class Calls(NamedTuple):
    """Calls of one slot in a row."""

    routine: int  # its place among the request's
    slot: str
    holds: int  # how long what they emit is held back
    goes_on: bool  # whether those behind one that fails are made
    payloads: list[Data]


class Activations(NamedTuple):
    """Which activations the calls of a request are, in their order."""

    job_id: str
    numbers: list[int]
    attempts: dict[int, int]  # of those that were tried before, by number


class Request(NamedTuple):
    """What a worker is asked to do, without the parts that it keeps."""

    home: str  # the token of the process that it comes from
    environment: str  # the key of that part: log levels, warning filters
    state: Pickled | None  # of the routine, where it is one with state
    routines: list[Callee]
    calls: bytes  # a list of `Calls`, by `write_calls`
    activations: Activations
    carrier: bytes = b""  # what plugins send along, by `carriers`
    apart: Iterator[Buffer] = iter(())  # what is beside the calls, in their order

    def write(self, apart: list[PickleBuffer]) -> bytes:
        """Return the request as bytes, once for all the workers that it may be sent to, but for what is put apart."""
        calls = self.calls if len(self.calls) < APART else PickleBuffer(self.calls)
        routines = [tuple(each) for each in self.routines]
        return pickle.dumps(
            (*self[:3], routines, calls, tuple(self.activations), self.carrier), PROTOCOL, buffer_callback=apart.append
        )


def write_calls(calls: list[Calls], apart: list[PickleBuffer]) -> bytes | None:
    """Return calls as bytes; None where a payload has to be pickled by itself first, since it is not plain."""
    return dumps_plain([tuple(each) for each in calls], apart)


def read_calls(calls: bytes, apart: Iterator[Buffer]) -> list[Calls]:
    return [Calls(*each) for each in pickle.loads(calls, buffers=apart)]


def write_payload(label: Label, request: bytes, parts: dict[str, bytes], apart: list[PickleBuffer]) -> bytes:
    """Return a request that was written, with those parts that one worker has not."""
    return _sealed(label, (request, parts, apart))


def write_pieces(label: Label, request: bytes, parts: dict[str, bytes], apart: list[PickleBuffer]) -> list[Piece]:
    """Return the same, with what is large beside it."""
    return _sealed_apart(label, (request, parts, apart))


def read_payload(payload: Message) -> tuple[Label, Request, dict[str, bytes]]:
    """Return whose a request is, the request, and the parts that came along."""
    label, (request, parts, apart) = _opened(payload, "a request")
    rest = iter(apart)
    home, environment, state, routines, calls, activations, carrier = pickle.loads(request, buffers=rest)
    callees = [Callee(*each) for each in routines]
    return label, Request(home, environment, state, callees, calls, Activations(*activations), carrier, rest), parts


# -- and back again


class Told(NamedTuple):
    """What a report tells, in columns: so many activations cost little more than one."""

    first: int  # activations that were told of before
    before: int  # emissions that were told before
    started: float  # the worker's clock when the first of these activations began
    ends: list[float]  # and when each of them ended
    upto: list[int]  # how many of these emissions there were by then
    names: list[str]  # the event of each emission
    data: list[Data]  # and its payload
    stats: list[Stats]
    failures: list[Failed]


class HomeState(NamedTuple):
    """A routine's state after its task."""

    state: Pickled
    attributes: frozenset[str]  # names of those that it came with: what the state has not is gone
    stats: dict[str, float]
    stuck: Encoded | None = None  # why not all of it could come


class Last(NamedTuple):
    """What only the last report of a task has, the reply."""

    missing: Sequence[str] = ()  # keys of the parts that the worker lacks: nothing was run
    lacks_names: bool = False  # something of the main program came by name, and the worker's main module has it not
    state: HomeState | None = None


class Report(NamedTuple):
    """What a worker says of a task: in chunks while it runs, and at its end in the reply."""

    worker: int  # its process
    clock: float  # of the worker, as of now
    told: Told
    logs: LogLines
    last: Last | None

    def write(self, label: Label) -> bytes:
        return _sealed(label, self._content())

    def write_pieces(self, label: Label) -> list[Piece]:
        return _sealed_apart(label, self._content())

    def _content(self) -> tuple[object, ...]:
        last = self.last
        if last is not None and last.state is not None:
            last = last._replace(state=tuple(last.state))  # type: ignore[arg-type]
        columns = tuple(self.told._replace(names=_shortened(self.told.names)))  # type: ignore[arg-type]
        return self.worker, self.clock, columns, self.logs, None if last is None else tuple(last)


def read_report(message: Message, label: Label) -> Report:
    """Return a report of a task; one of another task, of whatever shape, is a `StrategyError` that names both."""
    found, content = _opened(message, "a report")
    if found != label:
        raise StrategyError(
            f"a report of task {found} has come for task {label}: its pool has mixed them up, and what either has run "
            "is not known"
        )
    worker, clock, columns, logs, last = content
    told = Told(*columns)
    if last is not None:
        missing, lacks_names, state = last
        last = Last(missing, lacks_names, None if state is None else HomeState(*state))
    return Report(worker, clock, told._replace(names=_each(told.names)), logs, last)


def _shortened(names: list[str]) -> list[str] | tuple[str, int]:
    """Return the names of events as they travel: most often all are the same."""
    return (names[0], len(names)) if names and names.count(names[0]) == len(names) else names


def _each(names: list[str] | tuple[str, int]) -> list[str]:
    return [names[0]] * names[1] if isinstance(names, tuple) else names
