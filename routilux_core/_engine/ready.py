"""What is queued for one pool, and which of it is next: a class for each way in which workers share it.

The graph is bound to one of them: `node.queue` is where activations of that routine go, and `node.post` puts them
there without the engine's lock being held. So posting asks nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Final, Protocol, overload

from routilux_core._engine.plan import CAUSE, INLET, JOB, NUMBER, Callers, Item, Node
from routilux_core._threads.guard import guarded
from routilux_core.strategy import Chooser, Waiting, WorkerPool

AT_ONCE: Final = (
    256  # waiting activations that a choice is made from, at most: with thousands, all of them would be slow
)


class Hand(Protocol):
    """Who takes an activation: `item` is the one in hand, from its leaving the queue until it is counted."""

    item: Item | None


class Owner(Protocol):
    """What is needed of the scheduler."""

    pool: WorkerPool | None
    hands: set[Any]

    @property
    def crew(self) -> Callers: ...
    def post(self, item: Item, /) -> None: ...
    def share_out(self) -> LockedReady: ...


class LockedReady:
    """Everything is queued, and taken, under the lock, oldest first: right wherever nothing else is known to be.

    `first` is what has a permit of its routine in hand already, and goes before. Who finds a routine without a permit
    left moves the activation to the mailbox of that routine.
    """

    __slots__ = ("first", "lane", "owner", "queue")

    solo = False  # one worker has everything in its lane
    shared = False  # several workers share a lane
    chosen = False  # the pool, which is for tests, chooses what is next

    def __init__(self, owner: Owner, before: LockedReady | None = None) -> None:
        self.owner = owner
        self.first: deque[Item] = deque() if before is None else before.first
        self.queue: deque[Item] = deque() if before is None else before.queue
        self.lane: deque[Item] | None = None  # what is worked off without the lock
        if before is not None:
            self.queue.extend(_left_in(before.lane))

    @guarded
    def settle_in(self, before: LockedReady) -> None:
        """Leave nothing in two places, now that this is what there is."""
        if before.lane:
            before.lane.clear()  # in place: a worker below the one that found this may be at work in it

    def bind(self, node: Node) -> None:
        """Let what is posted to a routine come here. Under the lock, or while the graph is wired."""
        node.queue, node.waits, node.crew, node.post = self.queue, None, node.scheduler.crew, self.owner.post

    # -- taking (lock)

    @guarded
    def take(self, hand: Hand, from_lane: bool = False) -> Item | None:
        """Return the oldest activation that may run, with its permit, noted in `hand`.

        It is noted before it leaves the queue, so that a KeyboardInterrupt in between can't lose it.
        """
        first, queue = self.first, self.queue
        while first or queue:
            source = first or queue
            item = source[0]
            if item[JOB].halted:
                source.popleft()
                item[JOB].set_aside(item, source is first)
            elif source is first or item[INLET].node.mailbox.acquire():
                hand.item = item
                source.popleft()
                return item
            else:
                item[INLET].node.mailbox.waiting.append(item)
                source.popleft()
        hand.item = None
        return None

    @guarded
    def is_turn_of_lane(self) -> bool:
        """Return whether the lane is next, where there is other work, too."""
        return False

    @guarded
    def release(self, node: Node) -> None:
        """Give a permit back: to the activation that has waited longest for it, if any."""
        node.mailbox.release(self.first)

    @guarded
    def put_back(self, items: list[Item]) -> None:
        """Queue what was taken out, in the order given, before everything else for its routines."""
        self.queue.extendleft(reversed(items))

    # -- looking

    @guarded
    def queued(self) -> list[Item]:
        """Return everything that is queued here."""
        return [*self.first, *self.queue, *_left_in(self.lane)]

    def backlog(self) -> int:
        """Return how much is queued here, without the lock: about."""
        return len(self.queue) + (len(self.lane) if self.lane else 0)

    # -- taking out

    @guarded
    def drop(self, run: Any) -> list[Item]:
        """Take out everything of a run, passing its permits on."""
        gone, permits = _sift(self.queue, run), _sift(self.first, run)
        for item in permits:
            self.release(item[INLET].node)
        return gone + permits


class ChosenReady(LockedReady):
    """A pool for tests chooses what is next."""

    __slots__ = ("_chooser",)

    chosen = True

    def __init__(self, owner: Owner, before: LockedReady | None = None) -> None:
        super().__init__(owner, before)
        self._chooser: Chooser | None = None

    def take(self, hand: Hand, from_lane: bool = False) -> Item | None:
        pool = self.owner.pool
        if pool is not None:  # else it was closed, and what is left here is worked off as it was
            self._chooser = pool.chooser
        return super().take(hand) if self._chooser is None else take_chosen(self, self._chooser, hand)

    def release(self, node: Node) -> None:
        bring_back(self, node.mailbox.waiting)
        node.mailbox.release(self.first)


class SharedReady(LockedReady):
    """Several workers take from one lane, without the lock, what needs no permit, in whatever order.

    What needs one goes to its routine's mailbox, without the lock as well, and from there to `first` when a permit is
    free. `queue` has what came back, of another attempt or of a paused job.

    Who leaves counts itself out, then looks at the lane once more; who posts appends, then looks who is counted in. The
    same goes for a permit that is given back, and what waits for one. Only the GIL keeps the order of such plain steps.
    """

    __slots__ = ("_turn",)

    shared = True

    def __init__(self, owner: Owner, before: LockedReady | None = None) -> None:
        super().__init__(owner, before)
        self.lane: deque[Item] = deque()
        self._turn = False  # of the lane, where there is work in both

    def settle_in(self, before: LockedReady) -> None:
        super().settle_in(before)
        for _ in range(len(self.queue)):  # what needs a permit is to wait for it where all others of its routine do
            item = self.queue.popleft()
            mailbox = item[INLET].node.mailbox
            (mailbox.waiting if mailbox.limited else self.queue).append(item)
            mailbox.admit(self.first)

    def bind(self, node: Node) -> None:
        mailbox = node.mailbox
        node.queue, node.waits = (mailbox.waiting, mailbox) if mailbox.limited else (self.lane, None)
        node.crew, node.post = node.scheduler.crew, node.queue.append

    def take(self, hand: Hand, from_lane: bool = False) -> Item | None:
        """Return what is next, noted in `hand`: what is in the lane behind the rest, or `from_lane` before it."""
        first, queue, lane = self.first, self.queue, self.lane
        while first or queue or lane:
            if first or not lane or (queue and not from_lane):
                item = super().take(hand)
                if item is not None:
                    return item
                continue
            try:
                item = lane.popleft()
            except IndexError:  # another worker was faster
                continue
            if not item[JOB].halted:
                hand.item = item
                return item
            item[JOB].set_aside(item, False)
        hand.item = None
        return None

    def is_turn_of_lane(self) -> bool:
        self._turn = not self._turn
        return self._turn or not (self.first or self.queue)

    def put_back(self, items: list[Item]) -> None:
        super().put_back([item for item in items if not item[INLET].node.mailbox.limited])
        for item in reversed(items):
            if item[INLET].node.mailbox.limited:
                item[INLET].node.mailbox.put_back([item])
        for mailbox in {item[INLET].node.mailbox for item in items}:
            mailbox.admit(self.first)

    def drop(self, run: Any) -> list[Item]:
        """Take out everything of a run: of one that was stopped also what lies in the lane, or was claimed."""
        gone = super().drop(run)
        if not run.stopped:
            return gone  # workers set aside what they come upon
        for hand in self.owner.hands:
            gone += _taken_back(hand.claimed, run)
        for _ in range(len(self.lane)):
            try:
                item = self.lane.popleft()
            except IndexError:  # workers take from it meanwhile
                break
            (gone if item[JOB] is run else self.lane).append(item)
        return gone


class SoloReady(LockedReady):
    """The only worker of the flow has everything in its lane, and nobody else takes from it.

    Permits are taken only by the calls below the newest one on its stack, and kept by calls that wait for a retry. It
    stays so from one job to the next. Others post, under the lock, since the worker leaves under it. `queue` has what
    came back, of another attempt or of a paused job.
    """

    __slots__ = ("_turn",)

    solo = True

    def __init__(self, owner: Owner, before: LockedReady | None = None) -> None:
        super().__init__(owner)
        if before is not None:
            self.first, self.queue = before.first, before.queue
        self.lane: deque[Item] = deque(chain(self.queue, () if before is None else _left_in(before.lane)))
        self._turn = False  # of the lane, where there is work in both

    def settle_in(self, before: LockedReady) -> None:
        super().settle_in(before)
        self.queue.clear()

    def bind(self, node: Node) -> None:
        node.queue, node.waits, node.crew, node.post = self.lane, None, None, self.lane.append

    def take(self, hand: Hand, from_lane: bool = False) -> Item | None:
        """Return what is next, noted in `hand`: what is in the lane behind the rest, or `from_lane` before it.

        A job that is halted ends all this: what comes back of it would lie beside the lane, and be overtaken.
        """
        while True:
            first, queue, lane = self.first, self.queue, self.lane
            source = first or (lane if lane and (from_lane or not queue) else queue)
            if not source:
                hand.item = None
                return None
            item = source[0]
            if item[NUMBER] in item[JOB].swept:
                source.popleft()
                item[JOB].swept.discard(item[NUMBER])
            elif item[JOB].halted:
                return self.owner.share_out().take(hand, from_lane)
            elif source is first or item[INLET].node.mailbox.acquire():
                hand.item = item
                source.popleft()
                return item
            else:
                item[INLET].node.mailbox.waiting.append(item)
                source.popleft()

    def is_turn_of_lane(self) -> bool:
        if self.first:
            return False
        self._turn = not self._turn
        return self._turn or not self.queue

    def drop(self, run: Any) -> list[Item]:
        """Take out everything of a run: of one that was stopped also what lies in the lane.

        While the worker is at work in it, what lies there is noted, and dropped when met.
        """
        gone = super().drop(run)
        if not run.stopped:
            return gone
        if not self.owner.crew.active:
            return gone + [item for item in _sift(self.lane, run) if item[NUMBER] not in run.swept]
        met = [item for item in self.lane.copy() if item[JOB] is run and item[NUMBER] not in run.swept]
        run.swept.update(item[NUMBER] for item in met)
        return gone + met


def next_in(ready: LockedReady) -> Item | None:
    """Return what is next, None where nothing is queued. Without the lock: others may just take it."""
    try:
        return (ready.first or ready.lane or ready.queue)[0]
    except IndexError:
        return None


def _left_in(lane: deque[Item] | None) -> list[Item]:
    """Return what of a lane was not dropped, though it still lies there; its worker may take of it meanwhile."""
    return [] if not lane else [item for item in lane.copy() if item[NUMBER] not in item[JOB].swept]


@guarded
def _sift(items: deque[Item], run: Any) -> list[Item]:
    """Take what belongs to a run out of a queue that nobody else touches meanwhile.

    One by one: of what belongs to other jobs, an exception in between loses no more than that one.
    """
    gone: list[Item] = []
    for _ in range(len(items)):
        item = items.popleft()
        (gone if item[JOB] is run else items).append(item)
    return gone


def _taken_back(claimed: deque[Item], run: Any) -> list[Item]:
    """Take everything back of what a worker took to do next, if it is of a run; the worker may take of it, too."""
    mine: list[Item] = []
    if any(item[JOB] is run for item in claimed.copy()):
        while claimed:
            try:
                mine.append(claimed.popleft())
            except IndexError:  # the worker was faster
                break
    return mine


# -- what a pool that chooses may choose from; nothing of it is on the way of one that does not


@guarded
def take_chosen(ready: LockedReady, chooser: Chooser, hand: Hand) -> Item | None:
    """Take the activation that the chooser wants, with its permit, noted in `hand`."""
    hand.item = None
    while True:
        found = list(allowed(ready, AT_ONCE))
        halted = [item for item in found if item[JOB].halted]
        for item in halted:
            item[JOB].set_aside(item, _remove(ready, item))
        if not halted:
            break
    if not found:
        _let_wait(ready)
        return None
    wanted = chooser(_Seen(found))
    if wanted is None:
        return None
    item = hand.item = found[wanted]
    if not _remove(ready, item):
        item[INLET].node.mailbox.acquire()
    return item


def allowed(ready: LockedReady, enough: int) -> Iterator[Item]:
    """Yield what may run now, oldest first. After `enough` activations looked at, the rest is left out.

    What one call emitted reaches a routine with state in that order: of its activations that have the same cause only
    the oldest may run. Everything else may overtake.
    """
    yield from ready.first
    behind: set[tuple[object, ...]] = set()
    found = bool(ready.first)
    for looked_at, item in enumerate(ready.queue):
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


def _remove(ready: LockedReady, item: Item) -> bool:
    """Take an activation out, and return whether it had a permit of its routine in hand already.

    Found by identity: to compare two activations would compare their payloads.
    """
    for items, with_permit in ((ready.first, True), (ready.queue, False)):
        for index, each in enumerate(items):
            if each is item:
                del items[index]
                return with_permit
    raise LookupError(f"activation {item[NUMBER]} is not queued")


def _let_wait(ready: LockedReady) -> None:
    """Move what finds no permit out of the way, so that nobody asks for workers for it; `release` brings it back."""
    for item in ready.queue:
        item[INLET].node.mailbox.waiting.append(item)
    ready.queue.clear()


@guarded
def bring_back(ready: LockedReady, waiting: deque[Item]) -> None:
    """Queue what waited for a permit again, before what came later."""
    ready.queue.extendleft(reversed(waiting))
    waiting.clear()
