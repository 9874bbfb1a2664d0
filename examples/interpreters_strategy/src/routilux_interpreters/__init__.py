"""Execution strategy `interpreters`: handlers run in interpreters of their own, side by side in threads of one process.

Each has a lock of its own for Python code, so that they use all cpus, without a process for each. Python 3.14 has an
executor for that; on 3.13 one of ours takes its place.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import Executor
from typing import ClassVar

from attrs import frozen

from routilux_core import Capabilities, ExecutorStrategy

if sys.version_info >= (3, 14):
    from concurrent.futures import InterpreterPoolExecutor
else:
    from routilux_interpreters.executor import InterpreterPoolExecutor

__all__ = ["InterpretersStrategy"]


@frozen(kw_only=True)
class InterpretersStrategy(ExecutorStrategy):
    """Up to `max_workers` interpreters; by default one for each cpu."""

    name: ClassVar[str] = "interpreters"
    contract: ClassVar[int] = 2
    # They share a process, and no objects: tasks travel as bytes.
    capabilities: ClassVar[Capabilities] = Capabilities(shares_memory=False, max_batch=256)

    def make_executor(self) -> Executor:
        return InterpreterPoolExecutor(self.max_workers or os.cpu_count() or 1)
