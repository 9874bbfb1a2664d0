"""One task that travels: packed, given to its pool, and ended, once, whoever ends it."""

from __future__ import annotations

import itertools
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import copy_context
from functools import partial
from threading import get_ident
from time import perf_counter
from typing import Protocol

from routilux_core._engine.engine import as_exception, logger
from routilux_core._engine.plan import INLET, Inlet, Item
from routilux_core._engine.roles import waits_for_disk
from routilux_core._remote.claim import Claim, Owner
from routilux_core._remote.envelopes import Envelope, PartStore
from routilux_core._remote.packing import Packed, pack
from routilux_core._remote.receiver import Receiver
from routilux_core._remote.wire import Message, new_label
from routilux_core.error_handling import Decision
from routilux_core.errors import JournalError, StrategyError, is_interrupt
from routilux_core.strategy import Busy, ExecutionStrategy, Piece, Task, Unknown, WorkerPool

PATIENCE_S = 1.0  # that a cancel waits for a pool to take a task that it is just given

# Where a task is: not with its pool yet; nor now, since that was busy; with it; and that was asked for it.
PACKED_HERE, PUT_OFF, GIVEN, ASKED_BACK = range(4)


class Sender(Owner, Protocol):
    """What a task needs of the scheduler that sends it."""

    strategy: ExecutionStrategy
    pool: WorkerPool | None
    parts: PartStore
    bringing: set[int]

    def put_off(self, task: RemoteTask, busy: Busy) -> None: ...
    def ask_pool(self, what: str, ask: Callable[[WorkerPool], object], /) -> object: ...
    def came_back(self, task: RemoteTask) -> None: ...
    def is_home(self, task: RemoteTask) -> None: ...
    def weigh(self, inlet: Inlet, size: int, weight: int, seconds: float) -> None: ...


class RemoteTask(Task):
    """A claim on its way: to a pool as bytes, and what comes back of it to its receiver.

    What comes back is handled under the task's own lock, in the thread of the pool that brings it.
    """

    def __init__(self, sender: Sender, task_id: str, items: list[Item], quick: bool) -> None:
        self.id = task_id
        self.sender = sender
        self.claim = Claim(sender, items)
        self.receiver = Receiver(new_label(task_id), self.claim, sender.parts)
        self.size = len(items)
        self.timeout = self.claim.node.timeout
        self.quick = quick  # whether it is expected to take no longer than a batch should
        self.where = PACKED_HERE
        self.busy: int | None = get_ident()  # the thread that sends it, or sees to its end
        self._envelope: Envelope | None = None
        self._ended_by_pool = False
        # Two locks, since a pool may answer from another thread while it is being given the task. Whoever needs both
        # takes `_handing` first. Both know their owner: a pool may fail a task inside its own `submit`.
        self._handing = threading.RLock()  # held while the pool is given it, or is asked for it back
        self._lock = threading.RLock()

    @property
    def routine_ids(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(item[INLET].node.routine_id for item in self.claim.items))

    @property
    def is_kept(self) -> bool:
        """Whether what comes of it has to be on disk, in a journal, before anything follows from it."""
        return waits_for_disk(self.claim.run)

    # -- there

    def send(self) -> None:
        """Pickle the task and give it to the pool; what can't be pickled fails here."""
        sender, claim, around = self.sender, self.claim, sys.exception()  # which those are handling who emit
        # What a merge function sets in there, or code that pickles, is for nobody else.
        context = copy_context() if claim.run.context is None else claim.run.context.copy()
        began = perf_counter()
        try:
            self.receiver.sent_stats = claim.node.routine.stats() if claim.has_state else {}
            made = self._marked(context.run(pack, self.receiver.label, claim, sender.parts))
            if isinstance(made, Decision):
                self._end_with(partial(claim.decline, made))
            elif isinstance(made, BaseException):
                context.run(self._end_with, partial(claim.refuse, made, around))
        except BaseException:  # a KeyboardInterrupt in the thread that emits or executes
            self.take_back()
            raise
        # Read without its lock. If somebody gives it up after this look, it has ended, and its pool is not heard.
        if claim.ended or not isinstance(made, Envelope):
            return
        self._envelope, self.size, self.parts = made, len(claim.items), frozenset(made.parts)
        sender.weigh(claim.items[0][INLET], self.size, made.weight, perf_counter() - began)
        self.send_again()

    def _marked(self, made: Packed) -> Packed:
        """Have a journal note that the calls of what was packed begin; return why not, where it can't."""
        book = self.claim.run.book
        if book is not None and isinstance(made, Envelope):
            try:
                book.ship(self.claim.items)
            except JournalError as error:
                return error
        return made

    def send_again(self) -> None:
        """Give the task, as it was packed, to the pool."""
        pool = self.sender.pool  # without the lock, once: another thread may let go of it
        if self.claim.ended:  # given up, or taken back, while it was put off
            return
        if pool is None:
            self.give_up(StrategyError(f"strategy {self.sender.strategy.name!r}: its pool was closed"))
        elif not self._hand_over(pool, sys.exception()):
            self.take_back()

    def _hand_over(self, pool: WorkerPool, around: BaseException | None) -> bool:
        """Give the task to the pool, unless its job was stopped while it was packed."""
        with self._handing:
            if self.claim.run.stopped:
                return False
            self.receiver.clock.sent = perf_counter()
            # Who gives it up has done so before this, or finds it with its pool, which may still ask for its bytes.
            with self._lock:
                if self.claim.ended:
                    return True
                self.where = GIVEN
            try:
                pool.submit(self)
            except Busy as busy:
                self.where = PUT_OFF
                self.sender.put_off(self, busy)
                return not self.claim.run.stopped
            except BaseException as error:  # it never should; or a KeyboardInterrupt: the pool may have it, or not
                refused = StrategyError(f"strategy {self.sender.strategy.name!r} raised in submit: {error!r}")
                refused.__cause__ = error
                self.give_up(refused)
                if is_interrupt(error):
                    raise
                self.claim.forget_frames(refused, around)
            if not self.claim.ended:
                self.busy = None
        return True

    def payload(self, known: frozenset[str] = frozenset()) -> bytes:
        assert self._envelope is not None, "payload() of a task that was never submitted"
        return self._envelope.payload(known)

    def pieces(self, known: frozenset[str] = frozenset()) -> list[Piece]:
        assert self._envelope is not None, "pieces() of a task that was never submitted"
        return self._envelope.pieces(known)

    def revoke(self, pool: WorkerPool) -> None:
        """Ask the pool, once, to drop the task. Its job was stopped: if it has not been handed over, it never will."""
        held = self._handing.acquire(timeout=PATIENCE_S)
        try:
            asks = self.where == GIVEN and not self.claim.ended
            self.where = ASKED_BACK if asks else self.where
            dropped = self.where == PUT_OFF or (asks and pool.cancel(self))
        finally:
            if held:
                self._handing.release()
        if dropped:
            self.take_back()

    # -- and back again

    # While a thread brings something home, nothing that takes long is packed by it: see `RemoteScheduler`. Several
    # add and discard themselves without a lock: each looks for itself only.

    def stream(self, chunk: Message) -> None:
        self._bring(partial(self._stream, chunk))

    def _stream(self, chunk: Message) -> None:
        broken: BaseException | None = None
        with self._lock:
            if self.claim.ended:
                return
            try:
                self.receiver.read(chunk)
            except BaseException as error:  # of whatever kind: objects of others are unpickled
                broken = error
        if broken is not None:
            self.give_up(self.receiver.unreadable("a chunk", broken))
            if is_interrupt(broken):
                raise broken
        self.sender.engine.settle([self.claim.run])

    def finish(self, reply: Message) -> None:
        self._end_by_pool(partial(self.receiver.read_last, reply, self.size))

    def fail(self, error: BaseException, at: int | Unknown | None = None) -> None:
        known, around = as_exception(error, f"strategy {self.sender.strategy.name!r}"), sys.exception()

        def fail_rest() -> None:
            self.claim.fail_rest(known, at, self.receiver.clock.sent)
            self.claim.forget_frames(known, around)  # it may lead to this task, and to what is in it

        self._end_by_pool(fail_rest)

    def _end_by_pool(self, what: Callable[[], None]) -> None:
        if not self.is_kept:
            self._bring(partial(self._end_with, what, by_pool=True))
        elif self._end(by_pool=True):  # which waits for the disk, and the pool's thread is not to
            self.busy = None
            self.sender.engine.aside.do(partial(self._see_home, what))

    def _bring(self, what: Callable[[], None]) -> None:
        self.sender.bringing.add(me := get_ident())
        try:
            what()
        finally:
            self.sender.bringing.discard(me)

    def give_up(self, error: BaseException) -> None:
        """Fail it for its pool, which is lost or closed, and may still say something of this task."""
        self._end_with(lambda: self.claim.fail_rest(error, None, self.receiver.clock.sent))

    def take_back(self) -> None:
        """Put everything back: the pool has not run it."""
        self._end_with(lambda: None)

    def withdraw(self) -> None:
        """Go on where this thread was interrupted while it sent the task or saw to its end: have done with it.

        What the pool may have been given, and won't give back, has failed: it is not to run twice.
        """
        if self.claim.ended:
            self._close()
        elif self.claim.run.stopped or self.where < GIVEN or _gives_back(self.sender, self):
            self.take_back()
        else:
            self.give_up(StrategyError(f"task {self.id}: an exception came while it was given to its pool"))

    def _end_with(self, what: Callable[[], None], by_pool: bool = False) -> None:
        """End the task, if it has not ended: do this, put back what was not started, and settle its job."""
        try:
            with self._lock:
                if self._end(by_pool):
                    self._count_with(what)
        finally:
            self.sender.engine.settle([self.claim.run])

    def _see_home(self, what: Callable[[], None]) -> None:
        """Go on ending a task that is over already; what has come of it is on disk when it is home."""
        self.busy = get_ident()
        try:
            with self._lock:
                self._count_with(partial(self._keep, what))
        finally:
            self.sender.engine.settle([self.claim.run])

    def _keep(self, what: Callable[[], None]) -> None:
        try:
            what()
        finally:
            if (book := self.claim.run.book) is not None:
                book.settled()

    def _count_with(self, what: Callable[[], None]) -> None:
        """Do this, put back what was not started, and let go of the task.

        Whatever is raised on the way, nothing stays claimed, and no job waits for it; a Ctrl-C alone is raised on.
        """
        # The lock is held.
        try:
            what()
        except BaseException as error:
            if is_interrupt(error):
                raise
            logger().exception("task %s could not be ended", self.id)
            self.claim.broke(error)
        finally:
            self._close()

    def _end(self, by_pool: bool) -> bool:
        """Note that the task is over, if it was not; a pool that ends what was given up for it does nothing wrong."""
        with self._lock:
            ended, self.claim.ended = self.claim.ended, True
            twice, self._ended_by_pool = ended and by_pool and self._ended_by_pool, self._ended_by_pool or by_pool
        if twice:
            logger().warning("task %s was ended twice by its pool; what came later is ignored", self.id)
        elif not ended:
            self.busy = get_ident()
            self.sender.came_back(self)
        return not ended

    def _close(self) -> None:
        """Put back what was not started, and let go of what was sent."""
        if self._ended_by_pool or self.where < GIVEN:  # else the pool may just be asking for it
            self._envelope = None
        self.sender.is_home(self)


class Tasks:
    """The tasks of one scheduler, until all of each is counted or put back. Guarded by the engine's lock."""

    __slots__ = ("_numbers", "_revoked", "away", "homing", "put_off")

    def __init__(self) -> None:
        self.away: set[RemoteTask] = set()  # sent, or just being sent
        self.put_off: deque[RemoteTask] = deque()  # of those, what the pool had no room for, or had none
        self.homing: set[RemoteTask] = set()  # no longer away, but not all of them is counted or put back yet
        self._revoked: list[RemoteTask] = []  # of jobs that were stopped: the pool is to be asked for them
        self._numbers = itertools.count(1)

    def __iter__(self) -> Iterator[RemoteTask]:
        return iter((*self.away, *self.homing))

    def next_put_off(self) -> RemoteTask | None:
        """Take out, into this thread's hands, what has waited longest for the pool to have room."""
        if not self.put_off:
            return None
        task = self.put_off[0]
        task.busy = get_ident()  # before it is taken out: an interruption finds it in either place
        self.put_off.popleft()
        return task

    def new_id(self) -> str:
        return f"batch-{next(self._numbers)}"

    def turn_home(self, task: RemoteTask) -> None:
        """Count a task as no longer away."""
        self.homing.add(task)  # first: whoever comes in between finds it in both, rather than in neither
        self.away.discard(task)

    def away_of(self, run: object) -> list[RemoteTask]:
        return [task for task in self.away if task.claim.run is run]

    def revoke(self, run: object) -> bool:
        """Note that the pool is to be asked for what is away of a run; return whether there is anything to ask for."""
        self._revoked += self.away_of(run)
        return bool(self._revoked)

    def take_revoked(self) -> list[RemoteTask]:
        revoked, self._revoked = self._revoked, []
        return revoked

    def clear(self) -> None:
        for each in (self.away, self.put_off, self.homing, self._revoked):
            each.clear()


def _gives_back(sender: Sender, task: RemoteTask) -> bool:
    """Return whether the pool gives a task back that it may have been given."""
    return bool(sender.ask_pool("cancel", lambda pool: pool.cancel(task)))
