"""Names that try to be more than text, and flows to look at."""

from __future__ import annotations

import random
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import seen_routines
from chromium import Browser, browser, find_browser
from quickest import keywords

SEEDS = (
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    '"><img src=x onerror=alert(3)>',
    "'; alert(4); '",
    "--><!-- ]]>",
    "&lt;b&gt;&amp;&#60;",
    "</title></svg><svg onload=alert(5)>",
    "javascript:alert(6)",
    "\u202eevil\u202c\u2066\u2069",
    "שלום עולם",
    "مرحبا",
    "line\nbreak\r\n\ttab",
    "\x1b[31mred\x1b]0;title\x07",
    "\x9b31m",
    "nul\x00 del\x7f",
    "\u2028\u2029\ufeff\u200b",
    "%% mermaid }}; end",
    "]]) --> x{y}|z|",
    "`code` ${x} \\n \\l \\N",
    "\\\\\" ; node [x] \"",
    "数据処理 ünïcödé 🦊",
    "e\u0301\u0301\u0301\u0301",
    "{{ template }} {% if %}",
    "__proto__",
    "constructor",
)  # fmt: skip


@pytest.fixture(scope="session")
def hostile_names() -> list[str]:
    """500 different names: each seed, some of 10 kB, and mixtures of all."""
    draw = random.Random(19)
    names = [*SEEDS, "x" * 10_000, SEEDS[0] * 400, SEEDS[8] * 800]
    while len(names) < 500:
        pieces = [draw.choice(SEEDS) for _ in range(draw.randint(1, 4))]
        cut = draw.randint(1, 12)
        names.append("".join(pieces)[cut:] + str(len(names)) + pieces[0][:cut])
    return names


STRATEGIES: dict[str, dict[str, Any]] = {
    "sequential": {"execution_strategy": "sequential"},
    "concurrent": {"execution_strategy": "concurrent", "max_workers": 4},
    "process": keywords("process", 2),
}


@pytest.fixture(scope="session")
def seen() -> ModuleType:
    """The module with the routines of these tests, which worker processes can import, too."""
    return seen_routines


@pytest.fixture(params=sorted(STRATEGIES))
def each_strategy(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The keywords that make a `Flow` run under one of the bundled strategies."""
    return dict(STRATEGIES[request.param])


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A real browser, one for all tests; without one they are skipped."""
    path = find_browser()
    if path is None:
        pytest.skip("there is no Chromium here: apt-get install chromium, or name one in ROUTILUX_CHROMIUM")
    with browser(path) as started:
        yield started
