"""The routines of one request, in the worker: found in memory, or made of what came along."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from routilux_core._remote.cache import Process
from routilux_core._remote.exceptions import encode
from routilux_core._remote.pickling import NotThereError, Pickled, dumps
from routilux_core._remote.routines import Blueprint, Changes, Ready, pickle_state_apart, state_of
from routilux_core._remote.wire import HomeState, Request
from routilux_core.errors import ShippingError
from routilux_core.routine import Routine


class Callees:
    """What a request calls, by its number there. Each is made when first called: what raises then fails that call."""

    __slots__ = ("_environment", "_found", "_process", "_ready", "_travelling", "has_state", "lacks_names", "routines")

    def __init__(self, request: Request, process: Process) -> None:
        self.routines = request.routines
        self.has_state = request.state is not None
        self.lacks_names = False  # something of the main program came by name, and has none in this process
        self._environment = None if request.home == process.token else request.environment  # it is this process's own
        self._process = process
        self._found: dict[str, Any] = {}  # by key of the part: what was made of it, or why that failed
        self._ready: dict[int, Ready] = {}
        self._travelling: Ready | None = None  # the routine whose state came with the task

    def find(self, parts: dict[str, bytes]) -> list[str]:
        """Look for all parts; return the keys of those that neither came nor were kept."""
        wanted: dict[str, Callable[[bytes], Any]] = {
            key: _make_part(routine_id, stats) for key, routine_id, _, stats in self.routines
        }
        if self._environment is not None:
            wanted[self._environment] = bytes
        # What is imported for these may set up log handlers: its records go home, and are handled there.
        muting = self._process.relay.muting() if parts and self._environment is not None else nullcontext()
        with muting:
            for key, make in wanted.items():
                try:
                    self._found[key] = self._process.part(key, parts.get(key), make)
                except BaseException as error:  # the user's classes are imported and unpickled here
                    self._found[key] = error
        self.lacks_names = any(isinstance(found, NotThereError) for found in self._found.values())
        return [key for key in wanted if self._found[key] is None]

    def prepare(self) -> None:
        """Let this process log and warn as the one does that the request comes from."""
        self._process.close_at_exit()
        environment = None if self._environment is None else self._found[self._environment]
        if isinstance(environment, bytes):
            self._process.relay.apply(environment)

    def ready(self, number: int, state: Pickled | None) -> Ready:
        """Return a routine, ready to be called, with the state that came, where it is one with state."""
        ready = self._ready.get(number)
        if ready is None:
            ready = self._ready[number] = self._build(number, state)
        return ready

    def known(self, number: int) -> Ready | None:
        """Return a routine if it could be made ready."""
        return self._ready.get(number)

    def _build(self, number: int, state: Pickled | None) -> Ready:
        key, routine_id, _, stats = self.routines[number]
        found = self._found[key]
        try:
            if isinstance(found, BaseException):
                raise found
            if state is not None:
                found = self._travelling = found.build(state, stats)
        except NotThereError:
            raise
        except Exception as error:
            raise ShippingError(
                f"routine {routine_id!r} can't be rebuilt in the worker process: {error!r}; its module has to be "
                "importable there, and its state has to survive pickling"
            ) from error
        ready: Ready = found
        return ready

    def tell_of_changes(self) -> None:
        """Warn of stateless routines whose calls have changed what an attribute holds: it is lost with this worker."""
        for ready in self._ready.values():
            changed = ready.changes.look() if ready.changes is not None else None
            if changed is not None:
                from routilux_core._text.log import log

                log.warning(
                    "routine %r is stateless, and a call has changed what its attribute %r holds: in this worker "
                    "process alone, where it is lost; emit the values, and let a routine with state collect them",
                    *(ready.routine_id, changed),
                )

    def state_home(self) -> HomeState | None:
        """Return the state after the task of the routine whose state came along; what can't go stays as it was."""
        ready = self._travelling
        if ready is None:
            return None
        stats = dict(ready.tally)
        try:
            return HomeState(pickle_state_apart(ready.routine, ready.routine_id), ready.names, stats)
        except BaseException as error:
            return HomeState(_what_can_go(ready.routine), ready.names, stats, encode(error))


def _make_part(routine_id: str, stats: dict[str, float]) -> Callable[[bytes], Blueprint | Ready]:
    """Return what makes a blueprint of a routine with state, and the routine itself where it is stateless."""

    def make(data: bytes) -> Blueprint | Ready:
        definition, state = pickle.loads(data)
        blueprint = Blueprint(definition, routine_id)
        if state is None:
            return blueprint
        ready = blueprint.build(state, stats)
        ready.changes = Changes(ready.routine)
        return ready

    return make


def _what_can_go(routine: Routine) -> bytes:
    """Pickle what can be pickled of a routine's state, each attribute by itself."""
    attributes, handlers = state_of(routine)
    kept = {}
    for name, value in attributes.items():
        try:
            dumps(value, routine)
        except Exception:
            continue
        kept[name] = value
    return dumps((kept, handlers), routine)
