"""The conformance kit of the core, against this strategy: on a cluster of its own, and on one that is there."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import pytest
from routilux_dask import DaskStrategy

StrategySuite = pytest.importorskip("routilux_core.testing").StrategySuite


@pytest.mark.soak  # each case starts processes
class TestPrivateCluster(StrategySuite):
    @pytest.fixture
    def strategy(self) -> Any:
        return "dask"


class TestSharedCluster(StrategySuite):
    owns_workers = False
    exempt: ClassVar = {
        "test_workers_know_the_classes_of_the_program": "workers that are there already belong to no program: what it "
        "defines itself comes by value, which needs cloudpickle"
    }

    @pytest.fixture
    def strategy(self, wide_cluster: Any) -> Any:
        return partial(DaskStrategy, address=wide_cluster.address)


@pytest.mark.soak
class TestTwentyTimesOutOfTwenty(TestSharedCluster):
    @pytest.fixture(params=range(20), autouse=True)
    def round(self, request: pytest.FixtureRequest) -> int:
        return request.param
