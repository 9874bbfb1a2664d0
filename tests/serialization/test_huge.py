"""A huge hostile file is refused or loaded soon, in bounded memory: nothing costs the square of its size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from places import SUPPORT
from saving import huge

PROGRAM = SUPPORT / "saving" / "huge.py"
NAMES = 30  # kinds of huge documents
SHORT = 250_000  # characters; the soak takes 10 MB
SECONDS, KILOBYTES = 60.0, 600_000  # far above what it takes (some 4 s at most), far below what a square would


def test_no_kind_of_document_was_forgotten() -> None:
    assert len(set(huge.NAMES)) == NAMES


@pytest.mark.parametrize("number", range(NAMES))
def test_a_large_hostile_file_is_refused_or_loaded_soon(tmp_path: Path, number: int) -> None:
    file = tmp_path / "large.json"
    file.write_text(huge.text_of(huge.NAMES[number], SHORT), encoding="utf-8")
    found = huge.main(str(file))
    assert found["outcome"].partition(":")[0] in ("loaded", "refused")
    assert found["seconds"] < SECONDS / 10


@pytest.mark.soak
@pytest.mark.parametrize("number", range(NAMES))
def test_a_file_of_10_mb_is_refused_or_loaded_soon(tmp_path: Path, number: int) -> None:
    file = tmp_path / "huge.json"
    file.write_text(huge.text_of(huge.NAMES[number], huge.SIZE), encoding="utf-8")
    command = [sys.executable, str(PROGRAM), str(file)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert found["outcome"].partition(":")[0] in ("loaded", "refused")
    assert found["seconds"] < SECONDS
    assert found["more_kb"] < KILOBYTES
