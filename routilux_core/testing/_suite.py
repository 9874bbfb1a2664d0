"""StrategySuite: every promise of the engine, tested against one execution strategy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from routilux_core.testing._bench import Bench
from routilux_core.testing._job_cases import JobCases
from routilux_core.testing._loss_cases import LossCases
from routilux_core.testing._pool_cases import PoolCases
from routilux_core.testing._program_cases import ProgramCases
from routilux_core.testing._work_cases import WorkCases


class StrategySuite(PoolCases, WorkCases, JobCases, LossCases, ProgramCases):
    """The conformance kit. Subclass it in a test module, and say what it tests::

        class TestLoky(StrategySuite):
            @pytest.fixture
            def strategy(self):
                return "loky"

    The fixture gives a name, a strategy object, or anything that makes one of `max_workers=N`, such as a strategy
    class. What a strategy does not declare in its capabilities is not asked of it. A case that it can't pass for a
    reason of its own is named in `exempt`, with that reason, and skipped: `pytest -rs` shows which, and why.
    """

    #: Seconds that one case may take; a case that takes longer fails with the stacks of all threads.
    deadline: ClassVar[float] = 30.0
    #: How many workers to ask for; None: 4 where memory is shared, else 2.
    workers: ClassVar[int | None] = None
    #: False where workers live on after `close` by design, such as those of a cluster.
    owns_workers: ClassVar[bool] = True
    #: False where the pool can't say which call a worker made when it died (`task.fail(error, at=UNKNOWN)`).
    names_the_call: ClassVar[bool] = True
    #: How many generated flows are compared with `sequential`; None: 12 where memory is shared, else 4.
    generated_flows: ClassVar[int | None] = None
    #: Cases that are not asked of this strategy: their names, and why not.
    exempt: ClassVar[Mapping[str, str]] = {}
    #: How a handler waits: where workers take turns only when one waits in their own way, `staticmethod(gevent.sleep)`.
    sleep: ClassVar[Callable[[float], None]] = staticmethod(time.sleep)

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        for name, reason in cls.exempt.items():
            if not name.startswith("test_") or not hasattr(cls, name):
                raise TypeError(f"{cls.__name__}.exempt names {name!r}, which is no case of the kit")
            if not isinstance(reason, str) or not reason.strip():
                raise TypeError(f"{cls.__name__}.exempt has no reason for {name}: say in a few words why")

    @pytest.fixture
    def strategy(self) -> Any:
        """What is tested; a subclass gives it."""
        pytest.fail(f"{type(self).__name__} needs a fixture `strategy`: a strategy's name, an object or a class")

    @pytest.fixture
    def bench(self, strategy: Any, tmp_path: Path) -> Iterator[Bench]:
        """What a case works with."""
        bench = Bench(strategy, str(tmp_path), self.deadline, self.workers, type(self).sleep)
        yield bench
        bench.close()
