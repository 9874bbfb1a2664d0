"""The script for a shell knows every command and option that the command itself has."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from routilux_core.cli import main
from routilux_core.cli.completion import SCRIPTS

pytestmark = pytest.mark.once

ASK = 'COMP_WORDS=("${@}"); COMP_CWORD=$(($# - 1)); _routilux; printf "%s " "${COMPREPLY[@]}"'


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("shell", SCRIPTS)
def test_each_script_has_the_commands_and_their_options(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    written = script(shell, capsys)
    for words in (["run", "max-workers", "report"], ["validate", "types"], ["new", "plugin", "into"], ["jobs", "fish"]):
        assert [word for word in words if word not in written] == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ([""], "validate show run jobs resume prune strategies plugins new demo completion"),
        (["ru"], "run"),
        (["run", "--max"], "--max-workers"),
        (["new", ""], "flow plugin"),
        (["new", "flow", "--"], "--help --into"),
        (["completion", "z"], "zsh"),
        (["run", "f"], ""),  # the name of a file, which bash completes itself
    ],
)
def test_bash_completes_commands_and_options(typed: list[str], found: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = f"{script('bash', capsys)}\n{ASK}"
    done = subprocess.run(["bash", "-c", code, "bash", "routilux", *typed], capture_output=True, text=True, check=True)
    assert (done.stdout.split(), done.stderr) == (found.split(), "")


def test_an_unknown_shell_is_refused_with_those_that_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["completion", "csh"])
    assert "choose from" in capsys.readouterr().err
