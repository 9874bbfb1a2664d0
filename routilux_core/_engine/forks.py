"""What becomes of flows in the child of a fork, which has a copy of everything but the threads and processes.

A flow of which no job ran at the fork begins anew in the child, with pools of its own. One of which a job ran is
refused there, by name: what other threads were at, and what they held, can't be told. What is the parent's is left
alone, and not even let go of: a client that is closed here may say goodbye for the parent, too.
"""

from __future__ import annotations

import contextlib
import functools
import os
from threading import get_ident
from typing import Any
from weakref import WeakKeyDictionary

from routilux_core._engine.engine import Dispatcher

_opened: WeakKeyDictionary[Dispatcher, tuple[Any, Any]] = WeakKeyDictionary()  # with the locks of its flow
_the_parents: list[Any] = []


def watch(hub: Dispatcher, opening: Any, building: Any) -> None:
    """Look after a flow with open pools, and with an `RLock` for who opens and closes them, and one for who builds."""
    _register()
    _opened[hub] = opening, building


@functools.cache  # once in a process
def _register() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_after_fork)


def _after_fork() -> None:
    """Put every flow in order. The only thread of the child, before anything else of it runs."""
    for hub, (opening, building) in list(_opened.items()):
        was_opening = _freed(opening)
        _freed(building)
        _freed(hub.deferring)
        hub.lock._at_fork_reinit()  # type: ignore[attr-defined]
        for node in hub.nodes.values():
            node.routine._routilux.lock._at_fork_reinit()  # type: ignore[attr-defined]
        hub.timers.begin_anew()
        hub.aside.begin_anew()
        if was_opening or not _goes_on_here(hub):
            _begin_anew(hub, was_opening)


def _freed(lock: Any) -> bool:
    """Free a lock if another thread had it when the fork was made, and return whether that was so."""
    if lock.acquire(blocking=False):
        lock.release()
        return False
    lock._at_fork_reinit()
    return True


def _goes_on_here(hub: Dispatcher) -> bool:
    """Whether jobs run, and nobody but this thread works at them: then the child has all that they need."""
    if not hub.runs or any(queue.pool is not None and not queue.pool.in_caller for queue in hub.queues):
        return False
    return all(hand.thread == get_ident() for hand in hub.hands())


def _begin_anew(hub: Dispatcher, was_opening: bool) -> None:
    running = hub.forget_jobs()
    if running or was_opening:
        what = f"job {running[0]} ran" if running else "another thread opened or closed its workers"
        hub.forked = (
            f"this process was forked from process {os.getppid()} while {what}: what that does there can't be known "
            "here. Fork while no job of this flow runs, or make a flow in the child"
        )
    for queue in hub.queues:
        _the_parents.append((queue.pool, queue.resources))
        pool = queue.forget()
        if pool is not None:
            with contextlib.suppress(Exception):
                pool.after_fork()
