"""Execution strategy `loky`: worker processes of the loky package."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import ClassVar

import loky
from attrs import frozen

from routilux_core import Capabilities, ExecutorStrategy

__all__ = ["LokyStrategy"]


@frozen(kw_only=True)
class LokyStrategy(ExecutorStrategy):
    """Up to `max_workers` processes; by default as many as the machine has for this process."""

    name: ClassVar[str] = "loky"
    contract: ClassVar[int] = 2
    capabilities: ClassVar[Capabilities] = Capabilities(shares_memory=False, max_batch=256)

    def make_executor(self) -> Executor:
        executor: Executor = loky.ProcessPoolExecutor(self.max_workers)
        return executor
