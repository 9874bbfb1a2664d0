"""The example of a third party's distribution works from its wheel, passes the kit, and is missed when it is gone."""

from __future__ import annotations

import os
import subprocess
import venv
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
EXAMPLE = CHECKOUT / "examples" / "custom_strategy"
PROGRAM = """\
from routilux_core import Flow, Routine, event, slot


class Square(Routine, stateless=True):
    done = event("n")

    @slot
    def n(self, n: int) -> None:
        self.emit("done", n=n * n)


if __name__ == "__main__":
    with Flow(execution_strategy="loky", max_workers=2) as flow:
        flow.add_routine(Square(), "square")
        flow.add_output("square", "done")
        print(flow.run("square", {"n": 7}).outputs)
"""


class Environment:
    """A fresh virtual environment, which sees nothing of this one."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder / "venv", with_pip=True)
        self.python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
        self.folder = folder

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.python, *command],
            cwd=self.folder,
            env={name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTEST_ADDOPTS")},
            capture_output=True,
            text=True,
            timeout=900,
        )

    def does(self, *command: str | Path) -> str:
        done = self.run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_the_example_is_installed_tested_and_missed_when_it_is_gone(tmp_path: Path) -> None:
    environment = Environment(tmp_path)
    wheels = tmp_path / "wheels"
    for source in (CHECKOUT, EXAMPLE):
        environment.does("-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", wheels, source)
    core, example = sorted(wheels.glob("routilux_core*.whl")), sorted(wheels.glob("routilux_loky*.whl"))
    environment.does("-m", "pip", "install", "--quiet", f"routilux-core[testing] @ {core[0].as_uri()}", example[0])

    program = tmp_path / "program.py"
    program.write_text(PROGRAM, "utf-8")
    assert environment.does(program) == "{'square.done': [{'n': 49}]}\n"
    tests = environment.does("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, EXAMPLE / "tests")
    assert " passed" in tests
    assert "failed" not in tests

    environment.does("-m", "pip", "uninstall", "--quiet", "--yes", "routilux-loky")
    missed = environment.run(program)
    assert missed.returncode != 0
    assert "unknown execution strategy 'loky'" in missed.stderr
    assert "install the package that provides it" in missed.stderr
    assert "'concurrent'" in missed.stderr, "it says what there is instead"


def test_the_example_declares_what_it_says_in_its_readme() -> None:
    entry = (EXAMPLE / "pyproject.toml").read_text("utf-8")
    readme = (EXAMPLE / "README.md").read_text("utf-8")
    line = 'loky = "routilux_loky:LokyStrategy"'
    assert line in entry
    assert line in readme
    for named in ("pyproject.toml", "src/routilux_loky/__init__.py", "tests/test_loky.py"):
        assert (EXAMPLE / named).exists()
        assert f"`{named}`" in readme
