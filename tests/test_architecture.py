"""The house rules that no one should have to check by eye: layers, circles, imports, and what is shipped."""

from __future__ import annotations

import ast
import graphlib
import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pytest

from places import CHECKOUT

PACKAGES = {
    "routilux_core": CHECKOUT / "routilux_core",
    "routilux_core_plugins": CHECKOUT / "plugins" / "routilux_core_plugins",
}

# Bottom first; a module imports only from modules further up in this table. A new module gets its place here.
LAYERS = (
    "_text.hints",
    "_text.printable",
    "errors",
    "seconds",
    "_routines.imports",
    "_text.log",
    "_text.trace",
    "hookspecs",
    "strategy",
    "error_handling",
    "_routines.attributes",
    "_routines.methods",
    "_routines.twins",
    "_routines.signature",
    "_routines.returns",
    "_tracking.failures",
    "_tracking.tracebacks",
    "_routines.frame",
    "_context",
    "_threads.visits",
    "_routines.merge_strategies",
    "ports",
    "_routines.internals",
    "_routines.settings",
    "routine",
    "tracking",
    "records",
    "job",
    "graph",
    "_report.picture",
    "_report.layout",
    "_report.svg",
    "_report.dot",
    "_report.notebook",
    "_registry.entry_points",
    "_registry.strategies",
    "_registry.plugins",
    "_registry.lookup",
    "_threads.resources",
    "_remote.pickling",
    "_remote.exceptions",
    "_remote.wire",
    "_remote.logs",
    "_remote.routines",
    "_remote.reporter",
    "_remote.cache",
    "worker",
    "executors",
    "_tracking.history",
    "_threads.aside",
    "_threads.timers",
    "_engine.mailbox",
    "_engine.plan",
    "_engine.retries",
    "_engine.choosing",
    "_engine.explain",
    "_tracking.totals",
    "_tracking.listeners",
    "_engine.scheduler",
    "_engine.mending",
    "_engine.engine",
    "_engine.wiring",
    "_engine.forks",
    "_engine.pools",
    "_threads.completion",
    "_engine.ledger",
    "_engine.run",
    "_engine.failures",
    "_engine.control",
    "_local.deadlines",
    "_local.emitter",
    "_local.invocation",
    "_local.worker",
    "_remote.envelopes",
    "_remote.paces",
    "_remote.losses",
    "_remote.claim",
    "_remote.packing",
    "_remote.receiver",
    "_remote.task",
    "_remote.batching",
    "_remote.scheduler",
    "_local.coroutines",
    "serialization.type_lookup",
    "serialization.problems",
    "serialization.annotations",
    "serialization.fields",
    "serialization.codecs",
    "serialization.values",
    "serialization.schema",
    "serialization.versions",
    "serialization.files",
    "serialization.policies",
    "serialization.snapshot",
    "serialization.routine_forms",
    "serialization.routine_writer",
    "serialization.routine_reader",
    "serialization.jobs",
    "serialization.flows",
    "serialization",
    "_report.timeline",
    "_report.trace",
    "_runtime",
    "flow",
    "testing",
    "cli.flows",
    "cli.plugins",
    "cli",
    "__init__",
)

# Folders whose `__init__` holds a docstring and nothing else.
ROOMS = {"_report", "_text", "_threads", "_routines", "_registry", "_tracking", "_engine", "_local", "_remote"}

# `import routilux_core` has to stay cheap: these come in when they are first needed, if ever.
NOT_AT_IMPORT = (
    "cattrs",
    "pluggy",
    "multiprocessing",
    "asyncio",
    "concurrent",
    "importlib.metadata",
    "logging",
    "traceback",
    "routilux_core_plugins",
    "routilux_core.hookspecs",
    "routilux_core.serialization",
    "routilux_core.testing",
    "routilux_core.tracking",
    "routilux_core.worker",
    "routilux_core.executors",
    "routilux_core.records",
    "routilux_core._report",
    "routilux_core._tracking.listeners",
    "routilux_core._registry.plugins",
    "routilux_core.serialization.snapshot",
)

# attrs compiles the methods of each of its classes, half a millisecond for one: what is made at import has to be public
# configuration. The engine's own records are named tuples, or classes with slots.
ATTRS_AT_IMPORT = {"Capabilities", "Connection", "Decision", "ErrorHandler", "ExecutionStrategy", "Failure"}

FIRST_FLOW = """
from routilux_core import Flow, Routine, slot

class Start(Routine):
    @slot
    def trigger(self) -> None:
        pass

with Flow() as flow:
    flow.add_routine(Start(), "start")
    assert flow.run("start").status == "completed"
"""


class Import(NamedTuple):
    """One imported name: of `from a.b import c` the name is `a.b.c`, of `import a.b` it is `a.b`."""

    importer: str
    name: str
    line: int

    def __str__(self) -> str:
        return f"{self.importer}, line {self.line}: imports {self.name}"


def imports_in(source: str, module: str, *, is_package: bool = False) -> list[Import]:
    """Return what the source imports at run time, inside functions too; `TYPE_CHECKING` blocks are left out."""
    found = []
    for node in _running(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [Import(module, alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = _origin(node, module, is_package)
            found += [Import(module, f"{origin}.{alias.name}", node.lineno) for alias in node.names]
    return found


def _running(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for otherwise in child.orelse:
                yield otherwise
                yield from _running(otherwise)
        else:
            yield child
            yield from _running(child)


def _origin(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    if not node.level:
        return node.module or ""
    parents = module.split(".")
    parents = parents[: len(parents) - node.level + is_package]
    return ".".join([*parents, node.module] if node.module else parents)


def modules() -> dict[str, Path]:
    """Return every module of both packages by its dotted name."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def all_imports(package: str) -> list[Import]:
    """Return what the modules of one package import."""
    return [
        each
        for name, path in modules().items()
        if name.split(".")[0] == package
        for each in imports_in(path.read_text("utf-8"), name, is_package=path.name == "__init__.py")
    ]


def layer_of(dotted: str) -> str | None:
    """Return the layer that a dotted name of the core belongs to; None for anything else."""
    package, _, rest = dotted.partition(".")
    if package != "routilux_core":
        return None
    first, _, second = rest.partition(".")
    inner = f"{first}.{second.partition('.')[0]}"
    if inner in LAYERS or (first.startswith("_") and f"routilux_core.{inner}" in modules()):
        return inner
    # `from routilux_core import Flow` takes the name from the package itself.
    return first if first in LAYERS or f"routilux_core.{first}" in modules() else "__init__"


def breaks_the_layers(each: Import) -> bool:
    """Whether the import leads to the importer's own layer or above it; inside a package of the core it may."""
    importer, target = layer_of(each.importer), layer_of(each.name)
    if importer not in LAYERS or target not in LAYERS or (importer == target != "__init__"):
        return False
    return LAYERS.index(target) >= LAYERS.index(importer)


def private_uses(source: str, module: str) -> list[str]:
    """Return the underscore names of the core, and of any object but its own, that a plugin's source uses."""
    imported = [
        str(each)
        for each in imports_in(source, module)
        if layer_of(each.name) and any(_is_private(part) for part in each.name.split("."))
    ]
    attributes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)]
    return imported + [
        f"{module}, line {node.lineno}: uses {ast.unparse(node)}"
        for node in attributes
        if _is_private(node.attr) and ast.unparse(node.value) not in ("self", "cls")
    ]


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def test_every_module_of_the_core_has_a_place_in_the_table() -> None:
    homeless = {layer_of(name) for name in modules()} - {None} - set(LAYERS) - ROOMS
    assert not homeless, f"give {sorted(map(str, homeless))} a place in LAYERS"


def test_a_module_imports_only_what_stands_below_it() -> None:
    wrong = [str(each) for each in all_imports("routilux_core") if breaks_the_layers(each)]
    assert not wrong, "\n".join(wrong)


def test_there_is_no_circle_of_imports() -> None:
    known = modules()
    graph: dict[str, set[str]] = {name: set() for name in known}
    for package in PACKAGES:
        for each in all_imports(package):
            # The longest part that is a module: `routilux_core.flow.Flow` is a name in `routilux_core.flow`.
            target = each.name
            while target and target not in known:
                target = target.rpartition(".")[0]
            if target and target != each.importer:
                graph[each.importer].add(target)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_the_core_never_imports_a_plugin() -> None:
    wrong = [str(each) for each in all_imports("routilux_core") if each.name.startswith("routilux_core_plugins")]
    assert not wrong, "\n".join(wrong)


def test_the_bundled_plugins_use_only_public_names() -> None:
    plugins = {name: path for name, path in modules().items() if name.startswith("routilux_core_plugins")}
    wrong = [use for name, path in plugins.items() for use in private_uses(path.read_text("utf-8"), name)]
    assert plugins
    assert not wrong, "\n".join(wrong)


def permit_writes(source: str) -> list[int]:
    """Return the lines that set a `free`, which is what a mailbox has left of its permits."""
    stored = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute) and node.attr == "free")
    return [node.lineno for node in stored if isinstance(node.ctx, ast.Store)]


def test_only_the_mailbox_writes_permits() -> None:
    writers = {name for name, path in modules().items() if permit_writes(path.read_text("utf-8"))}
    assert writers == {"routilux_core._engine.mailbox"}


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("node.mailbox.free -= 1", [1]),
        ("\nself.limit = self.free = 3", [2]),
        ("mailbox.free, rest = 1, 2", [1]),
        ("while mailbox.free and not self.free == limit: pass", []),
    ],
)
def test_the_check_of_permits_sees(source: str, lines: list[int]) -> None:
    assert permit_writes(source) == lines


@pytest.mark.parametrize(
    ("importer", "source", "expected"),
    [
        ("errors", "from routilux_core import flow", True),
        ("errors", "from routilux_core import Flow", True),
        ("errors", "from . import job", True),
        ("graph", "from .flow import Flow", True),
        ("graph", "import routilux_core.flow", True),
        ("graph", "def later():\n    from routilux_core.flow import Flow", True),
        ("testing.suite", "from ..cli import main", True),
        ("testing.suite", "from .fakes import Fake", False),
        ("flow", "from routilux_core.graph import Graph", False),
        ("flow", "from routilux_core import graph", False),
        ("flow", "import json, attrs", False),
        ("graph", "if TYPE_CHECKING:\n    from routilux_core.flow import Flow", False),
        ("graph", "if TYPE_CHECKING:\n    pass\nelse:\n    from routilux_core.flow import Flow", True),
    ],
)
def test_the_layer_check_sees(importer: str, source: str, expected: bool) -> None:
    found = imports_in(source, f"routilux_core.{importer}")
    assert any(breaks_the_layers(each) for each in found) is expected


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("from routilux_core._engine.engine import Crew", 1),
        ("from routilux_core import _engine", 1),
        ("from routilux_core.strategy import _hidden", 1),
        ("import routilux_core\nroutilux_core._engine", 1),
        ("def run(task):\n    task._payload()", 1),
        ("from routilux_core import Task, __version__", 0),
        ("class Pool:\n    def close(self):\n        self._closed = True", 0),
    ],
)
def test_the_check_of_plugins_sees(source: str, count: int) -> None:
    assert len(private_uses(source, "routilux_core_plugins.some")) == count


def test_importing_the_package_brings_in_only_what_it_needs() -> None:
    came = brought_in("import routilux_core")
    wrong = too_early(came)
    assert "routilux_core" in came
    assert not wrong, f"import routilux_core also imported {', '.join(wrong)}"


def test_a_first_flow_without_plugins_brings_in_no_more_than_its_strategy() -> None:
    wrong = too_early(brought_in(FIRST_FLOW))
    assert wrong == ["routilux_core_plugins", "routilux_core_plugins.sequential"]


def test_few_classes_of_attrs_are_made_at_import() -> None:
    code = """
import sys, attrs, routilux_core
for module in [each for name, each in sys.modules.items() if name.split(".")[0] == "routilux_core"]:
    for found in vars(module).values():
        if isinstance(found, type) and attrs.has(found) and found.__module__ == module.__name__:
            print(found.__name__)
"""
    assert set(run(code).split()) == ATTRS_AT_IMPORT


def test_every_public_name_is_there_also_those_that_are_loaded_later() -> None:
    code = """
import routilux_core
print({*routilux_core.__all__} - {*dir(routilux_core)})
from routilux_core import *
print([name for name in routilux_core.__all__ if name not in globals()])
print(hasattr(routilux_core, "no_such_name"))
"""
    assert run(code).splitlines() == ["set()", "[]", "False"]


def brought_in(program: str) -> set[str]:
    """Return the modules that a program imports which a bare interpreter has not."""
    return set(run(f"import sys; before = {{*sys.modules}}\n{program}\nprint(*{{*sys.modules}} - before)").split())


def too_early(came: set[str]) -> list[str]:
    return sorted(name for name in came if any(name == each or name.startswith(f"{each}.") for each in NOT_AT_IMPORT))


def run(program: str) -> str:
    variables = os.environ | {"ROUTILUX_DISABLE_PLUGINS": "*"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


def test_the_wheel_holds_both_packages_and_nothing_else() -> None:
    shipped = _shipped_files()
    expected = {
        PurePosixPath(package, path.relative_to(folder))
        for package, folder in PACKAGES.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {path for path in shipped if ".dist-info" not in path.parts[0]} == expected
    assert {PurePosixPath(package, "py.typed") for package in PACKAGES} <= shipped
    assert [path for path in shipped if path.name == "LICENSE"]


def _shipped_files() -> set[PurePosixPath]:
    distribution = importlib.metadata.distribution("routilux-core")
    if '"editable": true' in (distribution.read_text("direct_url.json") or ""):
        pytest.skip("an editable install has no files of its own: tox runs this against the wheel")
    files = {PurePosixPath(str(file)) for file in distribution.files or ()}
    # Byte code is written by the installer, and scripts are made by it.
    return {path for path in files if "__pycache__" not in path.parts and path.parts[0] != ".."}


def test_the_bundled_strategies_are_declared_as_third_parties_declare_theirs() -> None:
    distribution = importlib.metadata.distribution("routilux-core")
    declared = {
        entry.name: entry.load() for entry in distribution.entry_points if entry.group == "routilux_core.strategies"
    }
    assert {"sequential", "concurrent"} <= declared.keys()
    assert {name: cls.name for name, cls in declared.items()} == {name: name for name in declared}
