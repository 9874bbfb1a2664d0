"""Tasks as bytes, the parent's side: what of a flow has to travel, pickled once, and the body of each task."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pickle import PickleBuffer
from typing import Any

from routilux_core._engine.engine import logger
from routilux_core._engine.plan import Inlet, Node
from routilux_core._remote.cache import process
from routilux_core._remote.logs import environment
from routilux_core._remote.pickling import (
    PROTOCOL,
    WITH_VALUES,
    Pickled,
    dumps,
    dumps_payload,
    for_another,
    is_plain,
    size_of,
)
from routilux_core._remote.routines import definition_of, pickle_state, pickle_state_apart
from routilux_core._remote.wire import (
    Activations,
    Callee,
    Calls,
    Data,
    Label,
    Request,
    write_calls,
    write_payload,
    write_pieces,
)
from routilux_core._routines.imports import ADVICE, is_incomplete
from routilux_core._routines.signature import Payload
from routilux_core._tracking.carriers import Carriers
from routilux_core.errors import ShippingError
from routilux_core.strategy import Piece

HEAVY = 1 << 20  # bytes of state beyond which a user should know that they travel with each task

Row = tuple[Inlet, list[Data]]  # calls of one slot in a row
Part = tuple[str, bytes]  # the key by which a worker keeps it, and what it is made of


def _part(data: bytes) -> Part:
    from hashlib import blake2b  # not at import: it loads a library of its own

    return blake2b(data, digest_size=16).hexdigest(), data


class PartStore:
    """What one queue's routines are, pickled: each part once, until the routine changes.

    The parts of stateless routines are made again at every `execute`, where no call runs that could change them.
    """

    def __init__(self) -> None:
        self.environment: Part = ("", b"")
        self.carriers = Carriers(dumps)
        self.whole: set[str] = set()  # jobs whose tasks take every part along, since a worker had lost one
        self.pickled: tuple[Payload, Pickled] | None = None  # the last payload, where another call is given it, too
        self._parts: dict[Node, Part] = {}
        self._warned: set[str] = set()
        self._with_values = False

    def send_values(self) -> None:
        """Send by value what the main program defines, too: the workers have another main module."""
        self._with_values = True
        self._parts.clear()
        self.pickled = None

    def send_whole(self, job_id: str) -> None:
        """Let a job's tasks take every part along: a worker did not have one that it was thought to have."""
        self.whole.add(job_id)

    def packed(self, inlet: Inlet, payload: Payload, again: bool) -> Data:
        """Return a payload as it travels, pickled once where it goes to several; `again`: it is wanted once more."""
        found = self.pickled  # read and written once: other threads may pack, too
        if found is not None and found[0] is payload:
            data: Data = for_another(found[1])
        else:
            data = packed(inlet, payload)
        self.pickled = None if isinstance(data, dict) or not again else (payload, data)
        return data

    @contextmanager
    def packing(self) -> Iterator[None]:
        """Let what is pickled meanwhile, in this context, be as these workers need it."""
        token = WITH_VALUES.set(self._with_values)
        try:
            yield
        finally:
            WITH_VALUES.reset(token)

    def pack_all(self, nodes: list[Node], running: bool) -> None:
        """Pickle everything before a job begins; what can't be sent is a `ShippingError` that names its path."""
        self.environment = _part(environment())
        self._parts = {node: part for node, part in self._parts.items() if node in nodes}
        for node in nodes:
            if travels(node):
                self._parts[node] = _part(pickle.dumps((definition_of(node.routine, node.routine_id), None), PROTOCOL))
                if not running:  # else a task may just be coming home with it
                    pickle_state(node.routine, node.routine_id)
            else:
                self._parts[node] = self._stateless(node)

    def part(self, node: Node) -> Part:
        """Return what a worker keeps of a routine, pickled when first asked for."""
        node.make()
        # Without the lock. Two threads may pickle the same routine at once, and get the same bytes.
        found = self._parts.get(node)
        if found is None:
            if travels(node):
                found = _part(pickle.dumps((definition_of(node.routine, node.routine_id), None), PROTOCOL))
            else:
                found = self._stateless(node)
            self._parts[node] = found
        return found

    def _stateless(self, node: Node) -> Part:
        definition = definition_of(node.routine, node.routine_id)
        return _part(pickle.dumps((definition, pickle_state(node.routine, node.routine_id)), PROTOCOL))

    def state(self, node: Node) -> Pickled:
        """Pickle what a routine with state holds now. The routine's permit guards it."""
        state = pickle_state_apart(node.routine, node.routine_id)
        size = size_of(state)
        if size > HEAVY and node.routine_id not in self._warned:
            self._warned.add(node.routine_id)
            logger().warning(
                "routine %r holds %.1f MB, which travel to a worker process and back with each of its tasks; let it "
                "run in a thread of this process instead: add_routine(..., execution_strategy='concurrent')",
                node.routine_id,
                size / HEAVY,
            )
        return state


def travels(node: Node) -> bool:
    """Return whether the routine has state, which goes with each task and comes home with it."""
    return not node.routine.__routilux_settings__.stateless


class Envelope:
    """One task as bytes: the request, and the parts that a worker keeps."""

    def __init__(
        self, label: Label, request: Request, parts: dict[str, bytes], apart: list[PickleBuffer], whole: bool
    ) -> None:
        self.weight = len(request.calls) + sum(memoryview(each).nbytes for each in apart)  # bytes
        self._label = label
        self._apart: list[PickleBuffer] = []  # first what the request itself has apart, then what its calls have
        self._request = request.write(self._apart)
        self._apart += apart
        self._whole = whole  # a worker has lost a part: everything goes along
        self.parts = parts

    # A pool may ask several times, from any thread, with what each of its workers has: nothing is written here.

    def payload(self, known: frozenset[str]) -> bytes:
        return write_payload(self._label, self._request, self._needed(known), self._apart)

    def pieces(self, known: frozenset[str]) -> list[Piece]:
        return write_pieces(self._label, self._request, self._needed(known), self._apart)

    def _needed(self, known: frozenset[str]) -> dict[str, bytes]:
        return {key: data for key, data in self.parts.items() if self._whole or key not in known}


def crate(
    label: Label,
    store: PartStore,
    rows: list[Row],
    activations: Activations,
    holds: Callable[[Node], int],
    goes_on: Callable[[Node], bool],
    whole: bool,
    carrier: bytes,
) -> Envelope | None:
    """Put a task together; None if a payload has to be pickled by itself first, since it is not plain.

    Raises `ShippingError` where a routine, or its state, can't be sent.
    """
    numbers: dict[Node, int] = {}
    callees: list[Callee] = []
    parts = dict([store.environment])
    for inlet, _ in rows:
        node = inlet.node
        if node not in numbers:
            _check_complete(node)
            numbers[node] = len(callees)
            key, data = store.part(node)
            parts[key] = data
            callees.append(Callee(key, node.routine_id, node.timeout, node.routine.stats()))
    apart: list[PickleBuffer] = []
    calls = write_calls(
        [Calls(numbers[inlet.node], inlet.name, holds(inlet.node), goes_on(inlet.node), data) for inlet, data in rows],
        apart,
    )
    if calls is None:
        return None
    first = rows[0][0].node
    state = store.state(first) if travels(first) else None
    request = Request(process().token, store.environment[0], state, callees, calls, activations, carrier)
    return Envelope(label, request, parts, apart, whole)


def _check_complete(node: Node) -> None:
    """Refuse a routine whose module is being imported: a worker would import it as well, and run the flow again."""
    module = type(node.routine).__module__
    if is_incomplete(module):
        raise ShippingError(
            f"routine {node.routine_id!r}: module {module!r} runs a flow while it is imported, and a worker process "
            f"that imported it would do so again; {ADVICE}"
        )


def packed(inlet: Inlet, payload: Payload) -> Data:
    """Return a payload as it travels; `ShippingError` names the key and path of what can't."""
    if is_plain(payload):
        return payload
    return dumps_payload(payload, f"routine {inlet.node.routine_id!r}, slot {inlet.name!r}")


def check_payload(inlet: Inlet, payload: dict[str, Any]) -> None:
    """Refuse parameters of a job's entry that can't be sent to a worker process."""
    try:
        packed(inlet, payload)
    except ShippingError as error:
        raise ShippingError(f"entry_params of {error}", error.path, error.value) from error
