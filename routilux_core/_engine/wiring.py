"""The graph of a flow, and what the engine reads of it: changed together, so that the two are always alike."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from routilux_core._engine.engine import Engine
from routilux_core._engine.plan import Inlet, Lane, Node, Outlet
from routilux_core._text.printable import printable
from routilux_core.error_handling import ErrorHandler
from routilux_core.errors import CapabilityError, ConfigurationError, FlowStateError
from routilux_core.graph import Connection, Graph
from routilux_core.ports import ENTRY
from routilux_core.routine import Routine, let_go
from routilux_core.strategy import ExecutionStrategy


class Wiring:
    """A graph, wired for its engine. `building` is held by who changes it: one thread at a time, while no job runs."""

    __slots__ = ("awaiting", "building", "checked", "engine", "graph", "named", "ordered")

    def __init__(self, engine: Engine, graph: Graph, named: dict[str, str], building: threading.RLock) -> None:
        self.engine, self.graph, self.building = engine, graph, building
        self.named = named  # routine id -> the strategy that it has of its own
        self.awaiting: set[str] = set()  # the routines with `async def` handlers
        self.checked = -1  # the version of the graph in which missing connections were looked for
        self.ordered = -1  # the version of the graph for which the order of its gather slots is known

    def check_idle(self, what: str) -> None:
        """Refuse a change while jobs run."""
        running = self.engine.running()
        if running:
            raise FlowStateError(
                f"{what} was called on flow {self.graph.flow_id!r} while {len(running)} of its jobs run "
                f"({printable(running[0].job_id)}): wait_for_completion() or cancel() first"
            )

    # -- building

    def add_routine(self, routine: Routine, routine_id: str | None, scheduler: Lane, own: str | None) -> str:
        """Take a routine in, and return its id; `own` is the name of its own strategy, whose scheduler is given."""
        with self.building:
            if isinstance(routine, Routine):
                check_coroutines(routine_id or type(routine).__name__, routine, scheduler.strategy)
            name = self.graph.add_routine(routine, routine_id)
            if own is not None:
                self.named[name] = own
            self._wire(name, routine, scheduler)
        return name

    def connect(
        self, source: str, event: str, target: str, slot: str, param_mapping: Mapping[str, str] | None
    ) -> Connection:
        """Send what an event emits to a slot, too."""
        with self.building:
            self.check_idle("connect")
            made = self.graph.connect(source, event, target, slot, param_mapping)
            inlet, outlet = self.engine.nodes[target].inlets[slot], self.engine.nodes[source].outlets[event]
            outlet.add_target(inlet, dict(made.param_mapping) or None)
        return made

    def add_output(self, routine_id: str, event_name: str, name: str | None) -> str:
        """Let jobs collect the payloads of an event, and return the name for them."""
        with self.building:
            self.check_idle("add_output")
            chosen = self.graph.add_output(routine_id, event_name, name)
            self.engine.nodes[routine_id].outlets[event_name].add_output(chosen)
        return chosen

    def disconnect(
        self, source: str, event: str, target: str, slot: str, param_mapping: Mapping[str, str] | None
    ) -> list[Connection]:
        """Send no longer what was connected in this way, and return it; without a mapping, whatever the mapping."""
        with self.building:
            self.check_idle("disconnect")
            gone = self.graph.disconnect(source, event, target, slot, param_mapping)
            self._connect_anew()
        return gone

    def remove_routine(self, routine_id: str) -> Routine:
        """Let a routine go, with its connections and outputs, and return it."""
        with self.building:
            self.check_idle("remove_routine")
            routine = self.graph.remove_routine(routine_id)
            self.engine.remove_node(routine_id)
            self.named.pop(routine_id, None)
            self.awaiting.discard(routine_id)
            self._connect_anew()
            let_go(routine)
        return routine

    def replace_routine(self, routine_id: str, routine: Routine) -> Routine:
        """Put a routine in the place of another, with its id and connections, and return the other."""
        with self.building:
            self.check_idle("replace_routine")
            scheduler = self.engine.nodes[self.graph.named(routine_id)].scheduler
            if isinstance(routine, Routine):
                check_coroutines(routine_id, routine, scheduler.strategy)
            old = self.graph.replace_routine(routine_id, routine)
            self.awaiting.discard(routine_id)
            self._wire(routine_id, routine, scheduler)
            self._connect_anew()
            let_go(old)
        return old

    def set_error_handler(self, error_handler: ErrorHandler) -> None:
        """Let the routines without a policy of their own have this one."""
        with self.building:
            self.engine.error_handler = error_handler
            for node in self.engine.nodes.values():
                node.set_policy(error_handler)

    def wire_all(self, scheduler_of: Callable[[str | None], Lane]) -> None:
        """Wire a graph that is complete already. `scheduler_of` knows who runs a strategy; None is the flow's own."""
        for name, routine in self.graph.routines.items():
            self._wire(name, routine, scheduler_of(self.named.get(name)))
        self._connect_anew()

    def _connect_anew(self) -> None:
        """Let the events lead where the graph says."""
        nodes = self.engine.nodes
        for node in nodes.values():
            for outlet in node.outlets.values():
                outlet.disconnect()
        targets: dict[Outlet, list[tuple[Inlet, dict[str, str] | None]]] = {}
        for each in self.graph.connections:
            found = targets.setdefault(nodes[each.source].outlets[each.event], [])
            found.append((nodes[each.target].inlets[each.slot], dict(each.param_mapping) or None))
        for outlet, ends in targets.items():
            outlet.add_targets(ends)
        names: dict[Outlet, list[str]] = {}
        for output in self.graph.outputs:
            names.setdefault(nodes[output.routine_id].outlets[output.event], []).append(output.name)
        for outlet, chosen in names.items():
            outlet.add_output(*chosen)

    def _wire(self, name: str, routine: Routine, scheduler: Lane) -> None:
        node = Node(name, routine, scheduler)
        node.journaled = self.engine.journaled
        self.engine.add_node(node)
        self.engine.has_timeouts = self.engine.has_timeouts or node.timeout is not None
        internals = routine._routilux
        internals.owner, internals.sealed = (self.graph.flow_id, name), routine.__routilux_settings__.stateless
        internals.change = lambda change: self._change(node, change)
        internals.policy_changed = lambda: self._set_policy(node)
        self._take_in(node)

    def _change(self, node: Node, change: Callable[[], None]) -> None:
        """Let a slot or an event come to a routine of this flow."""
        with self.building:
            self.check_idle("define_slot or define_event")
            change()
            self._take_in(node)

    def _set_policy(self, node: Node) -> None:
        with self.building:
            node.set_policy(self.engine.error_handler)

    def _take_in(self, node: Node) -> None:
        """Wire the slots and events that a routine has by now."""
        node.refresh(self.engine.inlets, self.engine.error_handler)
        self.graph.version += 1
        if any(slot.signature.is_async for slot in node.routine._routilux.slots.values()):
            self.awaiting.add(node.routine_id)

    # -- before a job

    def entry(self, routine_id: str, slot: str | None) -> Inlet:
        """Return where a job begins: at the slot of that name, else at `__call__`, else at the only slot."""
        routine = self.graph.routine(routine_id)
        inlets = self.engine.nodes[routine_id].inlets
        if slot is not None:
            self.graph.slot(routine_id, slot)
            return inlets[slot]
        if ENTRY in inlets:
            return inlets[ENTRY]
        if len(inlets) == 1:
            return next(iter(inlets.values()))
        names = ", ".join(repr(name) for name in inlets) or "none"
        raise ConfigurationError(
            f"routine {routine_id!r} ({type(routine).__name__}) has no __call__ and not exactly one slot (it has: "
            f"{names}): say which with execute({routine_id!r}, slot=...)"
        )

    def check_awaiting(self) -> None:
        """Refuse `async def` handlers that the strategy of their routine can't await."""
        for routine_id in self.awaiting:
            node = self.engine.nodes[routine_id]
            check_coroutines(routine_id, node.routine, node.scheduler.strategy)

    def missing(self, entry: str) -> str | None:
        """Say which connection seems to be missing, the first time that this graph is asked."""
        self.checked = self.graph.version
        return self.graph.unconnected(entry)

    def order_gathers(self) -> None:
        """Work out which gather slot is called before which, for the graph as it is now."""
        nodes = self.engine.nodes
        self.engine.gather_order = [nodes[name].inlets[slot] for name, slot in self.graph.gather_order()]
        self.ordered = self.graph.version


def check_coroutines(routine_id: str, routine: Routine, strategy: ExecutionStrategy) -> None:
    """Refuse a routine with `async def` handlers where the strategy does not declare coroutines."""
    is_async = any(slot.signature.is_async for slot in routine._routilux.slots.values())
    if is_async and not strategy.capabilities.coroutines:
        raise CapabilityError(
            f"routine {routine_id!r} ({type(routine).__name__}) has an `async def` handler, which strategy "
            f"{strategy.name!r} can't await: make it a plain `def`, or choose one that declares coroutines, "
            "execution_strategy='asyncio' for instance"
        )
