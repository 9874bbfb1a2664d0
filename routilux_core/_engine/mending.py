"""Putting the books of a flow in order, when an exception has left the engine between two of its steps.

A signal handler may raise in the main thread wherever that is, and a RecursionError or a MemoryError comes where it
likes. Nothing here depends on the place. What follows from other things is worked out anew: who works, which permits
are out, who has to be called. What a job has counted is compared with what there really is of it when nothing is left
(`Run.quiet`), since others work on meanwhile.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from threading import get_ident
from typing import Any, Protocol

from routilux_core._engine.plan import INLET, JOB, NUMBER, Item, Node
from routilux_core._engine.scheduler import Job, WorkQueue
from routilux_core._routines.frame import Frame


class Hub(Protocol):
    """What is needed of the dispatcher."""

    queues: list[WorkQueue]
    runs: set[Job]

    def all_nodes(self) -> list[Node]: ...


def put_in_order(hub: Hub, here: Frame | None, gone: Any = None) -> None:
    """Make the queues and permits right again. Lock.

    `here` is the frame that the calling thread is in, if any. Workers of this thread that are not below it are gone,
    and so is the given one: what they had in hand is dropped.
    """
    living: set[object] = set(_chain(here))
    if gone is not None:
        gone.be_gone()
    for queue in hub.queues:
        for hand in list(queue.hands):
            if hand.thread == get_ident() and not hand.shares_thread and hand not in living:
                hand.be_gone()
    for run in list(hub.runs):
        run.doubt()
    _drop_doubles(hub)
    held = _permits(hub)
    for node in hub.all_nodes():
        if node.limited:
            node.free = max(0, node.limit - held[node])
    for queue in hub.queues:
        queue.recruiting = False  # the task may never have come to the pool; one too many does no harm
        queue.recount()
    for node in hub.all_nodes():
        if node.waiting and node.free:
            node.queue.admit(node)
    for queue in hub.queues:
        queue.call()


def _chain(frame: Frame | None) -> Iterable[Frame]:
    while frame is not None:
        yield frame
        frame = frame.outer


def _permits(hub: Hub) -> Counter[Node]:
    """Count the permits that are out."""
    held: Counter[Node] = Counter()
    for queue in hub.queues:
        held.update(item[INLET].node for item in queue.first)
        held.update(queue.permits())
    for run in hub.runs:
        held.update(run.permits())
    return held


def _drop_doubles(hub: Hub) -> None:
    """Let nothing lie in two places: it was just being moved."""
    seen: set[tuple[int, int]] = set()
    for node in hub.all_nodes():
        _keep_new(node.waiting, seen)
    for queue in hub.queues:
        for items in (queue.first, queue.ready, *(() if queue.lane is None else (queue.lane,))):
            _keep_new(items, seen)


def _keep_new(items: deque[Item], seen: set[tuple[int, int]]) -> None:
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
