"""Numbers of seconds: checked where they are given, and cut to what a single wait takes.

For the engine, and for strategies: `check_seconds` for an option, `stretch` for a wait in a loop.
"""

from __future__ import annotations

import math
from typing import Any

from routilux_core.errors import ConfigurationError, brief

LONGEST = 86_400.0  # seconds of one wait: epoll takes 24.8 days, a lock of some systems 49, and nan or inf nothing does
FOREVER = 1e9  # seconds, some 31 years: nobody waits for the end of these


def check_seconds(value: Any, what: str) -> float:
    """Return a number of seconds above 0, which may be `inf`; anything else is refused."""
    seconds = _number(value)
    if seconds is None or not seconds > 0:
        raise ConfigurationError(f"{what} has to be a number of seconds above 0, not {brief(value)}")
    return seconds


def check_patience(value: Any, what: str) -> float | None:
    """Return for how many seconds to wait at most, None for ever; one below 0 is over already, nan is refused."""
    if value is None:
        return None
    seconds = _number(value)
    if seconds is None:
        raise ConfigurationError(f"{what} has to be a number of seconds, or None for no limit, not {brief(value)}")
    return None if seconds > FOREVER else max(0.0, seconds)


def stretch(seconds: float | None) -> float | None:
    """Return what a single wait takes of so many seconds: whoever waits looks at the clock again, and goes on."""
    return None if seconds is None else max(0.0, min(seconds, LONGEST))


def _number(value: Any) -> float | None:
    """Return a float that is not nan; None for anything else. An integer too large for a float is infinite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        seconds = float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    return None if math.isnan(seconds) else seconds
