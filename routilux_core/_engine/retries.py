"""What waits for another attempt, the permits that it keeps meanwhile, and which attempt each activation is at."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from routilux_core._engine.plan import INLET, NUMBER, Item, Node
from routilux_core._threads.guard import guarded
from routilux_core._threads.timers import Timer, Timers


class Waiting(NamedTuple):
    """One activation until its next attempt."""

    timer: Timer
    item: Item
    keeps: bool  # the permit of its routine


class Retries:
    """The retries of one job."""

    __slots__ = ("_timers", "attempts", "may_retry", "merged", "parked", "waiting")

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self.attempts: dict[int, int] = {}  # by number, of activations that were tried before
        self.waiting: dict[int, Waiting] = {}  # by number
        self.parked: list[Item] = []  # due while their job was paused; with their permits
        self.merged: set[int] = set()  # by number, those that may be tried again and have merged what they brought
        self.may_retry = False  # a plugin let a fast call be tried again: each call may be another attempt

    def __len__(self) -> int:
        return len(self.waiting) + len(self.parked)

    def attempt(self, number: int) -> int:
        """Return which attempt an activation is at, from 1."""
        return self.attempts.get(number, 1)

    def forget(self, number: int) -> None:
        """An activation is over: it has no other attempt."""
        self.attempts.pop(number, None)
        self.merged.discard(number)

    @guarded
    def add(self, item: Item, delay: float, permit: bool) -> bool:
        """Try again after a delay in seconds; True if the permit is kept meanwhile."""
        inlet, number = item[INLET], item[NUMBER]
        self.attempts[number] = self.attempt(number) + 1
        self.may_retry = self.may_retry or inlet.is_fast
        keeps = inlet.node.mailbox.limit == 1 and permit  # order holds behind a routine with state
        timer = self._timers.add(delay, lambda: self._try_again(number))
        self.waiting[number] = Waiting(timer, item, keeps)
        return keeps

    @guarded
    def take_up(self, item: Item, attempt: int, delay: float) -> None:
        """Wait for another attempt that was due in another process; nothing else of its routine is queued yet."""
        inlet, number = item[INLET], item[NUMBER]
        self.attempts[number] = attempt
        self.may_retry = self.may_retry or inlet.is_fast
        keeps = inlet.node.mailbox.limit == 1 and inlet.node.mailbox.acquire()
        self.waiting[number] = Waiting(self._timers.add(delay, lambda: self._try_again(number)), item, keeps)

    def _try_again(self, number: int) -> None:
        _, item, keeps = self.waiting.pop(number)
        node = item[INLET].node
        scheduler = node.scheduler
        if keeps:
            scheduler.ready.first.append(item)
        elif node.mailbox.limit != 1:
            scheduler.ready.queue.append(item)
        elif node.mailbox.acquire():
            scheduler.ready.first.append(item)
        else:  # the call that was late goes on: next after it
            node.mailbox.put_back([item])
        scheduler.crew.want_worker()

    @guarded
    def keep_permit(self, item: Item) -> bool:
        """Leave the permit of a late call to its own retry, if that waits and order has to hold."""
        found = self.waiting.get(item[NUMBER])
        if found is None or found.keeps or item[INLET].node.mailbox.limit != 1:
            return False
        self.waiting[item[NUMBER]] = found._replace(keeps=True)
        return True

    @guarded
    def park(self, item: Item) -> bool:
        """Set an activation aside that is due while its job is paused; False if it is at its first attempt."""
        if item[NUMBER] not in self.attempts:
            return False
        self.parked.append(item)
        return True

    @guarded
    def unpark(self) -> None:
        """Let what was set aside go on, before everything else of its job."""
        for item in self.parked:
            item[INLET].node.scheduler.ready.first.append(item)
        self.parked.clear()

    @guarded
    def permits(self) -> Iterable[Node]:
        """Yield the node of each permit that is kept for a retry."""
        yield from (item[INLET].node for _, item, keeps in self.waiting.values() if keeps)
        yield from (item[INLET].node for item in self.parked)

    @guarded
    def give_up(self) -> list[Item]:
        """Try nothing again, and give the permits back; return what has waited."""
        gone = self.parked + [each.item for each in self.waiting.values()]
        for each in self.waiting.values():
            each.timer.cancel()
        nodes = list(self.permits())
        self.waiting, self.parked = {}, []
        for node in nodes:
            node.scheduler.ready.release(node)
        self._timers.wake()
        return gone
