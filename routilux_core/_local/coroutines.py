"""The worker loop in an event loop: take an activation, call or await its handler, count it, take the next."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context
from functools import partial
from threading import get_ident
from time import perf_counter
from types import CoroutineType
from typing import Any, TypeVar

from routilux_core._engine.plan import INLET, JOB, NUMBER, Inlet, Item, Node
from routilux_core._engine.roles import BookRole, KeptRole
from routilux_core._engine.run import Run
from routilux_core._engine.scheduler import Scheduler
from routilux_core._local.backpressure import nap, raise_mark, relieve_by, waits_with
from routilux_core._local.deadlines import too_long
from routilux_core._local.emitter import Emitter
from routilux_core._local.invocation import (
    HAS_COMPLETED,
    NOT_BEGUN,
    Verdict,
    ask,
    fail,
    prepare,
    state_of_call,
    succeed,
)
from routilux_core._local.steps import Steps
from routilux_core._local.tasks import WorkTask
from routilux_core._routines.frame import CURRENT
from routilux_core._routines.returns import check_returned, is_awaitable
from routilux_core._threads.guard import guarded
from routilux_core._threads.opening import Opening
from routilux_core._tracking.history import COMPLETED, DISCARDED
from routilux_core.errors import StrategyError, WorkerLost

T = TypeVar("T")

ROOM_LOOK_S = 0.002  # between two looks whether there is room for what was emitted
STUCK_LOOKS = 3  # in a row that find nothing under way


class CoroutineTask(WorkTask):
    """What a pool that declares `coroutines` is given: come and work in your event loop until nothing is left."""

    __slots__ = ()

    def __call__(self) -> None:
        name = self.scheduler.strategy.name
        self.fail(StrategyError(f"strategy {name!r} declares coroutines: its pool has to await task.arun()"))

    async def arun(self) -> None:
        """Work until nothing is left; raises only what ends this worker itself, such as its cancellation."""
        if self._first():
            await CoroutineWorker(self.scheduler).work()


class CoroutineWorker:
    """A worker in an event loop: it takes one activation after the other.

    The end of a call, in the task of its handler, is where the next is taken and begun. So this worker's own task
    sleeps until nothing is left, or the pool ends it: a call costs it no turn of the loop.
    """

    __slots__ = ("_busy", "_over", "_starts", "ending", "hand", "loop", "noted", "scheduler")

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.loop = asyncio.get_running_loop()
        self.hand: CoroutineCall | None = None  # the call under way
        self.ending: BaseException | None = None  # what ends the worker, not just the call in hand
        self.noted: tuple[BookRole, int] | None = None  # the record of a call that has failed: before the next begins
        # From here on: written and read in the thread of the loop alone.
        self._busy = True
        self._starts = False  # a call is just being begun
        self._over: asyncio.Future[None] | None = None  # set when nothing is left

    async def work(self) -> None:
        """Run activations one after the other until the queue has nothing left for this worker."""
        with self.scheduler.engine.step():
            self.scheduler.crew.begin()
        try:
            self.go_on()
            while self._busy:
                await self._sleep()
            if self.ending is not None:
                raise self.ending
        finally:
            self._sign_out()

    def go_on(self) -> None:
        """Count the call in hand, which is over, as the last thing of it, and begin the next."""
        try:
            call = self.hand = self._next(self.hand)
            if call is None:
                self._wake()
            elif self._starts:  # handlers may never wait, and would keep the loop from everyone else
                self.loop.call_soon(self._begin, call, context=Context())
            else:
                self._begin(call)
        except BaseException as error:  # a KeyboardInterrupt: what it has left in hand is counted at the end
            self.ending = self.ending or error
            self._wake()

    def _next(self, over: CoroutineCall | None) -> CoroutineCall | None:
        """Count a call, and take an activation, in one step; call another worker if there is more."""
        scheduler = self.scheduler
        call = CoroutineCall(self) if self.ending is None else None
        with scheduler.engine.step(None if over is None else over.at):
            if over is not None:
                over.count()
                scheduler.awaited.discard(over)
            if call is None or scheduler.ready.take(call) is None:
                return None
            scheduler.awaited.add(call)
            scheduler.crew.want_worker()
        return call

    def _begin(self, call: CoroutineCall) -> None:
        self._starts = True
        try:
            call.begin()
        finally:
            self._starts = False

    async def _sleep(self) -> None:
        """Wait until nothing is left. A cancellation is passed on to the handler, whose clean-up is waited for."""
        self._over = self.loop.create_future()
        try:
            await self._over
        except asyncio.CancelledError as error:
            self.ending = error
            if self.hand is not None:
                self.hand.cancel()
        except GeneratorExit as error:  # the event loop was closed under it: nothing can be awaited any more
            self.ending, self._over = error, None
            if self.hand is not None:
                self.hand.lose()

    def _wake(self) -> None:
        self._busy = False
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    def _sign_out(self) -> None:
        """Count the worker out; what a KeyboardInterrupt left in hand between two lines is counted, too."""
        hand, engine = self.hand, self.scheduler.engine
        item = None if hand is None else hand.item
        with engine.step():
            if hand is not None and item is not None:
                hand.item = None
                _detach(item[JOB])
                item[JOB].stop("cancelled")
                self.scheduler.awaited.discard(hand)
            self.scheduler.crew.step_out()
        if item is not None or engine.hurt:
            engine.mend()


class CoroutineCall(Emitter):
    """The call of a handler in an event loop, and the frame that its `emit` finds.

    `emit` never blocks the loop: beyond `max_pending` it neither waits nor runs other handlers there, so the mark is
    soft. A handler that emits much should await something now and then. Each call has a frame, a task and a context of
    its own: tasks that a handler starts inherit them, may emit while it runs, and are refused by name when it has
    ended.
    """

    __slots__ = ("called", "handler", "home", "killed", "late", "limit", "started", "verdict", "worker")

    tells = False  # listeners would stop all the others in its thread

    def __init__(self, worker: CoroutineWorker) -> None:
        super().__init__(worker.scheduler)
        self.outer = None  # the context may be a copy of an emitter's, on whose stack this is not
        self.worker = worker
        self.verdict = HAS_COMPLETED
        self.handler: asyncio.Task[None] | None = None  # what is awaited
        self.limit: asyncio.TimerHandle | None = None  # of its time
        self.killed = self.late = False
        self.home = self.thread  # that runs the loop; `thread` is where the handler runs
        self.started = self.called = 0.0

    def begin(self) -> None:
        """Call the handler; if it has to be awaited, or runs in a thread, its end comes later."""
        item = self.item
        assert item is not None
        inlet, _, run, _, _, _ = item
        self.routine = inlet.node.routine
        self.started = perf_counter()
        # Of its own, since tasks that the handler starts inherit it, and with it the frame in which they emit.
        context = Context() if run.context is None else run.context.copy()
        try:
            if run.stopped:
                self.verdict = NOT_BEGUN
            elif run.admit is not None and (declined := context.run(self._ask, run)) is not None:
                self.verdict = declined
            else:
                if run.book is None or not self._waits_for_disk(run.book, item, context):
                    self._call_or_start(inlet, context)
                return
        except BaseException as error:
            self.end(error)
            return
        self.routine = None
        self.worker.go_on()

    def _waits_for_disk(self, book: BookRole, item: Item, context: Context) -> bool:
        """Return whether a journal has yet to write what has to be there before the call; then it comes back."""
        again = partial(self._soon, self._go_on_from_disk, book, context)
        noted, self.worker.noted = self.worker.noted, None
        if noted is not None and noted[0].when_done(noted[1], again):
            return True
        return book.when_done(book.needs(item), again)

    def _go_on_from_disk(self, book: BookRole, context: Context) -> None:
        item = self.item
        if item is None:  # given up meanwhile
            return
        try:
            if not self._waits_for_disk(book, item, context):
                self._call_or_start(item[INLET], context)
        except BaseException as error:
            self.end(error)

    def _soon(self, call: Callable[..., None], *given: object) -> None:
        """Let the loop make a call. Any thread."""
        with suppress(RuntimeError):  # the loop was closed meanwhile, and nobody waits
            self.worker.loop.call_soon_threadsafe(call, *given)

    def _ask(self, run: Run) -> Verdict | None:
        CURRENT.set(self)
        return ask(self, run)

    def _call_or_start(self, inlet: Inlet, context: Context) -> None:
        pool = self.scheduler.pool
        if inlet.in_loop or pool is None or not pool.call_aside(partial(self._call_aside, context)):
            self._go_on_with(context.run(self._call), context)

    def _call(self) -> Any:
        """Call the handler in the context of its own; an `async def` one returns what is to be awaited."""
        item = self.item
        assert item is not None
        inlet, payload, run, number, _, _ = item
        CURRENT.set(self)
        self.thread = get_ident()
        payload = prepare(self, inlet, payload, run, number)
        # Behind this look the worker has committed to the call. A journal that the job has left would not know of it.
        if run.stopped or (run.book is not None and not run.book.enter(item)):
            self.verdict = NOT_BEGUN
            return None
        self.call = state_of_call(inlet.node)
        self.called = perf_counter()
        return inlet.call(payload)

    def _call_aside(self, context: Context) -> None:
        """Call a plain handler in a thread of the pool, and let the loop go on with what it has returned or raised."""
        made, raised = None, None
        try:
            made = context.run(self._call)
        except BaseException as error:
            raised = error
        self._soon(self._came_back, made, raised, context)

    def _came_back(self, made: object, raised: BaseException | None, context: Context) -> None:
        if self.item is None:  # given up meanwhile
            return
        try:
            if raised is None:
                self._go_on_with(made, context)
        except BaseException as error:
            raised = error
        if raised is not None:
            self.end(raised)

    def _go_on_with(self, made: object, context: Context) -> None:
        """Await what a handler has returned, if it can be awaited: in a task of its own, which can be cancelled."""
        item = self.item
        assert item is not None
        inlet = item[INLET]
        if self.verdict is NOT_BEGUN or made is None or not is_awaitable(made):
            self._returned(made)
            return
        self.thread = self.home
        handler = made if isinstance(made, CoroutineType) else _awaiting(made)
        node, loop = inlet.node, self.worker.loop
        task = start(Steps(handler, inlet, self._returned), loop, f"{node.routine_id}.{inlet.name}", context)
        if self.item is item and not task.done():
            self.handler = task
            if node.timeout is not None and self.scheduler.strategy.capabilities.enforces_timeout:
                self.limit = loop.call_later(node.timeout, self._be_late, context=context)

    def _returned(self, returned: object, raised: BaseException | None = None) -> None:
        """Check what a handler has returned, and let its call end."""
        item = self.item
        if item is None:  # given up meanwhile
            return
        if returned is not None:
            try:
                check_returned(returned, item[INLET].node.routine_id, item[INLET].name, item[INLET].node.told)
            except BaseException as error:
                raised = error
        self.end(raised)

    def end(self, raised: BaseException | None = None) -> None:
        """Decide about what the handler has raised, and let the worker go on."""
        item = self.item
        if item is None:
            return
        self.routine = None  # at once: tasks that outlive the handler can't emit for it
        if self.limit is not None:
            self.limit.cancel()
        try:
            raised = self._judged(item, raised)
            if raised is not None:
                self._fail(item, raised)
            elif self.verdict is not NOT_BEGUN and self._succeed(item):
                return
        except BaseException as error:  # a KeyboardInterrupt
            self._fail(item, error)
        self.handler = None  # whose task has this
        self.worker.go_on()

    def _succeed(self, item: Item) -> bool:
        """Send what was held; True where a journal has to have it on disk first, and the end comes later."""
        run: Run = item[JOB]
        book = run.book
        if book is None or self.call is None or self.call.held is None:
            succeed(self, run, item[NUMBER])
            return False
        run.retries.merged.discard(item[NUMBER])
        held, self.call.held, self.handler = self.call.held, None, None
        frame = CURRENT.set(self)  # there the journal finds what the call has counted
        try:
            kept = book.keep(item, held)
        finally:
            CURRENT.reset(frame)
        if book.when_done(kept.record, partial(self._soon, self._is_on_disk, book, kept)):
            return True
        self.relieve_all(book.send_on(kept), run)
        return False

    def _is_on_disk(self, book: BookRole, kept: KeptRole) -> None:
        item = self.item
        if item is None:  # given up meanwhile
            return
        try:
            self.relieve_all(book.send_on(kept), item[JOB])
        except BaseException as error:
            self._fail(item, error)
        self.worker.go_on()

    def _fail(self, item: Item, error: BaseException) -> None:
        # A thousand calls that end with their job, since somebody has asked for that, are not a thousand errors.
        was_ended = item[JOB].stopped and (self.killed or self.worker.ending is not None)
        # There a journal finds what the call has counted.
        frame = None if item[JOB].book is None else CURRENT.set(self)
        try:
            self.verdict = fail(self, item, error, 0, "cancelled" if was_ended else "failed")
        finally:
            if frame is not None:
                CURRENT.reset(frame)
        self.worker.ending = self.worker.ending or self.verdict.interrupt

    def _judged(self, item: Item, raised: BaseException | None) -> BaseException | None:
        """Return what a call has failed with, if it has: its time may be over, or somebody has ended it."""
        inlet = item[INLET]
        over = self.late or (isinstance(raised, Exception | None) and self.call is not None and self.call.is_over())
        failed: BaseException
        if over:
            failed = too_long(inlet.node, inlet.name, perf_counter() - self.called)
        elif self.killed and raised is not None:
            failed = WorkerLost(f"the call of {inlet.node.routine_id}.{inlet.name} was ended by cancel(kill=True)")
        else:
            return raised
        failed.__cause__ = raised
        return failed

    @guarded
    def count(self) -> None:
        """Count the activation, and give its permit back."""
        item = self.item
        assert item is not None
        run: Run = item[JOB]
        if self.verdict.outcome != DISCARDED:
            run.ledger.record(item, self.verdict.outcome, self.thread, self.started, perf_counter())
        run.settle(item, self.verdict.outcome, self.verdict.delay)
        if run.book is not None and self.verdict.outcome not in (COMPLETED, DISCARDED):
            self.worker.noted = run.book, run.book.newest()
        self.item = None

    def opening(self, key: tuple[object, str], factory: Callable[[], Coroutine[Any, Any, Any]], /) -> Opening:
        """Return what an `async def` factory makes for this event loop, to be awaited: anew if it has failed."""
        resources, make = self.scheduler.resources, partial(Opening, factory)
        opening: Opening = resources.get(key, make)
        if opening.has_failed():
            resources.drop(key)
            opening = resources.get(key, make)
        return opening

    # -- what ends it from outside

    def cancel(self) -> None:
        """Cancel the handler: the pool ends this worker. Nothing can end a thread, which is waited for."""
        if self.limit is not None:
            self.limit.cancel()
        if self.handler is not None:
            self.handler.cancel()

    def lose(self) -> None:
        """Fail, since the event loop was closed under the handler."""
        item = self.item
        if item is not None:
            _detach(item[JOB])
            name = f"{item[INLET].node.routine_id}.{item[INLET].name}"
            what = "a plain handler" if self.handler is None else repr(name)
            self.end(WorkerLost(f"the event loop was closed while {what} ran"))

    def _be_late(self) -> None:
        self.late = True
        if self.handler is not None:
            self.handler.cancel()

    async def room(self, event_name: str, /) -> None:
        """Wait until no more than `max_pending` wait where this event goes. Another worker comes meanwhile.

        Where nothing is under way but those who wait like this, perhaps for each other, the mark is raised.
        """
        item, engine = self.item, self.engine
        assert item is not None
        run: Run = item[JOB]
        nodes = [run.own.get(inlet.node, inlet.node) for inlet, _ in item[INLET].node.outlets[event_name].targets]
        if not any(_is_crowded(node, engine.max_pending) for node in nodes):
            return
        with engine.step():
            engine.held_up += 1
            self.seat.step_out()
        try:
            stuck = 0
            while not run.stopped and (crowded := [n for n in nodes if _is_crowded(n, engine.max_pending)]):
                await asyncio.sleep(ROOM_LOOK_S)
                with engine.step():
                    stuck = stuck + 1 if engine.is_stuck() else 0
                    if stuck >= STUCK_LOOKS:
                        stuck = 0
                        for node in crowded:
                            raise_mark(self, node, node.mark or engine.max_pending)
        finally:
            with engine.step():
                engine.held_up -= 1
                self.seat.step_in()

    def kill(self, run: Run) -> None:
        """Cancel the handler, if it is one of this job. Any thread."""
        with suppress(RuntimeError):  # the loop is closed
            self.worker.loop.call_soon_threadsafe(self._kill, run)

    def _kill(self, run: Run) -> None:
        if self.at is run and self.handler is not None and not self.handler.done():
            self.killed = True
            self.handler.cancel()

    def relieve(self, node: Node) -> None:
        """Wait a little in a thread beside the loop; in the loop do nothing, since that would block it."""
        if get_ident() != self.home:
            relieve_by(self, node, _work_off_nothing, nap)


def _detach(run: Run) -> None:
    """Leave a job whose event loop has ended in its journal, as after a crash: another process goes on with it."""
    if run.book is not None:
        run.book.detach()


def start_eagerly(
    handler: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop, name: str, context: Context
) -> asyncio.Task[T]:
    """Return a task that has run to its first wait already; Python 3.12 and newer. A factory of the loop's decides."""
    if loop.get_task_factory() is not None:
        return start_soon(handler, loop, name, context)
    return asyncio.Task(handler, loop=loop, name=name, context=context, eager_start=True)  # type: ignore[call-arg]


def start_soon(
    handler: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop, name: str, context: Context
) -> asyncio.Task[T]:
    """Return a task that begins with the loop's next turn."""
    return loop.create_task(handler, name=name, context=context)


start = start_eagerly if sys.version_info >= (3, 12) else start_soon


def _is_crowded(node: Node, most: int) -> bool:
    return not (node.scheduler.ready.chosen or waits_with(node) <= (node.mark or most))


def _work_off_nothing(worker: Emitter, node: Node, enough: int, until: float) -> bool:
    """Run no other handler here: what waits is for the event loop."""
    return False


async def _awaiting(made: Any) -> Any:
    """Await what is no coroutine."""
    return await made
