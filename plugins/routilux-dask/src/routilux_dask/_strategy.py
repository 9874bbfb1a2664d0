"""Strategy `dask`: its configuration."""

from __future__ import annotations

from typing import Any, ClassVar

from attrs import field, frozen

from routilux_core import Capabilities, ConfigurationError, ExecutionStrategy, Host, WorkerPool
from routilux_core.seconds import check_seconds


def _check_address(value: Any) -> str | None:
    if value is None or (isinstance(value, str) and value.strip()):
        return value
    raise ConfigurationError(
        f"address has to be that of a Dask scheduler, such as 'tcp://10.0.0.5:8786', or None for a cluster of this "
        f"flow's own, not {value!r}"
    )


def _check_seconds(value: Any) -> float:
    return check_seconds(value, "a time limit")


def _check_losses(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"max_worker_losses has to be a whole number from 1, not {value!r}")
    return value


@frozen(kw_only=True)
class DaskStrategy(ExecutionStrategy):
    """Runs activations on the workers of the Dask scheduler at `address`, or of a private cluster of processes.

    `max_workers` bounds how many run at a time: by default as many as the cluster has threads, and in a private
    cluster as many processes as there are cpus. `connect_timeout`: seconds in which the scheduler and a first worker
    have to be there. `silence_timeout`: seconds without an answer of the scheduler after which it counts as lost.
    `max_worker_losses`: how many workers one activation may take down, where it is run again.
    """

    name: ClassVar[str] = "dask"
    contract: ClassVar[int] = 2
    # The way there and back takes some 10 ms: batches hold more work than those of a local pool, and a worker has its
    # next one waiting unless that would wait for long.
    capabilities: ClassVar[Capabilities] = Capabilities(
        shares_memory=False, max_batch=1024, batch_seconds=0.04, ahead_below=0.1
    )
    address: str | None = field(default=None, converter=_check_address)
    connect_timeout: float = field(default=30.0, converter=_check_seconds)
    silence_timeout: float = field(default=30.0, converter=_check_seconds)
    max_worker_losses: int = field(default=3, converter=_check_losses)

    def open(self, host: Host) -> WorkerPool:
        from routilux_dask._link import Settings  # not before: importing Dask takes half a second
        from routilux_dask._pool import DaskPool

        settings = Settings(
            address=self.address,
            max_workers=self.max_workers,
            max_batch=self.capabilities.max_batch,
            connect_timeout=self.connect_timeout,
            silence_timeout=self.silence_timeout,
        )
        return DaskPool(settings, host)
