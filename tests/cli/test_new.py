"""What `routilux new` writes runs, and writes over nothing; `routilux demo`, `--version` and no command at all."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import routilux_core
from routilux_core import cli

pytestmark = pytest.mark.once


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, timeout=120)


def test_a_new_flow_runs_and_its_tests_pass(tmp_path: Path) -> None:
    done = run(tmp_path, "-m", "routilux_core", "new", "flow", "my-prices")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\nNext: cd my-prices && python my_prices.py\n")
    folder = tmp_path / "my-prices"
    ran = run(folder, "my_prices.py")
    assert (ran.stdout, ran.stderr, ran.returncode) == ("completed {'total': 285}\n", "", 0)
    tested = run(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", ".")
    assert "3 passed" in tested.stdout, tested.stdout


def test_a_new_plugin_names_itself_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "there"
    assert cli.main(["new", "plugin", "green-trees", "--into", str(folder)]) == 0
    assert "wrote" in capsys.readouterr().out
    project = (folder / "pyproject.toml").read_text(encoding="utf-8")
    assert 'green-trees = "routilux_green_trees:GreenTreesStrategy"' in project
    major, minor, *_ = version("routilux-core").split(".")
    bounds = f'dependencies = ["routilux-core>={major}.{minor},<{int(major) + 1}"]'
    assert bounds in project, "another major version may have another contract"
    code = (folder / "src" / "routilux_green_trees" / "__init__.py").read_text(encoding="utf-8")
    assert 'name: ClassVar[str] = "green-trees"' in code
    compile(code, "plugin", "exec")
    left = [path for path in folder.rglob("*") if path.is_file() and "$" in path.read_text(encoding="utf-8")]
    assert left == []


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["flow", "Bad_Name"], "'Bad_Name' can't be a name here: take lower-case letters"),
        (["flow", "class"], "'class' can't be a name here"),
        (["flow", "../up"], "'../up' can't be a name here"),
        (["plugin", "process"], "'process' is the name of a bundled strategy"),
        (["flow", "there"], "'there' exists already: choose another name"),
        (["plugin", "x", "--into", "there"], "'there' exists already"),
    ],
)
def test_what_cannot_be_begun_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    assert cli.main(["new", *arguments]) == 1
    assert why in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_the_demo_gets_its_own_options(tmp_path: Path) -> None:
    done = run(tmp_path, "-m", "routilux_core", "demo", "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: concurrent_flow_demo.py")


def test_the_version_is_that_of_the_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"routilux-core {version('routilux-core')}\n"
    assert routilux_core.__version__ == version("routilux-core")
    assert "__version__" in dir(routilux_core)


def test_without_a_command_the_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    told = capsys.readouterr().out
    for command in ("validate", "show", "run", "strategies", "plugins", "new", "demo"):
        assert told.count(f"\n    {command}\n") + told.count(f"\n    {command} ") == 1


def test_an_option_that_no_command_has_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["strategies", "--fast"])
    assert ended.value.code == 2
    assert "unrecognized arguments: --fast" in capsys.readouterr().err
