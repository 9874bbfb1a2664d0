"""The graph, wired for running: what the engine reads for each event, made when the graph is built."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from routilux_core._engine.mailbox import UNLIMITED, Mailbox
from routilux_core._routines.merge_strategies import merging_of
from routilux_core._routines.signature import Payload, bind
from routilux_core._threads.timers import Timer
from routilux_core.error_handling import ErrorHandler, ErrorStrategy
from routilux_core.errors import PayloadError
from routilux_core.ports import Slot
from routilux_core.routine import Routine, fresh_copy
from routilux_core.strategy import ExecutionStrategy, WorkerPool

SHORT_S: Final = 0.00002  # what a call takes at most, on average, that is short: some ten times what an event costs
DEFAULT_POLICY = ErrorHandler()
NO_KEY = object()  # in no payload

GATHERED = "gathered payloads"  # the key under which a gather slot's arrivals travel to its one call
CAUSES = "what emitted them"  # beside it, the numbers of the activations, where somebody is told

# An activation: inlet, payload, run, number in its run (from 1), number of what caused it (0: the entry), time posted.
# A plain tuple with named indexes: to unpack a named tuple takes twice as long.
Item = tuple["Inlet", Payload, Any, int, int, float]
INLET: Final = 0
PAYLOAD: Final = 1
JOB: Final = 2
NUMBER: Final = 3
CAUSE: Final = 4
POSTED: Final = 5


class Ready(Protocol):
    """What is queued for a pool: see `ready`."""

    first: deque[Item]
    queue: deque[Item]
    chosen: bool

    def bind(self, node: Node, /) -> None: ...
    def backlog(self) -> int: ...
    def release(self, node: Node, /) -> None: ...


class Callers(Protocol):
    """Who is to be asked for a worker: see `crew`."""

    active: int
    workers: int
    recruiting: bool
    held: Timer | None

    def want_worker(self) -> None: ...


class Lane(Protocol):
    """What a node needs of its scheduler."""

    strategy: ExecutionStrategy
    pool: WorkerPool | None

    @property
    def ready(self) -> Ready: ...
    @property
    def crew(self) -> Callers: ...
    def admit(self, node: Node, /) -> None: ...


class Inlet:
    """A slot, bound: `call(payload)` calls its handler. `number` names it in records."""

    __slots__ = (
        "advice",
        "call",
        "emits_fast",
        "gathers",
        "handler",
        "in_loop",
        "is_fast",
        "key",
        "merge",
        "name",
        "node",
        "number",
        "required",
        "short_calls",
        "short_way",
        "snapshot",
        "whole",
    )

    def __init__(self, node: Node, slot: Slot, number: int) -> None:
        where = f"routine {node.routine_id!r}, slot {slot.name!r}"
        self.node = node
        self.name = slot.name
        self.number = number
        self.call: Callable[[Payload], Any] = bind(slot.handler, slot.signature, where)
        self.handler = slot.handler
        # Whether it is called in the event loop itself, where there is one; else in a thread beside it.
        self.in_loop = slot.signature.is_async or node.routine.__routilux_settings__.inline
        # A handler of one parameter, or of none, is called without `call` in between.
        self.key: object = NO_KEY if slot.signature.takes_nothing else slot.signature.lone
        self.required = slot.signature.required
        self.advice = slot.signature.advice
        self.whole = slot.signature.whole
        self.merge, self.snapshot, self.gathers = merging_of(slot.merge_strategy, where)
        self.is_fast = False  # whether running it is no more than `call(payload)`
        self.short_way = self._short_way()
        self.emits_fast = False  # its last call was long, but emitted one after the other
        self.short_calls = 0  # how sure it is that they are short: 2, 1 behind one that was not, or 0. See `crew`

    def learn(self, seconds: float, calls: int, emissions: int) -> None:
        """Learn how long so many calls took. Without the lock: an old value calls a worker too many, or too late."""
        is_short = seconds <= calls * SHORT_S
        self.short_calls = 2 if is_short else max(0, self.short_calls - 1)
        self.emits_fast = not is_short and seconds <= emissions * SHORT_S

    @property
    def goes_alone(self) -> bool:
        """Whether its calls are merged when they are taken, or may be ended: then a batch is one of them."""
        return self.merge is not None or self.gathers or self.node.timeout is not None

    def rebind(self, slot: Slot) -> None:
        """Call another handler of the same signature from now on: the old one's owner has been replaced."""
        where = f"routine {self.node.routine_id!r}, slot {slot.name!r}"
        self.call = bind(slot.handler, slot.signature, where)
        self.handler = slot.handler
        self.merge = merging_of(slot.merge_strategy, where).function
        self.short_way = self._short_way()

    def _short_way(self) -> tuple[Node, Routine, object, Callable[..., Any], int]:
        """Return all that the worker loop needs for a fast call: one tuple, since it looks for nothing else then."""
        return self.node, self.node.routine, self.key, self.handler, self.number

    def collect(self, payloads: list[Payload]) -> Payload:
        """Return a list for each parameter, of everything that arrived in a job."""
        for name in () if self.whole else self.required:
            have = sum(name in payload for payload in payloads)
            if have < len(payloads):
                raise PayloadError(
                    f"routine {self.node.routine_id!r}, slot {self.name!r}: the handler requires {name!r}, but "
                    f"{len(payloads) - have} of the {len(payloads)} gathered payloads have none{self.advice}"
                )
        return arrived({GATHERED: payloads})


class Outlet:
    """An event, wired: where a payload goes, and under which names a job collects it."""

    __slots__ = ("_simple", "is_fast", "is_unheard", "lone", "name", "outputs", "short", "targets")

    def __init__(self, name: str) -> None:
        self.name = name
        self.targets: tuple[tuple[Inlet, dict[str, str] | None], ...] = ()
        self.outputs: tuple[str, ...] = ()
        self.short = True  # its routine's emissions need no further thought: they are not held, and no call is given up
        self._simple = True  # no target has a mapping, gathers, or is made anew for each job
        self.is_fast = False  # whether posting to the targets needs no further thought
        self.is_unheard = True  # nothing is connected to it: an emission is counted, no more
        self.lone: Inlet | None = None  # the one target of a fast event

    def add_target(self, inlet: Inlet, mapping: dict[str, str] | None) -> None:
        """Send to one slot more."""
        self.add_targets([(inlet, mapping)])

    def add_targets(self, targets: list[tuple[Inlet, dict[str, str] | None]]) -> None:
        """Send to several slots more, at once: a saved flow may have very many."""
        self.targets += tuple(targets)
        for inlet, mapping in targets:
            if mapping is not None or inlet.gathers or inlet.node.per_job:
                self._simple = False
        self.look_again()

    def add_output(self, *names: str) -> None:
        """Let jobs collect what is emitted here under these names, too."""
        self.outputs += names
        self.look_again()

    def disconnect(self) -> None:
        """Send to no slot, and let nobody collect: what is connected now is told anew."""
        self.targets, self.outputs, self._simple = (), (), True
        self.look_again()

    def look_again(self) -> None:
        """Work out `lone`, `is_fast` and `is_unheard`."""
        self.is_fast = self._simple and bool(self.targets) and not self.outputs
        self.is_unheard = self.short and not self.targets and not self.outputs
        self.lone = self.targets[0][0] if self.is_fast and len(self.targets) == 1 and self.short else None


class Node:
    """A routine, wired, with the `mailbox` that decides how many of its calls may run at once.

    The twin that a job has of a node is `unmade` until its first call makes the copy of the routine: that is user code,
    which may take long, or raise.
    """

    __slots__ = (
        "crew",
        "holds",
        "inlets",
        "journaled",
        "mailbox",
        "mark",
        "outlets",
        "per_job",
        "policy",
        "post",
        "queue",
        "routine",
        "routine_id",
        "scheduler",
        "timeout",
        "told",
        "told_blocked",
        "unmade",
        "waits",
    )

    # Bound by what is ready, for the way in which its workers share it now:
    queue: deque[Item]  # where its activations go
    waits: Mailbox | None  # its mailbox, where that is the mailbox's own waiting list
    crew: Callers | None  # who is to be asked for a worker then; None where the only worker is the one that posts
    post: Callable[[Item], None]  # puts one there, without the lock being held

    def __init__(self, routine_id: str, routine: Routine, scheduler: Lane) -> None:
        settings = routine.__routilux_settings__
        self.routine_id = routine_id
        self.routine = routine
        self.mailbox = Mailbox((settings.concurrency or UNLIMITED) if settings.stateless else 1)
        self.place(scheduler)
        self.per_job = settings.scope == "job"
        self.timeout = settings.timeout
        self.told_blocked = 0.0  # seconds that a handler kept its event loop from all others, at most
        self.told: set[str] = set()  # the slots of which was told that what their handlers return is not used
        self.unmade: threading.Lock | None = None  # held by who makes the copy of the routine; None when there is one
        self.policy = DEFAULT_POLICY
        self.journaled = False  # what its calls do is kept on disk when they have succeeded
        self.holds = False  # under a RETRY policy, or a journal: emissions are held until the call has succeeded
        self.mark = 0  # raised above the flow's max_pending while nobody can work off what waits here
        self.inlets: dict[str, Inlet] = {}
        self.outlets: dict[str, Outlet] = {}

    def refresh(self, numbers: list[Inlet], default: ErrorHandler) -> None:
        """Wire the slots and events that the routine has and the node has not yet, and take over its policy."""
        for slot in self.routine._routilux.slots.values():
            if slot.name not in self.inlets:
                self.inlets[slot.name] = Inlet(self, slot, len(numbers))
                numbers.append(self.inlets[slot.name])
        for name in self.routine._routilux.events:
            self.outlets.setdefault(name, Outlet(name))
        self.set_policy(default)

    def set_policy(self, default: ErrorHandler) -> None:
        """Take over the routine's own error policy, or the given one of its flow."""
        self.policy = self.routine._routilux.error_handler or default
        self.holds = self.journaled or self.policy.strategy is ErrorStrategy.RETRY
        for outlet in self.outlets.values():
            outlet.short = not (self.holds or self.timeout)
            outlet.look_again()
        for inlet in self.inlets.values():
            inlet.is_fast = not (self.holds or inlet.gathers or inlet.merge or self.timeout or self.unmade)

    def place(self, scheduler: Lane) -> None:
        """Let its activations be run by a scheduler."""
        self.scheduler = scheduler
        scheduler.ready.bind(self)

    def for_job(self) -> Node:
        """Return a twin for a fresh copy of the routine, not made yet, with permits of its own and the same wiring."""
        twin = object.__new__(Node)
        twin.routine_id, twin.mailbox = self.routine_id, Mailbox(self.mailbox.limit)
        twin.place(self.scheduler)
        twin.routine, twin.unmade = self.routine, threading.Lock()
        twin.per_job, twin.mark, twin.timeout, twin.outlets = False, 0, self.timeout, self.outlets
        twin.told, twin.told_blocked, twin.journaled = self.told, self.told_blocked, self.journaled
        slots = twin.routine._routilux.slots
        twin.inlets = {name: Inlet(twin, slots[name], inlet.number) for name, inlet in self.inlets.items()}
        twin.set_policy(self.policy)
        return twin

    def make(self) -> None:
        """Make the twin's copy of the routine, if there is none. Not under the engine's lock."""
        making = self.unmade
        if making is None:
            return
        with making:
            if self.unmade is None:
                return
            # `is_fast` is the last to change, in `set_policy`: until then each call comes through here, and waits.
            self.routine = fresh_copy(self.routine)
            for name, inlet in self.inlets.items():
                inlet.rebind(self.routine._routilux.slots[name])
            self.unmade = None
            self.set_policy(self.policy)


def arrived(payload: Payload) -> Payload:
    """Return what arrived for an activation; for a gather slot with a list of all values under each name."""
    several = payload.get(GATHERED)
    if several is None:
        return payload
    keys = dict.fromkeys(key for each in several for key in each)
    return {key: [each[key] for each in several if key in each] for key in keys}


def rename(payload: Payload, mapping: dict[str, str]) -> Payload:
    """Return the payload under its new names: a mapped value wins over a key of that name."""
    kept = {key: value for key, value in payload.items() if key not in mapping}
    kept.update((new, payload[old]) for old, new in mapping.items() if old in payload)
    return kept
