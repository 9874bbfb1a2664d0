"""A graph as it is drawn: nodes, and one arrow between two of them, however many connections it stands for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple
from unicodedata import east_asian_width

from routilux_core._text.printable import printable
from routilux_core.graph import Connection, Graph
from routilux_core.records import ActivationRecord

ROUTINE, OUTPUT = "routine", "output"


class Shape(NamedTuple):
    """A node: a routine, or an output. `name` is what it is called, `kind` is what is written below that."""

    what: str
    name: str
    kind: str = ""
    stateless: bool = False


class Arrow(NamedTuple):
    """From one node to another, by number, with a line for each connection between them."""

    source: int
    target: int
    labels: tuple[str, ...]


class Picture(NamedTuple):
    """What is drawn. Names are as they are: who writes them down makes them harmless there."""

    title: str
    shapes: list[Shape]
    arrows: list[Arrow]


def picture_of(graph: Graph) -> Picture:
    """Return the picture of a flow's graph: its routines in the order added, and then its outputs."""
    shapes = [
        Shape(ROUTINE, routine_id, type(routine).__name__, routine.__routilux_settings__.stateless)
        for routine_id, routine in graph.routines.items()
    ]
    numbers = {shape.name: number for number, shape in enumerate(shapes)}
    found: dict[tuple[int, int], list[str]] = {}
    for each in graph.connections:
        found.setdefault((numbers[each.source], numbers[each.target]), []).append(connection_label(each))
    for output in graph.outputs:
        found[numbers[output.routine_id], len(shapes)] = [output.event]
        shapes.append(Shape(OUTPUT, output.name))
    return Picture(graph.flow_id, shapes, _arrows(found))


def picture_of_records(title: str, records: Iterable[ActivationRecord]) -> Picture:
    """Return what can be seen of a graph from the records of a job: who has called whom."""
    records = list(records)
    numbers: dict[str, int] = {}
    made_by: dict[int, int] = {}
    for each in records:
        made_by[each.id] = numbers.setdefault(each.routine_id, len(numbers))
    found: dict[tuple[int, int], list[str]] = {}
    for each in records:
        if each.cause in made_by:
            labels = found.setdefault((made_by[each.cause], numbers[each.routine_id]), [])
            if each.slot not in labels:
                labels.append(each.slot)
    return Picture(title, [Shape(ROUTINE, name) for name in numbers], _arrows(found))


def _arrows(found: dict[tuple[int, int], list[str]]) -> list[Arrow]:
    return [Arrow(source, target, tuple(labels)) for (source, target), labels in found.items()]


def connection_label(connection: Connection) -> str:
    """Return what is written on the arrow of a connection."""
    renamed = "".join(f", {old} as {new}" for old, new in connection.param_mapping)
    return f"{connection.event} → {connection.slot}{renamed}"


def shortened(text: str, columns: int) -> str:
    """Return a text of others as one harmless line, cut to a width; a letter of the Far East is two columns wide."""
    text = printable(text[: columns + 1])
    if columns_of(text) <= columns:
        return text
    while text and columns_of(text) >= columns:
        text = text[:-1]
    return f"{text}…"


def columns_of(text: str) -> int:
    """Return how wide a text is, in letters of the Latin script."""
    return len(text) if text.isascii() else sum(2 if east_asian_width(each) in "WF" else 1 for each in text)
