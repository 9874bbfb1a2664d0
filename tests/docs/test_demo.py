"""The demo does what it claims, on figures computed here without it, and says so with its exit code."""

import calendar
import csv
import gzip
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from places import CHECKOUT
from routilux_core import Flow, Ledger, Routine, slot

pytestmark = pytest.mark.once

DEMO = CHECKOUT / "examples" / "concurrent_flow_demo.py"
SOURCES = {"seattle-temps", "sf-temps", "seattle-weather"}


class Fails(Routine):
    @slot
    def input(self):
        raise OSError("no answer")


def load(path, monkeypatch):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def demo(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return load(DEMO, monkeypatch)


def start_demo(folder, *options, encoding="utf-8"):
    return subprocess.Popen(
        [sys.executable, DEMO, *options],
        cwd=folder,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding=encoding,
    )


def finish_demo(process):
    """Return how a run of the demo ended, in the form that `subprocess.run` has."""
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Run the demo for programs and for people side by side: it mostly waits for its servers."""
    folder = tmp_path_factory.mktemp("elsewhere")
    in_json = start_demo(folder, "--json")
    # Where there is no degree sign, and with the other strategy: one run more for each would show no more.
    for_people = start_demo(folder, "--strategy", "sequential", encoding="ascii")
    return finish_demo(in_json), finish_demo(for_people)


@pytest.fixture(scope="module")
def in_json(runs):
    return runs[0]


@pytest.fixture(scope="module")
def for_people(runs):
    return runs[1]


@pytest.fixture(scope="module")
def facts(in_json):
    return json.loads(in_json.stdout)


def shipped(source):
    with open(DEMO.parent / "data" / f"{source}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def figures(source):
    """Compute what the demo has to find, from the shipped file alone."""
    rows = shipped(source)
    daily = source == "seattle-weather"
    lowest = [float(row["temp_min" if daily else "temp"]) for row in rows]
    highest = [float(row["temp_max" if daily else "temp"]) for row in rows]
    middle = [(low + high) / 2 for low, high in zip(lowest, highest, strict=True)]
    by_month = {name: [] for name in calendar.month_name[1:]}
    for row, each in zip(rows, middle, strict=True):
        by_month[calendar.month_name[int(row["date"].split("/")[1])]].append(each)
    months = {name: statistics.mean(each) for name, each in by_month.items()}
    return {
        "source": source,
        "step": "days" if daily else "hours",
        "count": len(rows),
        "unit": "°C" if daily else "°F",
        "mean": pytest.approx(statistics.mean(middle), rel=1e-12),
        "minimum": min(lowest),
        "maximum": max(highest),
        "total_rain": pytest.approx(sum(float(row["precipitation"]) for row in rows), rel=1e-12) if daily else None,
        "warmest_month": max(months, key=months.get),
        "coldest_month": min(months, key=months.get),
    }


@pytest.mark.skipif(os.name != "posix", reason="closes the pipe that the demo writes to")
def test_it_ends_quietly_where_nobody_reads_on(tmp_path):
    process = start_demo(tmp_path)
    process.stdout.close()  # as `head` does when it has seen enough
    process.stdout = None
    done = finish_demo(process)
    assert (done.returncode, done.stderr) == (141, "")


def test_it_ends_well_and_prints_one_json_object_and_nothing_else(in_json, facts):
    assert (in_json.returncode, in_json.stderr) == (0, "")
    assert in_json.stdout.count("\n") == 1
    assert set(facts) == {"timings", "results", "jobs", "problems"}
    assert facts["problems"] == []


@pytest.mark.parametrize("source", sorted(SOURCES))
def test_its_results_are_those_of_the_shipped_files(facts, source):
    assert set(facts["results"]) == SOURCES
    assert facts["results"][source] == figures(source)


def test_its_timings_cover_the_work_and_concurrent_is_faster(facts):
    timings = facts["timings"]
    assert timings["sequential_s"] >= timings["sequential_handlers_s"] >= 0.65
    assert timings["concurrent_s"] >= timings["critical_path_s"] >= 0.25
    assert timings["speedup"] == timings["sequential_s"] / timings["concurrent_s"]
    assert timings["speedup"] >= 1.5


def test_every_job_has_ended_and_its_ledger_balances(facts):
    jobs = facts["jobs"]
    whole = {"main", "sequential", "concurrent", "first", "second", "third", "monitored", "loaded"}
    assert set(jobs) == whole | {"STOP", "CONTINUE", "SKIP", "RETRY"}
    for name, job in jobs.items():
        ledger = job["ledger"]
        ended = ledger["completed"] + ledger["failed"] + ledger["skipped"] + ledger["discarded"]
        assert (ledger["posted"], ledger["pending"]) == (ended, 0), name
    for name in whole:
        # trigger, fetchers, processors, aggregator (once, for three arrivals), formatter
        assert jobs[name]["status"] == "completed"
        assert (jobs[name]["ledger"]["completed"], jobs[name]["ledger"]["gathered"]) == (9, 3)
        assert set(jobs[name]["arrived"]) == SOURCES


OTHERS = ["seattle-temps", "seattle-weather"]


@pytest.mark.parametrize(
    ("policy", "status", "counts", "arrived"),
    [
        ("STOP", "failed", (1, 0, 0), []),
        ("CONTINUE", "completed", (1, 0, 0), OTHERS),
        ("SKIP", "completed", (0, 1, 0), OTHERS),
        ("RETRY", "completed", (0, 0, 2), sorted(SOURCES)),
    ],
)
def test_one_service_that_answers_500_is_dealt_with_as_the_policy_says(facts, policy, status, counts, arrived):
    job = facts["jobs"][policy]
    ledger = job["ledger"]
    assert job["status"] == status
    assert (ledger["failed"], ledger["skipped"], ledger["retried"]) == counts
    assert len(job["errors"]) == sum(counts)
    for error in job["errors"]:
        assert (error["routine"], error["decision"]) == ("fetch sf-temps", policy.lower())
        assert "500" in error["error"]
    assert job["arrived"] == arrived


def test_what_it_prints_for_people_names_each_source_with_its_figures(for_people):
    assert (for_people.returncode, for_people.stderr) == (0, "")
    lines = {line.split()[0]: line.split()[1:] for line in for_people.stdout.splitlines() if line.strip()}
    table = zip(lines["source"], lines["mean"], lines["warmest_month"], lines["total_rain"], strict=True)
    expected = [(source, figures(source)) for source in sorted(SOURCES)]
    rain = {"seattle-weather": "4426.00"}
    assert list(table) == [
        (source, f"{each['mean'].expected:.2f}", each["warmest_month"], rain.get(source, "-"))
        for source, each in expected
    ]
    assert "strategy 'sequential'" in for_people.stdout
    assert for_people.stdout.endswith("Every section did what it claims.\n")


def test_worker_processes_find_the_same(tmp_path, facts):
    printed = finish_demo(start_demo(tmp_path, "--json", "--strategy", "process"))
    assert (printed.returncode, printed.stderr) == (0, "")
    found = json.loads(printed.stdout)
    assert found["results"] == facts["results"]
    assert found["jobs"]["main"] == facts["jobs"]["main"]


def test_it_writes_a_report_and_a_trace_of_sequential_beside_concurrent(tmp_path):
    done = finish_demo(start_demo(tmp_path, "--json", "--report", "run.html", "--trace", "run.json.gz"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "<title>climate</title>" in (tmp_path / "run.html").read_text(encoding="utf-8")
    trace = json.loads(gzip.decompress((tmp_path / "run.json.gz").read_bytes()))
    slices = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert [sum(event["pid"] == job for event in slices) for job in (1, 2)] == [9, 9]


def test_a_report_that_can_not_be_written_is_a_problem(demo, tmp_path):
    with Flow() as flow:
        flow.add_routine(Fails(), "fails")
        job = flow.execute("fails")
    [problem] = demo.show(str(tmp_path / "no" / "run.html"), None, {"sequential": job, "concurrent": job})
    assert "No such file" in problem


def test_it_prints_where_there_is_no_degree_sign(for_people):
    assert for_people.returncode == 0
    assert " ?F " in for_people.stdout


def test_an_unknown_strategy_is_refused_with_what_there_is(tmp_path):
    refused = finish_demo(start_demo(tmp_path, "--json", "--strategy", "concurent"))
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "concurent" in refused.stderr
    assert "'concurrent'" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("strategy", ["sequential", "concurrent"])
def test_the_first_hundred_lines_stand_alone(demo, monkeypatch, tmp_path, strategy):
    text = DEMO.read_text(encoding="utf-8").splitlines(keepends=True)
    alone = tmp_path / "first_hundred_lines.py"
    alone.write_text("".join(text[:100]), encoding="utf-8")
    assert not "".join(text[100:102]).strip(), "a blank line ends the example"
    example = load(alone, monkeypatch)
    with demo.open_sources() as sources:
        services = {source: example.FetchApi(url=sources[source]) for source in ("seattle-temps", "sf-temps")}
        database = example.FetchDatabase(path=sources["seattle-weather"], query=demo.QUERY)
        job = example.climate({**services, "seattle-weather": database}, strategy)
    [report] = job.outputs["format.formatted"]
    assert {each["source"]: each for each in report["climate"]} == {source: figures(source) for source in SOURCES}


def test_the_service_really_answers_500_as_often_as_asked(demo):
    with demo.http_api("sf-temps", refusals=1) as address:
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{address}/temperature", timeout=10)
        refused.value.close()
        with urllib.request.urlopen(f"{address}/temperature", timeout=10) as answer:
            rows = json.load(answer)["rows"]
    assert refused.value.code == 500
    assert rows == [[row["date"], float(row["temp"])] for row in shipped("sf-temps")]


def test_it_fails_when_a_section_does_not_do_what_it_claims(demo, monkeypatch, capsys):
    monkeypatch.setattr(demo, "LEAST_SPEEDUP", 1000.0)
    monkeypatch.setattr(demo, "API_SECONDS", 0.02)
    monkeypatch.setattr(demo, "QUERY", demo.QUERY.replace(str(demo.QUERY_SECONDS), "0.02"))
    assert demo.main(["--json"]) == 1
    printed = capsys.readouterr()
    [problem] = json.loads(printed.out)["problems"]
    assert problem in printed.err
    assert "Sequential against concurrent" in problem
    assert "not 1000.0 times" in problem


def test_the_checks_find_a_job_that_failed(demo):
    with Flow() as flow:
        flow.add_routine(Fails(), "fails")
        job = flow.execute("fails")
    assert demo.check_job("x", job, "failed", 1) == []
    status, errors = demo.check_job("x", job)
    assert "failed, not completed" in status
    assert "1 errors, not 0" in errors
    assert "no answer" in errors


def test_the_checks_find_a_failure_of_another_kind_than_the_policy_expects(demo):
    stop = next(policy for policy in demo.POLICIES if policy.status == "failed")
    with Flow() as flow:
        flow.add_routine(Fails(), "fails")
        job = flow.execute("fails")
    state, kind = demo.check_policy(stop, job, {})
    assert state == "STOP: 'fetch sf-temps' is None, not failed"
    assert "'fails', not a 500 from sf-temps" in kind


@pytest.mark.parametrize(("lost", "pending"), [(1, 0), (0, 1)])
def test_the_checks_find_calls_that_are_not_accounted_for(demo, lost, pending):
    nothing = dict.fromkeys(("failed", "skipped", "discarded", "retried", "emitted", "unconnected", "gathered"), 0)
    ledger = Ledger(**nothing, posted=9 + lost, completed=9 - pending, pending=pending)
    [problem] = demo.check_ledger("x", ledger)
    assert f"{9 + lost} calls posted, {9 - pending} ended, {pending} pending" in problem


def test_the_checks_find_results_that_are_missing_unexpected_or_different(demo):
    found = {"a": {"mean": 1.0}, "b": {"mean": 2.0}}
    assert demo.check_results("x", found, found) == []
    expected = {"a": {"mean": 1.5}, "c": {"mean": 3.0}}
    assert demo.check_results("x", found, expected) == [
        "x: nothing from c",
        "x: unexpected results from b",
        "x: other figures from a",
    ]


def test_the_checks_find_rows_that_did_not_arrive(demo):
    whole = {source: {"count": len(shipped(source))} for source in SOURCES}
    assert demo.check_counts(whole) == []
    assert demo.check_counts({**whole, "sf-temps": {"count": 8758}}) == ["sf-temps: 8758 rows, not 8759"]
    assert demo.check_counts({}) == [
        "seattle-temps: 0 rows, not 8759",
        "sf-temps: 0 rows, not 8759",
        "seattle-weather: 0 rows, not 1461",
    ]


def test_it_prints_a_table_with_what_the_tracker_says_of_every_routine(for_people):
    table = for_people.stdout.partition("Monitoring")[2]
    figures = {}
    for line in table.splitlines()[3:12]:
        name, *rest = line.rsplit(maxsplit=6)
        figures[name.strip()] = rest
    assert set(figures) == {"trigger", "aggregate", "format"} | {
        f"{kind} {source}" for kind in ("fetch", "process") for source in SOURCES
    }
    assert all(each[:2] == ["1", "100%"] for each in figures.values())
    assert all(float(figures[f"fetch {source}"][2]) >= 0.2 for source in SOURCES)
    assert ", 9 events, " in table


def test_the_checks_find_a_tracker_that_is_wrong(demo):
    with Flow() as flow:
        flow.add_routine(Fails(), "fails")
        assert demo.check_tracker(flow.execution_tracker, {"fails": (0.0, 0.0)}) == ["the tracker has no call of fails"]
        flow.execute("fails")
    assert demo.check_tracker(flow.execution_tracker, {"fails": (0.0, 0.0)}) == []
    [problem] = demo.check_tracker(flow.execution_tracker, {"fails": (0.0, 2.0)})
    assert problem.startswith("fails took 2.0000 s, the tracker says 0.0")


def test_the_checks_find_a_flow_that_came_back_wrong(demo):
    saved, loaded = Flow("x", "concurrent", 8), Flow("x", "concurrent", 7)
    for flow in (saved, loaded):
        flow.add_routine(demo.Trigger(), "trigger")
    assert demo.check_loaded(saved, saved) == ["trigger is the saved flow's own routine"]
    settings, everything = demo.check_loaded(saved, loaded)
    assert "8" in settings
    assert "7" in everything


def test_the_checks_find_an_aggregator_that_forgot(demo):
    assert demo.check_numbers([1, 2, 3]) == []
    assert demo.check_numbers([1, 1, 1]) == ["the reports are numbered [1, 1, 1], not [1, 2, 3]"]
