"""Strategies over the executors of the standard library, as third parties write them."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from typing import ClassVar

from attrs import frozen

from routilux_core import Capabilities, ExecutorStrategy


@frozen(kw_only=True)
class ThreadExecutor(ExecutorStrategy):
    name: ClassVar[str] = "thread-executor"
    capabilities: ClassVar[Capabilities] = Capabilities(shares_memory=True)

    def make_executor(self) -> Executor:
        return ThreadPoolExecutor(self.max_workers)


@frozen(kw_only=True)
class SpawnExecutor(ExecutorStrategy):
    name: ClassVar[str] = "spawn-executor"
    capabilities: ClassVar[Capabilities] = Capabilities(shares_memory=False, max_batch=256)

    def make_executor(self) -> Executor:
        return ProcessPoolExecutor(self.max_workers, mp_context=multiprocessing.get_context("spawn"))
