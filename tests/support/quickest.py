"""Worker processes that start quickest. How they start is tested with the pool itself; here they are only needed."""

from __future__ import annotations

import multiprocessing
import sys
from typing import Any

# A process that is spawned imports everything again, which takes it longer than a whole test.
QUICKEST = "spawn" if sys.platform == "win32" else "forkserver"
if QUICKEST == "forkserver":
    multiprocessing.set_forkserver_preload(["routilux_core.worker", "shipped.routines"])

OPTIONS = {"start_method": QUICKEST}  # of the strategy "process"


def keywords(name: str, max_workers: int | None = None, **options: Any) -> dict[str, Any]:
    """Return the keywords of a flow under a strategy, with the quickest workers where they are processes."""
    if name == "process":
        options = {**OPTIONS, **options}
    return {"execution_strategy": name, "max_workers": max_workers, "strategy_options": options or None}
