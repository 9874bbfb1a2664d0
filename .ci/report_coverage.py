"""Combine what the interpreters covered, and report it; where none of them measured, say so.

Python 3.11 has only the tracer, which makes its tests half as long again: what it would cover, the others do.
"""

from __future__ import annotations

import glob
import os
import subprocess
import sys


def main() -> int:
    """Return the exit code of the first command that fails."""
    if not glob.glob(glob.escape(os.environ["COVERAGE_FILE"]) + ".*"):
        sys.stdout.write("coverage: measured on Python 3.12 and newer, and none of them is here\n")
        return 0
    for command in ("combine", "report"):
        code = subprocess.call([sys.executable, "-m", "coverage", command])
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
