"""The conformance kit fits strategies whose workers take turns in one thread: coroutines, and greenlets."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from routilux_core.testing import StrategySuite
from strategies.event_loop import EventLoopStrategy
from strategies.greenlets import GreenletStrategy

# The bundled `asyncio`, whose workers take turns as well, is tested everywhere; so are answers on greenlets.
pytestmark = pytest.mark.once


class TestEventLoop(StrategySuite):
    @pytest.fixture
    def strategy(self) -> Any:
        return EventLoopStrategy


class TestGreenlets(StrategySuite):
    sleep = staticmethod(gevent.sleep)

    @pytest.fixture
    def strategy(self) -> Any:
        return GreenletStrategy
