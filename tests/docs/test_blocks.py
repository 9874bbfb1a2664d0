"""Every block of the README and of docs/ is run as it stands, and a block that is not run fails a test."""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from documents import DATA, RUN, SAME, SHOWN, Command, Page, check, indented, pages, pattern
from places import CHECKOUT
from postgresql import server

PAGES = {page.name: page for page in pages()}
READ = {"toml": tomllib.loads, "json": json.loads}


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with server() as address:
        if address is None:
            pytest.skip("no PostgreSQL server, or no psycopg, is installed here")
        yield address


@pytest.mark.once
@pytest.mark.timeout(900)  # a page starts up to ten programs, one after the other
@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if page.files or page.commands])
def test_all_blocks_of_a_page_run(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    page = PAGES[name]
    variables = {"DATABASE_URL": request.getfixturevalue("database")} if "postgresql" in page.needs else {}
    page.run(tmp_path, variables)


@pytest.mark.once
@pytest.mark.parametrize("name", PAGES)
def test_no_block_is_left_out(name: str) -> None:
    page = PAGES[name]
    ran = sum(code.count("\n") for code in page.files.values())
    for block in page.blocks:
        assert block.language in (*RUN, *DATA, *SHOWN) or block.language.startswith("{"), f"line {block.line}"
        assert block.of.get("run", "fresh") == "fresh", f"line {block.line}"
        if block.language in DATA:
            READ[block.language](block.code)
        if block.language == "python":
            assert block.code in page.files[block.of.get("file") or f"{name}.py"], f"line {block.line}"
        if block.language == "console":
            assert block.code.startswith("$ "), f"line {block.line}: a command begins with '$ '"
    assert ran >= sum(block.code.count("\n") for block in page.blocks if block.language == "python")
    # Two lines of the README are run by CI, which reads them there.
    alone = page.text.splitlines()
    assert [n for n in indented(page) if not alone[n - 1].startswith("    python3 -m venv .venv && ")] == []


@pytest.mark.once
def test_no_two_pages_have_a_file_of_one_name() -> None:
    files = [name for page in PAGES.values() for name in page.files if name not in SAME]
    assert [name for name, count in Counter(files).items() if count > 1] == [], "type checkers see them in one folder"


@pytest.mark.once
@pytest.mark.parametrize("document", ["README.md", "SECURITY.md", "CONTRIBUTING.md", "docs/llms.txt"])
def test_links_lead_to_files(document: str) -> None:
    path = CHECKOUT / document
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", path.read_text("utf-8"))
    assert [link for link in links if not path.parent.joinpath(link.replace(".html", ".md")).exists()] == []


@pytest.mark.once
def test_a_block_that_does_not_do_what_the_page_shows_is_found(tmp_path: Path) -> None:
    wrong = "```python\nassert 1 == 2\n```\n"
    typed = "```console\n$ echo one; echo 0.25\n{}\n```\n"
    for text, is_right in (
        (wrong, False),
        (typed.format("one\n0.31"), True),
        (typed.format("one"), False),
        (typed.format("..."), True),
        (typed.format("one\n...\n0.25"), True),
        (typed.format("one\n0.25\n..."), True),
        (typed.format("one\n...\n0.25\nmore"), False),
    ):
        with nullcontext() if is_right else pytest.raises(AssertionError):
            Page("page", text).run(tmp_path, {})


@pytest.mark.once
def test_a_command_that_fails_is_found(tmp_path: Path) -> None:
    check(Command("exit 3", [], 3), tmp_path, {})
    with pytest.raises(AssertionError):
        check(Command("exit 3", []), tmp_path, {})
    assert pattern(["a 0.5 s", "..."]) != pattern(["a 0.5 s"])
