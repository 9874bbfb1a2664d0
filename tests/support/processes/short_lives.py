"""Stands in a worker where `routilux_core.worker` does, and ends it as soon as it has said that it is ready."""

from __future__ import annotations

import os
from typing import Any

from processes.pool_programs import close

__all__ = ["close"]


def __getattr__(name: str) -> Any:
    if name == "run":  # which is looked up behind that
        os._exit(3)
    raise AttributeError(name)
