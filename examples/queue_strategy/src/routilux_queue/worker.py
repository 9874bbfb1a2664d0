"""What runs in a worker process of the strategy `queue`."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from time import monotonic, sleep

from routilux_core import worker
from routilux_queue.table import Table

GONE = 3  # the exit code of a worker whose parent has gone
SHORTEST_S, LONGEST_S = 0.001, 0.02  # between two looks for a task
STOP_EVERY_S = 0.02  # between two looks whether a task was cancelled


def main(path: str) -> None:
    """Take tasks until the pipe of the parent ends: it has closed the pool, or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all of us; the parent decides
    pipe = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)  # handlers get an empty input
    os.dup2(nothing, 0)
    os.close(nothing)
    Worker(path, pipe).work()


class Worker:
    def __init__(self, path: str, pipe: int) -> None:
        self.table = Table(path)
        self.pipe = pipe
        self.idle = True
        self.ends = threading.Event()

    def work(self) -> None:
        threading.Thread(target=self.wait_for_end, name="routilux-queue-end", daemon=True).start()
        worker.prepare(self.table.preparation())
        self.table.note_ready()
        pause = SHORTEST_S
        while not self.ends.is_set():
            self.idle = False
            taken = self.table.take(os.getpid())
            if taken is not None:
                self.run(*taken)
                pause = SHORTEST_S
            self.idle = True
            if taken is None:
                sleep(pause)
                pause = min(2 * pause, LONGEST_S)
        worker.close()

    def wait_for_end(self) -> None:
        """Nobody writes into the pipe. When it ends, nobody wants what runs any more."""
        os.read(self.pipe, 1)
        self.ends.set()
        if not self.idle:
            os._exit(GONE)

    def run(self, number: int, payload: bytes) -> None:
        try:
            reply = worker.run(payload, cancelled=self.asker(number))
        except Exception as error:
            self.table.finish(number, None, repr(error))
        else:
            self.table.finish(number, reply, None)

    def asker(self, number: int) -> Callable[[], bool]:
        """Return what says whether a task was cancelled, with a look at the table now and then."""
        due, stopped = 0.0, False

        def is_cancelled() -> bool:
            nonlocal due, stopped
            if monotonic() >= due:
                stopped = stopped or self.table.is_stopped(number)
                due = monotonic() + STOP_EVERY_S
            return stopped

        return is_cancelled
