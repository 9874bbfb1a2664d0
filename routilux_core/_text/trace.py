"""Lines about plugins on standard error, for who asks for them: what was loaded, asked, and told."""

from __future__ import annotations

import contextlib
import os
import sys

from routilux_core._text.printable import printable

TRACE = "ROUTILUX_TRACE_PLUGINS"


def trace(text: str, *values: object) -> None:
    """Write a line to standard error if the user asked for it."""
    if os.environ.get(TRACE, "") not in ("", "0"):
        with contextlib.suppress(Exception):  # standard error may be closed, and a value may have no repr
            sys.stderr.write(f"routilux plugins: {printable(text % values)}\n")
