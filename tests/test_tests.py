"""The tests follow the house: where each stands, and that they share helpers and never each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from places import CHECKOUT, SUPPORT

pytestmark = pytest.mark.once

TESTS = CHECKOUT / "tests"
# What is tested and is no package: how it is documented, typed, built, and how it holds under stress.
MORE_ROOMS = {"docs", "packaging", "stress", "typing"}
NO_TESTS = {"data", "support"}


def rooms() -> set[str]:
    """Return the packages of the core by their public names, and those of the plugins."""
    core = {path.parent.name.lstrip("_") for path in (CHECKOUT / "routilux_core").glob("*/__init__.py")}
    plugins = CHECKOUT / "plugins" / "routilux_core_plugins"
    return core | {"plugins"} | {f"plugins/{path.parent.name}" for path in plugins.glob("*/__init__.py")}


def modules(*folders: Path) -> Iterator[Path]:
    for folder in folders:
        yield from folder.rglob("*.py")


def imported(path: Path) -> Iterator[str]:
    """Yield the dotted names that a module may import, of packages as of modules."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module or ''}.{alias.name}" for alias in node.names)


def is_test(module: str) -> bool:
    return any(part.startswith("test_") or part == "conftest" for part in module.split("."))


def test_each_folder_is_a_room_of_the_house() -> None:
    folders = {path.parent.relative_to(TESTS).as_posix() for path in modules(TESTS) if SUPPORT not in path.parents}
    assert folders - {"."} <= rooms() | MORE_ROOMS


def test_what_is_no_test_is_among_the_helpers() -> None:
    found = [path.relative_to(TESTS).as_posix() for path in modules(TESTS) if SUPPORT not in path.parents]
    assert [path for path in found if not is_test(Path(path).stem)] == ["typing/api.py"]
    assert not [path for path in modules(SUPPORT) if is_test(path.stem)]


def test_no_module_imports_a_test() -> None:
    plugins = (CHECKOUT / "plugins" / name / "tests" for name in ("routilux-dask", "routilux-otel"))
    everywhere = modules(TESTS, *plugins)
    found = {path.name: [each for each in imported(path) if is_test(each)] for path in everywhere}
    assert len(found) > 100
    assert {name: each for name, each in found.items() if each} == {}
