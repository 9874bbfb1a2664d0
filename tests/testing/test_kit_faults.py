"""The conformance kit finds planted faults: each by the case that names it, with a message that explains.

The kit runs as third parties run it: a test module of a few lines, under pytest, in a process of its own.
"""

from __future__ import annotations

import os
import re
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
MUTANT_DEADLINE = 45.0  # their workers are processes, which take seconds to start where a machine is busy
PROCESSES = 6  # at a time: a case that finds a fault mostly waits, for what never comes
HANGS = "hangs in close"  # in every case: it has a second for each
MODULE = """\
import pytest
from strategies import {table}
from routilux_core.testing import StrategySuite

"""
CLASS = """
class {name}(StrategySuite):
    deadline = {deadline}

    @pytest.fixture
    def strategy(self):
        return {table}.strategy_with({fault!r})
"""
Table = dict[str, tuple[type, str, str]]  # fault -> its pool, the case that names it, and what that has to say


@pytest.fixture(scope="module")
def faults() -> Table:
    """The faults of pools over threads."""
    return FAULTS


@pytest.fixture(scope="module")
def mutants() -> Table:
    """The faults of a pool over pipes."""
    from strategies.pipe_mutants import MUTANTS

    return MUTANTS


@frozen
class Outcome:
    """What became of one case: passed, failed, error or skipped; and why."""

    result: str
    message: str = ""


Outcomes = dict[tuple[str, str], Outcome]  # by class and case


def class_of(fault: str) -> str:
    return "Test" + fault.title().replace(" ", "").replace("_", "")


def run_kit(folder: Path, chosen: dict[str, str | None], deadline: float, table: str = "faults") -> Outcomes:
    """Run cases of the kit (None: all of them) against strategies with these faults, and return what became of them."""
    names = list(chosen)
    parts = [{fault: chosen[fault] for fault in names[n::PROCESSES]} for n in range(min(PROCESSES, len(names)))]
    outcomes: Outcomes = {}
    with ThreadPoolExecutor(PROCESSES) as executor:
        runs = [executor.submit(_run_part, folder / f"part{n}", part, deadline, table) for n, part in enumerate(parts)]
        for run in runs:
            outcomes |= run.result()
    return outcomes


def _run_part(folder: Path, chosen: dict[str, str | None], deadline: float, table: str) -> Outcomes:
    """Run cases in one process, as third parties run them."""
    folder.mkdir(exist_ok=True)
    module = folder / "test_faulty.py"
    classes = [
        CLASS.format(name=class_of(fault), deadline=1.0 if fault == HANGS else deadline, fault=fault, table=table)
        for fault in chosen
    ]
    module.write_text(MODULE.format(table=table) + "\n".join(classes), "utf-8")
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


def check_found(faults: Table, outcomes: Outcomes) -> None:
    """Check that each fault was found by its case, with the words that explain it."""
    wrong = []
    for fault, (_, case, words) in faults.items():
        outcome = outcomes[class_of(fault), case]
        if outcome.result != "failed":
            wrong.append(f"{fault}: {case} {outcome.result}")
        elif words not in outcome.message:
            wrong.append(f"{fault}: {case} does not say {words!r}: {outcome.message}")
    assert not wrong, "\n".join(wrong)


@pytest.fixture(scope="module")
def outcomes(faults: Table, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """What became of the case that names each fault."""
    cases = {fault: case for fault, (_, case, _) in faults.items()}
    return run_kit(tmp_path_factory.mktemp("faults"), cases, deadline=3.0)


def test_each_planted_fault_is_found_by_the_case_that_names_it(faults: Table, outcomes: Outcomes) -> None:
    assert len(outcomes) == len(faults)
    check_found(faults, outcomes)


def test_each_mutant_of_a_pool_over_pipes_is_found_by_the_case_that_names_it(mutants: Table, tmp_path: Path) -> None:
    check_found(mutants, run_mutants(tmp_path, mutants))


def run_mutants(folder: Path, mutants: Table) -> Outcomes:
    cases = {fault: case for fault, (_, case, _) in mutants.items()}
    return run_kit(folder, cases, deadline=MUTANT_DEADLINE, table="pipe_mutants")


def test_a_case_that_hangs_shows_the_stacks_of_all_threads(outcomes: Outcomes) -> None:
    message = outcomes[class_of(HANGS), "test_a_pool_can_be_closed_twice"].message
    assert re.search(r"did not end within [\d.]+ s", message)  # the limit grows with the load of the machine
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
def test_each_planted_fault_is_found_twenty_times_out_of_twenty(faults: Table, tmp_path: Path) -> None:
    for _ in range(ROUNDS):
        check_found(faults, run_kit(tmp_path, {fault: case for fault, (_, case, _) in faults.items()}, deadline=6.0))


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_each_mutant_of_a_pool_over_pipes_is_found_twenty_times_out_of_twenty(mutants: Table, tmp_path: Path) -> None:
    for _ in range(ROUNDS):
        check_found(mutants, run_mutants(tmp_path, mutants))


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
def test_no_other_case_blames_a_strategy_for_its_one_fault(faults: Table, tmp_path: Path) -> None:
    alone = {fault: faults[fault] for fault in faults.keys() - MORE_IS_BROKEN}
    outcomes = run_kit(tmp_path, dict.fromkeys([*alone, "none", "none shipped"]), deadline=10.0)
    bad = {(cls, case) for (cls, case), outcome in outcomes.items() if outcome.result in ("failed", "error")}
    assert bad == {(class_of(fault), case) for fault, (_, case, _) in alone.items()}


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_strategy_without_a_fault_passes_twenty_times_out_of_twenty(tmp_path: Path) -> None:
    for _ in range(ROUNDS):
        outcomes = run_kit(tmp_path, {"none": None, "none shipped": None}, deadline=30.0)
        outcomes |= run_kit(tmp_path, {"none": None}, deadline=60.0, table="pipe_mutants")
        bad = {
            case: outcome.message for (_, case), outcome in outcomes.items() if outcome.result in ("failed", "error")
        }
        assert not bad, bad
