"""The bundled strategies, and those for tests, pass the conformance kit."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest

from places import CHECKOUT, DOCS
from quickest import QUICKEST
from routilux_core.testing import ShuffledStrategy, StrategySuite
from routilux_core.testing._bench import Bench
from routilux_core.testing._generated import answer, differences
from routilux_core.testing._loss_cases import LossCases
from routilux_core.testing._program_cases import ProgramCases
from routilux_core_plugins.process import ProcessStrategy
from strategies import executors

sys.path.insert(0, str(CHECKOUT / "examples" / "custom_strategy" / "src"))
sys.path.insert(0, str(CHECKOUT / "examples" / "pipes_strategy" / "src"))
sys.path.insert(0, str(CHECKOUT / "examples" / "interpreters_strategy" / "src"))
sys.path.insert(0, str(CHECKOUT / "examples" / "queue_strategy" / "src"))
sys.path.insert(0, str(CHECKOUT / "examples" / "plugins"))


def loky(**settings: Any) -> Any:
    """Make the strategy of the example; `tox run -e example` tests it as it is installed, by its name."""
    from routilux_loky import LokyStrategy  # not before it is needed: it imports loky

    return LokyStrategy(**settings)


# A strategy more is a line more: a name, an object, or what makes one of `max_workers=`. Some fifty pools of processes
# are started for one, so what another of that kind already shows is left to the soak.
BUNDLED: dict[str, Any] = {each: each for each in ("sequential", "concurrent", "process", "asyncio")}
SHIPPED: dict[str, Any] = {"loky": loky, "spawn-executor": executors.SpawnExecutor()}


class TestBundledStrategies(StrategySuite):
    # What is shuffled by a seed is the same on every interpreter; of "process" see below.
    @pytest.fixture(
        params=[
            *("sequential", "concurrent", "asyncio"),
            pytest.param(ShuffledStrategy(5), id="shuffled", marks=pytest.mark.once),
        ]
    )
    def strategy(self, request: pytest.FixtureRequest) -> Any:
        return request.param


PROMISES = {name for name in dir(StrategySuite) if name.startswith("test_")}
OF_PROCESSES = PROMISES & {*dir(LossCases), *dir(ProgramCases)}  # programs, and workers that die


class TestQuickProcesses(StrategySuite):
    """Stands for "process" on every interpreter: its workers take no time to start."""

    exempt: ClassVar = dict.fromkeys(OF_PROCESSES, "tested once, with workers that are spawned")

    @pytest.fixture
    def strategy(self) -> Any:
        return ProcessStrategy(start_method=QUICKEST)


@pytest.mark.once
class TestSpawnedProcesses(StrategySuite):
    """Workers that are spawned, as they are where nothing is said: each takes longer to start than most tests."""

    deadline = 60.0  # many of them are started
    exempt: ClassVar = dict.fromkeys(
        PROMISES - OF_PROCESSES, "tested everywhere with workers that are forked; with these in the soak"
    )

    @pytest.fixture
    def strategy(self) -> Any:
        return "process"


@pytest.mark.once
class TestExecutorOfThreads(StrategySuite):
    exempt = executors.EXEMPT_THREADS

    @pytest.fixture
    def strategy(self) -> Any:
        return executors.ThreadExecutor


@pytest.mark.soak
class TestExecutorsOfProcesses(StrategySuite):
    exempt = executors.EXEMPT_PROCESSES

    @pytest.fixture(params=SHIPPED.values(), ids=SHIPPED)
    def strategy(self, request: pytest.FixtureRequest) -> Any:
        return request.param


# What the engine sees to by itself, whatever runs the calls: the examples' pools start interpreters for each case.
OF_THE_ENGINE = {
    "test_a_job_goes_on_after_errors_under_continue_and_skip",
    "test_a_paused_job_starts_nothing_and_goes_on_when_resumed",
    "test_a_retry_runs_again_and_emits_once",
    "test_a_routine_with_state_handles_one_call_at_a_time_in_order",
    "test_async_handlers_are_awaited_or_refused",
    "test_completed_means_that_everything_has_run",
    "test_jobs_one_after_the_other_all_end",
    "test_many_jobs_at_once_keep_apart",
    "test_retries_end",
    "test_two_flows_do_not_disturb_each_other",
    "test_what_can_not_be_pickled_is_an_error_where_memory_is_not_shared",
}
IN_THE_SOAK: dict[str, str] = dict.fromkeys(OF_THE_ENGINE, "the engine's own: of this pool it is asked in the soak")


@pytest.mark.once
class TestPipes(StrategySuite):
    """The pool that the documentation explains line by line."""

    deadline = 60.0  # many workers are started
    exempt = IN_THE_SOAK

    @pytest.fixture
    def strategy(self) -> Any:
        from routilux_pipes import PipesStrategy

        return PipesStrategy


@pytest.mark.soak
class TestPipesInFull(TestPipes):
    exempt: ClassVar = {}


@pytest.mark.once
class TestQueue(StrategySuite):
    """Workers that take tasks from a database, and don't tell how far they are."""

    deadline = 60.0  # many of them are started
    names_the_call = False
    exempt = IN_THE_SOAK

    @pytest.fixture
    def strategy(self) -> Any:
        from routilux_queue import QueueStrategy

        return QueueStrategy


@pytest.mark.soak
class TestQueueInFull(TestQueue):
    exempt: ClassVar = {}


@pytest.mark.once
class TestWrapper(StrategySuite):
    """A strategy that wraps another, and is busy now and then."""

    inner: ClassVar[str] = "concurrent"

    @pytest.fixture
    def strategy(self) -> Any:
        from limited import LimitedStrategy

        return partial(LimitedStrategy, inner=self.inner, per_second=2000.0)


@pytest.mark.soak
class TestWrapperOfProcesses(TestWrapper):
    inner = "process"


@pytest.mark.soak
@pytest.mark.skipif(sys.version_info < (3, 13), reason="interpreters in threads need Python 3.13, and an executor 3.14")
class TestInterpreters(StrategySuite):
    exempt = executors.EXEMPT_INTERPRETERS

    @pytest.fixture
    def strategy(self) -> Any:
        from routilux_interpreters import InterpretersStrategy

        return InterpretersStrategy


@pytest.mark.soak
class TestDearMarks(StrategySuite):
    """Nobody knows which call a worker made when it died."""

    names_the_call = False

    @pytest.fixture
    def strategy(self) -> Any:
        from strategies.dear_marks import DearMarks

        return DearMarks


@pytest.mark.soak
@pytest.mark.rounds(20)
class TestTwentyTimesOutOfTwenty(StrategySuite):
    @pytest.fixture(params=BUNDLED.values(), ids=BUNDLED)
    def strategy(self, request: pytest.FixtureRequest) -> Any:
        return request.param


@pytest.mark.soak
@pytest.mark.rounds(20)
class TestExecutorsTwentyTimesOutOfTwenty(TestExecutorsOfProcesses):
    """The same of those of processes."""


@pytest.mark.once
def test_a_case_that_is_exempted_is_skipped_with_its_reason(tmp_path: Path) -> None:
    module = tmp_path / "test_exempt.py"
    module.write_text(
        "import pytest\nfrom routilux_core.testing import StrategySuite\n"
        "class TestIt(StrategySuite):\n"
        "    exempt = {'test_state_comes_home': 'it has no home'}\n"
        "    @pytest.fixture\n"
        "    def strategy(self): return 'sequential'\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", "-k", "home or one_after", module],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert "exempt: it has no home" in done.stdout
    assert "1 passed, 1 skipped" in done.stdout


@pytest.mark.parametrize(
    ("exempt", "message"),
    [
        ({"test_no_such_case": "a reason"}, "TestIt.exempt names 'test_no_such_case', which is no case of the kit"),
        ({"deadline": "a reason"}, "which is no case of the kit"),
        ({"test_state_comes_home": " "}, "TestIt.exempt has no reason for test_state_comes_home"),
        ({"test_state_comes_home": None}, "has no reason"),
    ],
)
def test_what_is_exempted_has_to_be_a_case_and_to_have_a_reason(exempt: Any, message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        type("TestIt", (StrategySuite,), {"exempt": exempt})


def test_the_generated_flows_are_worth_comparing() -> None:
    answers = [answer(seed, "sequential") for seed in range(12)]
    ledgers = [found["job 0"]["ledger"] for found in answers]
    assert sum(ledger["posted"] for ledger in ledgers) > 500
    for count in ("failed", "skipped", "retried", "unconnected", "gathered"):
        assert any(ledger[count] for ledger in ledgers), f"no generated flow has anything {count}"
    assert any(len(found) > 3 for found in answers), "some have several routines with state"


def test_a_difference_between_two_answers_is_said_in_words() -> None:
    expected, found = answer(3, "sequential"), answer(3, "sequential")
    assert differences(expected, found) == ""
    found["job 1"]["status"] = "failed"
    assert differences(expected, found) == "job 1, status: sequential has 'completed', this strategy 'failed'"


@pytest.mark.once
def test_every_case_of_the_kit_is_explained_in_the_documentation() -> None:
    guide = (DOCS / "testing.md").read_text("utf-8")
    cases = {name for name in dir(StrategySuite) if name.startswith("test_")}
    explained = set(re.findall(r"^\| `(test_\w+)`", guide, re.MULTILINE))
    assert cases == explained


@pytest.mark.once
@pytest.mark.parametrize(("load", "longer"), [(0.0, 1.0), (2.0, 1.0), (10.0, 5.0)])
def test_the_limits_of_a_case_are_longer_on_a_machine_that_is_very_busy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, load: float, longer: float
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(os, "getloadavg", lambda: (2 * load, 0.0, 0.0))
    bench = Bench("sequential", str(tmp_path), 30.0, None, time.sleep)
    assert (bench.deadline, bench.patience, bench.moment) == (30.0 * longer, 15.0 * longer, 5.0 * longer)


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.once
def test_workers_and_those_who_look_for_races_need_no_pytest() -> None:
    assert (
        run_python(
            "import sys; sys.modules['pytest'] = None\n"
            "from routilux_core.testing import ManualStrategy, ShuffledStrategy, _routines\n"
            "try:\n    from routilux_core.testing import StrategySuite\n"
            "except ImportError as error:\n    print(error)"
        )
        == 'StrategySuite needs pytest: pip install "routilux-core[testing]"\n'
    )
