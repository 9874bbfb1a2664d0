"""The strategy keeps the promises of routilux-core."""

import pytest

from routilux_core.testing import StrategySuite


class TestPipes(StrategySuite):
    @pytest.fixture
    def strategy(self):
        return "pipes"
