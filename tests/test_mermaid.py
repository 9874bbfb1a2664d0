"""A flow as a Mermaid flowchart, whatever its names are made of."""

from __future__ import annotations

import html
import re

import pytest

from routilux_core import Flow, Routine, event, slot


class Start(Routine, stateless=True):
    out = event("n", "other")

    @slot
    def trigger(self) -> None:
        self.emit("out", n=1)


class Sink(Routine):
    done = event("n")

    @slot
    def input(self, value: int) -> None:
        self.emit("done", n=value)


def shown(text: str) -> str:
    """Return what Mermaid shows for a quoted text: `#9829;` is the character of that number."""
    return html.unescape(re.sub(r"#(\d+);", r"&#\1;", text))


def test_the_picture_of_a_small_flow() -> None:
    flow = Flow("prices")
    flow.add_routine(Start(), "start")
    flow.add_routine(Sink(), "sink")
    flow.connect("start", "out", "sink", "input", param_mapping={"n": "value"})
    flow.connect("start", "out", "sink", "input", param_mapping={"n": "value", "other": "more"})
    flow.add_output("sink", "done", "answers")
    assert flow.to_mermaid() == (
        "flowchart LR\n"
        '    r0("start")\n'
        '    r1["sink"]\n'
        '    r0 -->|"out → input, n as value"| r1\n'
        '    r0 -->|"out → input, n as value, other as more"| r1\n'
        '    o0[/"answers"/]\n'
        '    r1 -.->|"done"| o0\n'
    )


def test_an_empty_flow_is_a_picture_too() -> None:
    assert Flow().to_mermaid() == "flowchart LR\n"


@pytest.mark.parametrize(
    "name",
    [
        'a "quoted" name',
        "end",
        "a]b[c",
        "x --> y",
        "<b>bold</b>",
        "#35;",
        "`code`",
        "a|b",
        "two\nlines",
        "%% no",
        "ünï 数",
    ],
)
def test_names_of_any_characters_come_through(name: str) -> None:
    flow = Flow()
    flow.add_routine(Start(), name)
    flow.add_routine(Sink(), "sink")
    flow.connect(name, "out", "sink", "input", param_mapping={"n": "value"})
    lines = flow.to_mermaid().splitlines()
    assert len(lines) == 4
    match = re.fullmatch(r'    r0\("([^"\n]*)"\)', lines[1])
    assert match is not None
    assert shown(match[1]) == name
    assert not re.search(r"[<>`|\[\]{}()%]", match[1])
