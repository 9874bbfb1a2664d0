"""What runs in a worker process of the strategy `pipes`."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from functools import partial
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from routilux_core import worker

GONE = 3  # the exit code of a worker whose parent has gone


def main() -> None:
    """Work for the parent until it says stop, or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all of us; the parent decides
    Worker(*take_pipes()).work()


def take_pipes() -> tuple[Connection, Connection]:
    """Keep standard input and output for ourselves. Handlers get an empty input, and print to standard error."""
    requests, replies = Connection(os.dup(0), writable=False), Connection(os.dup(1), readable=False)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, replies


class Worker:
    """Reads requests in a thread of its own, so that a cancel arrives while a task runs; runs tasks in the main one."""

    def __init__(self, requests: Connection, replies: Connection) -> None:
        self.requests, self.replies = requests, replies
        self.tasks: SimpleQueue[tuple[int, bytes] | None] = SimpleQueue()
        self.cancelled: set[int] = set()
        self.sending = threading.Lock()

    def work(self) -> None:
        try:
            self.prepare(self.requests.recv())
        except BaseException as error:  # the program's main module is imported here
            self.tell("broken", 0, repr(error))
            return
        self.tell("ready", 0, b"")
        threading.Thread(target=self.read, name="routilux-pipes-read", daemon=True).start()
        while (task := self.tasks.get()) is not None:
            self.run(*task)
        worker.close()

    def prepare(self, data: bytes) -> None:
        worker.prepare(data)

    def read(self) -> None:
        """Take requests. When the parent is gone, however it ended, the pipe says so, and nobody wants the reply."""
        with contextlib.suppress(EOFError, OSError):
            while (request := self.requests.recv()) is not None:
                kind, number, payload = request
                if kind == "cancel":
                    self.cancelled.add(number)
                else:
                    self.tasks.put((number, payload))
            self.tasks.put(None)
            return
        self.parent_is_gone()

    def parent_is_gone(self) -> None:
        os._exit(GONE)

    def run(self, number: int, payload: bytes) -> None:
        try:
            reply = self.reply(number, payload)
        except Exception as error:
            self.tell("error", number, repr(error))
        else:
            self.tell("reply", number, reply)
        self.cancelled.discard(number)
        for stream in (sys.stdout, sys.stderr):  # what a handler printed is not to be lost with this process
            with contextlib.suppress(Exception):
                stream.flush()

    def reply(self, number: int, payload: bytes) -> bytes:
        return worker.run(
            payload,
            partial(self.tell, "chunk", number),
            mark=partial(self.tell, "mark", number),
            cancelled=lambda: number in self.cancelled,
        )

    def tell(self, kind: str, number: int, body: Any) -> None:
        with self.sending:  # chunks come from a thread of their own
            self.replies.send((kind, number, body))
