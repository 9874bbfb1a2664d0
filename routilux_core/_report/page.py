"""A run as one page: a file that needs nothing else, and may ask for nothing else."""

from __future__ import annotations

import json
import os
import re
import zlib
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import Any

from routilux_core._report.facts import facts_of
from routilux_core._text.printable import printable
from routilux_core.job import JobState
from routilux_core.serialization.files import replace_file

QUOTED = re.compile(r'("(?:[^"\\]|\\.)*"|`(?:[^`\\]|\\.)*`)')  # the files have no templates in templates


def write_report(path: str | os.PathLike[str], jobs: Sequence[JobState], title: str) -> None:
    """Write the page about jobs."""
    replace_file(path, page_of(jobs, title).encode())


def page_of(jobs: Sequence[JobState], title: str) -> str:
    """Return the page about jobs, side by side where there are several."""
    facts, rows = facts_of(jobs, title)
    return _filled(title, facts, rows, "connect-src 'none'", "")


def live_page(title: str, facts: dict[str, Any], rows: Sequence[str]) -> str:
    """Return the page of a job that runs: it may ask for `events` beside it, and for nothing else."""
    icon = '<link rel="icon" href="data:,">'  # else a browser asks for one
    return _filled(title, facts, rows, "connect-src 'self'; img-src data:", icon)


def _filled(title: str, facts: dict[str, Any], rows: Sequence[str], more_policy: str, more_head: str) -> str:
    style, script = _resource("page.css"), _resource("page.js")
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; {more_policy}; "
        "base-uri 'none'; form-action 'none'"
    )
    live = ' data-live="events"' if more_head else ""
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">{more_head}',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{escape(printable(title[:200]))}</title>",
        f"<style>{style}</style>\n</head>\n<body{live}>",
        "<noscript>This page draws itself with a script of its own, which is turned off here.</noscript>",
        f'<script type="text/plain" id="facts">{deflated(facts)}</script>',
        *(f'<script type="text/plain" id="rows-{number}">{text}</script>' for number, text in enumerate(rows)),
        f"<script>{script}</script>\n</body>\n</html>\n",
    ]
    return "\n".join(parts)


def deflated(facts: dict[str, Any]) -> str:
    """Return facts as the page takes them."""
    text = json.dumps(facts, ensure_ascii=False, separators=(",", ":"))
    return b64encode(zlib.compress(text.encode(), 9)).decode("ascii")


def _resource(name: str) -> str:
    """Return a file of this folder without comments, and without the blanks that only its authors need."""
    lines = map(str.strip, files("routilux_core._report").joinpath(name).read_text("utf-8").splitlines())
    text = "\n".join(line for line in lines if line and not line.startswith("//"))
    signs = r" ?([{};,>]|: ) ?" if name.endswith(".css") else r" ?([-=+*/%<>!&|?:,;(){}\[\]]) ?"
    parts = QUOTED.split(text)
    parts[::2] = [re.sub(signs, lambda found: found[1].strip(), part) for part in parts[::2]]
    return "".join(parts)


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
