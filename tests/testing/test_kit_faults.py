"""The conformance kit finds planted faults: each by the case that names it, with a message that explains.

The kit runs as third parties run it: a test module of a few lines, under pytest, in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from attrs import frozen

from places import SUPPORT
from strategies.faults import FAULTS

pytestmark = pytest.mark.once

ROUNDS = 20
PROCESSES = 6  # at a time: a case that finds a fault mostly waits, for what never comes
HANGS = "hangs in close"  # in every case: it has a second for each
MODULE = """\
import pytest
from strategies import faults
from routilux_core.testing import StrategySuite

"""
CLASS = """
class {name}(StrategySuite):
    deadline = {deadline}

    @pytest.fixture
    def strategy(self):
        return faults.strategy_with({fault!r})
"""


@pytest.fixture(scope="module")
def faults() -> dict[str, tuple[type, str, str]]:
    """The table of faults."""
    return FAULTS


@frozen
class Outcome:
    """What became of one case: passed, failed, error or skipped; and why."""

    result: str
    message: str = ""


Outcomes = dict[tuple[str, str], Outcome]  # by class and case


def class_of(fault: str) -> str:
    return "Test" + fault.title().replace(" ", "").replace("_", "")


def run_kit(folder: Path, chosen: dict[str, str | None], deadline: float) -> Outcomes:
    """Run cases of the kit (None: all of them) against strategies with these faults, and return what became of them."""
    names = list(chosen)
    parts = [{fault: chosen[fault] for fault in names[n::PROCESSES]} for n in range(min(PROCESSES, len(names)))]
    outcomes: Outcomes = {}
    with ThreadPoolExecutor(PROCESSES) as executor:
        runs = [executor.submit(_run_part, folder / f"part{n}", part, deadline) for n, part in enumerate(parts)]
        for run in runs:
            outcomes |= run.result()
    return outcomes


def _run_part(folder: Path, chosen: dict[str, str | None], deadline: float) -> Outcomes:
    """Run cases in one process, as third parties run them."""
    folder.mkdir(exist_ok=True)
    module = folder / "test_faulty.py"
    classes = [
        CLASS.format(name=class_of(fault), deadline=1.0 if fault == HANGS else deadline, fault=fault)
        for fault in chosen
    ]
    module.write_text(MODULE + "\n".join(classes), "utf-8")
    nodes = [f"{module}::{class_of(fault)}" + (f"::{case}" if case else "") for fault, case in chosen.items()]
    report = folder / "report.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    done = subprocess.run(
        [*command, f"--basetemp={folder / 'temp'}", *nodes],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=1000,
    )
    assert report.exists(), done.stdout + done.stderr
    return {
        (element.attrib["classname"].rpartition(".")[2], element.attrib["name"]): _outcome(element)
        for element in ElementTree.parse(report).iter("testcase")
    }


def _outcome(element: ElementTree.Element) -> Outcome:
    for kind in ("failure", "error", "skipped"):
        found = element.find(kind)
        if found is not None:
            text = f"{found.attrib.get('message', '')}\n{found.text or ''}"
            return Outcome({"failure": "failed"}.get(kind, kind), text)
    return Outcome("passed")


def check_found(faults: dict[str, tuple[type, str, str]], outcomes: Outcomes) -> None:
    """Check that each fault was found by its case, with the words that explain it."""
    for fault, (_, case, words) in faults.items():
        outcome = outcomes[class_of(fault), case]
        assert outcome.result == "failed", f"{fault}: {case} {outcome.result}"
        assert words in outcome.message, f"{fault}: {case} does not say {words!r}: {outcome.message}"


@pytest.fixture(scope="module")
def outcomes(faults: dict[str, tuple[type, str, str]], tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """What became of the case that names each fault."""
    cases = {fault: case for fault, (_, case, _) in faults.items()}
    return run_kit(tmp_path_factory.mktemp("faults"), cases, deadline=3.0)


def test_each_planted_fault_is_found_by_the_case_that_names_it(
    faults: dict[str, tuple[type, str, str]], outcomes: Outcomes
) -> None:
    assert len(outcomes) == len(faults)
    check_found(faults, outcomes)


def test_a_case_that_hangs_shows_the_stacks_of_all_threads(outcomes: Outcomes) -> None:
    message = outcomes[class_of(HANGS), "test_a_pool_can_be_closed_twice"].message
    assert "did not end within 1 s" in message
    assert "in close" in message, "the stack of the strategy that hangs"


def test_a_suite_without_its_fixture_says_what_to_give(tmp_path: Path) -> None:
    module = tmp_path / "test_bare.py"
    module.write_text("from routilux_core.testing import StrategySuite\n\nclass TestBare(StrategySuite): pass\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "lost", module],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "TestBare needs a fixture `strategy`" in done.stdout


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_each_planted_fault_is_found_twenty_times_out_of_twenty(
    faults: dict[str, tuple[type, str, str]], tmp_path: Path
) -> None:
    for _ in range(ROUNDS):
        check_found(faults, run_kit(tmp_path, {fault: case for fault, (_, case, _) in faults.items()}, deadline=6.0))


# Faults that break more than one promise, some of them by chance: a pool without the parallelism that it claims lets no
# emission leave early, two threads may come one after the other, and who forgets `close` leaves idle threads, too.
MORE_IS_BROKEN = {
    "awaits one by one",
    "claims parallelism",
    "drops a reply in a hundred",
    "finishes in two threads",
    "finishes twice",
    "forgets close",
    HANGS,
    "reports from two threads",
    "runs inline",
    "runs shipped work inline",
    "waits in submit",
}


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_no_other_case_blames_a_strategy_for_its_one_fault(
    faults: dict[str, tuple[type, str, str]], tmp_path: Path
) -> None:
    alone = {fault: faults[fault] for fault in faults.keys() - MORE_IS_BROKEN}
    outcomes = run_kit(tmp_path, dict.fromkeys([*alone, "none", "none shipped"]), deadline=10.0)
    bad = {(cls, case) for (cls, case), outcome in outcomes.items() if outcome.result in ("failed", "error")}
    assert bad == {(class_of(fault), case) for fault, (_, case, _) in alone.items()}


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_strategy_without_a_fault_passes_twenty_times_out_of_twenty(tmp_path: Path) -> None:
    for _ in range(ROUNDS):
        outcomes = run_kit(tmp_path, {"none": None, "none shipped": None}, deadline=30.0)
        bad = {
            case: outcome.message for (_, case), outcome in outcomes.items() if outcome.result in ("failed", "error")
        }
        assert not bad, bad
