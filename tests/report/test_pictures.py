"""The graph of a flow as SVG and for Graphviz, and what a notebook shows: laid out well, and text stays text."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from random import Random
from time import perf_counter
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest

from routilux_core import ErrorHandler, Flow, JobState, Routine, event, slot
from routilux_core._report.layout import Box, Layout, lay_out
from routilux_core._report.picture import shortened
from routilux_core.cli import main

pytestmark = pytest.mark.once

BOX = Box(80.0, 30.0)
SVG = "{http://www.w3.org/2000/svg}"


class Passes(Routine, stateless=True):
    out = event("n")

    @slot
    def input(self, n: int = 0) -> None:
        self.emit("out", n=n)


class Refuses(Routine):
    @slot
    def input(self, n: int = 0) -> None:
        raise ValueError(f"<script>{n}</script>\x1b[31m")


def named(*names: str) -> Flow:
    """Return a flow whose routines form a chain under these names."""
    flow = Flow(names[0])
    for name in names:
        flow.add_routine(Passes(), name)
    for one, other in pairwise(names):
        flow.connect(one, "out", other, "input", param_mapping={"n": other})
    flow.add_output(names[-1], "out", names[0])
    return flow


def laid_out(count: int, arrows: list[tuple[int, int]]) -> Layout:
    return lay_out([BOX] * count, arrows, [60.0] * len(arrows))


def random_arrows(draw: Random, count: int, most: int) -> list[tuple[int, int]]:
    return [(draw.randrange(count), draw.randrange(count)) for _ in range(most)]


def crossings(layout: Layout) -> int:
    """Count, by brute force, the straight arrows that cross."""
    found = 0
    for one in layout.routes:
        for other in layout.routes:
            (a, b), (c, d) = (one[0], one[-1]), (other[0], other[-1])
            same_layers = a[0] == c[0] and b[0] == d[0]
            found += same_layers and a[1] < c[1] and b[1] > d[1]
    return found


# -- the layout


@pytest.mark.parametrize("seed", range(40))
def test_no_two_nodes_overlap_and_every_arrow_ends_at_its_nodes(seed: int) -> None:
    draw = Random(seed)
    count = draw.randint(1, 30)
    arrows = random_arrows(draw, count, draw.randint(0, 60))
    layout = laid_out(count, arrows)
    for number, (x, y) in enumerate(layout.centres):
        assert BOX.width / 2 <= x <= layout.width - BOX.width / 2
        assert BOX.height / 2 - 0.001 <= y <= layout.height - BOX.height / 2 + 0.001
        for other_x, other_y in layout.centres[number + 1 :]:
            assert abs(x - other_x) >= BOX.width or abs(y - other_y) >= BOX.height
    for (source, target), route in zip(arrows, layout.routes, strict=True):
        for node, (x, y) in ((source, route[0]), (target, route[-1])):
            at_x, at_y = layout.centres[node]
            assert abs(x - at_x) <= BOX.width / 2
            assert abs(y - at_y) <= BOX.height / 2


@pytest.mark.parametrize("seed", range(20))
def test_without_a_cycle_every_arrow_leads_to_the_right(seed: int) -> None:
    draw = Random(seed)
    arrows = [(min(pair), max(pair)) for pair in random_arrows(draw, 20, 40) if pair[0] != pair[1]]
    layout = laid_out(20, arrows)
    for route in layout.routes:
        assert all(x < next_x for (x, _), (next_x, _) in pairwise(route))


def test_a_node_stands_behind_the_longest_way_to_it() -> None:
    xs = [x for x, _ in laid_out(4, [(0, 1), (1, 2), (2, 3), (0, 3)]).centres]
    assert xs == sorted(set(xs))


def test_a_cycle_has_one_arrow_that_leads_back() -> None:
    routes = laid_out(3, [(0, 1), (1, 2), (2, 0)]).routes
    assert [route[0][0] < route[-1][0] for route in routes] == [True, True, False]


def test_a_tree_has_no_crossings_in_whatever_order_it_was_made() -> None:
    draw = Random(5)
    arrows = [((node - 1) // 2, node) for node in range(1, 63)]
    for _ in range(5):
        names = draw.sample(range(63), 63)
        shuffled = draw.sample([(names[source], names[target]) for source, target in arrows], 62)
        assert crossings(laid_out(63, shuffled)) == 0


def test_nodes_in_a_row_are_level() -> None:
    assert len({y for _, y in laid_out(5, [(0, 1), (1, 2), (2, 3), (3, 4)]).centres}) == 1


def test_the_same_graph_is_laid_out_in_the_same_way() -> None:
    arrows = random_arrows(Random(3), 50, 90)
    assert laid_out(50, arrows) == laid_out(50, arrows)


@pytest.mark.parametrize("arrows", [1500, 6000])
def test_a_thousand_nodes_take_seconds_at_most(arrows: int) -> None:
    started = perf_counter()
    layout = laid_out(1000, random_arrows(Random(1), 1000, arrows))
    assert perf_counter() - started < 30
    assert len(layout.centres) == 1000
    assert len(layout.routes) == arrows


def test_a_chain_of_a_thousand_that_closes_is_laid_out_without_recursion() -> None:
    layout = laid_out(1000, [*pairwise(range(1000)), (999, 0)])
    assert layout.centres[999][0] > layout.centres[0][0]


def test_nothing_is_a_picture_too() -> None:
    assert Flow("empty").to_svg().startswith("<svg ")
    assert Flow("empty").to_dot().count("\n") == 3


# -- SVG


def test_the_svg_shows_names_types_events_and_outputs() -> None:
    flow = named("read", "parse", "store")
    root = ElementTree.fromstring(flow.to_svg())
    texts = [each.text for each in root.iter(f"{SVG}text")]
    assert texts.count("Passes") == 3
    assert {"read", "parse", "store", "out → input, n as parse", "out"} <= set(texts)
    assert len(list(root.iter(f"{SVG}rect"))) == 4


def test_hostile_names_are_text_in_the_svg(hostile_names: list[str]) -> None:
    root = ElementTree.fromstring(named(*hostile_names).to_svg())
    assert {each.tag.removeprefix(SVG) for each in root.iter()} == {"svg", "title", "g", "path", "rect", "text"}
    for each in root.iter():
        assert not [name for name in each.attrib if name.startswith("on") or "href" in name or name == "style"]
    texts = [each.text or "" for each in root.iter() if each.tag in (f"{SVG}text", f"{SVG}title")]
    assert {shortened(name, 30) for name in hostile_names} <= set(texts)
    assert all(text.isprintable() and len(text) < 5000 for text in texts)


def test_the_command_line_prints_a_picture_alone(seen: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    for option, made in (("--svg", seen.wired().to_svg()), ("--dot", seen.wired().to_dot())):
        assert main(["show", "seen_routines:wired", option]) == 0
        assert capsys.readouterr().out == made


# -- Graphviz

TOKEN = re.compile(r'"(?P<text>[^"\\]*)"|(?P<word>[A-Za-z]\w*)|(?P<sign>->|[{}\[\];,=])|(?P<space>\s+)')


def tokens_of(dot: str) -> list[re.Match[str]]:
    """Split a text as Graphviz does; where that is not possible, the text is wrong."""
    found, at = [], 0
    while at < len(dot):
        match = TOKEN.match(dot, at)
        assert match, f"Graphviz can't read {dot[at : at + 40]!r}"
        at = match.end()
        if match["space"] is None:
            found.append(match)
    return found


def test_hostile_names_are_text_for_graphviz(hostile_names: list[str]) -> None:
    dot = named(*hostile_names).to_dot()
    assert dot.replace("\n", "").isprintable()
    texts = [unescape(token["text"]) for token in tokens_of(dot) if token["text"] is not None]
    shown = {"".join(each if each.isprintable() else ascii(each)[1:-1] for each in name) for name in hostile_names}
    assert shown <= set(texts)
    words = {token["word"] for token in tokens_of(dot)} - {None}
    assert {word for word in words if not re.fullmatch(r"n\d+", word)} == {
        "digraph", "rankdir", "node", "shape", "fontname", "edge", "fontsize", "label", "style"
    }  # fmt: skip


def test_the_digraph_of_a_small_flow() -> None:
    assert named("a", "b").to_dot().splitlines()[2:] == [
        '    n0 [label="a", style="rounded"];',
        '    n1 [label="b", style="rounded"];',
        '    n2 [label="a", shape="note"];',
        '    n0 -> n1 [label="out → input, n as b"];',
        '    n1 -> n2 [label="out", style="dashed"];',
        "}",
    ]


def test_hostile_names_are_one_quoted_text_each_in_mermaid(hostile_names: list[str]) -> None:
    text = named(*hostile_names).to_mermaid()
    assert text.replace("\n", "").isprintable()
    line = r'    r\d+(\("[^"<>`|{}()\[\]%\\]*"\)| -->\|"[^"<>`|{}()\[\]%\\]*"\| r\d+| -\.->\|"out"\| o0)'
    rest = [each for each in text.splitlines()[1:] if not re.fullmatch(line, each)]
    assert len(rest) == 1
    assert rest[0].startswith('    o0[/"')


# -- notebooks


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    return reader


def test_a_notebook_shows_the_graph_of_a_flow() -> None:
    flow = named("a", "b")
    bundle = flow._repr_mimebundle_(include=None, exclude=None)
    assert bundle == {"text/plain": repr(flow), "image/svg+xml": flow.to_svg()}


def test_a_notebook_shows_how_a_job_stands(strategy: dict[str, Any]) -> None:
    with Flow("f", error_handler=ErrorHandler("continue"), **strategy) as flow:
        flow.add_routine(Passes(), "first")
        flow.add_routine(Refuses(), "<b>second</b>")
        flow.connect("first", "out", "<b>second</b>", "input")
        job = flow.run("first")
    for each in (job, JobState.deserialize(job.serialize())):
        found = read(each._repr_html_())
        assert found.tags == {"div", "strong", "span", "table", "tr", "th", "td", "ul", "li"}
        assert found.attributes == {"style"}
        text = " ".join(found.texts)
        assert "completed" in text
        assert "posted completed failed skipped discarded pending retried 2 1 1 0 0 0 0" in text
        assert r"<b>second</b>.input: ValueError: <script>0</script>\x1b[31m" in text


def test_hostile_names_are_text_in_a_notebook(hostile_names: list[str]) -> None:
    for name in hostile_names:
        with Flow(name, error_handler=ErrorHandler("continue")) as flow:
            flow.add_routine(Refuses(), name)
            html = flow.run(name)._repr_html_()
        found = read(html)
        assert "script" not in found.tags
        assert found.attributes == {"style"}
        assert html.isprintable()
        assert len(html) < 5000
