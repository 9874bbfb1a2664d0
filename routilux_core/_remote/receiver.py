"""What comes home of a task: emissions and ends of activations, posted and counted, and the state that travelled."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter, sub
from time import perf_counter
from typing import Any

from routilux_core._engine.engine import logger
from routilux_core._engine.plan import INLET, NUMBER, Item, Node
from routilux_core._engine.roles import BookRole
from routilux_core._remote.claim import Claim
from routilux_core._remote.envelopes import PartStore
from routilux_core._remote.exceptions import Encoded, decode, encode
from routilux_core._remote.logs import replay
from routilux_core._remote.pickling import loads
from routilux_core._remote.routines import add_stats, changed_elsewhere, restore
from routilux_core._remote.wire import Data, HomeState, Label, Message, Told, read_report
from routilux_core._routines.signature import Payload
from routilux_core._threads.guard import guarded
from routilux_core.errors import ActivationTimeout, ShippingError, StrategyError, is_interrupt
from routilux_core.routine import Routine

AT_ONCE = 256  # activations that are counted in one go under the engine's lock


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
        _tell_of_changes(node, state[0])
        restore(routine, state, frozenset() if home.stuck else home.attributes)
    except BaseException as error:
        if is_interrupt(error):
            raise
        return encode(_unreadable(f"the state of routine {node.routine_id!r}", error))
    for name in state[1]:
        node.inlets[name].rebind(routine._routilux.slots[name])
    _take_stats_home(routine, home.stats, sent_stats)
    return home.stuck


def _tell_of_changes(node: Node, coming: dict[str, Any]) -> None:
    """Warn of a list, say, that the routine was given, and whose owner does not see what a worker does to a copy."""
    name = changed_elsewhere(node.routine, coming)
    if name is not None:
        logger().warning(
            "routine %r: a call in a worker process has changed what its attribute %r holds, which somebody else "
            "holds, too: there it stays as it was; read it from flow.routines[%r].%s",
            *(node.routine_id, name, node.routine_id, name),
        )


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


class Clock:
    """A worker's clock, as it is read here. What it times lies between the sending of the task and now."""

    __slots__ = ("_offset", "sent")

    def __init__(self) -> None:
        self.sent = perf_counter()
        self._offset = float("inf")

    def hear(self, clock: float) -> None:
        """Take what the clock was when a message left: the quickest message knows best."""
        self._offset = min(self._offset, perf_counter() - clock)

    def at_home(self, clock: float) -> float:
        """Return a time of the worker's clock on ours."""
        return max(self.sent, min(clock + self._offset, perf_counter()))

    def times(self, began: float, ends: list[float]) -> tuple[list[float], list[float]]:
        """Return when activations began and ended on our clock, in order: each began when the one before had ended."""
        offset = self._offset
        if began + offset < self.sent or ends[-1] + offset > perf_counter():
            first, ended = self.at_home(began), [self.at_home(each) for each in ends]
        else:
            first, ended = began + offset, [each + offset for each in ends]
        return [first, *ended[:-1]], ended


class Receiver:
    """The way home of what a worker reports of a task: it is posted and counted in the order told.

    All of it is called under the task's own lock, in the thread of the pool that brings the report.
    """

    __slots__ = ("_claim", "_engine", "_heard", "_parts", "clock", "label", "sent_stats")

    def __init__(self, label: Label, claim: Claim, parts: PartStore) -> None:
        self.label = label
        self.clock = Clock()
        self.sent_stats: dict[str, float] = {}  # counters of a routine with state, when it was sent
        self._claim = claim
        self._engine = claim.owner.engine
        self._parts = parts
        self._heard = 0  # emissions, of all of the activations

    def read(self, message: Message) -> None:
        """Take a report, chunk or reply. Raises what it finds in there, whatever that is: others have pickled it."""
        report, claim = read_report(message, self.label), self._claim
        claim.worker = report.worker
        self.clock.hear(report.clock)
        replay(report.logs)  # first: what it logged comes before what is logged about its failure
        stuck, last = None, report.last
        if last is not None:
            if last.state is not None:
                stuck = take_state_home(claim.node, last.state, self.sent_stats)
            if last.missing:
                self._parts.send_whole(claim.run.job_id)
            if last.lacks_names:
                self._parts.send_values()
        self._take(report.told, stuck)

    def read_last(self, reply: Message, size: int) -> None:
        """Take the reply; where it can't be read, what was not told yet has failed."""
        claim = self._claim
        try:
            self.read(reply)
            if not claim.run.stopped:
                with self._engine.lock:
                    claim.owner.paces.learn(claim.items[0][INLET], claim.next, size)
        except BaseException as error:
            logger().exception("task %s: its reply can't be read", self.label.task)
            claim.fail_rest(self.unreadable("the reply", error), None, self.clock.sent)
            if is_interrupt(error):
                raise

    def unreadable(self, what: str, error: BaseException) -> StrategyError:
        if isinstance(error, StrategyError):  # it says itself what was given: another version, or another task's
            return error
        return StrategyError(f"{what} of task {self.label.task} can't be read: {error!r}")

    def _take(self, told: Told, stuck: Encoded | None) -> None:
        """Post what was emitted, and count what has ended: what simply completed in one go, the rest one by one."""
        first, before, started, ends, upto, names, data, stats, failures = told
        claim = self._claim
        # Put back and run again, what a lost chunk had told would be done twice: so that is a failure.
        if first > claim.next or before > self._heard:
            raise StrategyError(
                f"a report of task {self.label} is missing: its pool has lost a chunk, or `stream` was not given all "
                "of them in their order"
            )
        if (first, before) != (claim.next, self._heard):
            return  # told twice
        self._heard += len(names)
        for index, reset, added in stats:
            add_stats(claim.items[index][INLET].node.routine, reset, added)
            if claim.run.book is not None:
                claim.run.book.count(claim.items[index], reset, added)
        claim.told = first + len(ends)
        failed = {index - first: failure for index, failure in failures}
        if ends and stuck is not None:
            failed.setdefault(len(ends) - 1, stuck)
        if claim.run.book is not None:
            self._keep(claim.run.book, first, started, ends, upto, names, data, failed)
            return
        whole = None if claim.run.told_in_detail() else unpacked(data)  # they are told of each emission
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

    def _keep(
        self,
        book: BookRole,
        first: int,
        began: float,
        ends: list[float],
        upto: list[int],
        names: list[str],
        data: Sequence[Data],
        failed: dict[int, Encoded],
    ) -> None:
        """Take what has ended into a journal, one by one, and let it go on. What may run again is told at its end."""
        heard = 0
        for at, (ended, until) in enumerate(zip(ends, upto, strict=True)):
            failure = failed.get(at)
            if failure is not None:
                self._fail_one(first + at, decode(failure), began, ended)
            elif (error := self._keep_one(book, first + at, names[heard:until], data[heard:until])) is not None:
                self._fail_one(first + at, (error, ""), began, ended)
            else:
                self._complete(began, [ended], [0], 0, [], [])
            began, heard = ended, until

    def _keep_one(self, book: BookRole, index: int, names: list[str], data: Sequence[Data]) -> Exception | None:
        """Let what a call has emitted go on when a journal has it; return why that can't be."""
        item = self._claim.items[index]
        node = item[INLET].node
        payloads, unreadable = unpacked_till_error(data, node, names)
        if unreadable is not None:
            return unreadable
        try:
            emitted = [(node.outlets[name], data) for name, data in zip(names, payloads, strict=True)]
            held = [(outlet, data, book.text_of(node, outlet, data)) for outlet, data in emitted]
            book.complete(item, held, self._engine.lock)
        except Exception as error:  # it can't be saved; or nothing can, any more
            return error
        return None

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
        claim = self._claim
        item = claim.items[index]
        payloads, unreadable = unpacked(data), None
        if payloads is None:
            payloads, unreadable = unpacked_till_error(data, item[INLET].node, names)
        if payloads:
            self._post_one(item, names[: len(payloads)], payloads)
        if started is None:
            return
        if failure is not None:
            self._fail_one(index, decode(failure), started, ended)
        elif unreadable is not None:
            self._fail_one(index, (unreadable, ""), started, ended)
        else:
            self._complete(started, [ended], [0], 0, [], [])

    def _fail_one(self, index: int, failure: tuple[BaseException, str], started: float, ended: float) -> None:
        """Decide about what an activation has raised, with its traceback as text, and count it."""
        claim, (error, trace) = self._claim, failure
        with self._engine.lock:
            if isinstance(error, ActivationTimeout):
                claim.run.ledger.late += error.late_emissions
            claim.owner.paces.measure(claim.items[index][INLET], ended - started)
        claim.fail(index, error, self.clock.at_home(started), self.clock.at_home(ended), trace)
        claim.forget_frames(error, sys.exception())

    def _post_one(self, item: Item, names: list[str], payloads: list[Payload]) -> None:
        node, number, now = item[INLET].node, item[NUMBER], perf_counter()
        with self._engine.lock:
            self._post(node, names, payloads, [number] * len(payloads))
        self._claim.emitted += len(payloads)
        if listeners := self._claim.run.told_in_detail():
            for name, payload in zip(names, payloads, strict=True):
                listeners.event_emitted(node, node.outlets[name], number, now, payload)

    @guarded
    def _post(self, node: Node, names: list[str], payloads: list[Payload], causes: list[int]) -> None:
        """Post what activations of one routine have emitted, in the order emitted."""
        at, now, run = 0, perf_counter(), self._claim.run
        if names and names.count(names[0]) == len(names):  # the most frequent case
            run.send_all(node.outlets[names[0]], payloads, causes, now)
            return
        for name, same in groupby(names):
            until = at + len(list(same))
            run.send_all(node.outlets[name], payloads[at:until], causes[at:until], now)
            at = until

    def _complete(
        self, began: float, ends: list[float], upto: list[int], heard: int, names: list[str], payloads: list[Payload]
    ) -> None:
        """Post what completed activations have emitted, and count them; some at a time, since that is under the lock.

        The first began at a time of the worker's clock, each of the others when the one before it had ended. Of the
        emissions, so many were heard before.
        """
        claim, at = self._claim, 0
        done = claim.items[claim.next : claim.next + len(ends)]
        for inlet, same in groupby(done, itemgetter(0)):
            items = list(same)
            for first in range(0, len(items), AT_ONCE):
                some = items[first : first + AT_ONCE]
                here = slice(at, at + len(some))
                started, ended = self.clock.times(began, ends[here])
                began = ends[here.stop - 1]
                causes = _causes(some, upto[here], heard)
                span, heard, at = slice(heard, upto[here.stop - 1]), upto[here.stop - 1], here.stop
                with self._engine.lock:  # in one step: nobody sees a job idle whose emissions are just coming in
                    self._post(inlet.node, names[span], payloads[span], causes)
                    claim.complete(some, started, ended)


def _causes(items: list[Item], upto: list[int], heard: int) -> list[int]:
    """Return for each emission the number of the activation that made it."""
    numbers = [item[NUMBER] for item in items]
    if upto == list(range(heard + 1, heard + len(items) + 1)):  # one each
        return numbers
    counts = map(sub, upto, [heard, *upto])
    return [number for number, count in zip(numbers, counts, strict=True) for _ in range(count)]
