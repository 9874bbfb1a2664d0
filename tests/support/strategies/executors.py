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
    contract: ClassVar[int] = 2
    capabilities: ClassVar[Capabilities] = Capabilities(shares_memory=True)

    def make_executor(self) -> Executor:
        return ThreadPoolExecutor(self.max_workers)


@frozen(kw_only=True)
class SpawnExecutor(ExecutorStrategy):
    name: ClassVar[str] = "spawn-executor"
    contract: ClassVar[int] = 2
    capabilities: ClassVar[Capabilities] = Capabilities(shares_memory=False, max_batch=256)

    def make_executor(self) -> Executor:
        return ProcessPoolExecutor(self.max_workers, mp_context=multiprocessing.get_context("spawn"))


# Cases that no executor of the standard library can pass, nor one of its kind.
EXEMPT_THREADS = {
    "test_a_program_that_ends_leaves_nothing": "the interpreter joins the threads of executors when it exits",
}
EXEMPT_PROCESSES = {
    "test_a_dead_worker_costs_the_call_that_ran": "an executor breaks as a whole, and can't say which call ran",
    "test_a_running_handler_sees_that_its_job_was_cancelled": "nothing of an executor reaches a worker that runs",
    "test_a_program_that_ends_leaves_nothing": "the interpreter waits for what executors run when it exits",
    "test_a_program_that_is_killed_leaves_nothing": "workers of executors don't see that their parent was killed",
    "test_workers_know_the_classes_of_the_program": "loky sends classes of the main module by value",
}
EXEMPT_INTERPRETERS = {
    "test_a_running_handler_sees_that_its_job_was_cancelled": "nothing of an executor reaches a worker that runs",
    "test_a_program_that_ends_leaves_nothing": "the interpreter waits for what executors run when it exits",
    "test_workers_know_the_classes_of_the_program": "an interpreter has no main module",
    "test_what_a_worker_made_for_itself_is_closed": "what belongs to a thread is there for one task of it only",
}
