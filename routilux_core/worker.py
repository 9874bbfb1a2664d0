"""A worker's side of tasks that travel as bytes: `prepare` it, `run` them, and `close` what was made on the way."""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from contextvars import Context, copy_context
from functools import partial
from time import perf_counter
from typing import Any, NoReturn

from routilux_core._remote.cache import process
from routilux_core._remote.exceptions import encode
from routilux_core._remote.pickling import ATOMS, NotThereError, dumps, explain, loads
from routilux_core._remote.preparation import prepare
from routilux_core._remote.reporter import Reporter
from routilux_core._remote.routines import Blueprint, Ready, pickle_state, state_of
from routilux_core._remote.wire import (
    UNTIL_END,
    UNTIL_SUCCESS,
    Data,
    HomeState,
    Label,
    Last,
    Request,
    read_calls,
    read_payload,
)
from routilux_core._routines.frame import CURRENT, Frame
from routilux_core._routines.returns import check_returned
from routilux_core._routines.signature import Payload
from routilux_core.errors import ActivationTimeout, ShippingError, UnknownNameError
from routilux_core.routine import Routine

__all__ = ["SharedFlag", "SharedMark", "close", "prepare", "run"]


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
    asked before each, and by `Routine.cancelled`: the rest is then not begun. Where both are words in memory that the
    worker shares with its pool, `SharedMark` and `SharedFlag` cost short calls the least. Several threads may run tasks
    at once.
    """
    label, request, parts = read_payload(payload)
    variables = copy_context()
    return variables.run(_Batch(label, request, parts, send, mark, cancelled).run, variables)


def close() -> None:
    """Close everything that `per_worker` made in this process. Call it at the worker's end.

    From then on what is logged here is for the process's own log handlers again.
    """
    process().relay.leave()
    process().resources.close_everywhere()


class SharedMark:
    """A `mark` for `run` that is `base | index` in `words[at]`, unsigned integers of 64 bits."""

    __slots__ = ("at", "base", "words")

    def __init__(self, words: memoryview, at: int, base: int) -> None:
        self.words, self.at, self.base = words, at, base

    def __call__(self, index: int) -> None:
        self.words[self.at] = self.base | index


class SharedFlag:
    """A `cancelled` for `run` that is set where `words[at]` is `value`."""

    __slots__ = ("at", "value", "words")

    def __init__(self, words: memoryview, at: int, value: int) -> None:
        self.words, self.at, self.value = words, at, value

    def __call__(self) -> bool:
        return bool(self.words[self.at] == self.value)


NO_MARK, NO_FLAG = SharedMark(memoryview(b""), 0, 0), SharedFlag(memoryview(b""), 0, 0)


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
    at = None  # the job is elsewhere

    def __init__(
        self,
        label: Label,
        request: Request,
        parts: dict[str, bytes],
        send: Callable[[bytes], None] | None,
        mark: Callable[[int], None] | None,
        cancelled: Callable[[], bool] | None,
    ) -> None:
        self.engine: object = self
        self.thread = threading.get_ident()
        self.routine: Routine | None = None
        self._events: Mapping[str, object] = {}
        self._readies: dict[int, Ready] = {}
        self.outer: Frame | None = CURRENT.get()
        self._environment, self._state, self._named = request.environment, request.state, request.routines
        self._calls = read_calls(request.calls)
        self._parts = parts
        self._mark, self._cancelled = mark, cancelled
        self._process = process()
        self._at_home = request.home == self._process.token
        self._process.serves = self._process.serves or not self._at_home
        relay = None if self._at_home else self._process.relay
        alone = len(self._calls) == 1 and len(self._calls[0][-1]) == 1
        self._teller = Reporter(label, send, self._process.flusher, relay, alone)
        self._names, self._data = self._teller.names, self._teller.data
        self._forked = False  # whether this is a copy of the task, in a process that the call which runs has forked
        self._held: list[tuple[str, Data]] | None = None  # by the activation that runs, where it may run again
        self._due: float | None = None  # when the time of the call that runs is over
        self._late = 0  # what it has emitted since
        self._made: dict[str, Any] = {}
        self._lacks_names = False  # something of the main program came by name, and has none in this process
        self._current: Ready
        self._variables = self._unset = Context()  # what the task runs in, and what that was before any call
        self._isolates = False  # whether each call has a context of its own: one has set a variable
        self._travelling: Ready | None = None  # the routine whose state came with the task

    def run(self, variables: Context) -> bytes:
        """Run what has come, in a context that belongs to nobody else, and return the reply."""
        missing, state = self._missing(), None
        if not (missing or self._lacks_names):
            self._prepare()
            CURRENT.set(self)
            self._variables, self._unset, self._isolates = variables, copy_context(), len(variables) > 1
            self._process.running.add(self)
            try:
                self._run_all()
            finally:
                self._process.running.discard(self)
                self.routine = None
            if self._travelling is not None:
                state = _home_coming(self._travelling)
        reply = self._teller.reply(Last(missing, self._lacks_names, state))
        if self._teller.broken is not None:
            raise self._teller.broken
        return reply

    def leave(self) -> None:
        """Be a copy that nobody wants: in a fork, the call that runs may go on, and nothing else does."""
        self._forked = True
        self._mark = self._cancelled = None
        self._teller.leave()

    def _missing(self) -> list[str]:
        """Return the keys of the parts that neither came nor were kept; what is found is noted for this task."""
        wanted: list[tuple[str, Callable[[bytes], Any]]] = [
            (key, _make_part(routine_id, stats)) for key, routine_id, _, stats in self._named
        ]
        if not self._at_home:
            wanted.append((self._environment, bytes))
        muting = self._process.relay.muting() if self._parts and not self._at_home else nullcontext()
        with muting:
            for key, make in wanted:
                try:
                    self._made[key] = self._process.part(key, self._parts.get(key), make)
                except BaseException as error:  # the user's classes are imported and unpickled here
                    self._made[key] = error
        self._lacks_names = any(isinstance(made, NotThereError) for made in self._made.values())
        return [key for key, _ in wanted if self._made[key] is None]

    def _prepare(self) -> None:
        self._process.close_at_exit()
        if not self._at_home and isinstance(self._made[self._environment], bytes):
            self._process.relay.apply(self._made[self._environment])

    def _run_all(self) -> None:
        self._teller.started = perf_counter()
        index = 0
        for number, slot, holds, goes_on, payloads in self._calls:
            before, index = index, index + len(payloads)
            if not self._run_calls(before, number, slot, holds, goes_on, payloads):
                return

    def _run_calls(self, index: int, number: int, slot: str, holds: int, goes_on: bool, payloads: list[Data]) -> bool:
        """Run some calls of one slot; return whether what comes behind them may be run."""
        # Everything that many short calls would pay for is local, and done in one function.
        clock, teller = perf_counter, self._teller
        names, ends, upto, timeout = self._names, teller.ends, teller.upto, self._named[number][2]
        if self._state is not None:
            holds = holds or UNTIL_END
        mark = self._mark if isinstance(self._mark, SharedMark) else NO_MARK
        flag = self._cancelled if isinstance(self._cancelled, SharedFlag) else NO_FLAG
        shared = mark is self._mark and flag is self._cancelled
        marks, place, base, flags, where, value = mark.words, mark.at, mark.base, flag.words, flag.at, flag.value
        ready = call = None
        variables = self._variables
        for data in payloads:
            if shared:  # what `_may_begin` does, without its calls
                if flags[where] == value:
                    return False
                marks[place] = base | index
            elif not self._may_begin(index):
                return False
            try:
                if ready is None or call is None:
                    ready = self._routine(number)
                    call = self._bound(ready, slot)
                if holds:
                    self._held = []
                if timeout is not None:
                    self._due = clock() + timeout
                returned = call(_load_payload(data, ready.routine_id, slot) if isinstance(data, bytes) else data)
                if returned is not None:
                    check_returned(returned, ready.routine_id, slot)
                if timeout is not None:
                    self._check_time(number, slot)
            except NotThereError:  # it comes again, by value, and begins then
                self._lacks_names, self._held = True, None
                return False
            except BaseException as error:  # SystemExit and KeyboardInterrupt too: they fail the activation
                if self._forked:
                    _end_fork(error)
                self._failed(index, number, self._judged(error, number, slot), holds)
                if not goes_on:
                    return False
            else:
                if holds:
                    self._let_go()
                if ready.tally.touched and self._state is None:
                    self._count(index, ready)
                upto.append(len(names))
                ends.append(clock())
            if teller.half_told:
                if self._forked:
                    _end_fork(None)
                teller.end_half_told()
            if len(variables) > 1 and not self._isolates:
                self._isolates, call = True, None
            index += 1
        return True

    def _bound(self, ready: Ready, slot: str) -> Callable[[Payload], Any]:
        """Return what calls a handler: no variable that it sets is seen by another call."""
        call = ready.calls[slot]
        return partial(_call_in_copy, self._unset, call) if self._isolates else call

    def _may_begin(self, index: int) -> bool:
        """Say that an activation begins, if the task is not cancelled."""
        if self._cancelled is not None and self._cancelled():
            return False
        if self._mark is not None:
            self._mark(index)
        return True

    def _let_go(self) -> None:
        """Emit what was held back."""
        for name, data in self._held or ():
            self._data.append(data)
            self._names.append(name)
        self._held = None

    def _count(self, index: int, ready: Ready) -> None:
        taken = ready.tally.taken()
        if taken is not None:
            self._teller.stats.append((index, *taken))

    def _failed(self, index: int, number: int, error: BaseException, holds: int) -> None:
        teller, ready = self._teller, self._readies.get(number)
        teller.failures.append((index, encode(error)))
        if holds == UNTIL_SUCCESS:
            self._held = None
        self._let_go()
        if self._state is None and ready is not None:
            self._count(index, ready)
        teller.upto.append(len(self._names))
        teller.ends.append(perf_counter())

    def _routine(self, number: int) -> Ready:
        """Return a routine of this task, which runs from now on."""
        ready = self._readies.get(number)
        if ready is None:
            ready = self._readies[number] = self._build(number)
        self._current, self.routine, self._events = ready, ready.routine, ready.events
        return ready

    def _build(self, number: int) -> Ready:
        key, routine_id, _, stats = self._named[number]
        found = self._made[key]
        try:
            if isinstance(found, BaseException):
                raise found
            if self._state is not None:
                found = self._travelling = found.build(self._state, stats)
        except NotThereError:
            raise
        except Exception as error:
            raise ShippingError(
                f"routine {routine_id!r} can't be rebuilt in the worker process: {error!r}; its module has to be "
                "importable there, and its state has to survive pickling"
            ) from error
        ready: Ready = found
        return ready

    def _is_over(self) -> bool:
        """Return whether the time of the call that runs is over; where nobody ends it, it is judged by that."""
        return self._due is not None and perf_counter() > self._due

    def _check_time(self, number: int, slot: str) -> None:
        if self._is_over():
            raise self._too_long(number, slot)
        self._due = None

    def _judged(self, error: BaseException, number: int, slot: str) -> BaseException:
        """Return why a call has failed: one whose time was over, for that, and with what it emitted too late."""
        if isinstance(error, Exception) and self._is_over():
            made = error if isinstance(error, ActivationTimeout) else self._too_long(number, slot)
            if made is not error:
                made.__cause__ = error
            made.late_emissions, error = self._late, made
        self._due, self._late = None, 0
        return error

    def _too_long(self, number: int, slot: str) -> ActivationTimeout:
        _, routine_id, timeout, _ = self._named[number]
        spent = perf_counter() - (self._due or 0.0) + (timeout or 0.0)
        return ActivationTimeout(
            f"routine {routine_id!r}, slot {slot!r}: the call took {spent:.3g} s, its timeout is {timeout:g} s"
        )

    # -- what a handler finds

    def emit(self, event_name: str, data: Payload, /) -> None:
        """Take what a handler emits; what can't be pickled is refused here, in the handler."""
        if event_name not in self._events:
            raise UnknownNameError("event", event_name, self._events, f"routine {self._current.routine_id!r}")
        if self._due is not None and self._is_over():
            self._late += 1
            return
        packed: Data = data
        for value in data.values():
            if type(value) not in ATOMS:
                packed = pack(data, f"routine {self._current.routine_id!r}, event {event_name!r}")
                break
        if self._held is not None:
            self._held.append((event_name, packed))
            return
        self._data.append(packed)
        self._names.append(event_name)
        if len(self._names) > self._teller.mark:
            self._teller.look()

    def is_cancelled(self) -> bool:
        return (self._cancelled is not None and self._cancelled()) or self._is_over()

    def resource(self, key: tuple[object, str], factory: Callable[[], Any], /) -> Any:
        return self._process.resources.get(key, factory)


def _call_in_copy(context: Context, call: Callable[[Payload], Any], payload: Payload) -> Any:
    return context.copy().run(call, payload)


def _end_fork(error: BaseException | None) -> NoReturn:
    """End a process that a handler has forked, when its call is over there: the reply is its parent's to give."""
    code = 0
    try:
        if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
            code = error.code or 0
        elif error is not None:
            code = 1
            with contextlib.suppress(Exception):  # it may have closed its streams
                traceback.print_exception(error)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
    finally:  # whatever the text of the exception, or a stream, raises: nobody waits for this process to go on
        os._exit(code & 0xFF)


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
    except NotThereError:
        raise
    except Exception as error:
        raise ShippingError(
            f"routine {routine_id!r}, slot {slot!r}: what was sent can't be unpickled in the worker process: {error!r}"
        ) from error
    return payload


def _home_coming(ready: Ready) -> HomeState:
    """Return the routine's state after the task; an attribute that can't go home stays as it was there."""
    stats = dict(ready.tally)
    try:
        return HomeState(pickle_state(ready.routine, ready.routine_id), ready.names, stats)
    except BaseException as error:
        return HomeState(_what_can_go(ready.routine), ready.names, stats, encode(error))


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
