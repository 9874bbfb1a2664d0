"""All the queues of a flow, its running jobs, and the one lock.

The lock guards what several threads touch: the queues, the permits and waiting lists of the nodes, the counts of the
runs and the timers. It is held for a few bytecodes at a time, and never across a handler or a plugin.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from threading import get_ident
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from routilux_core._engine.ending import announce_end, announce_end_again, nudge
from routilux_core._engine.mending import put_in_order
from routilux_core._engine.plan import JOB, Inlet, Item, Node
from routilux_core._engine.roles import JobRole, SchedulerRole
from routilux_core._routines.frame import CURRENT, check_outside, here
from routilux_core._threads.aside import Aside
from routilux_core._threads.completion import Completion
from routilux_core._threads.guard import guarded, is_held_here, new_lock
from routilux_core._threads.timers import Timers
from routilux_core._threads.visits import Visit, Visits
from routilux_core._tracking.totals import Measures
from routilux_core.error_handling import Decision, ErrorHandler, ErrorStrategy, Failure
from routilux_core.errors import FlowStateError, StrategyError
from routilux_core.seconds import LONGEST
from routilux_core.strategy import Done, WorkerPool

if TYPE_CHECKING:
    import logging

T = TypeVar("T")

TICK = 0.02  # seconds between two looks at the clock, where the timers have no thread
IN_CALLER = 0.25  # seconds between two looks whether they have none, for who works while it waits
SLICE = 0.005  # seconds for each pool where several work in the caller's thread


class Engine:
    """All the queues of a flow, its running jobs, and what they share."""

    __slots__ = (
        "__weakref__",
        "acquire",
        "aside",
        "behind",
        "capture",
        "deferred",
        "ending",
        "error_handler",
        "forked",
        "gather_order",
        "has_timeouts",
        "held_up",
        "hurt",
        "inlets",
        "journaled",
        "keeps_frames",
        "lock",
        "mask",
        "max_pending",
        "measures",
        "nodes",
        "raised",
        "release",
        "runs",
        "schedulers",
        "timers",
        "visits",
        "when_idle",
    )

    def __init__(self, max_pending: int, history_size: int, capture: str = "text") -> None:
        self.lock = new_lock()
        # For the hot path: `with lock` costs three times as much as these two calls.
        self.acquire, self.release = self.lock.acquire, self.lock.release
        self.max_pending = max_pending
        self.capture = capture
        self.keeps_frames = capture == "frames"  # of exceptions that were decided about
        # An emitter looks how much waits when the number of what it posts has none of these bits: now and then.
        self.mask = (1 << max(0, (max_pending // 16).bit_length() - 1)) - 1
        self.schedulers: Sequence[SchedulerRole] = ()  # the list of who makes them
        self.nodes: dict[str, Node] = {}
        self.inlets: list[Inlet] = []  # by number
        self.measures = Measures(history_size)
        self.runs: set[JobRole] = set()
        self.ending: set[JobRole] = set()  # no longer among them, but those who wait have not been told yet
        self.deferred: deque[Callable[[], None]] = deque()
        self.aside = Aside()  # where what may take long is done for threads that others wait for
        self.behind = 0  # jobs whose listeners are so slow that nothing more is shipped
        self.timers = Timers(self.lock, self.run_deferred, self._nudge)
        self.held_up = 0  # handlers in event loops that wait for room for what they emit
        self.has_timeouts = False  # of any routine
        self.journaled = False  # each job has a journal
        self.error_handler = ErrorHandler()
        self.gather_order: list[Inlet] = []
        self.raised: list[Node] = []  # nodes whose mark was raised
        self.when_idle: Callable[[], None] | None = None
        self.forked: str | None = None  # why nothing goes any more: this is a fork, and a job ran when it was made
        self.visits = Visits(self.lock)
        self.hurt = False  # an exception has left the engine between two of its steps

    def share_out(self) -> None:
        """Let no worker be alone any more, if there are several schedulers by now."""
        if len(self.schedulers) > 1:
            with self.lock:
                for scheduler in self.schedulers:
                    scheduler.share_out()
                self.mask = 0  # numbers without those bits could all go elsewhere

    @guarded
    def want_workers(self) -> None:
        """Ask for workers wherever there is something to do."""
        for scheduler in self.schedulers:
            scheduler.crew.want_worker()

    def step(self, run: JobRole | None = None) -> Step:
        """Return one step, with what follows from it: see `Step`."""
        return Step(self, run)

    def run_deferred(self) -> None:
        """Submit the tasks that were called for, and tell listeners what they wait for. The lock is not held."""
        while True:
            try:
                call = self.deferred.popleft()  # one step: several threads may be here, and each takes others
            except IndexError:
                return
            call()

    @guarded
    def _nudge(self) -> None:
        """Have those who wait for jobs keep the time: the timers have no thread."""
        for run in self.runs:
            nudge(run)

    # -- interruptions: see `mending` and `visits`

    def recover(self) -> None:
        """Free the lock if an exception hit this thread between `acquire` and the `try` behind it."""
        while is_held_here(self.lock):
            self.lock.release()

    def mend(self, gone: Any = None) -> None:
        """Put the books in order after an interruption, and finish what has ended. Not in the middle of a step.

        `gone` is a worker that works no longer. What interrupts this itself leaves the flow `hurt`.
        """
        self.recover()
        try:
            with self.lock:
                self.hurt = False
                put_in_order(self.schedulers, self.runs, self.all_nodes(), CURRENT.get(), gone)
                self.timers.mend()
                ended = [run for run in (*self.runs, *self.ending) if run.end_if_idle() or run.ended]
            for scheduler in self.schedulers:
                scheduler.take_back_unsent()
            for run in ended:
                announce_end_again(run)
            self.aside.mend()
            self.run_deferred()
        except BaseException:
            self.hurt = True
            raise

    # -- what there is

    def check_fork(self) -> None:
        """Refuse a flow in the child of a fork that was made while a job of it ran."""
        if self.forked is not None:
            raise FlowStateError(self.forked)

    def forget_jobs(self) -> list[str]:
        """Have no jobs, and nothing under way; return the ids of those that ran. The child of a fork.

        A handler that has forked is the last that its thread calls: the rest of its job is the parent's.
        """
        # Who waits for a job may fork as soon as it is told, and be faster than the thread that told it.
        running = [*self.runs, *(run for run in self.ending if not run.ending.done.is_set())]
        for hand in self.hands():
            if hand.thread == get_ident():
                hand.claimed.clear()
        for run in running:
            run.leave()
        for node in self.all_nodes():
            node.mailbox.waiting.clear()
            node.mailbox.recount(0)
        for each in (self.runs, self.ending, self.deferred, self.raised):
            each.clear()
        self.when_idle = None
        return [run.job_id for run in running]

    @guarded
    def hands(self) -> list[Any]:
        """Return the workers that share our memory and are in their loop."""
        return [hand for scheduler in self.schedulers for hand in scheduler.hands]

    @guarded
    def collect(self, run: object) -> None:
        """Add what workers have counted for themselves of a run so far.

        What was completed first, what was posted second: so no activation is counted as over that is not as posted.
        """
        workers = [worker for worker in self.hands() if worker.joined is run]
        try:
            for worker in workers:
                worker.flush_records_of_another()
            for worker in workers:
                worker.flush_posted()
        except BaseException:  # a signal handler has raised
            self.hurt = True
            raise

    @contextmanager
    def up_to_date(self, runs: Iterable[JobRole] | None = None) -> Iterator[None]:
        """Hold the lock, with everything that workers have counted of these runs, or of all, so far.

        A signal handler that reads in the middle of a step of its own thread finds what was counted before that.
        """
        interrupted = is_held_here(self.lock)
        with self.lock:
            for run in () if interrupted else tuple(self.runs if runs is None else runs):
                self.collect(run)
            yield

    def running(self) -> list[JobRole]:
        """Return the jobs that run."""
        with self.lock:
            return list(self.runs)

    def unfinished(self) -> list[JobRole]:
        """Return the jobs that run, and those whose end is being told to listeners."""
        with self.lock:
            return [*self.runs, *self.ending]

    def take_in(self, run: JobRole, queue: Callable[[], T]) -> T:
        """Have a run more, and return what `queue` does, which queues its entry, or what is left of it elsewhere.

        `settle` follows.
        """
        try:
            with self.lock:
                self.runs.add(run)
                for twin in run.own.values():
                    twin.place(twin.scheduler)  # anew: until now it was in no list, and might have been overlooked
                self.measures.start(run.ledger)
                queued = queue()
                run.end_if_idle()
        except BaseException:  # it may be counted, and not be there
            self.hurt = True
            raise
        return queued

    def note_failure(
        self, run: JobRole, failure: Failure, decision: Decision, state: str | None, status: str
    ) -> Decision:
        """Note a failure as decided, and stop its job as `status` on STOP; return what is done in the end."""
        with self.lock:
            if run.stopped and decision.strategy is ErrorStrategy.RETRY:
                decision = Decision(ErrorStrategy.STOP)  # there is no other attempt
            failure.decision = decision.strategy
            run.ledger.note_failure(failure, state)
            if run.book is not None:
                run.book.decide(failure, state)
            if decision.strategy is ErrorStrategy.STOP:
                run.stop(status)
        return decision

    def rest_of(self, run: JobRole) -> Completion | None:
        """Return what is set when a run has ended or is paused; None if it is paused already."""
        with self.lock:
            if run.paused:
                return None
            run.ending.at_rest = rest = Completion()
            return rest

    def close_books(self, run: JobRole) -> bool:
        """Have a run that has ended no longer; False where another thread has been here."""
        with self.lock:
            if run.ending.finisher is not None:
                return False
            run.ending.finisher = get_ident()
            run.ledger.finished = True
            self.ending.add(run)
            self.runs.discard(run)  # not before: who finds no jobs has to find them finished
            run.ledger.history.trim()
            self.measures.end(run.ledger)
            for node in self.raised:
                node.mark = 0
            self.raised.clear()
            if not self.runs:
                self.timers.wake()  # what is left there was cancelled: its thread may end
            return True

    def forget_end(self, run: JobRole) -> Callable[[], None] | None:
        """The end of a run was told. Return what is to be called if no other runs."""
        with self.lock:
            self.ending.discard(run)
            return None if self.runs else self.when_idle

    def call_when_idle(self, call: Callable[[], None]) -> bool:
        """Let a call be made behind the last job that runs; where none runs it is not made. Return which."""
        with self.lock:
            self.when_idle = call if self.runs else None
            return bool(self.runs)

    def add_node(self, node: Node) -> None:
        """Take a routine in, wired. Who asks a job that has ended may look at the nodes meanwhile."""
        with self.lock:
            self.nodes[node.routine_id] = node

    def remove_node(self, routine_id: str) -> None:
        """Let a routine go; no job runs."""
        with self.lock:
            del self.nodes[routine_id]

    @guarded
    def all_nodes(self) -> list[Node]:
        """Return the nodes, with those that single jobs have of their own."""
        return [*self.nodes.values(), *(node for run in self.runs for node in run.own.values())]

    @guarded
    def drop(self, run: JobRole) -> list[Item]:
        """Take everything of a run out of queues and waiting lists."""
        gone: list[Item] = []
        for node in self.all_nodes():
            if node.mailbox.waiting:
                gone += _sift(node.mailbox.waiting, run)
        for scheduler in self.schedulers:
            gone += scheduler.drop(run)
            scheduler.crew.want_worker()
        return gone

    def wait(self, runs: Iterable[JobRole], timeout: float | None, until: Done | None = None) -> bool:
        """Wait until the runs have ended (or for `until`), doing the work here where a pool does it in its caller.

        Whatever exception ends the waiting cancels them, and is raised on: a signal handler raised it, most often.
        """
        waited, frame = list(runs), here()
        if frame is None:
            return self._wait(waited, timeout, until)
        for run in waited:
            run.ending.waiters.append(frame)
        try:  # look once more, now that others see it: they may just have begun to wait for this
            check_outside(self, "a wait for a job")
            return self._wait(waited, timeout, until)
        finally:
            for run in waited:
                run.ending.waiters.remove(frame)

    def _wait(self, waited: list[JobRole], timeout: float | None, until: Done | None) -> bool:
        deadline = deadline_of(timeout)
        for run in waited:
            if not run.ending.done.is_set():
                self.check_fork()
        try:
            if self.hurt:
                self.mend()
            ended = True
            for run in waited:
                ended = ended and self._wait_for(until or run.ending.done, deadline)
            return ended
        except BaseException:
            self.hurt = True
            self.recover()
            for run in waited:
                if run.book is not None:  # who waited goes on as after a crash: the job can be recovered
                    run.book.detach()
                run.abort()
            self.mend()
            raise

    @guarded
    def has_of(self, run: JobRole) -> bool:
        """Return whether anything of a run is queued, in hand or away."""
        if any(scheduler.has_of(run) for scheduler in self.schedulers):
            return True
        # A copy of each list: where a lane is shared, emitters append to it without the lock.
        return any(item[JOB] is run for node in self.all_nodes() for item in node.mailbox.waiting.copy())

    def check_may_wait(self, what: str, instead: str) -> None:
        """Refuse to wait in the thread of an event loop in which handlers run: it would stop them."""
        for scheduler in self.schedulers:
            if scheduler.pool is not None and scheduler.pool.runs_here():
                raise FlowStateError(
                    f"{what} was called in the event loop in which strategy {scheduler.strategy.name!r} runs handlers, "
                    f"and would stop it: {instead}"
                )

    @guarded
    def is_stuck(self) -> bool:
        """Return whether nothing is under way but handlers that wait for room."""
        under_way = sum(len(list(scheduler.in_hand())) for scheduler in self.schedulers)
        return under_way <= self.held_up and not any(scheduler.crew.recruiting for scheduler in self.schedulers)

    def works_in_caller(self) -> bool:
        """Return whether some pool does its work in the thread of who waits."""
        return any(scheduler.pool is not None and scheduler.pool.in_caller for scheduler in self.schedulers)

    def _wait_for(self, done: Done, deadline: float | None) -> bool:
        pools = [
            scheduler.pool for scheduler in self.schedulers if scheduler.pool is not None and scheduler.pool.in_caller
        ]
        if pools:
            with Visit(self):  # what this thread has in hand between two tasks, nobody else does meanwhile
                return self._work_for(done, deadline, pools)
        while not done.is_set():
            left = seconds_left(deadline)
            most = TICK if self.timers.keep_time(0.0) else LONGEST
            done.wait(most if left is None else min(left, most))
            if left == 0.0:
                break
        return done.is_set()

    def _work_for(self, done: Done, deadline: float | None, pools: list[WorkerPool]) -> bool:
        while not done.is_set():
            left = seconds_left(deadline)
            most = TICK if self.timers.keep_time(0.0) else IN_CALLER
            if len(pools) == 1:
                if not _works_on(pools[0], done, most if left is None else min(left, most)):
                    break
            else:
                for pool in pools:  # each has to be given a turn
                    pool.wait(done, SLICE)
            if left == 0.0:
                break
        return done.is_set()

    def settle(self, ended: list[JobRole]) -> None:
        """Finish runs that may have ended, and answer calls. The lock is not held."""
        for run in ended:
            announce_end(run)
        self.run_deferred()


class Step:
    """`with engine.step(run):` holds the lock, and ends the run with it if nothing of it is left.

    Without it the end is announced then, and what the step has asked for is done: workers are submitted, listeners
    told. None of that follows where the step has raised. So it is not for who has the lock already, or one that is
    taken before it: a task's own, say. Nor for who is interrupted by Ctrl-C where nobody mends: outside a `Visit`, in
    the thread of a caller, `with engine.lock` alone is one piece. The hot path does by hand what it needs of this.
    """

    __slots__ = ("_engine", "_run")

    def __init__(self, engine: Engine, run: JobRole | None) -> None:
        self._engine, self._run = engine, run

    def __enter__(self) -> None:
        self._engine.acquire()  # interrupted behind this, it is for `Engine.recover`

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        engine, run = self._engine, self._run
        try:
            if error is None and run is not None:
                run.end_if_idle()
        finally:
            engine.release()
        if error is not None:
            return
        if run is not None and run.ended:
            announce_end(run)
        if engine.deferred:
            engine.run_deferred()


def deadline_of(timeout: float | None) -> float | None:
    """Return the time of the monotonic clock at which a number of seconds from now is over."""
    return None if timeout is None else monotonic() + timeout


def seconds_left(deadline: float | None) -> float | None:
    """Return the seconds until a deadline, at least 0; None where there is none."""
    return None if deadline is None else max(0.0, deadline - monotonic())


def _works_on(pool: WorkerPool, done: Done, seconds: float) -> bool:
    """Let a pool work in this thread; return whether it may have more to do: one that comes back early has not."""
    began = monotonic()
    return pool.wait(done, seconds) or monotonic() - began >= seconds / 2


@guarded
def _sift(waiting: deque[Item], run: JobRole) -> list[Item]:
    """Take what belongs to a run out of a waiting list, to whose end others may append meanwhile."""
    # As many as there were: what is appended meanwhile, without the lock, stays behind those that are put back.
    items = [waiting.popleft() for _ in range(len(waiting))]
    waiting.extendleft(reversed([item for item in items if item[JOB] is not run]))
    return [item for item in items if item[JOB] is run]


def logger() -> logging.Logger:
    """Return the engine's logger."""
    from routilux_core._text.log import log  # a flow in which nothing goes wrong needs none

    return log


def as_exception(told: object, teller: str) -> BaseException:
    """Return what a pool gives as an error, as an exception: a text or a class is made one, with a warning."""
    if isinstance(told, BaseException):
        return told
    logger().warning("%s gave %r as an error: give an exception", teller, told)
    if isinstance(told, type) and issubclass(told, BaseException):
        try:
            return told()
        except Exception:
            return StrategyError(f"{teller} gave the class {told.__qualname__} as its error")
    return StrategyError(told if isinstance(told, str) else f"{teller} gave {told!r} as its error")
