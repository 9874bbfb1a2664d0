"""A process killed while it saves leaves the old file or the new one, whole."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from places import SUPPORT

pytestmark = pytest.mark.once

PROGRAM = SUPPORT / "saving" / "saver.py"


def kill_while_saving(folder: Path, times: int, seconds: float) -> str:
    """Kill a program some time after it has saved so many times, and return which flow its file holds."""
    file = folder / "flow.json"
    with subprocess.Popen([sys.executable, str(PROGRAM), str(file)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(times):
            assert process.stdout.readline() == "saved\n"
        killer = threading.Timer(seconds, process.kill)
        killer.start()
        killer.join()
    document = json.loads(file.read_text(encoding="utf-8"))
    assert len(document["routines"]) == {"old": 60, "new": 90}[document["flow_id"]]
    return str(document["flow_id"])


def check(folder: Path, times: int) -> Counter[str]:
    dice = random.Random(times)
    return Counter(kill_while_saving(folder, dice.randint(1, 4), dice.uniform(0.0, 0.02)) for _ in range(times))


def test_a_kill_during_save_leaves_a_whole_file(tmp_path: Path) -> None:
    assert sum(check(tmp_path, 12).values()) == 12


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_100_kills_during_save_leave_whole_files_of_both_flows(tmp_path: Path) -> None:
    found = check(tmp_path, 100)
    assert found["old"] > 0
    assert found["new"] > 0
