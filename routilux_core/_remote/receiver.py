"""What comes home of a task: emissions and ends of activations, posted and counted, and the state that travelled."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter, sub
from time import perf_counter
from typing import TYPE_CHECKING

from routilux_core._engine.engine import Engine
from routilux_core._engine.failures import OUTCOMES, carry_out
from routilux_core._engine.plan import INLET, JOB, NUMBER, POSTED, Item, Node
from routilux_core._engine.run import Run
from routilux_core._remote.exceptions import Encoded, decode, encode
from routilux_core._remote.logs import replay
from routilux_core._remote.pickling import loads
from routilux_core._remote.routines import add_stats, restore
from routilux_core._remote.wire import Data, HomeState, Label, Told, read_report
from routilux_core._routines.signature import Payload
from routilux_core._tracking.history import FAILED, RETRIED
from routilux_core._tracking.tracebacks import forget_frames
from routilux_core.error_handling import Decision, ErrorStrategy
from routilux_core.errors import ActivationTimeout, ShippingError, StrategyError, is_interrupt
from routilux_core.routine import Routine
from routilux_core.strategy import Task

if TYPE_CHECKING:
    from routilux_core._remote.scheduler import RemoteScheduler

AT_ONCE = 256  # activations that are counted while the engine's lock is held


def unpacked(data: Sequence[Data]) -> list[Payload] | None:
    """Return what was emitted; None if some of it can't be unpickled."""
    if set(map(type, data)) <= {dict}:
        return data  # type: ignore[return-value]
    try:
        return [each if isinstance(each, dict) else loads(each) for each in data]
    except BaseException as error:
        if is_interrupt(error):
            raise
        return None


def unpacked_till_error(
    data: Sequence[Data], node: Node, names: list[str]
) -> tuple[list[Payload], ShippingError | None]:
    """Return what one activation emitted; the first that can't be unpickled ends it, with an error."""
    payloads: list[Payload] = []
    for event, each in zip(names, data, strict=True):
        try:
            payloads.append(each if isinstance(each, dict) else loads(each))
        except BaseException as error:
            if is_interrupt(error):
                raise
            return payloads, _unreadable(f"routine {node.routine_id!r}, event {event!r}: what it emitted", error)
    return payloads, None


def take_state_home(node: Node, home: HomeState, sent_stats: dict[str, float]) -> Encoded | None:
    """Give a routine the state that it came home with. Its permit is held.

    What could not come is returned as the failure of the last call, which may have made it so.
    """
    routine = node.routine
    try:
        state = loads(home.state, routine)
        restore(routine, state, frozenset() if home.stuck else home.attributes)
    except BaseException as error:
        if is_interrupt(error):
            raise
        return encode(_unreadable(f"the state of routine {node.routine_id!r}", error))
    for name in state[1]:
        node.inlets[name].rebind(routine._routilux.slots[name])
    _take_stats_home(routine, home.stats, sent_stats)
    return home.stuck


def _take_stats_home(routine: Routine, stats: dict[str, float], before: dict[str, float]) -> None:
    """Take over the counters, unless somebody has changed them here meanwhile: then add what came to them."""
    internals = routine._routilux
    with internals.lock:
        if internals.stats == before:
            internals.stats.clear()
            internals.stats.update(stats)
            return
    added = {name: value - before.get(name, 0) for name, value in stats.items() if value != before.get(name, 0)}
    add_stats(routine, not before.keys() <= stats.keys(), added)


def _unreadable(what: str, error: BaseException) -> ShippingError:
    made = ShippingError(f"{what} can't be unpickled where it came home: {error!r}")
    made.__cause__ = error
    return made


class Receiver(Task):
    """The way home of a task that has travelled: it is posted and counted in the order told.

    All of it is called with the task's own lock held.
    """

    engine: Engine
    scheduler: RemoteScheduler
    run: Run
    node: Node
    has_state: bool
    label: Label

    def __init__(self, items: list[Item]) -> None:
        self.items = items
        self._ended = False
        self._next = 0  # index of the first activation whose end was not counted
        self._heard = 0  # emissions, of all of them
        self._emitted = 0  # of that one
        self._told = 0  # activations whose end was told, counted or not
        self._stats: dict[str, float] = {}  # of a routine with state, when it was sent
        self._worker = 0
        self._sent = perf_counter()
        self._offset = float("inf")  # of the worker's clock; the quickest message knows best

    def _read(self, message: bytes) -> None:
        report = read_report(message, self.label)
        self._worker = report.worker
        self._offset = min(self._offset, perf_counter() - report.clock)
        replay(report.logs)
        stuck, last = None, report.last
        if last is not None:
            if last.state is not None:
                stuck = take_state_home(self.node, last.state, self._stats)
            if last.missing:
                self.scheduler.send_whole(self.run)
            if last.lacks_names:
                self.scheduler.luggage.send_values()
        self._take(report.told, stuck)

    def _take(self, told: Told, stuck: Encoded | None) -> None:
        """Post what was emitted, and count what has ended: what simply completed in one go, the rest one by one."""
        first, before, started, ends, upto, names, data, stats, failures = told
        if first > self._next or before > self._heard:
            raise StrategyError(
                f"a report of task {self.label} is missing: its pool has lost a chunk, or `stream` was not given all "
                "of them in their order"
            )
        if (first, before) != (self._next, self._heard):
            return  # told twice
        self._heard += len(names)
        for index, reset, added in stats:
            add_stats(self.items[index][0].node.routine, reset, added)
        self._told = first + len(ends)
        failed = {index - first: failure for index, failure in failures}
        if ends and stuck is not None:
            failed.setdefault(len(ends) - 1, stuck)
        whole = None if self.run.told_in_detail() else unpacked(data)  # they are told of each emission
        at = 0  # of these ends
        for until in (*sorted(failed), len(ends)):
            if whole is not None and at < until:
                began, heard = (ends[at - 1], upto[at - 1]) if at else (started, 0)
                self._complete(began, ends[at:until], upto[at:until], heard, names, whole)
                at = until
            while at <= until and at < len(ends):  # the one that failed, or each of them
                span = slice(upto[at - 1] if at else 0, upto[at])
                began, payloads = ends[at - 1] if at else started, data if whole is None else whole
                self._take_one(first + at, names[span], payloads[span], began, ends[at], failed.get(at))
                at += 1
        rest = upto[-1] if ends else 0
        if rest < len(names):
            self._take_one(first + len(ends), names[rest:], data[rest:], None, 0.0, None)

    def _take_one(
        self,
        index: int,
        names: list[str],
        data: Sequence[Data],
        started: float | None,
        ended: float,
        failure: Encoded | None,
    ) -> None:
        """Post what an activation has emitted, tell so, and count it if it has ended."""
        item = self.items[index]
        payloads, unreadable = unpacked(data), None
        if payloads is None:
            payloads, unreadable = unpacked_till_error(data, item[INLET].node, names)
        if payloads:
            self._post_one(item, names[: len(payloads)], payloads)
        if started is None:
            return
        error, trace = decode(failure) if failure is not None else (unreadable, "")
        if isinstance(error, ActivationTimeout) and error.late_emissions:
            with self.engine.lock:
                self.run.late += error.late_emissions
        if error is None:
            self._complete(started, [ended], [0], 0, [], [])
        else:
            with self.engine.lock:
                self.scheduler.measure(item[INLET].number, ended - started)
            self._failed(index, error, self._at_home(started), self._at_home(ended), trace)
            self._forget_frames(error, sys.exception())

    def _post_one(self, item: Item, names: list[str], payloads: list[Payload]) -> None:
        node, number, now = item[INLET].node, item[NUMBER], perf_counter()
        with self.engine.lock:
            self._post(node, names, payloads, [number] * len(payloads))
        self._emitted += len(payloads)
        if listeners := self.run.told_in_detail():
            for name, payload in zip(names, payloads, strict=True):
                listeners.event_emitted(node, node.outlets[name], number, now, payload)

    def _post(self, node: Node, names: list[str], payloads: list[Payload], causes: list[int]) -> None:
        """Post what activations of one routine have emitted, in the order emitted. Lock."""
        at, now = 0, perf_counter()
        if names and names.count(names[0]) == len(names):  # the most frequent case
            self.run.send_all(node.outlets[names[0]], payloads, causes, now)
            return
        for name, same in groupby(names):
            until = at + len(list(same))
            self.run.send_all(node.outlets[name], payloads[at:until], causes[at:until], now)
            at = until

    def _complete(
        self, began: float, ends: list[float], upto: list[int], heard: int, names: list[str], payloads: list[Payload]
    ) -> None:
        """Post what completed activations have emitted, and count them; some at a time, since the lock is held.

        The first began at a time of the worker's clock, each of the others when the one before it had ended. Of the
        emissions, so many were heard before.
        """
        done, at = self.items[self._next : self._next + len(ends)], 0
        for inlet, same in groupby(done, itemgetter(0)):
            items = list(same)
            for first in range(0, len(items), AT_ONCE):
                some = items[first : first + AT_ONCE]
                here = slice(at, at + len(some))
                started, ended = self._times(began, ends[here])
                began = ends[here.stop - 1]
                causes = _causes(some, upto[here], heard)
                span, heard, at = slice(heard, upto[here.stop - 1]), upto[here.stop - 1], here.stop
                with self.engine.lock:
                    self._post(inlet.node, names[span], payloads[span], causes)
                    self.scheduler.measure(inlet.number, (ended[-1] - started[0]) / len(some))
                    self.run.complete(some, self._worker, started, ended)
                    self.scheduler.clear(some)
                    self._next += len(some)
                    self._emitted = 0
                    self._release(inlet.node, len(some))
                    self.run.end_if_idle()

    def _times(self, began: float, ends: list[float]) -> tuple[list[float], list[float]]:
        """Return when activations began and ended on our clock: between the sending and now, and in order."""
        offset = self._offset
        if began + offset < self._sent or ends[-1] + offset > perf_counter():
            first, ended = self._at_home(began), [self._at_home(each) for each in ends]
        else:
            first, ended = began + offset, [each + offset for each in ends]
        return [first, *ended[:-1]], ended

    def _at_home(self, clock: float) -> float:
        """Return a time of the worker's clock on ours: it lies between the sending and now."""
        return max(self._sent, min(clock + self._offset, perf_counter()))

    # -- counting

    def _failed(self, index: int, error: BaseException, started: float, ended: float, trace: str) -> None:
        """Decide about an exception, and count its activation, whatever the deciding itself raises."""
        decision = Decision(ErrorStrategy.STOP)
        try:
            decision = self._decided(index, error, trace)
        finally:
            self._count(index, OUTCOMES.get(decision.strategy, FAILED), started, ended, decision.delay)

    def _decided(self, index: int, error: BaseException, trace: str) -> Decision:
        inlet, payload, run, number, _, _ = self.items[index]
        failure = run.failure(inlet, payload, number, error, self._emitted, trace)
        return carry_out(run, failure, self.scheduler.judge(run, number, failure))

    def _forget_frames(self, error: BaseException, around: BaseException | None) -> None:
        """Let the frames go of an exception of one activation, or one task; not of what is handled `around` it."""
        if not self.engine.keeps_frames:
            forget_frames(error, around)
            if isinstance(error, ShippingError):
                error.value = None  # the payload that could not be sent

    def _count(self, index: int, outcome: int, started: float, ended: float, delay: float) -> None:
        """Count an activation that did not simply complete, as the very last thing that it does."""
        item = self.items[index]
        run: Run = item[JOB]
        started = max(started, item[POSTED])
        # A routine with state has come home with what its calls after this one made of it: they are counted, too.
        permit = not self.has_state or index + 1 >= self._told
        with self.engine.lock:
            run.record(item, outcome, self._worker, started, max(ended, started))
            if outcome != RETRIED:
                self.scheduler.clear([item])
            self._next, self._emitted = index + 1, 0
            if self.has_state and permit:
                self._back_in_order(self.items[index + 1 :])
                del self.items[index + 1 :]
                self.has_state = False  # the permit is no longer this task's
            run.settle(item, outcome, delay, permit)
            run.end_if_idle()

    def _release(self, node: Node, count: int) -> None:
        """Give the permits of completed activations back: that of a routine with state after the last. Lock."""
        if self.has_state:
            if self._ended and self._next == len(self.items):
                self.has_state = False
                self.scheduler.release(node)
        elif node.mailbox.limited or node.mailbox.waiting:
            for _ in range(count):
                self.scheduler.release(node)

    def _back_in_order(self, rest: list[Item]) -> None:
        """Put activations back before everything else of their queue; discard them where their job stopped. Lock."""
        run = self.run
        if run.stopped:
            run.discard(rest)
            for item in rest if not self.has_state else ():
                self.scheduler.release(item[INLET].node)
            run.end_if_idle()
            return
        if self.has_state:
            self.node.mailbox.put_back(rest)
        else:
            self.scheduler.first.extendleft(reversed(rest))


def _causes(items: list[Item], upto: list[int], heard: int) -> list[int]:
    """Return for each emission the number of the activation that made it."""
    numbers = [item[NUMBER] for item in items]
    if upto == list(range(heard + 1, heard + len(items) + 1)):  # one each
        return numbers
    counts = map(sub, upto, [heard, *upto])
    return [number for number, count in zip(numbers, counts, strict=True) for _ in range(count)]
