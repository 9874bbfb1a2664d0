"""A flow's graph in the language of Graphviz."""

from __future__ import annotations

from routilux_core._report.picture import OUTPUT, Picture, Shape
from routilux_core._text.printable import printable


def to_dot(picture: Picture) -> str:
    """Return the picture as a digraph: stateless routines round, outputs as notes, connections on the arrows."""
    lines = [
        f"digraph {_quoted(picture.title)} {{",
        '    rankdir="LR"; node [shape="box", fontname="sans-serif"]; edge [fontname="sans-serif", fontsize="10"];',
    ]
    for number, shape in enumerate(picture.shapes):
        lines.append(f"    n{number} [label={_quoted(shape.name)}{_look(shape)}];")
    for arrow in picture.arrows:
        dashed = ', style="dashed"' if picture.shapes[arrow.target].what == OUTPUT else ""
        lines += [f"    n{arrow.source} -> n{arrow.target} [label={_quoted(each)}{dashed}];" for each in arrow.labels]
    return "\n".join([*lines, "}"]) + "\n"


def _look(shape: Shape) -> str:
    if shape.what == OUTPUT:
        return ', shape="note"'
    return ', style="rounded"' if shape.stateless else ""


def _quoted(text: str) -> str:
    """Return a string in which nothing means anything: Graphviz reads entities there, and obeys backslashes."""
    written = (each if each.isalnum() or each in " _-.,→" else f"&#{ord(each)};" for each in printable(text))
    return f'"{"".join(written)}"'
