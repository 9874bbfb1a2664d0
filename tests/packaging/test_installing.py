"""What the documents say about installing is done in fresh environments, with the wheel of this checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from documents import Page, commands, pages
from places import CHECKOUT

PAGES = {page.name: page for page in pages() if any(block.is_fresh for block in page.blocks)}
OURS = {"PYTHONPATH", "PYTHONSAFEPATH", "PYTEST_ADDOPTS", "COVERAGE_FILE"}  # what a user's environment has not
SECONDS = 600


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    folder = tmp_path_factory.mktemp("installing")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder / "wheels", CHECKOUT],
        check=True,
        timeout=SECONDS,
    )
    return Shell(folder)


@pytest.mark.fresh
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_installs_can_be_installed(name: str, shell: Shell) -> None:
    page, folder = PAGES[name], shell.folder
    if name == "plugins":  # its commands are typed in the folder of a plugin
        shell.does("pip install routilux-core", folder)
        shell.does("routilux new plugin mine", folder)
        folder /= "routilux-mine"
    for command in _fresh(page):
        shell.does(command, folder)
    assert "routilux-core 0" in shell.does("pip list | tr -s ' '", folder)


def _fresh(page: Page) -> list[str]:
    return [command.typed for block in page.blocks if block.is_fresh for command in commands(block)]


class Shell:
    """A shell in a fresh environment, for which the wheel is what the index would have."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder / "venv", with_pip=True)
        [wheel] = (folder / "wheels").glob("routilux_core*.whl")
        constraint = folder / "constraint.txt"
        constraint.write_text(f"routilux-core=={wheel.name.split('-')[1]}\n", "utf-8")
        links = f"{wheel.parent} {os.environ.get('PIP_FIND_LINKS', '')}".strip()
        path = os.pathsep.join((str(folder / "venv" / "bin"), os.environ["PATH"]))
        own = {name: value for name, value in os.environ.items() if name not in OURS}
        self.variables = {**own, "PATH": path, "PIP_CONSTRAINT": str(constraint), "PIP_FIND_LINKS": links}
        self.folder = folder

    def does(self, command: str, folder: Path) -> str:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            env=self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0, f"$ {command}\n{done.stdout}"
        return done.stdout
