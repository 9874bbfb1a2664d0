"""Hostile documents load to an equal flow or are refused, and nothing is imported, opened, started or executed."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from places import SUPPORT

pytestmark = pytest.mark.once

PROGRAM = SUPPORT / "saving" / "hostile.py"


def load_mutated(seed: int, count: int, *options: str) -> dict[str, Any]:
    command = [sys.executable, str(PROGRAM), str(seed), str(count), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def check(found: dict[str, Any], count: int) -> None:
    assert found["wrong"] == []
    assert found["seen"] == {}
    outcomes = found["outcomes"]
    assert sum(outcomes.values()) == count + count // 4
    for what in ("load_flow", "load_job"):
        assert all(outcomes[f"{what} {each}"] > count / 200 for each in ("loaded", "refused")), "mutations of one kind"
    assert found["peak_kb"] < 500_000


def test_mutated_documents_load_equal_or_are_refused_and_run_nothing() -> None:
    check(load_mutated(1, 800), 800)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_20000_mutated_documents_load_equal_or_are_refused_and_run_nothing() -> None:
    check(load_mutated(7, 20_000), 20_000)


def test_the_audit_hook_sees_a_loader_that_imports_what_a_document_names() -> None:
    seen = load_mutated(1, 100, "planted")["seen"]
    assert any(event.startswith("import ") for event in seen)
    assert any(event.startswith("open ") for event in seen)
