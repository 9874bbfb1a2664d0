"""Who has the lock of a flow: `@guarded` says of a function that its caller does."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast
from weakref import ref

F = TypeVar("F", bound=Callable[..., Any])

CHECKS = "ROUTILUX_CHECK_LOCKS" in os.environ  # for tests: each call of a guarded function is looked at

_locks: set[ref[threading.RLock]] = set()  # of all flows, where that is so


def is_held_here(lock: threading.RLock) -> bool:
    """Return whether the calling thread has a lock."""
    held: bool = lock._is_owned()  # type: ignore[attr-defined]  # no public name, but `threading.Condition` asks it, too
    return held


def new_lock() -> threading.RLock:
    """Return the lock of a flow: one that knows its owner, which is not to take it twice."""
    lock = threading.RLock()
    if CHECKS:
        _locks.add(ref(lock, _locks.discard))
    return lock


def guarded(function: F) -> F:
    """Mark a function that is only called under the lock of its flow. It is returned unchanged.

    Where tests check that (`CHECKS`), each call looks whether its thread has the lock of a flow. Which flow's is not
    asked: a mailbox, say, does not know its flow.
    """
    return _checked(function) if CHECKS else function


def _checked(function: F) -> F:
    @wraps(function)
    def checked(*arguments: Any, **named: Any) -> Any:
        found = [known() for known in _locks.copy()]
        if not any(lock is not None and is_held_here(lock) for lock in found):
            raise AssertionError(f"{function.__qualname__} was called without the lock of a flow")
        return function(*arguments, **named)

    return cast("F", checked)
