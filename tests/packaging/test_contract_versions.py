"""A strategy and a core of other versions of the contract refuse each other by name: two wheels, really installed."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import routilux_core
import routilux_core_plugins
from places import CHECKOUT
from routilux_core.strategy import CONTRACT

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="wheels are installed with pip"),
]
EXAMPLE = CHECKOUT / "examples" / "pipes_strategy" / "src" / "routilux_pipes"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
PROGRAM = """\
from routilux_core import Flow, RoutiluxError

try:
    Flow(execution_strategy="pipes")
except RoutiluxError as error:
    print(error)
else:
    print("it works")
"""


def build(folder: Path, name: str, version: str, packages: list[Path], contract: int, points: str) -> Path:
    """Build a wheel of packages, with another version of the contract; nothing is fetched for it."""
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        for package in packages:
            for file in sorted(package.rglob("*.py")):
                text = file.read_text("utf-8")
                text = re.sub(r"^CONTRACT = \d+", f"CONTRACT = {contract}", text, flags=re.MULTILINE)
                text = re.sub(r"contract: ClassVar\[int\] = \d+", f"contract: ClassVar[int] = {contract}", text)
                archive.writestr(f"{package.name}/{file.relative_to(package).as_posix()}", text)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", WHEEL)
        archive.writestr(f"{info}/entry_points.txt", points)
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def ask(folder: Path, core: int, strategy: int) -> str:
    """Install a core and a strategy with versions of the contract, and return what a program is told."""
    packages = [Path(module.__file__ or "").parent for module in (routilux_core, routilux_core_plugins)]
    wheels = [
        build(folder, "routilux_core", f"{core}.0", packages, core, ""),
        build(
            folder,
            "routilux_pipes",
            f"{strategy}.5",
            [EXAMPLE],
            strategy,
            "[routilux_core.strategies]\npipes = routilux_pipes:PipesStrategy\n",
        ),
    ]
    site = folder / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    subprocess.run([*install, "--target", site, *wheels], check=True, timeout=100)
    program = folder / "program.py"
    program.write_text(PROGRAM, "utf-8")
    paths = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, program],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    return done.stdout.strip()


def test_a_strategy_for_an_older_contract_is_refused_by_name(tmp_path: Path) -> None:
    assert ask(tmp_path, core=2, strategy=1) == (
        "strategy 'pipes' of routilux_pipes 1.5 was made for version 1 of the strategy contract, and this "
        "routilux-core has version 2: install a newer version of that strategy"
    )


def test_a_strategy_for_a_newer_contract_is_refused_by_name(tmp_path: Path) -> None:
    assert ask(tmp_path, core=1, strategy=2) == (
        "strategy 'pipes' of routilux_pipes 2.5 was made for version 2 of the strategy contract, and this "
        "routilux-core has version 1: install a newer routilux-core"
    )


def test_a_strategy_for_the_same_contract_works(tmp_path: Path) -> None:
    assert ask(tmp_path, core=CONTRACT, strategy=CONTRACT) == "it works"
