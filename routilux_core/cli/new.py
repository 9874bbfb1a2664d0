"""The commands that begin something: `routilux new flow NAME` and `routilux new plugin NAME`."""

from __future__ import annotations

import argparse
import importlib.metadata
import keyword
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from routilux_core._text.printable import Lines
from routilux_core.strategy import CONTRACT

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")  # of a distribution, and of a strategy

FLOW = {
    "$module.py": '''\
"""$title: squares some numbers, and adds them up. Run it: python $module.py"""

from routilux_core import Flow, Routine, event, slot


class Numbers(Routine):
    number = event("n")

    def __call__(self, count: int) -> None:
        for n in range(count):
            self.emit("number", n=n)


class Square(Routine, stateless=True):  # keeps nothing between calls, so they may run at the same time
    squared = event("n")

    @slot
    def number(self, n: int) -> None:
        self.emit("squared", n=n * n)


class Total(Routine):  # has state, so it handles one event at a time, and needs no lock
    total: int = 0
    added = event("total")

    @slot
    def add(self, n: int) -> None:
        self.total += n
        self.emit("added", total=self.total)


def make_flow(execution_strategy: str = "concurrent") -> Flow:
    flow = Flow("$name", execution_strategy)
    flow.add_routine(Numbers(), "numbers")
    flow.add_routine(Square(), "square")
    flow.add_routine(Total(), "total")
    flow.connect("numbers", "number", "square", "number")
    flow.connect("square", "squared", "total", "add")
    flow.add_output("total", "added")
    return flow


if __name__ == "__main__":  # worker processes import this module, and must not start the program again
    with make_flow() as flow:
        job = flow.run("numbers", {"count": 10}, raise_for_errors=True)
        print(job.status, job.results("total.added")[-1])
''',
    "test_$module.py": '''\
"""The answer is the same under every strategy. Run it: python -m pytest"""

import pytest
from $module import make_flow


@pytest.mark.parametrize("strategy", ["sequential", "concurrent", "process"])
def test_the_squares_are_added_up(strategy):
    with make_flow(strategy) as flow:
        job = flow.run("numbers", {"count": 10}, timeout=60.0, raise_for_errors=True)
        assert job.results("total.added")[-1] == {"total": 285}
''',
    "README.md": """\
# $title

    pip install routilux-core pytest
    python $module.py
    python -m pytest
    routilux run $module:make_flow --entry numbers --param count=10
""",
}

PLUGIN = {
    "pyproject.toml": """\
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "routilux-$name"
version = "0.1.0"
description = "Execution strategy `$name` for routilux-core."
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["$core"]

[project.optional-dependencies]
test = ["routilux-core[testing]"]

# This line is what makes Flow(execution_strategy="$name") work once the package is installed.
[project.entry-points."routilux_core.strategies"]
$name = "routilux_$module:$class_name"

[tool.hatch.build.targets.wheel]
packages = ["src/routilux_$module"]

[tool.pytest.ini_options]
testpaths = ["tests"]
""",
    "src/routilux_$module/__init__.py": '''\
"""Execution strategy `$name`: the threads of an executor of the standard library, to begin with."""

from __future__ import annotations

from concurrent.futures import Executor, ThreadPoolExecutor
from typing import ClassVar

from attrs import frozen

from routilux_core import Capabilities, ExecutorStrategy

__all__ = ["$class_name"]


@frozen(kw_only=True)
class $class_name(ExecutorStrategy):
    """Up to `max_workers` workers. Any executor with the methods of concurrent.futures.Executor will do."""

    name: ClassVar[str] = "$name"
    contract: ClassVar[int] = $contract  # the version of the contract for strategies that this was written for
    # Say shares_memory=False if the workers are no threads of this process.
    capabilities: ClassVar[Capabilities] = Capabilities(shares_memory=True)

    def make_executor(self) -> Executor:
        return ThreadPoolExecutor(self.max_workers)
''',
    "src/routilux_$module/py.typed": "",
    "tests/test_$module.py": '''\
"""The strategy keeps the promises of routilux-core, and is found by its name."""

import pytest

from routilux_core import Flow, Routine, event, slot
from routilux_core.testing import StrategySuite


class TestPromises(StrategySuite):
    # A case that can't be passed by design is named here with its reason; drop this with an executor of your own.
    exempt = {
        "test_a_program_that_ends_leaves_nothing": "the interpreter joins the threads of executors when it exits",
    }

    @pytest.fixture
    def strategy(self):
        return "$name"


class Square(Routine, stateless=True):
    done = event("n")

    @slot
    def n(self, n: int) -> None:
        self.emit("done", n=n * n)


def test_a_flow_finds_it_by_name():
    with Flow(execution_strategy="$name", max_workers=2) as flow:
        flow.add_routine(Square(), "square")
        flow.add_output("square", "done")
        assert flow.run("square", {"n": 7}).results("square.done") == [{"n": 49}]
''',
    "README.md": """\
# routilux-$name

Adds the execution strategy `$name` to routilux-core: `Flow(execution_strategy="$name")`.

Build it, install it, and let the conformance kit prove that it keeps the promises:

    python -m pip wheel --no-deps --wheel-dir dist .
    python -m pip install "routilux-core[testing]" dist/*.whl
    python -m pytest
    routilux strategies
""",
}


def add_commands(subparsers: Any) -> None:
    """Add the commands of this module."""
    new = subparsers.add_parser("new", help="begin a flow, or a distribution with a strategy of your own")
    kinds = new.add_subparsers(metavar="KIND", required=True)
    for kind, text in (
        ("flow", "a program with a flow, and a test that runs it under each strategy"),
        ("plugin", "a distribution with an execution strategy, and its conformance test"),
    ):
        command = kinds.add_parser(kind, help=text, description=f"Write {text}, into a new folder.")
        command.add_argument("name", metavar="NAME", help="lower-case letters and digits, with single dashes between")
        command.add_argument("--into", metavar="FOLDER", type=Path, default=None, help="the folder to make; its name")
        command.set_defaults(run=_new_flow if kind == "flow" else _new_plugin)


def _new_flow(options: argparse.Namespace) -> int:
    into = options.into or Path(options.name)
    return _write(FLOW, options.name, into, f"cd {into} && python {_module(options.name)}.py")


def _new_plugin(options: argparse.Namespace) -> int:
    from routilux_core._registry.strategies import BUNDLED

    if options.name in BUNDLED:
        return _refuse(f"{options.name!r} is the name of a bundled strategy: choose another one")
    into = options.into or Path(f"routilux-{options.name}")
    return _write(PLUGIN, options.name, into, f"cd {into} && python -m pip install -e '.[test]' && python -m pytest")


def _write(files: Mapping[str, str], name: str, into: Path, then: str) -> int:
    """Fill the templates in; nothing that exists is written over."""
    if not NAME.fullmatch(name) or keyword.iskeyword(_module(name)):
        return _refuse(f"{name!r} can't be a name here: take lower-case letters and digits, with single dashes between")
    if into.exists():
        return _refuse(f"{str(into)!r} exists already: choose another name, or another folder with --into")
    words = {
        "name": name,
        "module": _module(name),
        "title": name.replace("-", " ").capitalize(),
        "class_name": f"{name.title().replace('-', '')}Strategy",
        "contract": CONTRACT,
        "core": _core(),
    }
    for path, text in files.items():
        target = into / Template(path).substitute(words)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(Template(text).substitute(words), encoding="utf-8")
        print(Lines(f"wrote {target}"))
    print(Lines(f"\nNext: {then}"))
    return 0


def _core() -> str:
    """Return what a distribution that is made now requires: this version, and none that may break with it."""
    major, minor, *_ = importlib.metadata.version("routilux-core").split(".")
    return f"routilux-core>={major}.{minor},<{int(major) + 1}"


def _module(name: str) -> str:
    return name.replace("-", "_")


def _refuse(why: str) -> int:
    print(Lines(f"routilux: {why}"), file=sys.stderr)
    return 1
