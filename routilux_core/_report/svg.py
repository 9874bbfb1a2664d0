"""A flow's graph as SVG: one text without scripts, style sheets, or anything from elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape

from routilux_core._report.layout import Box, Layout, Point, lay_out
from routilux_core._report.picture import OUTPUT, Arrow, Picture, Shape, columns_of, shortened
from routilux_core._text.printable import printable

NAME_COLUMNS, LABEL_COLUMNS = 30, 26
LETTER, SMALL_LETTER = 7.4, 6.1  # pixels that a column takes, at 13 and at 11 pixels
MARGIN = 20.0
TITLE = 400  # letters of a name that are told when the mouse points there
# Legible on white and on black: a picture does not know where it will be.
LINE, TEXT, STATE, STATELESS, RESULT = "#7d8aa0", "#6d7b91", "#4c6ef5", "#12a594", "#e8920c"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


def draw(picture: Picture) -> str:
    """Return the picture as an `<svg>` element with its size."""
    layout = layout_of(picture)
    width, height = layout.width + 2 * MARGIN, layout.height + 2 * MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="{-MARGIN:g} {-MARGIN:g} {width:.1f} {height:.1f}" role="img" font-family="{FONT}" font-size="13">',
        f"<title>{_told(picture.title)}</title>",
    ]
    for arrow, route in zip(picture.arrows, layout.routes, strict=True):
        lines += _arrow(arrow, route)
    for shape, centre in zip(picture.shapes, layout.centres, strict=True):
        lines += _node(shape, centre)
    leaving = Counter(arrow.source for arrow in picture.arrows)
    for arrow, route in zip(picture.arrows, layout.routes, strict=True):
        lines += _label(arrow, route, leaving[arrow.source] > 1)
    return "\n".join([*lines, "</svg>"]) + "\n"


def layout_of(picture: Picture, below: float = 0.0) -> Layout:
    """Return where the nodes and arrows of a picture go, with some room below each node."""
    gaps = [64 + SMALL_LETTER * columns_of(label_of(arrow)) for arrow in picture.arrows]
    boxes = [Box(box.width, box.height + below) for box in map(box_of, picture.shapes)]
    return lay_out(boxes, [arrow[:2] for arrow in picture.arrows], gaps)


def box_of(shape: Shape) -> Box:
    """Return the size of a node: as much as what is written there needs."""
    name = columns_of(shortened(shape.name, NAME_COLUMNS)) * LETTER
    kind = columns_of(shortened(shape.kind, NAME_COLUMNS)) * SMALL_LETTER
    return Box(max(56.0, name, kind) + 28, 44.0 if shape.kind else 30.0)


def label_of(arrow: Arrow) -> str:
    """Return what is written on an arrow: its first connection, and how many more there are."""
    more = f" +{len(arrow.labels) - 1}" if len(arrow.labels) > 1 else ""
    return shortened(arrow.labels[0], LABEL_COLUMNS - len(more)) + more


def curve(route: Sequence[Point]) -> str:
    """Return the path of an arrow: it leaves and passes each bend horizontally. A loop is one curve."""
    x, y = route[0]
    steps = [f"M{x:.1f} {y:.1f}"]
    if is_loop(route):
        return steps[0] + "C" + " ".join(f"{x:.1f} {y:.1f}" for x, y in route[1:])
    for next_x, next_y in route[1:]:
        middle = (x + next_x) / 2
        steps.append(f"C{middle:.1f} {y:.1f} {middle:.1f} {next_y:.1f} {next_x:.1f} {next_y:.1f}")
        x, y = next_x, next_y
    return "".join(steps)


def is_loop(route: Sequence[Point]) -> bool:
    """Return whether an arrow leads back to its own node."""
    return len(route) == 4 and route[0][1] == route[3][1] and route[1][1] < route[0][1] and route[1][0] == route[0][0]


def _arrow(arrow: Arrow, route: Sequence[Point]) -> list[str]:
    x, y = route[-1]
    back = route[-2][0] > x
    dashes = ' stroke-dasharray="5 4"' if back else ""
    if is_loop(route):
        head = f"M{x - 3.5:.1f} {y - 8:.1f}L{x:.1f} {y:.1f}L{x + 3.5:.1f} {y - 8:.1f}Z"
    else:
        base = x + 8 if back else x - 8
        head = f"M{base:.1f} {y - 3.5:.1f}L{x:.1f} {y:.1f}L{base:.1f} {y + 3.5:.1f}Z"
    return [
        f'<g><title>{_told("; ".join(arrow.labels))}</title><path d="{curve(route)}" fill="none" '
        f'stroke="{LINE}" stroke-width="1.5"{dashes}/><path d="{head}" fill="{LINE}"/></g>'
    ]


def _label(arrow: Arrow, route: Sequence[Point], fans_out: bool) -> list[str]:
    """Write next to the end of the first step at which the fewest arrows meet, where it is nearly level."""
    text = label_of(arrow)
    half = columns_of(text) * SMALL_LETTER / 2
    (x, y), (next_x, next_y) = route[0], route[1]
    ahead = 1 if next_x > x else -1
    if is_loop(route):
        at = route[2][0] + 14 + half, route[2][1] + 4
    elif fans_out:
        at = next_x - ahead * (half + 14), next_y - 6
    else:
        at = x + ahead * (half + 10), y - 6
    return [
        f'<text x="{at[0]:.1f}" y="{at[1]:.1f}" text-anchor="middle" font-size="11" fill="{TEXT}">{_text(text)}</text>'
    ]


def _node(shape: Shape, centre: Point) -> list[str]:
    box, (x, y) = box_of(shape), centre
    colour = RESULT if shape.what == OUTPUT else STATELESS if shape.stateless else STATE
    radius = box.height / 2 if shape.stateless or shape.what == OUTPUT else 6
    lines = [
        f"<g><title>{_told(f'{shape.name} ({shape.kind})' if shape.kind else shape.name)}</title>"
        f'<rect x="{x - box.width / 2:.1f}" y="{y - box.height / 2:.1f}" width="{box.width:.1f}" '
        f'height="{box.height:.1f}" rx="{radius:g}" fill="#ffffff" stroke="{colour}" stroke-width="1.6"/>'
    ]
    name = _text(shortened(shape.name, NAME_COLUMNS))
    name_y = y - 2 if shape.kind else y + 4.5
    lines.append(
        f'<text x="{x:.1f}" y="{name_y:.1f}" text-anchor="middle" font-weight="600" fill="#1c2433">{name}</text>'
    )
    if shape.kind:
        kind = _text(shortened(shape.kind, NAME_COLUMNS))
        lines.append(
            f'<text x="{x:.1f}" y="{y + 13:.1f}" text-anchor="middle" font-size="11" fill="#5b6880">{kind}</text>'
        )
    lines.append("</g>")
    return lines


def _told(text: str) -> str:
    return _text(printable(text[:TITLE]))


def _text(text: str) -> str:
    return escape(text, quote=True)
