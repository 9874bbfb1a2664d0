"""A worker's side of tasks that travel as bytes: `run` them, and `close` what was made on the way."""

from __future__ import annotations

import atexit
import os
import pickle
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextvars import copy_context
from time import perf_counter
from typing import Any

from routilux_core._binding import Payload
from routilux_core._context import CURRENT, Frame
from routilux_core._pickling import dumps, explain, is_plain, loads
from routilux_core._relay import Relay
from routilux_core._remote_errors import encode
from routilux_core._resources import Resources
from routilux_core._shipped_routine import Blueprint, Ready, pickle_state, state_of
from routilux_core._telling import Data, Emitted, Flusher, Teller
from routilux_core.errors import ActivationTimeout, ShippingError, UnknownNameError
from routilux_core.routine import Routine

__all__ = ["close", "run"]

MOST_PARTS = 4096
MOST_BYTES = 256 << 20

# How long what a call emits is held back: not at all; until its end, since it is made again if the worker dies; until
# its success, since it is made again if it fails.
NOT, UNTIL_END, UNTIL_SUCCESS = range(3)

# A routine: key of its part, id, time-out, counters. A call: number of the routine, slot, payload, what is held back.
Named = tuple[str, str, float | None, dict[str, float]]
Call = tuple[int, str, Data, int]
Body = tuple[str, str, bytes | None, list[Named], list[Call]]  # home, key of the environment, state, routines, calls


def run(
    payload: bytes,
    send: Callable[[bytes], None] | None = None,
    *,
    mark: Callable[[int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> bytes:
    """Run the activations of a task's `payload`, and return the reply for `Task.finish`.

    Never raises for what a handler does. Chunks for `Task.stream` are given to `send` while it runs, from this or
    another thread, one at a time. `mark` is called with the index of each activation before it begins; `cancelled` is
    asked before each, and by `Routine.cancelled`: the rest is then not begun. Several threads may run tasks at once.
    """
    body, parts = pickle.loads(payload)
    return copy_context().run(_Batch(pickle.loads(body), parts, send, mark, cancelled).run)


def close() -> None:
    """Close everything that `per_worker` made in this process. Call it at the worker's end."""
    _process.resources.close_all()


class Process:
    """What a worker process keeps from task to task."""

    def __init__(self) -> None:
        self.token = f"{os.getpid()}-{os.urandom(8).hex()}"  # says whether work comes from this very process
        self.pid = os.getpid()
        self.resources = Resources()
        self.relay = Relay()
        self.flusher = Flusher()
        self._parts: OrderedDict[str, tuple[int, Any]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._closes = False

    def close_at_exit(self) -> None:
        """Close the resources when the process ends, if nobody has before."""
        if not self._closes:
            self._closes = True
            atexit.register(self.resources.close_all)

    def part(self, key: str, data: bytes | None, make: Callable[[bytes], Any]) -> Any:
        """Return what was made of a part, from memory or from what came with the task; None if neither has it."""
        with self._lock:
            if key in self._parts:
                self._parts.move_to_end(key)
                return self._parts[key][1]
        if data is None:
            return None
        made = make(data)
        with self._lock:
            if key not in self._parts:
                self._parts[key] = len(data), made
                self._bytes += len(data)
            while len(self._parts) > MOST_PARTS or (self._bytes > MOST_BYTES and len(self._parts) > 1):
                self._bytes -= self._parts.popitem(last=False)[1][0]
            return made


_process = Process()


def process() -> Process:
    """Return what this process keeps; a forked one starts anew, since locks and threads don't survive the fork."""
    global _process
    if _process.pid != os.getpid():
        _process = Process()
    return _process


def _make_part(routine_id: str, stats: dict[str, float]) -> Callable[[bytes], Blueprint | Ready]:
    """Return what makes a blueprint of a routine with state, and the routine itself where it is stateless."""

    def make(data: bytes) -> Blueprint | Ready:
        definition, state = pickle.loads(data)
        blueprint = Blueprint(definition, routine_id)
        return blueprint if state is None else blueprint.build(state, stats)

    return make


class _Batch:
    """One task, run; and the frame that its handlers find."""

    shipped = True

    def __init__(
        self,
        body: Body,
        parts: dict[str, bytes],
        send: Callable[[bytes], None] | None,
        mark: Callable[[int], None] | None,
        cancelled: Callable[[], bool] | None,
    ) -> None:
        self.hub: object = self
        self.thread = threading.get_ident()
        self.routine: Routine | None = None
        self.outer: Frame | None = CURRENT.get()
        self._home, self._environment, self._state, self._named, self._calls = body
        self._parts = parts
        self._mark, self._cancelled = mark, cancelled
        self._process = process()
        self._at_home = self._home == self._process.token
        self._teller = Teller(send, self._process.flusher, None if self._at_home else self._process.relay)
        self._readies: list[Ready | None] = [None] * len(self._named)
        self._index = 0
        self._emitted: Emitted = []  # by the activation that runs, where that does not stream
        self._streams = False
        self._made: dict[str, Any] = {}
        self._current: Ready
        self._travelling: Ready | None = None  # the routine whose state came with the task

    def run(self) -> bytes:
        last: dict[str, Any] = {}
        missing = self._missing()
        if missing:
            last["missing"] = missing
        else:
            self._prepare()
            token = CURRENT.set(self)
            try:
                self._run_all()
            finally:
                CURRENT.reset(token)
                self.routine = None
            if self._travelling is not None:
                last.update(_home_coming(self._travelling))
        reply = self._teller.reply(last)
        if self._teller.broken is not None:
            raise self._teller.broken
        return reply

    def _missing(self) -> list[str]:
        """Return the keys of the parts that neither came nor were kept; what is found is noted for this task."""
        wanted: list[tuple[str, Callable[[bytes], Any]]] = [
            (key, _make_part(routine_id, stats)) for key, routine_id, _, stats in self._named
        ]
        if not self._at_home:
            wanted.append((self._environment, bytes))
        for key, make in wanted:
            try:
                self._made[key] = self._process.part(key, self._parts.get(key), make)
            except BaseException as error:  # the user's classes are imported and unpickled here
                self._made[key] = error
        return [key for key, _ in wanted if self._made[key] is None]

    def _prepare(self) -> None:
        self._process.close_at_exit()
        if not self._at_home and isinstance(self._made[self._environment], bytes):
            self._process.relay.apply(self._made[self._environment])

    def _run_all(self) -> None:
        # Everything that many short calls would pay for is local, and done in one function.
        cancelled, mark, clock, end = self._cancelled, self._mark, perf_counter, self._teller.end
        stays = self._state is None
        for index, (number, slot, data, holds) in enumerate(self._calls):
            if cancelled is not None and cancelled():
                return
            if mark is not None:
                mark(index)
            self._index, self._emitted = index, []
            self._streams = self._teller.streams and stays and not holds
            started = clock()
            try:
                ready = self._current = self._readies[number] or self._routine(number)
                self.routine = ready.routine
                payload = data if isinstance(data, dict) else _load_payload(data, ready.routine_id, slot)
                ready.calls[slot](payload)
                ended = clock()
                if self._named[number][2] is not None:
                    self._check_time(number, slot, ended - started)
            except BaseException as error:  # SystemExit and KeyboardInterrupt too: they fail the activation
                ended = clock()
                failed = self._readies[number]
                stats = failed.tally.taken() if stays and failed is not None else None
                end(index, [] if holds == UNTIL_SUCCESS else self._emitted, started, ended, encode(error), stats)
                return
            end(
                index,
                self._emitted,
                started,
                ended,
                None,
                ready.tally.taken() if stays and ready.tally.touched else None,
            )

    def _routine(self, number: int) -> Ready:
        key, routine_id, _, stats = self._named[number]
        found = self._made[key]
        try:
            if isinstance(found, BaseException):
                raise found
            if self._state is not None:
                found = self._travelling = found.build(self._state, stats)
        except Exception as error:
            raise ShippingError(
                f"routine {routine_id!r} can't be rebuilt in the worker process: {error!r}; its module has to be "
                "importable there, and its state has to survive pickling"
            ) from error
        ready: Ready = found
        self._readies[number] = ready
        return ready

    def _check_time(self, number: int, slot: str, spent: float) -> None:
        _, routine_id, timeout, _ = self._named[number]
        if timeout is not None and spent > timeout:
            raise ActivationTimeout(
                f"routine {routine_id!r}, slot {slot!r}: the call took {spent:.3g} s, its timeout is {timeout:g} s"
            )

    # -- what a handler finds

    def emit(self, event_name: str, data: Payload, /) -> None:
        """Take what a handler emits; what can't be pickled is refused here, in the handler."""
        ready = self._current
        if event_name not in ready.events:
            raise UnknownNameError("event", event_name, ready.events, f"routine {ready.routine_id!r}")
        packed: Data = data
        if not is_plain(data):
            packed = pack(data, f"routine {ready.routine_id!r}, event {event_name!r}")
        if self._streams:
            self._teller.emit(self._index, event_name, packed)
        else:
            self._emitted.append((event_name, packed))

    def is_cancelled(self) -> bool:
        return self._cancelled is not None and self._cancelled()

    def resource(self, key: tuple[object, str], factory: Callable[[], Any], /) -> Any:
        return self._process.resources.get(self.thread, key, factory)


def pack(payload: Payload, whole: str) -> bytes:
    """Pickle a payload; what can't be sent is a `ShippingError` that names its key and path."""
    try:
        return dumps(payload)
    except Exception as error:
        for key, value in payload.items():
            try:
                dumps(value)
            except Exception as reason:
                raise explain(reason, whole, "key", key, value) from error
        raise explain(error, whole, "what is sent", "", payload) from error


def _load_payload(data: bytes, routine_id: str, slot: str) -> Payload:
    try:
        payload: Payload = loads(data)
    except Exception as error:
        raise ShippingError(
            f"routine {routine_id!r}, slot {slot!r}: what was sent can't be unpickled in the worker process: {error!r}"
        ) from error
    return payload


def _home_coming(ready: Ready) -> dict[str, Any]:
    """Return the routine's state after the task; an attribute that can't go home stays as it was there."""
    last: dict[str, Any] = {"names": ready.names, "stats": dict(ready.tally)}
    try:
        last["state"] = pickle_state(ready.routine, ready.routine_id)
    except BaseException as error:
        last["stuck"] = encode(error)
        last["state"] = _what_can_go(ready.routine)
    return last


def _what_can_go(routine: Routine) -> bytes:
    """Pickle what can be pickled of a routine's state, each attribute by itself."""
    attributes, handlers = state_of(routine)
    kept = {}
    for name, value in attributes.items():
        try:
            dumps(value, routine)
        except Exception:
            continue
        kept[name] = value
    return dumps((kept, handlers), routine)
