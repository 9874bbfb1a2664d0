"""The blocks of a document, written to files and run as a reader would: see `Page`.

A page is Markdown. Its ```python blocks make one program, `<page>.py`, in their order. Its ```console blocks are typed
into a shell in the page's folder, and what stands below a command has to appear. Comments say what the reader need not
see; each is about the next block:

    <!-- file: shop.py -->              the block belongs to this file
    <!-- exit: 1 -->                    the last command of the block ends with this code
    <!-- run: fresh -->                 run by the test that installs into a new environment
    <!-- hidden: shop.py ... -->        code of a file that is not shown
    <!-- hidden console: ... -->        commands that are not shown
    <!-- needs: postgresql -->          the page needs a server, whose address is in DATABASE_URL
    <!-- needs: data -->                the page reads the observations of examples/data, in a folder `data`
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from places import CHECKOUT

SECONDS = 300
RUN = ("python", "console")
DATA = ("toml", "json")  # read, so that they are at least well-formed
SHOWN = ("text", "mermaid")  # pictures, and parts of what a program prints
PIECE = re.compile(
    r"^(?P<indent> *)```(?P<language>[^\n]*)\n(?P<code>.*?)^(?P=indent)```[ ]*$"
    r"|^<!-- (?P<key>file|exit|run|needs): (?P<value>[^\n]*?) -->$"
    r"|^<!-- hidden(?P<console> console)?:(?P<name>[^\n]*)\n(?P<hidden>.*?)^-->$",
    re.MULTILINE | re.DOTALL,
)
SAME = ("conftest.py", "test_mine.py")  # several pages show these
NUMBER = re.compile(r"\d+\\\.\d+")


class Block(NamedTuple):
    """A piece of a page: `language` is what stands behind the fence, `of` what the comments before it have said."""

    language: str
    code: str
    line: int
    of: Mapping[str, str]
    is_hidden: bool = False

    @property
    def is_fresh(self) -> bool:
        """Whether it installs something."""
        return self.of.get("run") == "fresh"


class Command(NamedTuple):
    """What is typed into a shell, and what has to appear; `code` is the exit code."""

    typed: str
    expected: list[str]
    code: int = 0


class Page:
    """A document, and what has to be done to run all of it."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        self.blocks = list(_blocks(text))
        self.needs = {found["value"] for found in PIECE.finditer(text) if found["key"] == "needs"}

    @property
    def files(self) -> dict[str, str]:
        """The files that the page's Python makes, by name, each with blank lines where other text stands."""
        made: dict[str, list[str]] = {}
        for block in self.blocks:
            if block.language == "python":
                made.setdefault(block.of.get("file") or f"{self.name}.py", []).append(block.code)
        return {name: "\n\n".join(parts) for name, parts in made.items()}

    @property
    def commands(self) -> list[Command]:
        """What is typed, in its order, and then what is left to be run."""
        typed = [
            command
            for block in self.blocks
            if block.language == "console" and not block.is_fresh
            for command in commands(block)
        ]
        said = " ".join(command.typed for command in typed)
        rest = [name for name in self.files if name not in said and name != "conftest.py"]
        return typed + [Command(_run_file(name), []) for name in rest]

    def write(self, folder: Path) -> None:
        """Write the files of the page."""
        for block in self.blocks:
            if block.language in DATA and "file" in block.of:
                (folder / block.of["file"]).write_text(block.code, "utf-8")
        for name, text in self.files.items():
            (folder / name).write_text(text, "utf-8")

    def run(self, folder: Path, variables: Mapping[str, str]) -> None:
        """Do all that the page says, in this folder."""
        self.write(folder)
        if "data" in self.needs:
            shutil.copytree(CHECKOUT / "examples" / "data", folder / "data")
        for command in self.commands:
            check(command, folder, variables)


def pages() -> list[Page]:
    """Return the documents for users and plugin authors."""
    docs = [path for path in sorted((CHECKOUT / "docs").rglob("*.md")) if "_build" not in path.parts]
    return [Page(_name(path), path.read_text("utf-8")) for path in (CHECKOUT / "README.md", *docs)]


def _name(path: Path) -> str:
    """Return what a page's program is called: unique over all pages, so that all can stand in one folder."""
    parts = path.relative_to(CHECKOUT).with_suffix("").parts
    return "_".join(part.lower().replace("-", "_") for part in parts if part != "docs")


def check(command: Command, folder: Path, variables: Mapping[str, str]) -> None:
    """Type a command, and compare what it prints with what the page shows: not its log, which may say more."""
    done = subprocess.run(
        ["bash", "-c", command.typed],
        cwd=folder,
        env=_environment(variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    said = f"$ {command.typed}\n{done.stdout}\n{done.stderr}"
    assert done.returncode == command.code, said
    if command.expected and not re.fullmatch(pattern(command.expected), done.stdout.rstrip("\n"), re.DOTALL):
        raise AssertionError("\n".join((said, "--- shown in the document:", *command.expected)))


def pattern(lines: list[str]) -> str:
    """Return the pattern of what a document shows.

    `...` in a line is any text, `...` alone any lines, or none. A number with a point is any such number.
    """
    text = re.escape("\n".join(lines))
    dots, end = re.escape("..."), re.escape("\n")
    text = re.sub(rf"(?:^|(?<={re.escape(end)})){re.escape(dots)}{re.escape(end)}", lambda _: r"(?:.*\n)?", text)
    text = re.sub(rf"{re.escape(end)}{re.escape(dots)}$", lambda _: r"(?:\n.*)?", text)
    return NUMBER.sub(lambda _: r"\d+\.\d+", text.replace(dots, ".*?"))


def indented(page: Page) -> list[int]:
    """Return the lines where code stands without a fence, so that nobody can tell how to run it."""
    found, before, in_list, outside = [], "", False, PIECE.sub(lambda m: "\n" * m[0].count("\n") + "x", page.text)
    for number, line in enumerate(outside.splitlines(), 1):
        if re.match(r"([-*+]|\d+[.)]) ", line):
            in_list = True
        elif line and not line.startswith(" "):
            in_list = False
        if line.startswith("    ") and not before.strip() and not in_list:
            found.append(number)
        before = line if not (line.startswith("    ") and not in_list) else ""
    return found


def _blocks(text: str) -> Iterator[Block]:
    of: dict[str, str] = {}
    for found in PIECE.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        if found["key"]:
            of[found["key"]] = found["value"]
        elif found["hidden"] is not None:
            language = "console" if found["console"] else "python"
            name = {"file": found["name"].strip()} if found["name"].strip() else {}
            yield Block(language, found["hidden"], line, name, is_hidden=True)
        else:
            width = len(found["indent"])
            code = "".join(each[width:] if each.strip() else "\n" for each in found["code"].splitlines(keepends=True))
            yield Block(found["language"].strip(), code, line, of)
            of = {}


def commands(block: Block) -> Iterator[Command]:
    """Return what the lines of a console block that begin with `$` type, each with what stands below it."""
    lines = block.code.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("$ ")]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        code = int(block.of.get("exit", 0)) if end == len(lines) else 0
        typed, expected = lines[start][2:], [line.rstrip() for line in lines[start + 1 : end]]
        while typed.endswith("\\"):
            typed = f"{typed}\n{expected.pop(0)}"
        while expected and not expected[-1]:
            expected.pop()
        yield Command(typed, expected, code)


def _run_file(name: str) -> str:
    return f"python -m pytest -q -p no:cacheprovider {name}" if name.startswith("test_") else f"python -W error {name}"


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return what a reader's shell has: the environment's commands first, and scripts that find their neighbours."""
    own = {key: value for key, value in os.environ.items() if key not in ("PYTHONSAFEPATH", "ROUTILUX_CHECK_LOCKS")}
    commands = os.pathsep.join((str(Path(sys.executable).parent), own.get("PATH", "")))
    return {**own, "PATH": commands, "no_proxy": "127.0.0.1", "COLUMNS": "100", **variables}


if __name__ == "__main__":  # writes all of it into a folder, for those who check types
    target = Path(sys.argv[1])
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for each in pages():
        twice = [name for name, text in each.files.items() if (target / name).exists() and name not in SAME]
        assert not twice, f"{each.name}: choose another name, since other pages have {twice}, too"
        each.write(target)
    (target / "pyrightconfig.json").write_text('{"typeCheckingMode": "standard"}\n', "utf-8")
