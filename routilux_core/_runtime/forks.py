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

from routilux_core._engine.engine import Engine

_opened: WeakKeyDictionary[Engine, tuple[Any, Any]] = WeakKeyDictionary()  # with the locks of its flow
_the_parents: list[Any] = []


def watch(engine: Engine, opening: Any, building: Any) -> None:
    """Look after a flow with open pools, and with an `RLock` for who opens and closes them, and one for who builds."""
    _register()
    _opened[engine] = opening, building


@functools.cache  # once in a process
def _register() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_after_fork)


def _after_fork() -> None:
    """Put every flow in order. The only thread of the child, before anything else of it runs."""
    for engine, (opening, building) in list(_opened.items()):
        was_opening = _freed(opening)
        _freed(building)
        _freed(engine.visits.postponing)
        engine.lock._at_fork_reinit()  # type: ignore[attr-defined]
        for node in engine.nodes.values():
            node.routine._routilux.lock._at_fork_reinit()  # type: ignore[attr-defined]
        engine.timers.begin_anew()
        engine.aside.begin_anew()
        if was_opening or not _goes_on_here(engine):
            _begin_anew(engine, was_opening)


def _freed(lock: Any) -> bool:
    """Free a lock if another thread had it when the fork was made, and return whether that was so."""
    if lock.acquire(blocking=False):
        lock.release()
        return False
    lock._at_fork_reinit()
    return True


def _goes_on_here(engine: Engine) -> bool:
    """Whether jobs run, and nobody but this thread works at them: then the child has all that they need."""
    if not engine.runs or any(
        scheduler.pool is not None and not scheduler.pool.in_caller for scheduler in engine.schedulers
    ):
        return False
    return all(hand.thread == get_ident() for hand in engine.hands())


def _begin_anew(engine: Engine, was_opening: bool) -> None:
    running = engine.forget_jobs()
    if running or was_opening:
        what = f"job {running[0]} ran" if running else "another thread opened or closed its workers"
        engine.forked = (
            f"this process was forked from process {os.getppid()} while {what}: what that does there can't be known "
            "here. Fork while no job of this flow runs, or make a flow in the child"
        )
    for scheduler in engine.schedulers:
        _the_parents.append((scheduler.pool, scheduler.resources))
        pool = scheduler.forget()
        if pool is not None:
            with contextlib.suppress(Exception):
                pool.after_fork()
