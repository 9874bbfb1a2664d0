"""The strategy keeps the promises of routilux-core."""

import pytest

from routilux_core.testing import StrategySuite


class TestQueue(StrategySuite):
    names_the_call = False  # the table does not say how far a task was when its worker died

    @pytest.fixture
    def strategy(self):
        return "queue"
