"""Execution strategy `queue`: worker processes that take tasks from a table in a database, as task queues do.

Such a queue gives a task to the next worker when one has died in it. Calls must not be made twice without being asked
for, so here a task is delivered once: it belongs to the worker that has taken it, and fails with that.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from time import monotonic
from typing import ClassVar

from attrs import frozen

from routilux_core import UNKNOWN, Capabilities, ExecutionStrategy, Host, StrategyError, Task, WorkerLost, WorkerPool
from routilux_queue.table import Table

__all__ = ["QueueStrategy"]

POLL_S = 0.002  # between two looks at the table while tasks are there
MOST_STARTS = 3  # of workers in a row that end before they are ready
GRACE_S = 2.0


@frozen(kw_only=True)
class QueueStrategy(ExecutionStrategy):
    """Up to `max_workers` processes, by default one for each cpu, started when there is work."""

    name: ClassVar[str] = "queue"
    contract: ClassVar[int] = 2
    capabilities: ClassVar[Capabilities] = Capabilities(shares_memory=False, max_batch=64)

    def open(self, host: Host) -> WorkerPool:
        return QueuePool(self.max_workers or os.cpu_count() or 1, host)


class QueuePool(WorkerPool):
    """The table, the workers, and a thread that sees what has become of tasks."""

    def __init__(self, workers: int, host: Host) -> None:
        self.workers = workers
        self.host = host
        self.folder = tempfile.mkdtemp(prefix="routilux-queue-")
        self.table = Table(os.path.join(self.folder, "tasks.db"))
        self.table.create(host.preparation())
        self.numbers = itertools.count(1)
        self.tasks: dict[int, Task] = {}  # that are in the table
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.starts = 0  # since one was ready
        self.closed = False
        # A signal handler may cancel a job in the middle of a call: the lock has to let its own thread in again.
        self.changed = threading.Condition(threading.RLock())
        self.thread = threading.Thread(target=self.watch, name="routilux-queue", daemon=True)
        self.thread.start()

    def submit(self, task: Task) -> None:
        with self.changed:
            if not self.closed:
                number = next(self.numbers)
                self.tasks[number] = task
                self.table.put(number, task.payload())
                self.changed.notify_all()
                return
        task.fail(RuntimeError("the pool is closed"))

    def cancel(self, task: Task) -> bool:
        with self.changed:
            number = self.number_of(task)
            if number is not None and self.table.take_back(number):
                del self.tasks[number]
                return True
        return False  # a worker has it, and is told to begin nothing more of it

    def kill(self, task: Task) -> bool:
        with self.changed:
            number = self.number_of(task)
            process = None if number is None else self.processes.get(self.table.owner(number))
            if process is None:
                return False
            process.kill()  # the thread finds out, and fails the task
            return True

    def number_of(self, task: Task) -> int | None:
        return next((number for number, each in self.tasks.items() if each is task), None)

    def after_fork(self) -> None:
        for process in self.processes.values():  # else a worker would not hear of the parent's end
            if process.stdin is not None:
                process.stdin.close()

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> None:
        deadline = None if timeout is None else monotonic() + timeout
        with self.changed:
            self.closed = True
            numbers = [number for number in self.tasks if cancel and self.table.take_back(number)]
            dropped = [self.tasks.pop(number) for number in numbers]
            self.changed.notify_all()
        for task in dropped:
            task.fail(RuntimeError("the pool was closed"))
        self.join(deadline)
        with self.changed:
            for process in self.processes.values():  # their time is over: what they run fails
                process.kill()
        self.join(monotonic() + GRACE_S)

    def join(self, deadline: float | None) -> None:
        if self.thread is not threading.current_thread():
            self.thread.join(None if deadline is None else max(0.0, deadline - monotonic()))

    # -- the thread

    def watch(self) -> None:
        """Pass on what the table says of tasks, and see to it that there are workers, until the pool is closed."""
        try:
            while True:
                with self.changed:
                    while not (self.tasks or self.closed):
                        self.changed.wait(0.5)  # a worker may die that has nothing to do
                        self.bury()
                    if not self.tasks:
                        break
                    self.start_workers()
                ended = self.look()
                with self.changed:
                    self.changed.wait(0 if ended else POLL_S)
        except Exception as error:
            self.host.lost(error)
        finally:
            self.end()

    def start_workers(self) -> None:
        path = self.table.path
        while not self.processes or len(self.processes) < min(self.workers, len(self.tasks)):
            code = f"import sys; sys.path[:] = {sys.path!r}; from routilux_queue.worker import main; main({path!r})"
            process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
            self.processes[process.pid] = process
            self.starts += 1

    def look(self) -> bool:
        """Report what has ended; return whether there was anything."""
        ended = self.table.take_ended()
        for number, reply, error in ended:
            with self.changed:
                task = self.tasks.pop(number)
            if reply is not None:
                task.finish(reply)
            else:
                task.fail(RuntimeError(error))
        return self.bury() or bool(ended)

    def bury(self) -> bool:
        """Fail what dead workers had taken; return whether there was anything."""
        with self.changed:
            dead = {pid: each for pid, each in self.processes.items() if each.poll() is not None}
            for pid, process in dead.items():
                del self.processes[pid]
                assert process.stdin is not None
                process.stdin.close()
            if self.table.is_ready():
                self.starts = 0
            lost = [(self.tasks.pop(number), pid) for pid in dead for number in self.table.take_lost(pid)]
        for task, pid in lost:
            reason = _reason(dead[pid].returncode)
            task.fail(WorkerLost(worker=pid, reason=reason), at=UNKNOWN)  # how far it was, the table does not say
        if dead and self.starts >= MOST_STARTS:
            raise StrategyError(
                f"{self.starts} workers in a row have ended before they were ready: see what they wrote"
            )
        return bool(lost)

    def end(self) -> None:
        """End the workers, which see that their pipe is closed, and remove the table."""
        with self.changed:
            self.closed = True
            left, self.tasks = list(self.tasks.values()), {}
        for process in self.processes.values():
            assert process.stdin is not None
            process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
            process.kill()
            process.wait()
        for task in left:
            task.fail(RuntimeError("the pool was closed"))
        self.table.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _reason(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
