"""Putting the books of a flow in order, when an exception has left the engine between two of its steps.

A signal handler may raise in the main thread wherever that is, and a RecursionError or a MemoryError comes where it
likes. Nothing here depends on the place. What follows from other things is worked out anew: who works, which permits
are out, who has to be called. What a job has counted is compared with what there really is of it when nothing is left
(`Run.end_if_idle`), since others work on meanwhile.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from threading import get_ident
from typing import Any

from routilux_core._engine.plan import INLET, JOB, NUMBER, Item, Node
from routilux_core._engine.roles import JobRole, SchedulerRole
from routilux_core._routines.frame import Frame
from routilux_core._threads.guard import guarded


@guarded
def put_in_order(
    schedulers: Sequence[SchedulerRole],
    runs: Iterable[JobRole],
    nodes: list[Node],
    here: Frame | None,
    gone: Any = None,
) -> None:
    """Make the queues and permits right again.

    `here` is the frame that the calling thread is in, if any. Workers of this thread that are not below it are gone,
    and so is the given one: what they had in hand is dropped.
    """
    living: set[object] = set(_chain(here))
    if gone is not None:
        gone.be_gone()
    for scheduler in schedulers:
        for hand in list(scheduler.hands):
            if hand.thread == get_ident() and not hand.shares_thread and hand not in living:
                hand.be_gone()
    for run in list(runs):
        run.doubt()
    _drop_doubles(schedulers, nodes)
    held = _permits(schedulers, runs)
    for node in nodes:
        node.mailbox.recount(held[node])
    for scheduler in schedulers:
        scheduler.crew.recruiting = False  # the task may never have come to the pool; one too many does no harm
        scheduler.crew.let_go()
        scheduler.recount()
    for node in nodes:
        if node.mailbox.waiting and node.mailbox.free:
            node.scheduler.admit(node)
    for scheduler in schedulers:
        scheduler.crew.want_worker()


def _chain(frame: Frame | None) -> Iterable[Frame]:
    while frame is not None:
        yield frame
        frame = frame.outer


def _permits(schedulers: Iterable[SchedulerRole], runs: Iterable[JobRole]) -> Counter[Node]:
    """Count the permits that are out."""
    held: Counter[Node] = Counter()
    for scheduler in schedulers:
        held.update(item[INLET].node for item in scheduler.ready.first)
        held.update(scheduler.permits())
    for run in runs:
        held.update(run.retries.permits())
    return held


def _drop_doubles(schedulers: Iterable[SchedulerRole], nodes: Iterable[Node]) -> None:
    """Let nothing lie in two places: it was just being moved."""
    seen: set[tuple[int, int]] = set()
    for node in nodes:
        _keep_new(node.mailbox.waiting, seen)
    for scheduler in schedulers:
        ready = scheduler.ready
        for items in (ready.first, ready.queue, *(() if ready.lane is None else (ready.lane,))):
            _keep_new(items, seen)


def _keep_new(items: deque[Item], seen: set[tuple[int, int]]) -> None:
    # A copy, and one by one: other workers go on taking from a lane, and emitters append, without the lock.
    found = [(id(item[JOB]), item[NUMBER]) for item in items.copy()]
    if len(set(found)) == len(found) and seen.isdisjoint(found):
        seen.update(found)
        return
    for _ in range(len(items)):
        try:
            item = items.popleft()
        except IndexError:  # a worker took it
            return
        if (id(item[JOB]), item[NUMBER]) not in seen:
            seen.add((id(item[JOB]), item[NUMBER]))
            items.append(item)
