"""A routine as bytes: what it is, which a worker keeps, and its state, which comes home again."""

from __future__ import annotations

import pickle
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

from routilux_core._remote.pickling import Pickled, dumps, dumps_apart, explain, loads
from routilux_core._routines.attributes import attributes_of, drop, give, own_attributes
from routilux_core._routines.frame import CURRENT
from routilux_core._routines.internals import Internals
from routilux_core._routines.methods import bound
from routilux_core._routines.signature import Handler, Payload, Signature, bind
from routilux_core.errors import FlowStateError, ShippingError
from routilux_core.ports import Event, Slot
from routilux_core.routine import Routine

CONTAINERS = (list, dict, set, bytearray, deque)
SMALL = 100  # items
LOOKS = 8  # tasks behind which a worker looks

AnyPickled = TypeVar("AnyPickled", bytes, Pickled)
State = tuple[dict[str, Any], dict[str, Handler]]  # attributes by name, and the handlers that are no methods


def definition_of(routine: Routine, routine_id: str) -> bytes:
    """Pickle what a routine is: its class, slots and events, and who it belongs to."""
    internals = routine._routilux
    slots = {slot.name: (_merge_name(slot), slot.method, slot.signature.whole) for slot in internals.slots.values()}
    events = {name: each.output_params for name, each in internals.events.items()}
    definition = (type(routine), internals.owner, internals.sealed, slots, events)
    try:
        return dumps(definition)
    except Exception as error:
        raise explain(error, f"routine {routine_id!r}", "its class", "", type(routine)) from error


def _merge_name(slot: Slot) -> str:
    """Return how a slot merges, for `get_slot` in a worker: merging itself is done at home."""
    return slot.merge_strategy if isinstance(slot.merge_strategy, str) else "override"


def state_of(routine: Routine) -> State:
    """Return what a routine holds, as its class's `__getstate__` has it."""
    attributes = attributes_of(routine)
    slots = routine._routilux.slots.values()
    return attributes, {slot.name: slot.handler for slot in slots if slot.method is None}


def pickle_state(routine: Routine, routine_id: str) -> bytes:
    """Pickle what a routine holds; what can't be sent is a `ShippingError` that names its path."""
    return _pickle_state(routine, routine_id, dumps)


def pickle_state_apart(routine: Routine, routine_id: str) -> Pickled:
    """Do the same, for a state that is sent at once: large buffers are apart, and stay where they lie."""
    return _pickle_state(routine, routine_id, dumps_apart)


def _pickle_state(routine: Routine, routine_id: str, dump: Callable[[Any, Routine], AnyPickled]) -> AnyPickled:
    whole = f"routine {routine_id!r}"
    try:
        state = state_of(routine)
    except Exception as error:
        raise ShippingError(f"{whole}: its __getstate__ raised {error!r}", "__getstate__", routine) from error
    try:
        return dump(state, routine)
    except Exception as error:
        raise _explained(error, whole, state, routine) from error


def _explained(error: BaseException, whole: str, state: State, routine: Routine) -> ShippingError:
    attributes, handlers = state
    for name, value in attributes.items():
        try:
            dumps(value, routine)
        except Exception as reason:
            return explain(reason, whole, "attribute", name, value, routine)
    for name, value in handlers.items():
        try:
            dumps(value, routine)
        except Exception as reason:
            return explain(reason, whole, "the handler of slot", name, value, routine)
    return ShippingError(f"{whole} can't be sent to a worker process: {error!r}", "", routine)


def restore(routine: Routine, state: State, before: frozenset[str] = frozenset()) -> None:
    """Give a routine a state; of the attributes named in `before`, those that the state lacks are gone."""
    attributes, handlers = state
    give(routine, attributes)
    drop(routine, before - attributes.keys())
    for name, handler in handlers.items():
        routine._routilux.slots[name].handler = handler


def _not_here(*_: Any) -> NoReturn:
    raise FlowStateError(
        "slots, events and error handlers can't be changed in a worker process: the flow would not know; "
        "do it before the flow runs"
    )


class Blueprint:
    """What a worker makes a routine of: once for a stateless one, for each task where it has state."""

    def __init__(self, definition: bytes, routine_id: str) -> None:
        self.routine_id = routine_id
        self._told: set[str] = set()
        self._class, self._owner, self._sealed, self._slots, self._events = loads(definition)
        self._signatures: dict[str, Signature] = {
            name: signature for name, (_, signature) in self._class.__routilux_declared__.slots.items()
        }

    def build(self, state: Pickled, stats: dict[str, float]) -> Ready:
        """Return the routine with this state, bound."""
        routine = object.__new__(self._class)
        internals = Internals()
        object.__setattr__(routine, "_routilux", internals)
        internals.owner, internals.sealed = self._owner, self._sealed
        internals.events = {name: Event(name, params) for name, params in self._events.items()}
        internals.slots = {name: Slot.named(name) for name in self._slots}
        attributes, handlers = loads(state, routine)
        restore(routine, (attributes, {}))
        calls: dict[str, Callable[[Payload], Any]] = {}
        for name, (merge, method, whole) in self._slots.items():
            handler = handlers[name] if method is None else bound(routine, method)
            where = f"routine {self.routine_id!r}, slot {name!r}"
            signature = self._signature(name, method, whole, handler, where)
            internals.slots[name].complete(handler, merge, signature, method)
            calls[name] = bind(handler, signature, where)
        internals.change = internals.policy_changed = _not_here
        internals.stats = tally = Tally(stats, internals.lock)
        return Ready(routine, self.routine_id, calls, frozenset(attributes), tally, self._told)

    def _signature(self, name: str, method: str | None, whole: bool, handler: Handler, where: str) -> Signature:
        if method is None:
            return Signature.of(handler, where, whole)
        if name not in self._signatures or name != method:
            self._signatures[name] = Signature.of(handler, where, whole)
        return self._signatures[name]


class Ready:
    """A routine in a worker, ready to be called."""

    __slots__ = ("calls", "changes", "events", "names", "routine", "routine_id", "tally", "told")

    def __init__(
        self,
        routine: Routine,
        routine_id: str,
        calls: dict[str, Callable[[Payload], Any]],
        names: frozenset[str],
        tally: Tally,
        told: set[str],
    ) -> None:
        self.told = told  # the slots of which was told that what their handlers return is not used
        self.routine = routine
        self.routine_id = routine_id
        self.calls = calls
        self.names = names  # of the attributes that it came with
        self.tally = tally
        self.events = routine._routilux.events
        self.changes: Changes | None = None  # for a stateless one


class Changes:
    """Looks whether calls of a stateless routine change what its containers hold: in this worker alone, and for nobody.

    Only small containers, and only behind the first tasks of a worker: to look costs two pickles of each.
    """

    def __init__(self, routine: Routine) -> None:
        self._routine = routine
        self._looks = LOOKS
        self._before = self._now()

    def look(self) -> str | None:
        """Return the attribute that has changed, the first time that one has."""
        if not self._before:
            return None
        now = self._now()
        changed = next((name for name, held in self._before.items() if now.get(name) != held), None)
        self._looks -= 1
        if changed is not None or not self._looks:
            self._before = {}
        return changed

    def _now(self) -> dict[str, bytes]:
        found = {}
        for name, value in attributes_of(self._routine).items():
            if type(value) in CONTAINERS and len(value) <= SMALL:
                with suppress(Exception):
                    found[name] = pickle.dumps(value)
            elif type(value) in CONTAINERS:
                found[name] = b""
        return found


def changed_elsewhere(routine: Routine, coming: dict[str, Any]) -> str | None:
    """Return an attribute whose container comes home changed, while somebody else holds the one that is here.

    Such a one that comes home as it was is kept, so that it stays theirs, too. Only small containers.
    """
    held, changed = own_attributes(routine), None
    for name in [name for name, value in held.items() if type(value) in CONTAINERS and len(value) <= SMALL]:
        if _holders(held, name) <= ALONE or _is_held_within(routine, held, name) or name not in coming:
            continue
        if _look_alike(held[name], coming[name]):
            coming[name] = held[name]
        else:
            changed = changed or name
    return changed


def _holders(held: dict[str, Any], name: str) -> int:
    return sys.getrefcount(held[name])


def _is_held_within(routine: Routine, held: dict[str, Any], name: str) -> bool:
    """Return whether it is the routine that holds a container more than once."""
    own = [held, held, routine._routilux.given or {}]  # the attributes themselves, and the copy of them
    return _holders(held, name) - (ALONE - 2) <= sum(value is held[name] for each in own for value in each.values())


def _look_alike(one: Any, other: Any) -> bool:
    with suppress(Exception):
        return pickle.dumps(one) == pickle.dumps(other)
    return False


_PROBE: dict[str, Any] = {"": []}
ALONE = _holders(_PROBE.copy(), "")  # references to a container that one attribute has, and the copy of them all


class Change:
    """What was done to counters: whether they were reset, and what was added since."""

    __slots__ = ("added", "reset")

    def __init__(self) -> None:
        self.reset = False
        self.added: dict[str, float] = {}


class Tally(dict[str, float]):
    """A routine's counters in a worker: what they came with, and what each task has done to them and not told yet.

    Several tasks may run in threads of one process: what a call has counted is told with its own end.
    """

    def __init__(self, base: dict[str, float], lock: threading.RLock) -> None:
        super().__init__(base)
        self._lock = lock  # of the routine, whose counters any thread may change
        self._changes: dict[object, Change] = {}  # by the frame of a task; None where a thread has none
        self.touched = False

    def _mine(self) -> Change:
        return self._changes.setdefault(CURRENT.get(), Change())

    def __setitem__(self, name: str, value: float) -> None:
        added = self._mine().added
        added[name] = added.get(name, 0) + (value - self.get(name, 0))
        super().__setitem__(name, value)
        self.touched = True  # the last: who sees it without the lock finds the rest

    def clear(self) -> None:
        super().clear()
        mine = self._mine()
        mine.added, mine.reset = {}, True
        self.touched = True

    def taken(self, frame: object) -> tuple[bool, dict[str, float]] | None:
        """Return whether a task, or a thread of nobody's, has reset them, and what it added; None if nothing."""
        with self._lock:
            found = [self._changes.pop(each) for each in (None, frame) if each in self._changes]
            self.touched = bool(self._changes)
        added: dict[str, float] = {}
        for change in found:
            for name, more in change.added.items():
                added[name] = added.get(name, 0) + more
        return (any(change.reset for change in found), added) if found else None


def add_stats(routine: Routine, reset: bool, added: dict[str, float]) -> None:
    """Add what a worker counted to a routine's own counters."""
    internals = routine._routilux
    with internals.lock:
        if reset:
            internals.stats.clear()
        for name, amount in added.items():
            internals.stats[name] = internals.stats.get(name, 0) + amount
