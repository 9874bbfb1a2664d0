"""What travels together, by how long calls take. A batch costs a message; what is in it can't be spread any more."""

from __future__ import annotations

from math import inf
from typing import Literal

from routilux_core._engine.plan import INLET, JOB, Inlet, Item
from routilux_core._engine.roles import JobRole, waits_for_disk
from routilux_core._engine.scheduler import Scheduler
from routilux_core._remote.envelopes import travels
from routilux_core._remote.losses import Losses
from routilux_core.strategy import Capabilities

WORTHWHILE = 0.001  # seconds of work below which a batch is not made smaller: to hand it over costs half as much
ALONE = 0.25  # of `batch_seconds`: a call that takes longer travels alone, and is in doubt alone if its worker dies
BULKY = 1 << 20  # bytes of payloads in a batch, about
WEIGHT = 0.25  # of the newest measurement in the mean


class Paces:
    """What is known of the calls of each inlet, by its number. Guarded by the engine's lock."""

    __slots__ = ("_bounds", "_max_batch", "packs_slowly", "seconds")

    def __init__(self, capabilities: Capabilities) -> None:
        self._max_batch = capabilities.max_batch
        self.seconds: dict[int, float] = {}  # of a call, in the mean
        self.packs_slowly: dict[int, bool] = {}  # whether it took long to pickle the last batch
        self._bounds: dict[int, int] = {}  # calls in a batch, where that is bounded

    def of(self, inlet: Inlet) -> float:
        """Return the mean seconds of a call; where none was measured, it may take for ever."""
        return self.seconds.get(inlet.number, inf)

    def most(self, inlet: Inlet) -> int:
        """Return how many calls a batch may have."""
        return self._bounds.get(inlet.number, self._max_batch)

    def measure(self, inlet: Inlet, seconds: float) -> None:
        """Take the run time of a call into the mean."""
        old = self.seconds.get(inlet.number)
        self.seconds[inlet.number] = seconds if old is None else old + WEIGHT * (seconds - old)

    def weigh(self, inlet: Inlet, size: int, weight: int) -> None:
        """Send fewer calls together where they are heavy: a worker holds a whole batch, and so do we."""
        most = max(1, BULKY * size // weight)
        if most < self._max_batch:
            self._bounds[inlet.number] = min(most, self._bounds.get(inlet.number, most))

    def learn(self, inlet: Inlet, done: int, size: int) -> None:
        """Send fewer calls together where batches came home early, since the rest has to be sent again."""
        bound = self._bounds.get(inlet.number)
        if done < size:
            bound = 2 * max(done, 1)
        elif bound is not None:
            bound *= 2
        if bound is None or bound > self._max_batch:
            self._bounds.pop(inlet.number, None)
        else:
            self._bounds[inlet.number] = bound


class Batcher:
    """Puts batches together of what lies in a scheduler's queues. All of it is called under the engine's lock."""

    __slots__ = ("_can", "_joins", "_losses", "_paces", "_queues", "_short")

    def __init__(self, queues: Scheduler, paces: Paces, losses: Losses) -> None:
        self._queues = queues
        self._paces = paces
        self._losses = losses
        self._can = queues.strategy.capabilities
        self._short = ALONE * self._can.batch_seconds  # what takes no longer may travel with others
        self._joins: dict[Inlet, bool] = {}  # whether its activations may travel with others, where that is known

    def forget(self) -> None:
        """Look anew at which slots may be together in a batch: the graph may have changed."""
        self._joins = {}

    def is_quick(self, item: Item) -> bool:
        """Whether its call is so short that another batch may wait behind it; not where none was measured."""
        return self._paces.of(item[INLET]) < self._can.ahead_below

    def take_newest(self) -> Item | Literal[False]:
        """Return the newest activation if its routine keeps nothing: its order does not matter.

        Where more waits than `max_pending`, what comes last is nearest to the end, and working it off frees memory.
        """
        ready = self._queues.ready.queue
        item = ready[-1]
        node = item[INLET].node
        if self._queues.ready.first or travels(node) or item[JOB].halted or not node.mailbox.acquire():
            return False
        return ready.pop()

    def batch(self, item: Item, workers: int, newest: bool) -> tuple[list[Item], bool]:
        """Add to an activation what may travel with it; also return whether that will be quick."""
        inlet, quick = item[INLET], self.is_quick(item)
        spent, most = self._paces.of(inlet), self._paces.most(inlet)
        # Who is told of each call, or asked about it, is told when it is sent, and what came of those before is known.
        singly = item[JOB].told_in_detail() or item[JOB].admit is not None or _is_kept_singly(item)
        if spent > self._short or inlet.goes_alone or item in self._losses or singly:
            return [item], quick
        if travels(inlet.node):
            return self._more_of(item, spent, most), quick
        # No more than the fair share of one worker, with two batches for each: what lies in this one, no other can do.
        waiting = len(self._queues.ready.first) + len(self._queues.ready.queue) + 1
        fair = max(waiting // (2 * workers), _fitting(WORTHWHILE, spent, most))
        return self._more_stateless(item, spent, min(most, fair), newest), quick

    def _more_of(self, item: Item, spent: float, most: int) -> list[Item]:
        """Add what a routine with state would run next, in its order; its permit is for all of them."""
        items, node, run, queues = [item], item[INLET].node, item[JOB], self._queues
        while len(items) < most:
            source = node.mailbox.waiting or (queues.ready.queue if not queues.ready.first else None)
            following = source[0] if source else None
            if following is None or source is None or following[INLET].node is not node or following[JOB] is not run:
                break
            pace = self._paces.of(following[INLET])
            if (
                pace > self._short
                or spent + pace > self._can.batch_seconds
                or following[INLET].goes_alone
                or following in self._losses
            ):
                break
            spent += pace
            items.append(following)
            source.popleft()
        return items

    def _more_stateless(self, item: Item, spent: float, most: int, newest: bool) -> list[Item]:
        """Add the oldest (or newest) of what waits, while it is of stateless routines; each has a permit."""
        items, run, joins, losses = [item], item[JOB], self._joins, self._losses
        first, ready = self._queues.ready.first, self._queues.ready.queue
        if not (first or losses or item[INLET].node.mailbox.limited):
            spent = self._more_alike(items, spent, most, newest)
        while len(items) < most and (first or ready):
            has_permit = bool(first) and not newest
            following = first[0] if has_permit else ready[-1 if newest else 0] if ready else item
            inlet = following[INLET]
            if following is item or following[JOB] is not run or (losses and following in losses):
                break
            if not joins.get(inlet, False) and not self._learn_to_join(inlet):
                break
            pace = self._paces.of(inlet)
            spent += pace
            if pace > self._short or spent > self._can.batch_seconds:
                break
            if has_permit:
                first.popleft()
            elif inlet.node.mailbox.acquire():
                ready.pop() if newest else ready.popleft()
            else:
                break
            items.append(following)
        return items[::-1] if newest else items

    def _more_alike(self, items: list[Item], each: float, most: int, newest: bool) -> float:
        """Add the oldest (or newest) of what waits while it is for the same slot and needs no permit.

        Return the time that all of it will take.
        """
        inlet, _, run, _, _, _ = items[0]
        ready = self._queues.ready.queue
        take = ready.pop if newest else ready.popleft
        room = _fitting(self._can.batch_seconds, each, most) - 1
        while room > 0 and ready:
            following = take()
            if following[INLET] is not inlet or following[JOB] is not run:
                (ready.append if newest else ready.appendleft)(following)
                break
            items.append(following)
            room -= 1
        return each * len(items)

    def _learn_to_join(self, inlet: Inlet) -> bool:
        joins = self._joins[inlet] = not travels(inlet.node) and not inlet.goes_alone
        return joins


def _is_kept_singly(item: Item) -> bool:
    """Return whether a journal has each call by itself: of a crash, no more than one for each worker is to be in doubt.

    And the state that a routine comes home with is that after one call.
    """
    run: JobRole = item[JOB]
    return waits_for_disk(run) or (run.book is not None and travels(item[INLET].node))


def _fitting(seconds: float, each: float, most: int) -> int:
    """Return how many calls fit into some seconds, which may be infinite; `most` at most."""
    return most if each * most <= seconds else int(seconds / each)
