"""Stands in a worker where `routilux_core.worker` does, and ends it soon after it is ready."""

from __future__ import annotations

import os
import threading

from processes.pool_programs import close, run

__all__ = ["close", "run"]

threading.Timer(0.02, os._exit, (3,)).start()
