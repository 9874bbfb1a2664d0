"""Execution strategy `pipes`: worker processes that are spoken to through their standard input and output.

A pool in full, with nothing but public names: what it does, and why, is told in docs/plugins.md line by line.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import threading
from collections import deque
from multiprocessing.connection import Connection
from time import monotonic
from typing import Any, ClassVar

from attrs import frozen

from routilux_core import ActivationTimeout, Capabilities, ExecutionStrategy, Host, Task, WorkerLost, WorkerPool

__all__ = ["PipesStrategy"]

MOST_STARTS = 3  # of a worker for one task that it never began: then the task fails
GRACE_S = 2.0  # for a worker to end by itself when its pipe was closed


@frozen(kw_only=True)
class PipesStrategy(ExecutionStrategy):
    """Up to `max_workers` processes, by default one for each cpu, started when they are needed."""

    name: ClassVar[str] = "pipes"
    contract: ClassVar[int] = 2
    capabilities: ClassVar[Capabilities] = Capabilities(
        shares_memory=False, enforces_timeout=True, streams=True, max_batch=256
    )

    def open(self, host: Host) -> WorkerPool:
        return PipesPool(self.max_workers or os.cpu_count() or 1, host)


class PipesPool(WorkerPool):
    """A queue of tasks, and a thread for each worker process that takes them from there."""

    serve = "routilux_pipes.worker:main"  # what a worker runs

    def __init__(self, workers: int, host: Host) -> None:
        self.workers = workers
        self.host = host
        self.preparation = host.preparation()
        self.numbers = itertools.count(1)
        self.waiting: deque[Task] = deque()
        # A signal handler may cancel a job in the middle of a call: the lock has to let its own thread in again.
        self.changed = threading.Condition(threading.RLock())
        self.closed = False
        self.minders = [self.make_minder() for _ in range(workers)]
        for minder in self.minders:
            minder.thread.start()

    def make_minder(self) -> Minder:
        return Minder(self)

    def submit(self, task: Task) -> None:
        with self.changed:
            if not self.closed:
                self.waiting.append(task)
                self.changed.notify()
                return
        self.refuse(task)

    def refuse(self, task: Task) -> None:
        task.fail(RuntimeError("the pool is closed"))

    def next_task(self) -> Task | None:
        """Wait for a task, and return it; None when the pool is closed, and nothing waits any more."""
        with self.changed:
            while not (self.waiting or self.closed):
                self.changed.wait()
            return self.waiting.popleft() if self.waiting else None

    def cancel(self, task: Task) -> bool:
        with self.changed:
            if task in self.waiting:
                self.waiting.remove(task)
                return True
        minder = self.minder_of(task)
        if minder is not None:
            minder.tell_to_stop(task)
        return False  # what runs may have begun, and its reply is still wanted

    def kill(self, task: Task) -> bool:
        minder = self.minder_of(task)
        return minder is not None and minder.end(task, "it was killed on request")

    def minder_of(self, task: Task) -> Minder | None:
        return next((minder for minder in self.minders if minder.task is task), None)

    def after_fork(self) -> None:
        for minder in self.minders:  # else a worker would not hear of the parent's end while the child lives
            minder.let_go()

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> bool | None:
        deadline = None if timeout is None else monotonic() + timeout
        with self.changed:
            self.closed = True
            dropped = list(self.waiting) if cancel else []
            if cancel:
                self.waiting.clear()
            self.changed.notify_all()
        for task in dropped:
            self.refuse(task)
        self.join(deadline)
        for minder in self.minders:  # their time is over: what they run fails
            minder.end(minder.task, "the pool was closed")
        return self.join(monotonic() + GRACE_S)

    def join(self, deadline: float | None) -> bool:
        """Wait for the threads that look after workers, and return whether all have ended."""
        others = [minder.thread for minder in self.minders if minder.thread is not threading.current_thread()]
        for thread in others:
            thread.join(None if deadline is None else max(0.0, deadline - monotonic()))
        return not any(thread.is_alive() for thread in others)


class Minder:
    """A thread that looks after one worker process: it starts it, sends it tasks, and passes on what it says."""

    def __init__(self, pool: PipesPool) -> None:
        self.pool = pool
        self.task: Task | None = None  # which the worker has
        self.number = 0
        self.at: int | None = None  # which of its activations runs
        self.began = 0.0
        self.why = ""  # we have ended the worker ourselves
        self.late = False
        self.known: frozenset[str] = frozenset()
        self.process: subprocess.Popen[bytes] | None = None
        self.requests: Connection | None = None
        self.replies: Connection | None = None
        self.sending = threading.RLock()
        # A daemon: at exit nothing waits for it. The worker finds its pipe closed, and ends.
        self.thread = threading.Thread(target=self.work, name="routilux-pipes", daemon=True)

    # -- its own thread

    def work(self) -> None:
        try:
            while (task := self.pool.next_task()) is not None:
                try:
                    self.run(task)
                except Exception as error:
                    self.fail(task, error)
                finally:
                    self.task = None
        finally:
            self.stop()

    def run(self, task: Task) -> None:
        """Let the worker run a task. One that it never began is tried again: the worker was gone before."""
        for _ in range(MOST_STARTS):
            self.at = None
            try:
                if self.process is None:
                    self.start()
                self.send(task)
                self.listen(task)
                return
            except (EOFError, OSError):
                reason = self.bury()
                if self.at is not None or self.why:
                    break
        else:
            reason = f"{reason}, {MOST_STARTS} times in a row"
        self.lost(task, reason)

    def start(self) -> None:
        """Start a worker process, and wait until it is ready."""
        module, _, function = self.pool.serve.partition(":")
        code = f"import sys; sys.path[:] = {sys.path!r}; from {module} import {function}; {function}()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.requests = Connection(os.dup(self.process.stdin.fileno()), readable=False)
        self.replies = Connection(os.dup(self.process.stdout.fileno()), writable=False)
        self.process.stdin.close()
        self.process.stdout.close()
        self.known, self.why, self.late = frozenset(), "", False
        self.say(self.first_words())
        kind, _, body = self.replies.recv()
        if kind != "ready":
            self.bury()
            raise RuntimeError(f"a worker process could not be prepared: {body}")

    def first_words(self) -> Any:
        return self.pool.preparation

    def send(self, task: Task) -> None:
        self.number = next(self.pool.numbers)
        self.task = task
        self.say(("task", self.number, task.payload(self.known)))
        self.known |= task.parts  # from now on it knows them

    def say(self, words: Any) -> None:
        with self.sending:
            if self.requests is None:
                raise EOFError
            self.requests.send(words)

    def listen(self, task: Task) -> None:
        """Pass on what the worker says of a task, until its end."""
        assert self.replies is not None
        while True:
            if not self.replies.poll(self.time_left(task)):
                self.late = True
                self.end(task, "its call ran too long")
                raise EOFError
            kind, number, body = self.replies.recv()
            if number != self.number:
                continue
            if kind == "mark":
                self.mark(body)
            elif kind == "chunk":
                task.stream(body)
            elif kind == "reply":
                return task.finish(body)
            else:
                return self.fail(task, RuntimeError(body))

    def mark(self, index: int) -> None:
        self.at, self.began = index, monotonic()

    def time_left(self, task: Task) -> float | None:
        """Return how long the call that runs may still take; its clock starts when it begins."""
        if task.timeout is None or self.at is None:
            return None
        return max(0.0, self.began + task.timeout - monotonic())

    def lost(self, task: Task, reason: str) -> None:
        """The worker has ended: the activation that ran fails, and the engine sees to the others."""
        if self.late:
            error: Exception = ActivationTimeout(f"the call ran longer than its time-out of {task.timeout:g} s")
        else:
            error = WorkerLost(reason=reason)
        self.fail(task, error)

    def fail(self, task: Task, error: Exception) -> None:
        task.fail(error, at=self.at)

    def bury(self) -> str:
        """Have done with a worker that has ended, or is of no use any more; return how it ended."""
        process, self.process = self.process, None
        self.let_go()
        if process is None:
            return "it could not be started"
        process.kill()
        code = process.wait()
        return self.why or (f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}")

    def stop(self) -> None:
        """Ask the worker to end, at the end of the pool."""
        process, self.process = self.process, None
        with contextlib.suppress(EOFError, OSError):
            self.say(None)
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
            process.kill()
            process.wait()
        self.let_go()

    # -- any thread

    def tell_to_stop(self, task: Task) -> None:
        """Let the worker begin nothing more of a task."""
        with self.sending, contextlib.suppress(EOFError, OSError):
            if self.task is task:
                self.say(("cancel", self.number, b""))

    def end(self, task: Task | None, why: str) -> bool:
        """End the worker at once, if it has this task; its thread finds out, and fails the task."""
        process = self.process
        if process is None or task is None or self.task is not task:
            return False
        self.why = self.why or why
        process.kill()
        return True

    def let_go(self) -> None:
        """Close our ends of the pipes."""
        with self.sending:
            for end in (self.requests, self.replies):
                if end is not None:
                    end.close()
            self.requests = self.replies = None
