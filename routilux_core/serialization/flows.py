"""A flow as plain JSON types, and back: what is saved, what is checked, and one error that names every problem.

Data is never code: reading imports nothing, evaluates nothing and unpickles nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from routilux_core.graph import Connection, Graph, Output, circles
from routilux_core.routine import Routine
from routilux_core.serialization.codecs import reader, writer
from routilux_core.serialization.converter import structure, unstructure
from routilux_core.serialization.files import read_file, write_file
from routilux_core.serialization.jobs import JobReader, SavedRun, job_to_dict
from routilux_core.serialization.policies import read_policy, write_policy
from routilux_core.serialization.problems import ROOT, Name, Path, Problems, collector_paused, reported
from routilux_core.serialization.routine_reader import RoutineReader
from routilux_core.serialization.routine_writer import RoutineWriter
from routilux_core.serialization.schema import ConnectionRecord, FlowRecord, OutputRecord, StrategyRecord, Value
from routilux_core.serialization.snapshot import SavedFlow, SavedStrategy
from routilux_core.serialization.type_lookup import KnownTypes, shown
from routilux_core.serialization.values import BROKEN, Writer
from routilux_core.serialization.versions import FLOW, JOB, VERSION, upgraded
from routilux_core.strategy import ExecutionStrategy, check_max_workers

__all__ = [
    "collector_paused",
    "flow_from_dict",
    "flow_to_dict",
    "job_from_dict",
    "job_to_dict",
    "read_file",
    "write_file",
]

ROUTINES, CONNECTIONS, OUTPUTS, STRATEGY = ((ROOT, Name(n)) for n in ("routines", "connections", "outputs", "strategy"))


def flow_to_dict(flow: SavedFlow, state: bool = True) -> dict[str, Any]:
    """Return a flow as plain JSON types; without `state` each routine as it was made."""
    graph = flow.graph
    with reported(f"flow {graph.flow_id!r} can't be saved") as problems, collector_paused():
        values = writer(problems)
        _check_names(values, graph)
        options = values.encode(flow.options, (STRATEGY, Name("options")))
        record = FlowRecord(
            format=FLOW,
            version=VERSION,
            flow_id=values.text(graph.flow_id, (ROOT, Name("flow_id"))),
            strategy=StrategyRecord(flow.strategy.name, flow.strategy.max_workers, options),
            **flow.settings,
            error_handler=Value(write_policy(flow.error_handler, (ROOT, Name("error_handler")), problems)),
            routines={},
            connections=[],
            outputs=[],
        )
        write, names = RoutineWriter(values, problems, state).write, flow.named
        saved: dict[str, Any] = unstructure(record) | {
            "routines": {
                name: write(name, routine, ROUTINES, names.get(name)) for name, routine in graph.routines.items()
            },
            "connections": unstructure(graph.connections, list[Connection]),
            "outputs": unstructure(graph.outputs, list[Output]),
        }
        return saved


def _check_names(writer: Writer, graph: Graph) -> None:
    for name in graph.routines:
        writer.text(name, ROUTINES)
    mappings = {each.param_mapping: index for index, each in enumerate(graph.connections)}
    for mapping, index in mappings.items():
        for pair in mapping:
            for name in pair:
                writer.text(name, ((CONNECTIONS, index), Name("mapping")))
    for index, output in enumerate(graph.outputs):
        writer.text(output.name, ((OUTPUTS, index), Name("name")))


def flow_from_dict(data: Any, types: Iterable[type | ModuleType] = ()) -> SavedFlow:
    """Return the parts of a flow, checked; every problem is named in one `SerializationError`."""
    known = KnownTypes(types)
    with reported("this is no flow that can be loaded") as problems:
        document = upgraded(data, FLOW, problems)
        record = None if document is None else structure(document, FlowRecord, problems)
        saved = None if record is None else FlowReader(record, known, problems).read()
    assert saved is not None
    return saved


def job_from_dict(data: Any, types: Iterable[type | ModuleType] = ()) -> SavedRun:
    """Return the record of a job, checked; every problem is named in one `SerializationError`."""
    known = KnownTypes(types)
    with reported("this is no job that can be loaded") as problems:
        document = upgraded(data, JOB, problems)
        saved = None if document is None else JobReader(known, problems).read(document)
    assert saved is not None
    return saved


class FlowReader:
    """Turns one record of a flow into its parts."""

    def __init__(self, record: FlowRecord, known: KnownTypes, problems: Problems) -> None:
        self.record = record
        self.known = known
        self.problems = problems
        self.reader = reader(problems, known)
        self.routines: dict[str, Routine] = {}
        self.options: dict[str, Any] = {}

    def read(self) -> SavedFlow | None:
        """Return the parts; None after problems, which are noted."""
        record, problems = self.record, self.problems
        settings = {name: self._whole(name, least) for name, least in (("max_pending", 1), ("history_size", 0))}
        strategy = self._strategy(record.strategy)
        policy = read_policy(record.error_handler, (ROOT, Name("error_handler")), problems, self.known)
        self._routines()
        connections = [self._connection(each, (CONNECTIONS, i)) for i, each in enumerate(record.connections)]
        outputs = [self._output(each, (OUTPUTS, i)) for i, each in enumerate(record.outputs)]
        if problems.found or strategy is None or policy is None:
            return None
        graph = Graph(record.flow_id, self.routines, version=1)
        self._fill(graph, connections, outputs)
        named = {name: each.strategy for name, each in record.routines.items() if each.strategy is not None}
        return SavedFlow(strategy, self.options, policy, graph, named, settings)

    def _whole(self, name: str, least: int) -> int:
        value: int = getattr(self.record, name)
        if not least <= value <= sys.maxsize:
            expected = f"expected a whole number from {least} to {sys.maxsize}"
            self.problems.add((ROOT, Name(name)), f"{expected}, not {shown(value)}")
        return value

    def _strategy(self, record: StrategyRecord) -> ExecutionStrategy | None:
        self.options = options = self.reader.decode(record.options, (STRATEGY, Name("options")))
        try:
            check_max_workers(record.max_workers)
            if not record.name:
                raise ValueError("a strategy has a name")
            if options is BROKEN:
                return None
            if type(options) is not dict or not all(isinstance(name, str) for name in options):
                raise ValueError("options: expected an object with the names of the strategy's options")
            cls = self.known.strategy(record.name)
            if cls is not None:
                return cls(max_workers=record.max_workers, **options)
            return SavedStrategy(name=record.name, max_workers=record.max_workers, options=options)
        except Exception as error:
            self.problems.add(STRATEGY, str(error))
            return None

    def _routines(self) -> None:
        reader = RoutineReader(self.reader, self.known, self.problems)
        for name, record in self.record.routines.items():
            if not name:
                self.problems.add((ROUTINES, name), "a routine id is a non-empty string")
            if record.strategy == "":
                self.problems.add(((ROUTINES, name), Name("strategy")), "a strategy has a name")
            routine = reader.read(record, (ROUTINES, name))
            if routine is not None:
                self.routines[name] = routine

    def _connection(self, record: ConnectionRecord, path: Path) -> Connection:
        self._end(record.source, "events", record.event, path, "source", "event")
        self._end(record.target, "slots", record.slot, path, "target", "slot")
        if record.mapping and len(set(record.mapping.values())) < len(record.mapping):
            self.problems.add((path, Name("mapping")), "two parameters get the same new name")
        return Connection(record.source, record.event, record.target, record.slot, tuple(record.mapping.items()))

    def _output(self, record: OutputRecord, path: Path) -> Output:
        self._end(record.routine, "events", record.event, path, "routine", "event")
        return Output(record.routine, record.event, record.name)

    def _end(self, routine_id: str, kind: str, name: str, path: Path, *keys: str) -> None:
        """Check that a routine is there, and has an event or a slot of this name."""
        routine = self.routines.get(routine_id)
        if routine is not None:
            there = getattr(routine._routilux, kind)
            if name not in there:
                hint = self.known.hints.hint(name, there)
                what = f"routine {shown(routine_id)} has no {keys[1]} {shown(name)}{hint}"
                self.problems.add((path, Name(keys[1])), what)
        elif routine_id not in self.record.routines:
            hint = self.known.hints.hint(routine_id, self.record.routines)
            self.problems.add((path, Name(keys[0])), f"there is no routine {shown(routine_id)}{hint}")

    def _fill(self, graph: Graph, connections: list[Connection], outputs: list[Output]) -> None:
        """Complete the graph, with the checks that `connect` and `add_output` make one by one."""
        for index, each in enumerate(connections):
            if each in graph._edges:
                self.problems.add((CONNECTIONS, index), "is there twice")
            graph._edges.add(each)
        names: set[str] = set()
        for index, output in enumerate(outputs):
            if output.name in names:
                self.problems.add(((OUTPUTS, index), Name("name")), f"there are two outputs {shown(output.name)}")
            names.add(output.name)
        graph.connections, graph.outputs = connections, outputs
        slots = {name: routine._routilux.slots for name, routine in self.routines.items()}
        graph._gathering = [each for each in connections if slots[each.target][each.slot].gathers]
        if graph._gathering:
            circle = circles(graph.successors())
            for index, each in enumerate(connections):
                gathers = slots[each.target][each.slot].gathers
                if gathers and circle[each.source] == circle[each.target]:
                    self.problems.add((CONNECTIONS, index), "the slot gathers, and its own routine can reach it")
