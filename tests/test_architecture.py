"""The house rules that no one should have to check by eye: rooms, circles, imports, and what is shipped."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import itertools
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pytest

from places import CHECKOUT

pytestmark = pytest.mark.once  # it reads sources

SHIPPED = {  # in one wheel
    "routilux_core": CHECKOUT / "routilux_core",
    "routilux_core_plugins": CHECKOUT / "plugins" / "routilux_core_plugins",
}
PACKAGES = SHIPPED | {
    "routilux_dask": CHECKOUT / "plugins" / "routilux-dask" / "src" / "routilux_dask",
    "routilux_otel": CHECKOUT / "plugins" / "routilux-otel" / "src" / "routilux_otel",
}

# What stands below all rooms: public modules that the rooms themselves are made of.
FLOOR = {
    "error_handling",
    "errors",
    "graph",
    "hookspecs",
    "job",
    "journal",
    "ports",
    "records",
    "routine",
    "seconds",
    "strategy",
    "tracking",
}
BASE = {"floor", "_text", "_routines", "_threads"}

# What each room may import, imports for types only included. A room is a folder, `floor` is above; `face` is every
# other public module. A new folder gets its line here, and docs/internals.md says what is in it.
MAY_SEE = {
    "floor": {"_text", "_routines"},
    "_text": {"floor"},
    "_routines": {"floor", "_text"},
    "_threads": {"floor", "_text", "_routines"},
    "_registry": {"floor", "_text"},
    "_tracking": {*BASE, "_engine"},
    "_engine": {*BASE, "_tracking"},
    "_local": {*BASE, "_tracking", "_engine"},
    "_remote": {*BASE, "_tracking", "_engine"},
    "serialization": {"floor", "_text", "_routines"},
    "_report": {"floor", "_text", "serialization"},
    "_journal": {*BASE, "_tracking", "_engine", "serialization"},
    "_runtime": {*BASE, "_registry", "_tracking", "_engine", "_local", "_remote", "_journal", "serialization"},
    "face": {
        *BASE,
        *("_registry", "_tracking", "_engine", "_remote", "_runtime", "_journal", "serialization", "_report"),
    },
    "_context": {"_routines"},  # where programs outside look for CURRENT
    "testing": {*BASE, "_registry", "_journal", "_engine", "_runtime", "_remote", "face"},
    "cli": {*BASE, "_registry", "_report", "_journal", "serialization", "testing", "face"},
    "__main__": {"cli"},
}
INSTEAD = {  # what to do about it, where that is not plain
    ("_engine", "_registry"): "let `_runtime` hand the run a plain callable, as `run.decide`",
    ("_engine", "_local"): "`_engine` decides, and knows nobody who runs calls: declare the role that it needs",
    ("_engine", "_remote"): "`_engine` decides, and knows nobody who runs calls: declare the role that it needs",
    ("_local", "_remote"): "the two never meet: what both need belongs to `_engine`, or to the room that it is about",
    ("_remote", "_local"): "the two never meet: what both need belongs to `_engine`, or to the room that it is about",
    ("serialization", "_engine"): "a file holds what a user gave: take it from the flow's parts (`snapshot`)",
}

MOST_MODULES = 21  # in a folder, its `__init__` included
MOST_FOR_TYPES = 20  # imports in `TYPE_CHECKING` blocks: each is a place where the order of the house is not told
MOST_LOCKING = 8  # modules that take the lock of a flow
SAYS_LOCK = re.compile(r"\bLock[.;]|[Tt]he lock is held|with the lock held")  # a contract that nothing checks
# Folders whose `__init__` holds a docstring and nothing else: `import routilux_core` passes through it.
BARE = {name for name in MAY_SEE if name.startswith("_") and (CHECKOUT / "routilux_core" / name).is_dir()}

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
    "routilux_core._journal",
    "sqlite3",
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
    for_types: bool = False

    def __str__(self) -> str:
        return f"{self.importer}, line {self.line}: imports {self.name}"


def imports_in(source: str, module: str, *, is_package: bool = False) -> list[Import]:
    """Return what the source imports, inside functions too, and in `TYPE_CHECKING` blocks."""
    found = []
    for node, for_types in _nodes(ast.parse(source), for_types=False):
        if isinstance(node, ast.Import):
            found += [Import(module, alias.name, node.lineno, for_types) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = _origin(node, module, is_package)
            found += [Import(module, f"{origin}.{alias.name}", node.lineno, for_types) for alias in node.names]
    return found


def _nodes(node: ast.AST, *, for_types: bool) -> Iterator[tuple[ast.AST, bool]]:
    """Yield every node, and whether it is there for who checks types only."""
    is_block = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    otherwise = node.orelse if isinstance(node, ast.If) else []
    for child in ast.iter_child_nodes(node):
        inside = for_types or (is_block and child not in otherwise)
        yield child, inside
        yield from _nodes(child, for_types=inside)


def _origin(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    if not node.level:
        return node.module or ""
    parents = module.split(".")
    parents = parents[: len(parents) - node.level + is_package]
    return ".".join([*parents, node.module] if node.module else parents)


@functools.cache
def modules() -> dict[str, Path]:
    """Return every module of our packages by its dotted name."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def all_imports(package: str) -> list[Import]:
    """Return what the modules of one package import."""
    return [
        each
        for name, path in modules().items()
        if name.split(".")[0] == package
        for each in imports_in(path.read_text("utf-8"), name, is_package=path.name == "__init__.py")
    ]


def module_of(dotted: str) -> str | None:
    """Return the module that a dotted name is in: `routilux_core.flow.Flow` is in `routilux_core.flow`."""
    known = modules()
    while dotted and dotted not in known:
        dotted = dotted.rpartition(".")[0]
    return dotted or None


def room_of(module: str) -> str | None:
    """Return the room of the core that a module is in; None for a module of somebody else's."""
    package, _, rest = module.partition(".")
    if package != "routilux_core":
        return None
    first = rest.partition(".")[0]
    if first in FLOOR:
        return "floor"
    is_room = first.startswith("_") or (CHECKOUT / "routilux_core" / first / "__init__.py").exists()
    return first if first and is_room else "face"


def breaks_a_contract(each: Import) -> bool:
    """Whether an import leads to a room that the importer's may not see."""
    target = module_of(each.name)
    room, seen = room_of(each.importer), None if target is None else room_of(target)
    return room is not None and seen not in (None, room) and seen not in MAY_SEE.get(room, ())


def circles_in(graph: dict[str, set[str]]) -> list[set[str]]:
    """Return the largest sets of modules that all reach each other."""
    reached = {name: _reached(name, graph) for name in graph}
    found: list[set[str]] = []
    for name in graph:
        circle = {other for other in reached[name] if name in reached[other]}
        if circle and circle not in found:
            found.append(circle)
    return found


def _reached(start: str, graph: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    ahead = [start]
    while ahead:
        more = graph.get(ahead.pop(), set()) - found
        found |= more
        ahead += more
    return found


def imported_by_each(*, types: bool) -> dict[str, set[str]]:
    """Return which modules each module of our packages imports, with those for types only or without."""
    graph: dict[str, set[str]] = {name: set() for name in modules()}
    for each in itertools.chain(*map(all_imports, PACKAGES)):
        target = module_of(each.name)
        if target and target != each.importer and (types or not each.for_types):
            graph[each.importer].add(target)
    return graph


def locks_in(source: str) -> list[int]:
    """Return the lines that take the lock of a flow."""
    tree = ast.parse(source)
    blocks = [(node, item.context_expr) for node in ast.walk(tree) if isinstance(node, ast.With) for item in node.items]
    calls = [(node, node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [node.lineno for node, taken in blocks if _ends_in(taken, "engine", "lock")] + [
        node.lineno for node, taken in calls if _ends_in(taken, "engine", "acquire")
    ]


def _ends_in(node: ast.expr, owner: str, name: str) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == name and ast.unparse(node.value).strip("_").endswith(owner)


def read_by_number(source: str) -> list[int]:
    """Return the lines that read an activation by a literal index."""
    names = ("item", "following", "head", "activation")
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Subscript)
        and isinstance(node.slice, ast.Constant)
        and isinstance(node.slice.value, int)
        and getattr(node.value, "id", getattr(node.value, "attr", "")) in names
    ]


def private_uses(source: str, module: str) -> list[str]:
    """Return the underscore names of the core, and of any object but its own, that a plugin's source uses."""
    imported = [
        str(each)
        for each in imports_in(source, module)
        if each.name.split(".")[0] == "routilux_core" and any(_is_private(part) for part in each.name.split("."))
    ]
    attributes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)]
    return imported + [
        f"{module}, line {node.lineno}: uses {ast.unparse(node)}"
        for node in attributes
        if _is_private(node.attr) and ast.unparse(node.value) not in ("self", "cls")
    ]


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def test_each_room_imports_only_what_its_contract_says() -> None:
    wrong = []
    for each in filter(breaks_a_contract, all_imports("routilux_core")):
        importer, seen = room_of(each.importer), room_of(module_of(each.name) or "")
        advice = INSTEAD.get((str(importer), str(seen)), "see MAY_SEE")
        wrong.append(f"{each}: {importer} may not see {seen}: {advice}")
    assert not wrong, "\n".join(wrong)


def test_every_room_has_a_contract() -> None:
    rooms = {room_of(name) for name in modules()} - {None}
    assert rooms == MAY_SEE.keys(), "give each folder of the core a line in MAY_SEE, and only those"
    assert {f"routilux_core.{name}" for name in FLOOR} <= modules().keys()


def test_there_is_no_circle_of_imports() -> None:
    found = circles_in(imported_by_each(types=False))
    assert not found, f"modules import each other: {found}; let the lower one declare what it needs (a Protocol)"


def test_there_is_no_circle_of_imports_where_types_are_counted() -> None:
    found = circles_in(imported_by_each(types=True))
    assert not found, (
        f"modules name each other: {found}; the lower one takes a role (a Protocol of `_engine.roles`), a plain "
        "callable, or numbers; an import for types only makes the circle no better"
    )


def test_few_imports_are_for_types_only() -> None:
    imports = [each for each in itertools.chain(*map(all_imports, PACKAGES)) if each.for_types]
    found = sorted({(each.importer, target) for each in imports if (target := module_of(each.name))})
    assert len(found) <= MOST_FOR_TYPES, (
        f"{len(found)} imports are for types only, at most {MOST_FOR_TYPES}: take a role, or put what both name below "
        "both:\n" + "\n".join(f"{importer}: {target}" for importer, target in found)
    )


def test_a_folder_holds_few_modules() -> None:
    counts = Counter(path.parent for path in modules().values())
    wrong = {folder.name: count for folder, count in counts.items() if count > MOST_MODULES}
    assert not wrong, (
        f"more than {MOST_MODULES} modules in a folder, its __init__ included: {wrong}; find the room in it"
    )


def test_the_init_of_a_room_holds_only_words() -> None:
    for room in BARE:
        body = ast.parse((CHECKOUT / "routilux_core" / room / "__init__.py").read_text("utf-8")).body
        assert [type(each) for each in body] == [ast.Expr], f"{room}/__init__.py: a docstring, and nothing else"


def test_no_activation_is_read_by_a_number() -> None:
    wrong = {name: lines for name, path in modules().items() if (lines := read_by_number(path.read_text("utf-8")))}
    assert not wrong, f"name the place instead: item[INLET], item[JOB] (`_engine.plan`): {wrong}"


def test_the_lock_is_taken_in_few_modules() -> None:
    found = {name for name, path in modules().items() if locks_in(path.read_text("utf-8"))}
    assert len(found) <= MOST_LOCKING, (
        f"{len(found)} modules take the lock of a flow, at most {MOST_LOCKING}: let the engine, or the run, do what "
        f"has to be one step: {sorted(found)}"
    )


def test_what_needs_the_lock_is_marked_and_not_said_in_prose() -> None:
    said = [
        f"{name}: {node.name}"
        for name, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef) and SAYS_LOCK.search(ast.get_docstring(node) or "")
    ]
    assert not said, f"mark it `@guarded` instead, which the stress tests check: {said}"


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
        ("errors", "from . import flow", True),
        ("errors", "from . import job", False),
        ("graph", "from .flow import Flow", True),
        ("graph", "import routilux_core.flow", True),
        ("graph", "def later():\n    from routilux_core.flow import Flow", True),
        ("graph", "if TYPE_CHECKING:\n    from routilux_core.flow import Flow", True),
        ("graph", "if TYPE_CHECKING:\n    pass\nelse:\n    from routilux_core.flow import Flow", True),
        ("testing.suite", "from ..cli import main", True),
        ("testing.suite", "from .fakes import Fake", False),
        ("flow", "from routilux_core.graph import Graph", False),
        ("flow", "from routilux_core import graph", False),
        ("flow", "import json, attrs", False),
        ("flow", "from routilux_core._local.worker import Worker", True),
        ("_engine.run", "from routilux_core._registry.plugins import PluginSet", True),
        ("_engine.run", "from routilux_core.flow import Flow", True),
        ("_engine.run", "from routilux_core._tracking.history import History", False),
        ("_local.worker", "from routilux_core._remote.task import RemoteTask", True),
        ("_remote.task", "from routilux_core._local import worker", True),
        ("serialization.flows", "from routilux_core._engine.plan import Node", True),
    ],
)
def test_the_check_of_contracts_sees(importer: str, source: str, expected: bool) -> None:
    found = imports_in(source, f"routilux_core.{importer}")
    assert any(map(breaks_a_contract, found)) is expected


def test_the_check_of_circles_sees() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"a", "e2"}, "e2": {"e"}}
    assert circles_in(graph) == [{"b", "c"}, {"e", "e2"}]


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("with self.engine.lock:\n    pass", [1]),
        ("with scheduler.engine.lock, other: pass", [1]),
        ("\nwith run.engine.lock: pass\nself._engine.acquire()", [2, 3]),
        ("with internals.lock: pass\nnode.mailbox.acquire()\nengine.lock.locked()", []),
    ],
)
def test_the_check_of_the_lock_sees(source: str, lines: list[int]) -> None:
    assert locks_in(source) == lines


@pytest.mark.parametrize(
    ("source", "lines"),
    [("item[2]", [1]), ("\nself.item[0].node", [2]), ("item[INLET], items[0], row[2]", [])],
)
def test_the_check_of_numbers_sees(source: str, lines: list[int]) -> None:
    assert read_by_number(source) == lines


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


EXAMPLE = (  # what `routilux demo` runs
    *("concurrent_flow_demo.py", "data/README.md"),
    *("data/seattle-temps.csv", "data/seattle-weather.csv", "data/sf-temps.csv"),
)


def test_the_wheel_holds_both_packages_and_nothing_else() -> None:
    shipped = _shipped_files()
    expected = {
        PurePosixPath(package, path.relative_to(folder))
        for package, folder in SHIPPED.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    expected |= {PurePosixPath("routilux_core/_example", name) for name in EXAMPLE}
    assert {path for path in shipped if ".dist-info" not in path.parts[0]} == expected
    assert {PurePosixPath(package, "py.typed") for package in SHIPPED} <= shipped
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
