"""What a fork must not do to Dask's processes, and what it can't do with Dask itself."""

from __future__ import annotations

import multiprocessing.process
import os
from contextlib import suppress
from typing import Any

import distributed

from routilux_core import StrategyError

_users: set[int] = set()  # this process, and those that it was forked from, where they used Dask


def check() -> None:
    """Refuse Dask in a fork of a process that had used it: Dask waits there for threads that the fork has not."""
    me = os.getpid()
    before = _users - {me}
    if before:
        raise StrategyError(
            f"Dask can't be used in process {me}: it was forked from process {max(before)}, which had used it, and "
            "Dask's threads do not come along. Run the flow there only after the fork, start the child with "
            "multiprocessing's 'spawn', or let the child use strategy 'process'"
        )
    _users.add(me)


def disown(cluster: Any) -> None:
    """Let the exit of a fork leave a cluster alone: Dask and Python would end its processes, which are the parent's."""
    with suppress(AttributeError):  # other versions may keep them elsewhere
        distributed.SpecCluster._instances.discard(cluster)
        for nanny in cluster.workers.values():
            started = nanny.process.process
            started._proc_finalizer.detach()
            multiprocessing.process._children.discard(started._process)  # type: ignore[attr-defined]
