"""The bundled strategies, and those for tests, pass the conformance kit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from routilux_core.testing import ShuffledStrategy, StrategySuite

# A strategy more is a line more: a name, an object, or what makes one of `max_workers=`.
STRATEGIES: dict[str, Any] = {
    "sequential": "sequential",
    "concurrent": "concurrent",
    "shuffled": ShuffledStrategy(5),
}


@pytest.fixture(params=STRATEGIES.values(), ids=STRATEGIES.keys())
def bundled(request: pytest.FixtureRequest) -> str | Callable[..., Any]:
    return request.param  # type: ignore[no-any-return]


class TestBundledStrategies(StrategySuite):
    @pytest.fixture
    def strategy(self, bundled: Any) -> Any:
        return bundled
