"""Strategy `process`: a pool of processes that one worker's death does not break."""

from __future__ import annotations

import multiprocessing
import os
import weakref
from os import _exit as end_process
from typing import Any, ClassVar

from attrs import field, frozen

from routilux_core import Capabilities, ConfigurationError, ExecutionStrategy, Host, StrategyError, Task, WorkerPool
from routilux_core.seconds import check_seconds
from routilux_core_plugins.process.child import WORKER, check_start_method
from routilux_core_plugins.process.launcher import UNGUARDED, Settings
from routilux_core_plugins.process.supervisor import Supervisor


def _check_tasks(value: Any) -> int | None:
    if value is None or _is_count(value):
        return value  # type: ignore[no-any-return]
    raise ConfigurationError(f"max_tasks_per_worker has to be a whole number from 1, or None, not {value!r}")


def _check_losses(value: Any) -> int:
    if _is_count(value):
        return value  # type: ignore[no-any-return]
    raise ConfigurationError(f"max_worker_losses has to be a whole number from 1, not {value!r}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _seconds(value: Any) -> float:
    return check_seconds(value, "start_timeout")


@frozen(kw_only=True)
class ProcessStrategy(ExecutionStrategy):
    """Up to `max_workers` processes, by default one for each cpu; started when the first job starts.

    A worker is replaced when it has done `max_tasks_per_worker` activations or more, at the end of a batch.
    `max_worker_losses` is how many workers one activation may cost before it is not tried again. A worker has
    `start_timeout` seconds to start, the import of the program's main module included.
    """

    name: ClassVar[str] = "process"
    contract: ClassVar[int] = 2
    capabilities: ClassVar[Capabilities] = Capabilities(
        shares_memory=False, enforces_timeout=True, streams=True, max_batch=4096, batch_seconds=0.016
    )
    max_tasks_per_worker: int | None = field(default=None, converter=_check_tasks)
    max_worker_losses: int = field(default=3, converter=_check_losses)
    start_method: str = field(default="spawn", converter=check_start_method)
    start_timeout: float = field(default=60.0, converter=_seconds)

    def open(self, host: Host) -> WorkerPool:
        from routilux_core_plugins.process.cpus import cpus  # with it comes pathlib, which no worker needs

        _check_may_start()
        settings = Settings(
            workers=self.max_workers or cpus(),
            at_a_time=cpus(),
            max_tasks_per_worker=self.max_tasks_per_worker,
            max_worker_losses=self.max_worker_losses,
            start_method=self.start_method,
            start_timeout=self.start_timeout,
        )
        return ProcessPool(settings, host)


class ProcessPool(WorkerPool):
    """The face of a supervised pool. It is ended when it is closed, or forgotten."""

    def __init__(self, settings: Settings, host: Host) -> None:
        self.workers = settings.workers
        self._supervisor = Supervisor(settings, host)
        self._supervisor.open()
        self._forget = weakref.finalize(self, self._supervisor.abandon)
        self._forget.atexit = False

    def submit(self, task: Task) -> None:
        self._supervisor.submit(task)

    def cancel(self, task: Task) -> bool:
        return self._supervisor.roster.take_back(task)

    def kill(self, task: Task) -> bool:
        """End the worker that runs this task at once; its failure follows."""
        return self._supervisor.roster.kill(task, "it was killed on request")

    def after_fork(self) -> None:
        self._supervisor.leave()

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> None:
        self._supervisor.close(cancel=cancel, timeout=timeout)


def _check_may_start() -> None:
    """Refuse a pool in a process that can't start others, and in one that is being started: so would its workers be.

    A worker of ours that its main module has led here ends without a word: its parent has one for all of them.
    """
    current = multiprocessing.current_process()
    if current.daemon:
        raise StrategyError(
            f"no worker processes can be started in process {os.getpid()}, a worker of another pool, perhaps: daemonic "
            "processes are not allowed to have children. Let this flow run under 'concurrent' or 'sequential'"
        )
    if not getattr(current, "_inheriting", False):
        return
    if current.name.startswith(WORKER):
        end_process(UNGUARDED)
    raise StrategyError(
        f"process {os.getpid()} was started by multiprocessing, and imports the main module of the program, which "
        "starts workers: put what starts the program behind `if __name__ == '__main__':`"
    )
