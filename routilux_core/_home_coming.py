"""What comes home with a reply, unpickled: emissions, and the state of the routine that travelled."""

from __future__ import annotations

from typing import Any

from routilux_core._binding import Payload
from routilux_core._pickling import loads
from routilux_core._plan import Node
from routilux_core._remote_errors import Encoded, encode
from routilux_core._shipped_routine import add_stats, restore
from routilux_core._telling import Data
from routilux_core.errors import ShippingError
from routilux_core.routine import Routine


def unpacked(data: list[Data]) -> list[Payload] | None:
    """Return what was emitted; None if some of it can't be unpickled."""
    if set(map(type, data)) <= {dict}:
        return data  # type: ignore[return-value]
    try:
        return [each if isinstance(each, dict) else loads(each) for each in data]
    except Exception:
        return None


def unpacked_till_error(data: list[Data], node: Node, names: list[str]) -> tuple[list[Payload], ShippingError | None]:
    """Return what one activation emitted; the first that can't be unpickled ends it, with an error."""
    payloads: list[Payload] = []
    for event, each in zip(names, data, strict=True):
        try:
            payloads.append(each if isinstance(each, dict) else loads(each))
        except Exception as error:
            return payloads, _unreadable(f"routine {node.routine_id!r}, event {event!r}: what it emitted", error)
    return payloads, None


def take_state_home(node: Node, last: dict[str, Any], sent_stats: dict[str, float]) -> Encoded | None:
    """Give a routine the state that it came home with. Its permit is held.

    What could not come is returned as the failure of the last call, which may have made it so.
    """
    routine = node.routine
    stuck: Encoded | None = last.get("stuck")
    try:
        state = loads(last["state"], routine)
        restore(routine, state, frozenset() if stuck else last["names"])
    except Exception as error:
        return encode(_unreadable(f"the state of routine {node.routine_id!r}", error))
    for name in state[1]:
        node.inlets[name].rebind(routine._routilux.slots[name])
    _take_stats_home(routine, last["stats"], sent_stats)
    return stuck


def _take_stats_home(routine: Routine, stats: dict[str, float], before: dict[str, float]) -> None:
    """Take over the counters, unless somebody has changed them here meanwhile: then add what came to them."""
    internals = routine._routilux
    with internals.lock:
        if internals.stats == before:
            internals.stats.clear()
            internals.stats.update(stats)
            return
    added = {name: value - before.get(name, 0) for name, value in stats.items() if value != before.get(name, 0)}
    add_stats(routine, not before.keys() <= stats.keys(), added)


def _unreadable(what: str, error: Exception) -> ShippingError:
    made = ShippingError(f"{what} can't be unpickled where it came home: {error!r}")
    made.__cause__ = error
    return made
