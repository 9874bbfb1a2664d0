"""Who works in the pool of a strategy, and whether another worker is wanted: decided here alone.

With a GIL, threads that make short calls only get into each other's way: the interpreter goes round between them, and
each event costs two to three times as much. So where threads share what waits, another one is called only where it
helps:

- What waits next is of a slot whose calls are not known to be short, on average shorter than `SHORT_S`: then it is.
- Nobody who works is at short calls: then it is, since all of them may wait for something, or work for long.
- Else nobody is called, and the crew is `held`. As long as it is, there is a look each `LOOK_S`: whether one is still
  at short calls, and whether something was taken since. If not, the next worker is called. So nothing waits longer
  than two of these behind a call that turns out long.
- A worker that comes upon a call that may be long says so before it begins: the others are not to wait behind it.
- A worker that begins with what is known to be short, or to emit fast, is taken to be at short calls until the first
  look.
- A worker is spare if it is at short calls and another one is, too: it leaves.

Without a GIL, and where a crew does not share its memory, every worker helps.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any, Final, Protocol

from routilux_core._engine.engine import Engine
from routilux_core._engine.plan import INLET, NUMBER, SHORT_S, Item
from routilux_core._engine.ready import LockedReady, next_in
from routilux_core._threads.guard import guarded
from routilux_core._threads.timers import Timer

LOOK_S: Final = 0.002  # between two looks at a crew that is held
AGAIN_S: Final = 0.0002  # between two looks of those who ask for a worker
SOME: Final = 8  # calls and emissions that show how fast a worker gets on, at least


class Pace:
    """How fast a thread gets on: the calls and emissions that its workers have made."""

    __slots__ = ("_looked", "_seen", "_until", "told")

    def __init__(self) -> None:
        self.told = 0  # of those, how many jobs have been told of
        self._seen = 0  # how many there were at the last look
        self._looked = perf_counter()
        self._until = 0.0  # until when it counts as being at short calls

    @guarded
    def look(self, untold: int, now: float) -> None:
        """Look how many there are by now.

        A thread that waits for the interpreter seems to stand still: that shows nothing until a while has gone by.
        """
        done, spent = self.told + untold - self._seen, now - self._looked
        if done >= SOME and done * SHORT_S >= spent:
            self._until = now + LOOK_S
        elif spent < LOOK_S:
            return
        self._seen, self._looked = self._seen + done, now

    def is_short(self, now: float) -> bool:
        """Return whether the thread is at short calls."""
        return now < self._until

    def begin(self, is_short: bool) -> None:
        """Begin with calls that are known to be short, or to emit fast; or with one that may be long."""
        self._until = perf_counter() + LOOK_S if is_short else 0.0


class Owner(Protocol):
    """What is needed of the scheduler."""

    engine: Engine
    hands: set[Any]

    @property
    def ready(self) -> LockedReady: ...
    @property
    def submit_worker(self) -> Callable[[], None]: ...


class Crew:
    """The workers of one pool. Guarded by the engine's lock.

    Emitters look at it without the lock: they post first, and look behind that whether somebody is to be called. Who
    leaves does it the other way round: first counted out, then a second look at what waits. The same goes for `held`:
    the look that ends it comes first, then what waits is looked at.
    """

    __slots__ = ("_asked", "_looked", "_owner", "_seen", "active", "held", "pause", "recruiting", "workers")

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self.workers = 0  # how many there may be
        self.active = 0  # in their loop
        self.recruiting = False  # a task is on its way to the pool, and has not begun: one at a time
        self.pause: Timer | None = None  # in which the pool, which is busy, is given nothing
        # The next look, where those who work are enough, as far as one can see: nobody is called until then.
        self.held: Timer | None = None
        self._seen = 0  # the number of the activation that was next when it was set
        self._looked = 0.0  # when the paces were last looked at
        self._asked = 0.0  # and when one of the workers last asked whether it is spare

    @guarded
    def want_worker(self, stuck: int = 0) -> None:
        """Ask for one more worker, if there could be one, and it helps. `stuck` is an activation that waits too long.

        `Engine.run_deferred` follows, when the lock is free.
        """
        owner = self._owner
        ready = owner.ready
        if self.recruiting or self.active >= self.workers or not (ready.first or ready.queue or ready.lane):
            return
        if self.active:
            if ready.solo:
                return  # where there could be more workers by now, the one that is alone says so
            if ready.shared and self._are_enough(stuck):
                return
        self.recruiting = True
        owner.engine.deferred.append(owner.submit_worker)

    @guarded
    def begin(self, pace: Pace | None = None) -> None:
        """Count a worker in, and call the next one if there is more for it."""
        self.recruiting = False
        self.active += 1
        ready = self._owner.ready
        if pace is not None and ready.shared:
            item = next_in(ready)
            pace.begin(item is not None and (item[INLET].short_calls > 0 or item[INLET].emits_fast))
        if ready.backlog() + len(ready.first) > 1:
            self.want_worker()

    @guarded
    def step_out(self) -> None:
        """Count a worker out, then look once more.

        Who posts looks at `active` last, so one of the two sees the other.
        """
        self.active -= 1
        if self.held and not self.active:
            self.let_go()
        self.want_worker()

    # -- whether those who work are enough

    def _are_enough(self, stuck: int) -> bool:
        """Return whether those who work are enough, and hold the crew back then."""
        item = self._next_short()
        if item is None or item[NUMBER] == stuck or not self._someone_is_short():
            return False
        if not self.held:
            self._seen = item[NUMBER]
            self.held = self._owner.engine.timers.add(LOOK_S, self._look_again)
        return True

    def _next_short(self) -> Item | None:
        """Return what is next if its calls are known to be short."""
        item = next_in(self._owner.ready)
        return item if item is not None and item[INLET].short_calls else None

    @guarded
    def _someone_is_short(self, but: Pace | None = None) -> bool:
        """Return whether a worker, other than that one, is at short calls."""
        now, hands = perf_counter(), self._owner.hands
        if now - self._looked >= AGAIN_S:
            self._looked = now
            untold: dict[Pace, int] = {}
            for hand in hands:
                if not hand.shares_thread:
                    untold[hand.seat.pace] = untold.get(hand.seat.pace, 0) + hand.untold()
            for pace, more in untold.items():
                pace.look(more, now)
        return any(hand.seat.pace is not but and hand.seat.pace.is_short(now) for hand in hands)

    @guarded
    def is_spare(self, pace: Pace) -> bool:
        """Return whether the worker with that pace can leave though something waits. One of them hears so at a time."""
        now = perf_counter()
        if now - self._asked < AGAIN_S:
            return False
        self._asked = now
        if not self._owner.ready.shared or self._next_short() is None:
            return False
        return self._someone_is_short(pace) and pace.is_short(now)

    @guarded
    def _look_again(self) -> None:
        """Look whether those who work are still enough. The timers call this."""
        self.let_go()
        self.want_worker(stuck=self._seen)

    @guarded
    def let_go(self) -> None:
        """Hold the crew back no longer."""
        if self.held is not None:
            self.held.cancel()
            self.held = None

    @guarded
    def begin_long(self, pace: Pace) -> None:
        """The worker with that pace begins a call that may be long: another one is wanted for what waits behind it."""
        pace.begin(False)
        if self.held:
            self.let_go()
            self.want_worker()
