"""Which waiting activation is next, where a pool chooses: what it may choose from, and the taking of it.

Nothing here is on the way of a pool that does not choose.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Protocol, overload

from routilux_core._engine.plan import CAUSE, INLET, JOB, NUMBER, Item
from routilux_core.strategy import Chooser, Waiting

AT_ONCE = 256  # waiting activations that a choice is made from, at most: with thousands, all of them would be slow


class Hand(Protocol):
    item: Item | None


class Lane(Protocol):
    first: deque[Item]
    ready: deque[Item]


def take_chosen(lane: Lane, chooser: Chooser, hand: Hand) -> Item | None:
    """Take the activation that the chooser wants, with its permit, noted in `hand`. The lock is held."""
    hand.item = None
    while True:
        found = list(allowed(lane, AT_ONCE))
        halted = [item for item in found if item[JOB].halted]
        for item in halted:
            item[JOB].set_aside(item, _remove(lane, item))
        if not halted:
            break
    if not found:
        _let_wait(lane)
        return None
    wanted = chooser(_Seen(found))
    if wanted is None:
        return None
    item = hand.item = found[wanted]
    if not _remove(lane, item):
        item[INLET].node.mailbox.acquire()
    return item


def allowed(lane: Lane, enough: int) -> Iterator[Item]:
    """Yield what may run now, oldest first. After `enough` activations looked at, the rest is left out.

    What one call emitted reaches a routine with state in that order: of its activations that have the same cause only
    the oldest may run. Everything else may overtake.
    """
    yield from lane.first
    behind: set[tuple[object, ...]] = set()
    found = bool(lane.first)
    for looked_at, item in enumerate(lane.ready):
        if found and looked_at >= enough:
            return
        node = item[INLET].node
        origin = (node, item[JOB], item[CAUSE])
        if node.mailbox.free and origin not in behind:
            found = True
            yield item
        if node.mailbox.limit == 1:
            behind.add(origin)


class _Seen(Sequence[Waiting]):
    """The activations as a chooser sees them, made when looked at: most choosers look at few."""

    def __init__(self, items: list[Item]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Waiting: ...
    @overload
    def __getitem__(self, index: slice) -> list[Waiting]: ...
    def __getitem__(self, index: int | slice) -> Waiting | list[Waiting]:
        if isinstance(index, slice):
            return [as_waiting(item) for item in self._items[index]]
        return as_waiting(self._items[index])


def as_waiting(item: Item) -> Waiting:
    """Return what a chooser, and a test, may know of an activation."""
    inlet, payload, run, number, cause, _ = item
    return Waiting(
        job_id=run.job_id,
        id=number,
        cause=cause or None,
        routine_id=inlet.node.routine_id,
        slot=inlet.name,
        payload=payload,
    )


def _remove(lane: Lane, item: Item) -> bool:
    """Take an activation out, and return whether it had a permit of its routine in hand already.

    Found by identity: to compare two activations would compare their payloads.
    """
    for items, with_permit in ((lane.first, True), (lane.ready, False)):
        for index, each in enumerate(items):
            if each is item:
                del items[index]
                return with_permit
    raise LookupError(f"activation {item[NUMBER]} is not queued")


def _let_wait(lane: Lane) -> None:
    """Move what finds no permit out of the way, so that nobody asks for workers for it; `release` brings it back."""
    for item in lane.ready:
        item[INLET].node.mailbox.waiting.append(item)
    lane.ready.clear()


def bring_back(lane: Lane, waiting: deque[Item]) -> None:
    """Queue what waited for a permit again, before what came later. The lock is held."""
    lane.ready.extendleft(reversed(waiting))
    waiting.clear()
