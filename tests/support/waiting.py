"""Wait for what another thread or process does a moment later: after a job has ended, as a rule."""

from __future__ import annotations

import time
from collections.abc import Callable

SECONDS = 30.0  # generous: it is only waited for where the test fails
BETWEEN_LOOKS_S = 0.002


def comes_true(condition: Callable[[], object], seconds: float = SECONDS) -> bool:
    """Look again and again until the condition holds, and return True then; False if it has not in that time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(BETWEEN_LOOKS_S)
    return True
