"""Routines that worker processes import, and the strategies that send them there."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import Executor, ProcessPoolExecutor
from typing import ClassVar

from attrs import frozen

from routilux_core import Capabilities, ExecutorStrategy, Routine, event, field, slot


@frozen(kw_only=True)
class Spawned(ExecutorStrategy):
    name: ClassVar[str] = "spawned"
    capabilities: ClassVar[Capabilities] = Capabilities(shares_memory=False)

    def make_executor(self) -> Executor:
        return ProcessPoolExecutor(self.max_workers, mp_context=multiprocessing.get_context("spawn"))


class SpawnedInBatches(Spawned):
    name: ClassVar[str] = "spawned-in-batches"
    capabilities: ClassVar[Capabilities] = Capabilities(shares_memory=False, max_batch=1024)


class Source(Routine, stateless=True):
    item = event("n")

    def __call__(self, count: int) -> None:
        for n in range(count):
            self.emit("item", n=n)


class Square(Routine, stateless=True):
    done = event("n", "pid")

    @slot
    def n(self, n: int) -> None:
        self.increment_stat("calls")
        self.emit("done", n=n * n, pid=os.getpid())


class Sum(Routine):
    total: int = 0
    seen: list = field(factory=list)
    summed = event("total")

    @slot
    def n(self, n: int) -> None:
        self.total += n
        self.seen.append(n)
        self.increment_stat("calls")
        self.emit("summed", total=self.total)
