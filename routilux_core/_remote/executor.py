"""Runs a request in a worker: its calls, one after the other, and what each of them comes to."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from contextvars import Context, copy_context
from functools import partial
from time import perf_counter
from typing import Any, NoReturn

from routilux_core._remote.cache import process
from routilux_core._remote.callees import Callees
from routilux_core._remote.exceptions import encode
from routilux_core._remote.frame import RemoteFrame
from routilux_core._remote.pickling import NotThereError, Pickled, loads
from routilux_core._remote.reporter import Reporter
from routilux_core._remote.routines import Ready
from routilux_core._remote.wire import UNTIL_END, UNTIL_SUCCESS, Calls, Label, Last, Message, Request, read_calls
from routilux_core._routines.frame import CURRENT
from routilux_core._routines.returns import check_returned
from routilux_core._routines.signature import Payload
from routilux_core._tracking.carriers import entered
from routilux_core.errors import ShippingError

Mark = Callable[[int], None]
Cancelled = Callable[[], bool]


class Variables:
    """The context variables of a task: what one call sets, no other sees."""

    __slots__ = ("_unset", "isolates", "task")

    def __init__(self, task: Context) -> None:
        self.task = task  # what the task runs in. It has one variable, the frame's, until a call sets another
        self._unset = copy_context()  # what it was before any call
        self.isolates = len(task) > 1  # whether each call has a copy of its own: this costs more than the call of most

    def bound(self, call: Callable[[Payload], Any]) -> Callable[[Payload], Any]:
        """Return what calls a handler: no variable that it sets is seen by another call."""
        return partial(_call_in_copy, self._unset, call) if self.isolates else call


class BatchExecutor:
    """One task in its worker."""

    def __init__(
        self,
        label: Label,
        request: Request,
        send: Callable[[Any], None] | None,
        mark: Mark | None,
        cancelled: Cancelled | None,
        in_pieces: bool,
        mark_every: float | None,
    ) -> None:
        self._process = here = process()
        at_home = request.home == here.token  # an executor's thread runs what its own process sends
        here.serves = here.serves or not at_home
        self._calls = read_calls(request.calls, request.apart)
        self._state = request.state
        self._carrier = request.carrier
        self._mark = mark
        self._callees = Callees(request, here)
        alone = len(self._calls) == 1 and len(self._calls[0].payloads) == 1
        self._reporter = Reporter(label, send, here.flusher, None if at_home else here.relay, alone, in_pieces)
        # The state of a routine comes home with the reply, or not at all: until then, how far its task is says nothing.
        if mark_every is not None and send is not None and self._state is None:
            self._mark = _in_stream(self._reporter, mark_every, mark)
        self._frame = RemoteFrame(self._reporter, request.activations, here.resources, cancelled)
        self._forked = False  # whether this is a copy of the task, in a process that the call which runs has forked
        self._variables: Variables

    def run(self, parts: dict[str, bytes], context: Context) -> Message:
        """Run what has come, in a context that belongs to nobody else, and return the reply."""
        callees, state = self._callees, None
        missing = callees.find(parts)
        if not (missing or callees.lacks_names):
            callees.prepare()
            CURRENT.set(self._frame)
            self._process.running.add(self)
            try:
                with entered(self._carrier, loads) if self._carrier else contextlib.nullcontext():
                    self._variables = Variables(context)  # what was entered may have set some, for each call
                    self._run_all()
                callees.tell_of_changes()
            finally:
                self._process.running.discard(self)
                self._frame.routine = None
            state = callees.state_home()
        reply = self._reporter.reply(Last(missing, callees.lacks_names, state))
        if self._reporter.broken is not None:
            raise self._reporter.broken
        return reply

    def leave(self) -> None:
        """Be a copy that nobody wants: in a fork, the call that runs may go on, and nothing else does."""
        self._forked = True
        self._frame.cancelled = None
        self._reporter.leave()

    def _run_all(self) -> None:
        self._reporter.started = perf_counter()
        index = 0
        for calls in self._calls:
            if not self._run_calls(index, calls):
                return
            index += len(calls.payloads)

    def _run_calls(self, index: int, calls: Calls) -> bool:
        """Run some calls of one slot; return whether what comes behind them may be run."""
        # Everything that many short calls would pay for is local, and done in one function.
        number, slot, holds, goes_on, payloads = calls
        clock, frame, reporter, variables = perf_counter, self._frame, self._reporter, self._variables
        names, ends, upto = reporter.names, reporter.ends, reporter.upto
        mark, cancelled, callee = self._mark, frame.cancelled, self._callees.routines[number]
        timeout, has_state = callee.timeout, self._state is not None
        if has_state:  # a worker that dies takes the state along: then all of it is made again
            holds = holds or UNTIL_END
        ready, call, context = None, None, variables.task
        for data in payloads:
            if cancelled is not None and cancelled():
                return False
            if mark is not None:
                mark(index)
            try:
                if ready is None or call is None:
                    ready = self._callees.ready(number, self._state)
                    frame.enter(ready)
                    call = variables.bound(ready.calls[slot])
                if holds:
                    frame.held = []
                if timeout is not None:
                    frame.time.due = clock() + timeout
                returned = call(data if isinstance(data, dict) else _load_payload(data, ready.routine_id, slot))
                if returned is not None:
                    check_returned(returned, ready.routine_id, slot, ready.told)
                if timeout is not None:
                    frame.time.check(callee, slot)
            except NotThereError:  # it comes again, by value, and begins then
                self._callees.lacks_names, frame.held = True, None
                return False
            except BaseException as error:  # SystemExit and KeyboardInterrupt too: they fail the activation
                if self._forked:
                    _end_fork(error)
                self._failed(index, number, frame.time.judged(error, callee, slot), holds)
                if not goes_on:
                    return False
            else:
                if holds:
                    frame.let_go()
                if ready.tally.touched and not has_state:
                    self._count(index, ready)
                upto.append(len(names))
                ends.append(clock())  # the last: an end that the flusher sees has its place in `upto`
            if reporter.half_told:
                if self._forked:
                    _end_fork(None)
                reporter.end_half_told()
            if len(context) > 1 and not variables.isolates:
                variables.isolates, call = True, None
            index += 1
        return True

    def _count(self, index: int, ready: Ready) -> None:
        taken = ready.tally.taken(self._frame)
        if taken is not None:
            self._reporter.stats.append((index, *taken))

    def _failed(self, index: int, number: int, error: BaseException, holds: int) -> None:
        reporter, ready = self._reporter, self._callees.known(number)
        reporter.failures.append((index, encode(error)))
        if holds == UNTIL_SUCCESS:
            self._frame.held = None
        self._frame.let_go()
        if self._state is None and ready is not None:
            self._count(index, ready)
        reporter.upto.append(len(reporter.names))
        reporter.ends.append(perf_counter())


def _in_stream(reporter: Reporter, every: float, mark: Mark | None) -> Mark:
    """Return a mark that lets chunks tell how far the task is, so many seconds after the last one that did so."""
    due = perf_counter() + every

    def marked(index: int) -> None:
        nonlocal due
        if perf_counter() >= due:
            reporter.tell_ends()
            due = perf_counter() + every
        if mark is not None:
            mark(index)

    return marked


def _call_in_copy(context: Context, call: Callable[[Payload], Any], payload: Payload) -> Any:
    return context.copy().run(call, payload)


def _load_payload(data: Pickled, routine_id: str, slot: str) -> Payload:
    try:
        payload: Payload = loads(data)
    except NotThereError:
        raise
    except Exception as error:
        raise ShippingError(
            f"routine {routine_id!r}, slot {slot!r}: what was sent can't be unpickled in the worker process: {error!r}"
        ) from error
    return payload


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
