"""The benchmarks run, and a run that loses work is not a figure. No times are looked at."""

import importlib
import json
import os
import subprocess
import sys

import pytest

from places import CHECKOUT

pytestmark = pytest.mark.once

BENCHMARKS = CHECKOUT / "benchmarks"


def test_quick_run_measures_every_row_and_compares_it_with_its_gates(tmp_path):
    result = tmp_path / "result.json"

    outcome = subprocess.run(
        [sys.executable, BENCHMARKS / "run.py", "--quick", "--only", "W3", "--rounds", "1", "--json", result],
        capture_output=True,
        text=True,
    )

    assert outcome.returncode == 0, outcome.stderr
    measured = json.loads(result.read_text(encoding="utf-8"))
    assert {"python", "rounds", "quick", "workloads", "failures"} <= measured.keys()
    assert measured["rounds"] == 1
    assert measured["quick"] is True
    assert measured["failures"] == []
    stream = measured["workloads"]["W3"]
    assert all(row["median"] > 0 and len(row["all"]) == 1 for row in stream["rows"].values())
    gated = [each for each in stream["comparisons"] if each["gate"] is not None]
    assert {each["goal"] for each in gated} == {"G3", "G4"}
    assert all(each["measured"] > 0 and each["meets_gate"] in (True, False) for each in gated)


@pytest.mark.parametrize("noted", [[0, 1], [0, 1, 2, 2], [0, 1, 3]], ids=["lost", "doubled", "wrong"])
def test_a_run_that_did_not_do_its_work_has_no_figure(monkeypatch, noted):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    work = importlib.import_module("suite.work")

    with pytest.raises(work.WorkMissing):
        work.median_of(1, lambda: [work.note(number) for number in noted], lambda: work.check_each_once(3))


def test_a_measurement_that_fails_is_reported_and_fails_the_run(tmp_path):
    (tmp_path / "routilux_core.py").write_text("raise ImportError('broken on purpose')\n", encoding="utf-8")
    result = tmp_path / "result.json"

    outcome = subprocess.run(
        [sys.executable, BENCHMARKS / "run.py", "--quick", "--only", "W2", "--json", result],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )

    assert outcome.returncode == 1
    measured = json.loads(result.read_text(encoding="utf-8"))
    (failure,) = measured["failures"]
    assert failure.startswith("W2, ours:")
    assert "broken on purpose" in failure
    assert measured["workloads"]["W2"]["rows"]["bare deque"]["median"] > 0


def test_an_unknown_workload_is_refused_by_name():
    outcome = subprocess.run([sys.executable, BENCHMARKS / "run.py", "--only", "W99"], capture_output=True, text=True)

    assert outcome.returncode == 2
    assert "W99" in outcome.stderr
    assert "W3" in outcome.stderr


def test_a_row_that_needs_what_is_not_installed_is_skipped_with_a_line(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    model, run = importlib.import_module("suite.model"), importlib.import_module("run")
    rows = [
        model.Row(name=name, measure=float, size=1, quick_size=1, needs=needs)
        for name, needs in (("ours", ""), ("theirs", "no_such_module"))
    ]
    workload = model.Workload(name="W0", title="both", rows=tuple(rows), comparisons=())

    assert [row.name for row in run._with_what_is_installed(workload).rows] == ["ours"]
    assert capsys.readouterr().err == (
        "W0, 'theirs' is skipped: no-such-module is not installed; pip install no-such-module\n"
    )
