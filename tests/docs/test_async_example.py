"""The example with async handlers does what it says."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from places import CHECKOUT


@pytest.mark.once
def test_the_example_fetches_every_page() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", CHECKOUT / "examples" / "async_fetch.py", "300"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    said = [line for line in done.stderr.splitlines() if "kept its event loop" not in line]  # of a busy machine
    assert (done.returncode, said) == (0, [])
    assert "/page/100: 18 letters" in done.stdout
    assert re.search(r"^300 pages in \d+\.\d s, 15\.0 s one after the other$", done.stdout, re.MULTILINE)
