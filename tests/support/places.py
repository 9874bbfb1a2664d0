"""Where things are in the checkout."""

from __future__ import annotations

from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
DOCS = CHECKOUT / "docs"
SUPPORT = CHECKOUT / "tests" / "support"  # on the path of the tests, and of the workers and programs that they start
