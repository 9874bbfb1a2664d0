"""The worker loop in an event loop: take an activation, call or await its handler, count it, take the next."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from contextvars import Context
from threading import get_ident
from time import perf_counter
from types import CoroutineType
from typing import Any, TypeVar

from routilux_core._engine.plan import INLET, JOB, Inlet, Item, Node
from routilux_core._engine.run import Run
from routilux_core._engine.scheduler import Scheduler
from routilux_core._local.backpressure import nap, raise_mark, relieve_by, waits_with
from routilux_core._local.deadlines import too_long
from routilux_core._local.emitter import Emitter
from routilux_core._local.invocation import (
    HAS_COMPLETED,
    NOT_BEGUN,
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
from routilux_core._tracking.history import DISCARDED
from routilux_core.errors import ActivationTimeout, StrategyError, WorkerLost

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
            await work(self.scheduler)


async def work(scheduler: Scheduler) -> None:
    """Run activations one after the other until the queue has nothing left for this worker."""
    with scheduler.engine.step():
        scheduler.begin()
    worker = CoroutineWorker(scheduler)
    try:
        while worker.take():
            await worker.perform()
            worker.count()
            if worker.ending is not None:
                raise worker.ending
            if not worker.has_waited:  # handlers may never wait, and would keep the loop from everyone else
                await asyncio.sleep(0)
            worker = CoroutineWorker(scheduler)
    finally:
        worker.sign_out()


class CoroutineWorker(Emitter):
    """A worker in an event loop, for one activation, and the frame that its handler's `emit` finds.

    `emit` never blocks the loop: beyond `max_pending` it neither waits nor runs other handlers there, so the mark is
    soft. A handler that emits much should await something now and then. Each activation has a frame and a context of
    its own: tasks that a handler starts inherit them, may emit while it runs, and are refused by name when it has
    ended.
    """

    __slots__ = ("called", "ended", "ending", "handler", "has_waited", "home", "killed", "loop", "started", "verdict")

    tells = False  # listeners would stop all the others in its thread

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__(scheduler)
        self.outer = None  # the context may be a copy of an emitter's, on whose stack this is not
        self.verdict = HAS_COMPLETED  # of the activation in hand
        self.loop = asyncio.get_running_loop()
        self.handler: asyncio.Task[BaseException | None] | None = None  # what is awaited
        self.killed = self.has_waited = False
        self.home = self.thread  # that runs the loop; `thread` is where the handler runs
        self.started = self.called = self.ended = 0.0
        self.ending: BaseException | None = None  # what ends the worker, not just this activation

    def take(self) -> Item | None:
        """Take an activation, and call another worker if there is more."""
        with self.scheduler.engine.step():
            item = self.scheduler.ready.take(self)
            if item is not None:
                self.scheduler.awaited.add(self)
                self.scheduler.want_worker()
        return item

    async def perform(self) -> None:
        """Call the handler, or await it, and decide about what it raises."""
        item = self.item
        assert item is not None
        inlet, payload, run, number, _, _ = item
        self.routine = inlet.node.routine
        self.started = perf_counter()
        try:
            if run.stopped:
                self.verdict = NOT_BEGUN
            else:
                await self._call_or_await(inlet, payload, run, number)
        except BaseException as error:
            self.verdict = fail(self, item, error, 0)
            self.ending = self.ending or self.verdict.interrupt
        finally:
            self.routine = None
            self.ended = perf_counter()

    def count(self) -> None:
        """Count the activation, as the last thing it does, and give its permit back."""
        item = self.item
        assert item is not None
        run: Run = item[JOB]
        with self.scheduler.engine.step(run):
            if self.verdict.outcome != DISCARDED:
                run.ledger.record(item, self.verdict.outcome, self.thread, self.started, self.ended)
            run.settle(item, self.verdict.outcome, self.verdict.delay)
            self.item = None
            self.scheduler.awaited.discard(self)

    def sign_out(self) -> None:
        """Count the worker out; what a KeyboardInterrupt left in hand between two lines is counted, too."""
        item, self.item = self.item, None
        with self.scheduler.engine.step():
            if item is not None:
                item[JOB].stop("cancelled")
            self.scheduler.awaited.discard(self)
            self.scheduler.active -= 1
            self.scheduler.want_worker()
        if item is not None or self.scheduler.engine.hurt:
            self.scheduler.engine.mend()

    async def _call_or_await(self, inlet: Inlet, payload: dict[str, Any], run: Run, number: int) -> None:
        node = inlet.node
        if run.admit is not None and (declined := ask(self, run)) is not None:
            self.verdict = declined
            return
        # Of its own, since tasks that the handler starts inherit it, and with it the frame in which they emit.
        context = Context() if run.context is None else run.context.copy()

        def call() -> Any:
            return context.run(self._call, inlet, payload, run, number)

        try:
            made = call() if inlet.awaits else await self._call_aside(call)
            if self.verdict is NOT_BEGUN:
                return
            if made is not None and is_awaitable(made):
                await self._await(made, context, inlet)
            elif made is not None:
                check_returned(made, node.routine_id, inlet.name, node.told)
        except Exception as error:
            if self._is_over() and not isinstance(error, ActivationTimeout):
                raise too_long(node, inlet.name, perf_counter() - self.called) from error
            raise
        if self._is_over():
            raise too_long(node, inlet.name, perf_counter() - self.called)
        succeed(self, run, number)

    def _call(self, inlet: Inlet, payload: dict[str, Any], run: Run, number: int) -> Any:
        """Call the handler in the context of its own; an `async def` one returns what is to be awaited."""
        CURRENT.set(self)
        self.thread = get_ident()
        payload = prepare(self, inlet, payload, run, number)
        if run.stopped:  # behind this look the worker has committed to the call
            self.verdict = NOT_BEGUN
            return None
        self.call = state_of_call(inlet.node)
        self.called = perf_counter()
        return inlet.call(payload)

    def _is_over(self) -> bool:
        return self.call is not None and self.call.is_over()

    async def _call_aside(self, call: Callable[[], Any]) -> Any:
        """Call a plain handler in a thread of the pool, and wait for it; in the loop where the pool has none."""
        loop, pool = self.loop, self.scheduler.pool
        ended: asyncio.Future[None] = loop.create_future()
        outcome: list[tuple[Any, BaseException | None]] = []

        def make() -> None:
            try:
                outcome.append((call(), None))
            except BaseException as error:
                outcome.append((None, error))
            with suppress(RuntimeError):  # the loop was closed meanwhile, and nobody waits
                loop.call_soon_threadsafe(_resolve, ended)

        if pool is None or not pool.call_aside(make):
            return call()
        while not ended.done():
            try:
                await asyncio.wait((ended,))
            except asyncio.CancelledError as error:  # nothing can end a thread: the worker ends behind this call
                self.ending = error
            except GeneratorExit as error:
                self.ending = error
                raise WorkerLost("the event loop was closed while a plain handler ran") from None
        made, raised = outcome.pop()
        if raised is not None:
            raise raised
        return made

    async def _await(self, made: Awaitable[object], context: Context, inlet: Inlet) -> None:
        """Await a handler in a task of its own, so that a cancellation in it is not one of the worker.

        A strategy that declares `enforces_timeout` cancels it when its time is over. What the handler awaits while it
        ends is awaited, too.
        """
        name, began = f"{inlet.node.routine_id}.{inlet.name}", perf_counter()
        self.thread = get_ident()
        task = self.handler = start(self._guarded(made, inlet), self.loop, name, context)
        late = False
        if not task.done():
            self.has_waited = True
            late = await self._end_of(task, inlet.node)
        raised = _raised_in(task, made)
        if late:
            raise too_long(inlet.node, inlet.name, perf_counter() - began) from raised
        if self.killed and raised is not None:
            raise WorkerLost(f"the call of {name} was ended by cancel(kill=True)") from raised
        if raised is not None:
            raise raised

    async def _end_of(self, task: asyncio.Task[Any], node: Node) -> bool:
        """Wait for the end of a handler's task; return whether it was cancelled because its time was over."""
        late = False
        limit = node.timeout if self.scheduler.strategy.capabilities.enforces_timeout else None
        if limit is None:  # the short way: a cancellation of this worker is passed on to what it awaits
            try:
                await task
            except asyncio.CancelledError:  # of a handler that had not begun
                pass
            except GeneratorExit as error:  # the event loop was closed under it: nothing can be awaited any more
                self.ending = error
                raise WorkerLost(f"the event loop was closed while {task.get_name()!r} ran") from None
            me = asyncio.current_task()
            if me is not None and me.cancelling():
                self.ending = asyncio.CancelledError()
            return False
        while not task.done():
            try:
                ended, _ = await asyncio.wait((task,), timeout=limit)
            except asyncio.CancelledError as error:  # the pool ends this worker
                self.ending, limit = error, None
                task.cancel()
            except GeneratorExit as error:  # the event loop was closed under it: nothing can be awaited any more
                self.ending = error
                raise WorkerLost(f"the event loop was closed while {task.get_name()!r} ran") from None
            else:
                if not ended:
                    late, limit = True, None
                    task.cancel()
        return late

    async def _guarded(self, made: Awaitable[object], inlet: Inlet) -> BaseException | None:
        """Await a handler, and return what it raised: a SystemExit in a task would end the whole event loop."""
        try:
            returned = await (Steps(made, inlet) if isinstance(made, CoroutineType) else made)
            if returned is not None:
                check_returned(returned, inlet.node.routine_id, inlet.name, inlet.node.told)
        except BaseException as error:
            return error
        finally:
            self.routine = None  # at once: tasks that outlive the handler can't emit for it
        return None

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
            self.loop.call_soon_threadsafe(self._kill, run)

    def _kill(self, run: Run) -> None:
        if self.at is run and self.handler is not None and not self.handler.done():
            self.killed = True
            self.handler.cancel()

    def relieve(self, node: Node) -> None:
        """Wait a little in a thread beside the loop; in the loop do nothing, since that would block it."""
        if get_ident() != self.home:
            relieve_by(self, node, _work_off_nothing, nap)


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


def _work_off_nothing(worker: Emitter, node: Node, enough: int, until: float) -> None:
    """Run no other handler here: what waits is for the event loop."""


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _raised_in(task: asyncio.Task[BaseException | None], made: Awaitable[object]) -> BaseException | None:
    if task.cancelled():  # before its first step, so that it has not even begun to await the handler
        if isinstance(made, Coroutine):
            made.close()
        return asyncio.CancelledError()
    return task.result()
