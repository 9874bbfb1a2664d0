"""For tests: a conformance kit for execution strategies, and strategies that let a test choose the order.

Needs pytest: `pip install routilux-core[testing]`.
"""

import pytest

# Before the modules are imported: their assertions then show the values that they compared.
pytest.register_assert_rewrite("routilux_core.testing._suite", "routilux_core.testing._checks")

from routilux_core.strategy import Waiting  # noqa: E402
from routilux_core.testing._ordered import ManualStrategy, ShuffledStrategy  # noqa: E402

__all__ = ["ManualStrategy", "ShuffledStrategy", "Waiting"]
