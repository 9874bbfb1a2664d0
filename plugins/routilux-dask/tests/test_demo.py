"""The main example of the core runs on Dask as it is, and comes to the same results."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

DEMO = Path(__file__).resolve().parents[3] / "examples" / "concurrent_flow_demo.py"


def told(folder: Path, strategy: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, DEMO, "--json", "--strategy", strategy],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_demo_has_the_same_results_on_a_private_cluster(tmp_path: Path) -> None:
    expected, found = told(tmp_path, "sequential"), told(tmp_path, "dask")
    assert len(found["results"]) == 3
    assert found["results"] == expected["results"]
    assert found["jobs"]["main"] == expected["jobs"]["main"]
