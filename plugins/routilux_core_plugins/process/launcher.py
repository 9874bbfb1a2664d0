"""Starting workers: where each has its place, when the next may be tried, and when to give up."""

from __future__ import annotations

import multiprocessing
import sys
from time import monotonic

from attrs import frozen

from routilux_core import StrategyError
from routilux_core_plugins.process.child import WORDS
from routilux_core_plugins.process.handle import Worker

UNGUARDED = 77  # the exit code of a worker whose main module starts workers again
FAILED_STARTS = 3  # in a row; then no more are tried. None of the first ones may fail, where all of them do
KILLED_STARTS = 30  # the same, for starts that somebody ended with a signal
SHORT_LIVES = 10  # workers in a row that die soon after they were ready, and have done nothing
SHORT = 10.0  # seconds, of a life
NEVER = float("inf")


@frozen(kw_only=True)
class Settings:
    """What a pool has to know of its strategy."""

    workers: int
    max_tasks_per_worker: int | None = None
    max_worker_losses: int = 3
    start_method: str = "spawn"
    start_timeout: float = 60.0
    at_a_time: int = 4  # workers that start at the same time: more would only take the cpus from each other
    runner: str = "routilux_core.worker"  # the module whose `run` and `close` the workers call


class Starts:
    """The supervisor's own: nobody else calls it."""

    def __init__(self, settings: Settings) -> None:
        self.next_at = 0.0
        self.any_was_ready = False
        self._settings = settings
        self._failed = self._short_lives = 0  # in a row
        # Twice as many places as workers: one that ends still has its place when its successor starts.
        self._slots = list(range(2 * settings.workers))
        context = multiprocessing.get_context(settings.start_method)
        self._words = context.RawArray("Q", WORDS * len(self._slots))

    def may_start(self, now: float, starting: int) -> bool:
        """Whether there is a place, few others are starting, and the last failure is long enough ago."""
        return now >= self.next_at and bool(self._slots) and starting < self._settings.at_a_time

    def start(self) -> Worker:
        """Start a worker."""
        settings = self._settings
        worker = Worker(settings.start_method, settings.runner, self._words, self._slots[-1], settings.start_timeout)
        self._slots.pop()
        return worker

    def take_back(self, worker: Worker) -> None:
        """Note that the place of a worker is free."""
        self._slots.append(worker.slot)

    def succeeded(self) -> None:
        """Note that a worker is ready."""
        self.any_was_ready = True
        self._failed = 0

    def died(self, worker: Worker, in_vain: bool) -> bool:
        """Note that a worker is gone that was ready, and whether in vain; return whether to give up, after many."""
        now = monotonic()
        self._failed = 0
        self._short_lives = self._short_lives + 1 if in_vain and now - worker.started < SHORT else 0
        hopeless = self._short_lives >= SHORT_LIVES
        self.next_at = NEVER if hopeless else now + _pause(self._short_lives - 1)
        return hopeless

    def failed(self, killed: bool = False) -> bool:
        """Note that a start failed; return whether to give up. Else the next may be tried a little later."""
        self._failed += 1
        limit = FAILED_STARTS if self.any_was_ready else 1
        hopeless = self._failed >= (KILLED_STARTS if killed else limit)
        self.next_at = NEVER if hopeless else monotonic() + _pause(self._failed)
        return hopeless


def _pause(failures: int) -> float:
    """Return the seconds until the next start."""
    return min(1.0, 0.01 * 2**failures) if failures > 0 else 0.0


def was_killed(worker: Worker) -> bool:
    """Whether somebody else ended a worker, which says nothing about the next."""
    code = worker.exit_code()
    return code is not None and code < 0 and worker.reason is None


def why_not_ready(worker: Worker) -> StrategyError:
    """Say what may be wrong: most often it is the main module."""
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    if worker.exit_code() == UNGUARDED:
        return StrategyError(
            "a worker process imports the main module of the program first, and that, or a module that it imports, "
            "starts workers again: put what starts the program behind `if __name__ == '__main__':` "
            f"({main or 'the program has no file'})"
        )
    what = f"worker process {worker.pid} never became ready: {worker.fate()}"
    if was_killed(worker):
        return StrategyError(f"{what} while it started")
    return StrategyError(
        f"{what}. A worker first imports the main module of the program ({main or 'it has no file here'}): put what "
        "starts the program behind `if __name__ == '__main__':`, and see what the worker wrote to stderr"
    )
