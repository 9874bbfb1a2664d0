"""The bundled strategies, and those for tests, pass the conformance kit."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest

from places import CHECKOUT, DOCS
from routilux_core.testing import ShuffledStrategy, StrategySuite
from routilux_core.testing._generated import answer, differences
from strategies import executors

sys.path.insert(0, str(CHECKOUT / "examples" / "custom_strategy" / "src"))

ROUNDS = 20


def loky(**settings: Any) -> Any:
    """Make the strategy of the example; `tox run -e example` tests it as it is installed, by its name."""
    from routilux_loky import LokyStrategy  # not before it is needed: it imports loky

    return LokyStrategy(**settings)


# A strategy more is a line more: a name, an object, or what makes one of `max_workers=`. Some fifty pools of processes
# are started for one, so what another of that kind already shows is left to the soak.
BUNDLED: dict[str, Any] = {each: each for each in ("sequential", "concurrent", "process")}
OTHERS: dict[str, Any] = {
    "shuffled": ShuffledStrategy(5),
    "thread-executor": executors.ThreadExecutor,
    "spawn-executor": pytest.param(executors.SpawnExecutor(), marks=pytest.mark.soak),
}
REPEATED = {**BUNDLED, "loky": loky}


class TestBundledStrategies(StrategySuite):
    @pytest.fixture(params=[*BUNDLED.values(), *OTHERS.values()], ids=[*BUNDLED, *OTHERS])
    def strategy(self, request: pytest.FixtureRequest) -> Any:
        return request.param


@pytest.mark.soak
class TestTwentyTimesOutOfTwenty(StrategySuite):
    @pytest.fixture(params=REPEATED.values(), ids=REPEATED)
    def strategy(self, request: pytest.FixtureRequest) -> Any:
        return request.param

    @pytest.fixture(params=range(ROUNDS), autouse=True)
    def round(self, request: pytest.FixtureRequest) -> int:
        return request.param


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


def test_every_case_of_the_kit_is_explained_in_the_documentation() -> None:
    guide = (DOCS / "testing.md").read_text("utf-8")
    cases = {name for name in dir(StrategySuite) if name.startswith("test_")}
    explained = set(re.findall(r"^\| `(test_\w+)`", guide, re.MULTILINE))
    assert cases == explained


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


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
