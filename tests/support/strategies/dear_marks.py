"""A pool over pipes whose marks are dear, as an actor's are: they ride in the stream, and seldom."""

from __future__ import annotations

import signal
import sys
from functools import partial
from pathlib import Path
from typing import ClassVar

from attrs import frozen

sys.path.insert(0, str(Path(__file__).parents[3] / "examples" / "pipes_strategy" / "src"))

from routilux_pipes import Minder, PipesPool, PipesStrategy
from routilux_pipes.worker import Worker, take_pipes

from routilux_core import UNKNOWN, Capabilities, Host, Task, WorkerPool, worker

MARK_EVERY_S = 0.01


@frozen(kw_only=True)
class DearMarks(PipesStrategy):
    """It hears from its workers how far they are now and then, and ends no call whose time is over."""

    name: ClassVar[str] = "dear-marks"
    contract: ClassVar[int] = 2
    capabilities: ClassVar[Capabilities] = Capabilities(
        shares_memory=False, streams=True, max_batch=256, batch_seconds=0.5
    )

    def open(self, host: Host) -> WorkerPool:
        return DearMarksPool(self.max_workers or 2, host)


class DearMarksPool(PipesPool):
    serve = "strategies.dear_marks:serve"

    def make_minder(self) -> Minder:
        return Unmarked(self)


class Unmarked(Minder):
    """Knows that a task was sent, and not how far it is."""

    def send(self, task: Task) -> None:
        super().send(task)
        self.at = 0  # begun: it may not be sent again

    def time_left(self, task: Task) -> float | None:
        return None

    def fail(self, task: Task, error: Exception) -> None:
        task.fail(error, at=UNKNOWN)


class UnmarkedWorker(Worker):
    def reply(self, number: int, payload: bytes) -> bytes:
        return worker.run(
            payload,
            partial(self.tell, "chunk", number),
            cancelled=lambda: number in self.cancelled,
            mark_every=MARK_EVERY_S,
        )


def serve() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    UnmarkedWorker(*take_pipes()).work()
