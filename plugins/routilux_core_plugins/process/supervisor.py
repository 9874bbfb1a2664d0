"""The one thread that starts the workers of a pool, reads from them, ends them and replaces them.

It starts them since the system ends a worker with the thread that started it. It never waits for anything but its
selector, so that no worker waits for another one. It runs no handler.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from multiprocessing.util import Finalize
from queue import SimpleQueue
from time import monotonic
from typing import Any

from routilux_core import Host, StrategyError, Task
from routilux_core.seconds import stretch
from routilux_core.strategy import Piece
from routilux_core_plugins.process.assignment import Failure, Roster, closed_error, fail_all
from routilux_core_plugins.process.channel import BEGUN, CHUNK, READY, BrokenChannelError, Frame
from routilux_core_plugins.process.handle import GRACE, Batch, Worker
from routilux_core_plugins.process.launcher import NEVER, UNGUARDED, Settings, Starts, was_killed, why_not_ready

EXIT_PATIENCE = 3.0  # seconds for the pool to end at interpreter exit


class Supervisor:
    """A pool's inside. It knows nothing of the pool, so that a forgotten pool can be found out and ended."""

    def __init__(self, settings: Settings, host: Host) -> None:
        self.settings = settings
        self.roster = Roster(settings.workers)
        self.owner = os.getpid()
        self._host = host
        self._starts = Starts(settings)
        # Not a `threading.Event`: an exception of a signal handler can leave its lock held, and `set` waits for ever.
        self._opened = False  # a worker is ready, or there is none, and won't be
        self._news: SimpleQueue[None] = SimpleQueue()  # that it is opened
        self._error: StrategyError | None = None  # why no worker could be started
        self._close_at: float | None = None  # set: the pool is being closed; what runs is ended then
        self._drop = False  # what waits is dropped
        self._selector = selectors.DefaultSelector()
        self._waker, self._wakes = socket.socketpair()
        self._waker.setblocking(False)
        self._wakes.setblocking(False)
        self._selector.register(self._wakes, selectors.EVENT_READ, self._on_wake)
        self._thread = threading.Thread(target=self._work, name="routilux-process", daemon=True)
        self._at_exit: Finalize = Finalize(None, self._exit, exitpriority=100)

    # -- called by any thread

    def open(self) -> None:
        """Start the workers, and wait for the first of them."""
        try:
            self._thread.start()
        except RuntimeError as error:
            self._release()
            raise StrategyError(f"the system gives no thread to look after worker processes: {error}") from error
        try:
            self._news.get()
        except BaseException:  # a KeyboardInterrupt
            self.close(cancel=True, timeout=0.0)
            raise
        if self._error is not None:
            self._wait_for_end(GRACE)
            raise self._error

    def submit(self, task: Task) -> None:
        """Take a task, and hand it to a worker."""
        if self.roster.add(task):
            self.wake()

    def wake(self) -> None:
        """Have the supervisor look at everything."""
        with contextlib.suppress(OSError):  # it is awake, or has ended
            self._waker.send(b"\0")

    def close(self, *, cancel: bool, timeout: float | None) -> None:
        """End the pool, and wait for its end, at most `timeout` seconds."""
        if os.getpid() != self.owner:
            return
        deadline = NEVER if timeout is None else monotonic() + timeout
        with self.roster.lock:
            self._drop = self._drop or cancel
            self._close_at = deadline if self._close_at is None else min(deadline, self._close_at)
            if self.roster.closed is None:
                self.roster.closed = closed_error()
        self.wake()
        self._wait_for_end(stretch(timeout))

    def _wait_for_end(self, timeout: float | None) -> None:
        if self._thread.ident is not None and threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def abandon(self) -> None:
        """End the pool, and wait for nothing."""
        self.close(cancel=True, timeout=0.0)

    def leave(self) -> None:
        """Close the copies that a fork has of what leads to the workers. They are the parent's, and so is the pool."""
        # Not through the selector: it has a copy as well, of what the parent's selects with.
        self._selector.close()
        self._waker.close()
        self._wakes.close()
        for worker in self.roster.workers:
            worker.close()

    def _exit(self) -> None:
        """The interpreter exits."""
        self.close(cancel=True, timeout=0.0)
        self._wait_for_end(EXIT_PATIENCE)

    # -- the thread

    def _work(self) -> None:
        try:
            self._loop()
        except BaseException as error:
            broken = StrategyError(f"the supervisor of the process pool broke: {error!r}")
            with ExitStack() as steps:  # from the last to the first, and each of them, whatever another one raises
                steps.callback(self._abandon)
                steps.callback(self._break, broken)
                steps.callback(self._host.log.error, "%s", broken, exc_info=error)
        finally:
            self._release()

    def _release(self) -> None:
        """Give back what the pool itself holds, and say that it has ended."""
        self._at_exit.cancel()
        self._selector.close()
        self._waker.close()
        self._wakes.close()
        self._say_opened()

    def _say_opened(self) -> None:
        if not self._opened:
            self._opened = True
            self._news.put(None)

    def _loop(self) -> None:
        while True:
            now = monotonic()
            self._refill(now)
            if self._close_at is not None and self._wind_up(now):
                return
            for key, mask in self._selector.select(self._patience(now)):
                key.data(mask)

    def _patience(self, now: float) -> float | None:
        """Enforce what is over; return the seconds until the next deadline."""
        deadlines: list[float | None] = [self._close_at if self._close_at != NEVER else None]
        if now < self._starts.next_at < NEVER:
            deadlines.append(self._starts.next_at)
        with self.roster.lock:
            fail_later = self.roster.spread()
            for worker in self.roster.workers:
                deadlines.append(worker.check(now))
                self._watch_for(worker)
        fail_all(fail_later)
        nearest = min((each for each in deadlines if each is not None), default=None)
        return None if nearest is None else stretch(nearest - now)

    def _watch_for(self, worker: Worker) -> None:
        """Wait until a worker can take more, exactly while something is left to send."""
        if worker.channel.at_end:
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.channel.waits else 0)
        key = self._selector.get_key(worker.channel.sock)
        if key.events != wanted:
            self._selector.modify(worker.channel.sock, wanted, key.data)

    def _on_wake(self, _mask: int) -> None:
        with contextlib.suppress(OSError):
            self._wakes.recv(4096)

    # -- starting

    def _refill(self, now: float) -> None:
        """Start the workers that are missing."""
        while self._is_wanted() and self._starts.may_start(now, self._starting()):
            try:
                worker = self._starts.start()
            except Exception as error:
                self._start_failed(StrategyError(f"a worker process could not be started: {error!r}"))
                return
            self._selector.register(worker.channel.sock, selectors.EVENT_READ, partial(self._on_channel, worker))
            if sys.platform != "win32":
                self._selector.register(worker.end, selectors.EVENT_READ, partial(self._on_end, worker))
            with self.roster.lock:
                self.roster.workers.append(worker)

    def _starting(self) -> int:
        return sum(not worker.ready for worker in self.roster.workers)

    def _is_wanted(self) -> bool:
        closing = self._close_at is not None and (self._drop or not self.roster.waiting)
        return not closing and self.roster.present() < self.roster.size

    def _start_failed(self, error: StrategyError, killed: bool = False) -> None:
        """Try again a little later; after some times in a row, go on with the workers there are, if any."""
        if self._starts.failed(killed):
            self._give_up(error)
        else:
            self._host.log.warning("%s", error)

    def _give_up(self, error: StrategyError) -> None:
        """Start no more workers, and go on with those that are left, if any."""
        if any(worker.reason is None for worker in self.roster.workers):
            self._host.log.warning("%s", error)
        else:
            self._break(error)

    def _break(self, error: StrategyError) -> None:
        """Give up: no worker can be started."""
        self._error = error
        with self.roster.lock:
            self.roster.closed = error
            self._close_at, self._drop = monotonic(), True
        with (
            ExitStack() as steps
        ):  # the flow lets go of this pool first: who hears that a job has failed may run the next
            steps.callback(fail_all, self.roster.give_up_waiting(error))
            if self._opened:
                steps.callback(self._host.lost, error)

    # -- reading

    def _on_channel(self, worker: Worker, mask: int) -> None:
        if worker not in self.roster.workers:  # its end came in the same round
            return
        if mask & selectors.EVENT_WRITE:
            with self.roster.lock:
                worker.channel.flush()
        if not mask & selectors.EVENT_READ or worker.channel.at_end:
            return
        try:
            for frame in worker.channel.read():
                self._take(worker, frame)
        except BrokenChannelError as error:
            with self.roster.lock:
                worker.kill(f"sent {error}")
        if worker.channel.at_end:
            self._selector.unregister(worker.channel.sock)
            with self.roster.lock:
                worker.leaving = True
                worker.deadline = worker.deadline or monotonic() + GRACE
            if sys.platform == "win32":
                worker.process.join(GRACE)
                self._bury(worker)

    def _take(self, worker: Worker, frame: Frame) -> None:
        kind, number, pieces = frame
        if kind == READY:
            self._is_ready(worker)
        elif worker.batches and worker.batches[0].number == number:
            if kind == BEGUN:
                worker.begin_call()
            elif kind == CHUNK:
                self._tell(worker.batches[0].task.stream, pieces)
            else:
                self._reply(worker, pieces)

    def _is_ready(self, worker: Worker) -> None:
        with self.roster.lock:
            worker.ready, worker.deadline = True, None
            failed = self.roster.spread()
        fail_all(failed)
        self._starts.succeeded()
        self._say_opened()

    def _reply(self, worker: Worker, pieces: list[Piece]) -> None:
        """Give the worker its next batch before the engine looks at this one."""
        limit = self.settings.max_tasks_per_worker
        with self.roster.lock:
            batch = worker.batches.popleft()
            worker.done += batch.task.size
            if limit is not None and worker.done >= limit:
                worker.leaving = True
                if not worker.batches and worker.deadline is None:
                    worker.retire()
            failed = self.roster.spread()
        fail_all(failed)
        self._tell(batch.task.finish, pieces)

    def _tell(self, method: Callable[..., None], *arguments: Any, **settings: Any) -> None:
        """Call a task. Its errors are the engine's, and must not end the pool."""
        try:
            method(*arguments, **settings)
        except BaseException:
            self._host.log.exception("%r raised", method)

    # -- ending

    def _on_end(self, worker: Worker, _mask: int) -> None:
        self._bury(worker)

    def _bury(self, worker: Worker) -> None:
        """Take a dead worker out: what it told stands, what ran fails, what it had not begun goes to others."""
        if sys.platform != "win32":
            self._selector.unregister(worker.end)
        if not worker.channel.at_end:
            self._selector.unregister(worker.channel.sock)
        surprising, was_ready = not worker.retired and worker.reason is None, worker.ready
        worker.leaving = True  # what it told lets others have work, and not this one
        for frame in worker.last_words():
            self._take(worker, frame)
        with self.roster.lock:
            self.roster.workers.remove(worker)
            unbegun = list(worker.batches)
            worker.batches.clear()
            running = self._blamed(worker, unbegun)
            self.roster.waiting.extendleft(reversed(unbegun))
            failed = self.roster.spread()
        self._starts.take_back(worker)
        if running is not None:
            self._tell(running[0].task.fail, worker.error_for(running[0]), at=running[1])
        if was_ready:
            self._died(worker, surprising and running is None)
        elif self._close_at is None and worker.exit_code() == UNGUARDED:
            self._break(why_not_ready(worker))  # so it is with all of them
        elif self._close_at is None:
            self._start_failed(why_not_ready(worker), was_killed(worker))
        worker.release()
        fail_all(failed)

    def _died(self, worker: Worker, in_vain: bool) -> None:
        """Note the end of a worker that was ready."""
        if in_vain:
            self._host.log.warning("worker process %s was lost: %s", worker.pid, worker.fate())
        if self._starts.died(worker, in_vain and not worker.done):
            fate = worker.fate()
            self._give_up(StrategyError(f"one worker process after the other was lost soon after its start: {fate}"))

    def _blamed(self, worker: Worker, batches: list[Batch]) -> tuple[Batch, int] | None:
        """Take out of the batches of a dead worker the one that ran, if one did, and say where in it."""
        if not batches:
            return None
        first = batches[0]
        index = worker.index_in(first)
        first.losses += 1
        if index is None and not (first.expired or first.killed or first.losses >= self.settings.max_worker_losses):
            return None
        return batches.pop(0), index or 0

    def _wind_up(self, now: float) -> bool:
        """Go on closing; return whether it is done."""
        over = self._close_at is not None and now >= self._close_at
        if over or self._drop:
            fail_all(self.roster.give_up_waiting(self.roster.closed or closed_error()))
        with self.roster.lock:
            for worker in self.roster.workers:
                useless = over if worker.batches else not (worker.ready or self.roster.waiting)
                if useless and worker.reason is None:
                    worker.kill("the pool was closed")
                elif worker.is_open and not worker.batches and not self.roster.waiting:
                    worker.retire()
            if over:
                self._close_at, self._drop = NEVER, True  # what is left has deadlines of its own
            return not self.roster.workers and not self.roster.waiting

    def _abandon(self) -> None:
        """End without the loop."""
        failed: list[Failure] = []
        with self.roster.lock:
            for worker in self.roster.workers:
                worker.kill("the pool broke")
                failed += [(batch.task, worker.error_for(batch)) for batch in worker.batches]
                worker.process.join(GRACE)
                worker.release()
            self.roster.workers.clear()
        fail_all(failed)
