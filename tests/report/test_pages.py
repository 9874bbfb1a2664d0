"""The page of a report, as a file: whole, small, allowed to ask for nothing, with the numbers of ledger and tracker."""

from __future__ import annotations

import json
import re
import zlib
from base64 import b64decode, b64encode
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from random import Random
from threading import Event
from types import ModuleType
from typing import Any

import attrs
import pytest

from routilux_core import ActivationRecord, ConfigurationError, Flow, FlowStateError, JobState, Routine, slot
from routilux_core._report.columns import FREE, OUTCOMES, ROOM, packed
from routilux_core._report.timeline import arranged
from routilux_core.cli import main

pytestmark = pytest.mark.once  # files and texts


class Parts(HTMLParser):
    """A page in its parts: each element with its attributes, and scripts and styles by id or kind."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.current = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.current = dict(attrs).get("id") or tag

    def handle_data(self, data: str) -> None:
        self.texts[self.current] = self.texts.get(self.current, "") + data

    def handle_endtag(self, tag: str) -> None:
        self.current = ""


def inflated(text: str) -> bytes:
    return zlib.decompress(b64decode(text))


def facts_in(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(inflated(Parts(path.read_text("utf-8")).texts["facts"]))
    return found


def rows_in(text: str, count: int, planes: list[int], slots: list[Any], unit: int) -> list[tuple[Any, ...]]:
    """Read packed spans as the page does: slot, track, outcome, attempt, id, cause, posted, started, ended."""
    data, at, columns = inflated(text), 0, []
    for number in planes:
        column = [0] * count
        for plane in range(number):
            column = [value + (data[at + row] << 8 * plane) for row, value in enumerate(column)]
            at += count
        columns.append(column)
    assert at == len(data)
    signed = [[-(value + 1) // 2 if value % 2 else value // 2 for value in column] for column in columns]
    before: dict[int, tuple[int, int, int]] = {}
    began, rows = 0, []
    for row in range(count):
        slot = columns[0][row]
        last = before.get(slot, (0, 0, began))
        number, cause, posted = before[slot] = tuple(a + b[row] for a, b in zip(last, signed[4:7], strict=True))
        began += signed[7][row]
        times = (posted * unit, began * unit, (began + columns[8][row]) * unit)
        rows.append((slots[slot], columns[1][row], columns[2][row], columns[3][row], number, cause - 1, *times))
    return rows


def run(seen: ModuleType, settings: dict[str, Any], **more: Any) -> tuple[Flow, JobState]:
    flow = seen.wire(Flow("seen", **settings, **more))
    with flow:
        return flow, flow.run("numbers")


def test_the_numbers_are_those_of_the_ledger_and_the_tracker(
    seen: ModuleType, each_strategy: dict[str, Any], tmp_path: Path
) -> None:
    _, job = run(seen, each_strategy)
    job.report(tmp_path / "run.html")
    [told] = facts_in(tmp_path / "run.html")["jobs"]
    assert told["ledger"] == attrs.asdict(job.ledger)
    assert told["status"] == job.status == "completed"
    figures = job.tracker.get_flow_performance()
    assert told["figures"] == figures
    assert {each["routine_id"]: each for each in told["routines"]} == job.tracker.get_all_performances()
    assert [each["error"] for each in told["errors"]] == [
        f"{type(each.exception).__name__}: {each.exception}" for each in job.errors
    ]
    assert [each["decision"] for each in told["errors"]] == [str(each.decision.value) for each in job.errors]
    assert told["strategy"] == each_strategy["execution_strategy"]
    assert told["left_out"] == 0


def test_the_time_line_has_every_record(seen: ModuleType, each_strategy: dict[str, Any], tmp_path: Path) -> None:
    _, job = run(seen, each_strategy)
    job.report(tmp_path / "run.html")
    [told] = facts_in(tmp_path / "run.html")["jobs"]
    text = Parts((tmp_path / "run.html").read_text("utf-8")).texts["rows-0"]
    rows = rows_in(text, slots=told["slots"], **told["rows"])
    history = sorted(job.get_execution_history(), key=lambda each: (each.started, -each.ended))
    assert [(*row[0], OUTCOMES[row[2]], row[3], row[4]) for row in rows] == [
        (each.routine_id, each.slot, each.outcome, each.attempt, each.id) for each in history
    ]
    for row, each in zip(rows, history, strict=True):
        assert (rows[row[5]][4] if row[5] >= 0 else None) == each.cause
        assert abs((row[8] - row[7]) / 1e9 - each.run_time) < 2e-6
        assert abs((row[7] - row[6]) / 1e9 - each.queue_wait) < 2e-6


def test_the_page_may_ask_for_nothing_and_run_nothing_but_its_own(seen: ModuleType, tmp_path: Path) -> None:
    _, job = run(seen, {})
    job.report(tmp_path / "run.html")
    text = (tmp_path / "run.html").read_text("utf-8")
    parts = Parts(text)
    [policy] = [found["content"] for tag, found in parts.elements if found.get("http-equiv")]
    rules = dict(each.strip().split(" ", 1) for each in str(policy).split(";"))
    assert rules.pop("default-src") == rules.pop("base-uri") == rules.pop("form-action") == "'none'"
    assert rules.pop("connect-src") == "'none'"
    for kind in ("script", "style"):
        digest = b64encode(sha256(parts.texts[kind].encode()).digest()).decode()
        assert rules.pop(f"{kind}-src") == f"'sha256-{digest}'"
    assert not rules
    assert [tag for tag, _ in parts.elements] == (
        ["html", "head", "meta", "meta", "meta", "meta", "title", "style", "body", "noscript"] + ["script"] * 3
    )
    assert not [name for _, found in parts.elements for name in found if name in ("src", "href", "style", "onload")]
    assert re.findall(r"https?://[^\"'` ]*", text) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"url\(|@import|innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function", text)


def test_jobs_stand_side_by_side_and_share_a_picture(seen: ModuleType, tmp_path: Path) -> None:
    flow, first = run(seen, {})
    other, second = run(seen, {"execution_strategy": "concurrent", "max_workers": 3})
    flow.report(tmp_path / "both.html", first, second)
    facts = facts_in(tmp_path / "both.html")
    assert [each["strategy"] for each in facts["jobs"]] == ["sequential", "concurrent"]
    assert [each["workers"] for each in facts["jobs"]] == [None, 3]
    assert [each["picture"] for each in facts["jobs"]] == [0, 0]
    assert facts["title"] == "seen"
    other.report(tmp_path / "last.html")
    assert [each["id"] for each in facts_in(tmp_path / "last.html")["jobs"]] == [second.job_id]


def test_what_is_no_job_is_refused() -> None:
    flow = Flow("new")
    with pytest.raises(FlowStateError, match="flow 'new' has executed no job yet, so there is nothing to report"):
        flow.report("never.html")
    with pytest.raises(ConfigurationError, match="trace shows jobs, as execute\\(\\) returns them, not 'job'"):
        flow.trace("never.json", "job")  # type: ignore[arg-type]


def test_a_job_from_a_file_is_shown_from_its_records(seen: ModuleType, tmp_path: Path) -> None:
    _, job = run(seen, {})
    JobState.deserialize(job.serialize()).report(tmp_path / "saved.html")
    [told] = facts_in(tmp_path / "saved.html")["jobs"]
    assert told["ledger"] == attrs.asdict(job.ledger)
    calls = {each["routine_id"]: each["total_executions"] for each in told["routines"]}
    assert calls == {name: each["total_executions"] for name, each in job.tracker.get_all_performances().items()}


def test_a_job_that_runs_has_a_page_and_a_trace(seen: ModuleType, tmp_path: Path) -> None:
    entered, go_on = Event(), Event()

    class Waits(Routine):
        @slot
        def go(self, n: int) -> None:
            if n == 3:
                entered.set()
                assert go_on.wait(30.0)

    with Flow("runs", "concurrent") as flow:
        flow.add_routine(seen.Numbers(), "numbers")
        flow.add_routine(Waits(), "waits")
        flow.connect("numbers", "number", "waits", "go")
        job = flow.execute("numbers", {"count": 6})
        assert entered.wait(30.0)
        job.report(tmp_path / "run.html")
        job.trace(tmp_path / "run.json")
        go_on.set()
    [told] = facts_in(tmp_path / "run.html")["jobs"]
    assert told["status"] == "running"
    assert told["ledger"]["pending"] >= 1  # the source may still be at it
    assert told["rows"]["count"] >= 3


def test_without_records_there_is_still_a_page(seen: ModuleType, tmp_path: Path) -> None:
    _, job = run(seen, {}, history_size=0)
    job.report(tmp_path / "none.html")
    [told] = facts_in(tmp_path / "none.html")["jobs"]
    assert (told["rows"]["count"], told["path"]) == (0, [])
    assert told["left_out"] == sum(each["total_executions"] for each in told["routines"])


@pytest.mark.parametrize("seed", range(8))
def test_any_records_are_packed_small_and_come_back(seed: int) -> None:
    draw = Random(seed)
    records, at = [], 0.0
    for number in range(1, draw.choice([1, 10, 3000])):
        at += draw.expovariate(10 ** draw.randint(0, 6))
        records.append(
            ActivationRecord(
                id=number,
                cause=max(1, number - draw.randint(1, 50)) if number > 1 else None,
                routine_id=f"r{draw.randint(1, 40)}",
                slot="s",
                attempt=draw.choice([1] * 60 + [2, 300]),
                outcome=draw.choice(OUTCOMES[:1] * 30 + OUTCOMES),
                worker=draw.randint(1, 64),
                posted=at - draw.random() * 100,
                started=at,
                ended=at + draw.random() * 10,
            )
        )
    spans = arranged(records, 0.0, 0).spans
    found = packed(spans)
    assert len(found.text) <= FREE + ROOM * len(spans)
    rows = rows_in(found.text, slots=[list(each) for each in found.slots], **found.about())
    for span, row in zip(spans, rows, strict=True):
        each = span.record
        assert (row[0][0], row[1], OUTCOMES[row[2]], row[3:6]) == (
            *(each.routine_id, span.track, each.outcome),
            (each.attempt, each.id, span.cause),
        )
        for exact, kept in zip((span.posted, span.started, span.ended), row[6:], strict=True):
            assert 0 <= exact - kept < found.unit


def test_a_hundred_thousand_activations_make_a_small_file(seen: ModuleType, tmp_path: Path) -> None:
    flow = Flow("many", "concurrent", max_workers=4, history_size=200_000)
    with flow:
        flow.add_routine(seen.Numbers(), "numbers")
        flow.add_routine(seen.Numbers(), "more")
        flow.connect("numbers", "number", "more", "start", param_mapping={"n": "count"})
        flow.add_routine(seen.Counts(), "counts")
        flow.connect("more", "number", "counts", "add")
        job = flow.run("numbers", {"count": 446})
    job.report(tmp_path / "many.html")
    [told] = facts_in(tmp_path / "many.html")["jobs"]
    posted = job.ledger.posted
    assert told["rows"]["count"] == posted == 99_682
    size = (tmp_path / "many.html").stat().st_size
    print(f"{size} bytes for {posted} activations: 60 KB and {(size - 60_000) / posted:.2f} bytes for each")
    assert size <= 60_000 + 12 * posted


def test_a_small_run_makes_a_file_of_sixty_kilobytes(seen: ModuleType, tmp_path: Path) -> None:
    _, job = run(seen, {})
    job.report(tmp_path / "run.html")
    assert (tmp_path / "run.html").stat().st_size <= 60_000 + 12 * job.ledger.posted


def texts_in(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [each for pair in value.items() for part in pair for each in texts_in(part)]
    if isinstance(value, list):
        return [each for part in value for each in texts_in(part)]
    return [value] if isinstance(value, str) else []


def test_hostile_names_are_one_harmless_line_each(seen: ModuleType, hostile_names: list[str], tmp_path: Path) -> None:
    path = tmp_path / "hostile.html"
    for at in range(0, 500, 50):
        names = hostile_names[at : at + 50]
        with Flow(names[0]) as flow:
            for name in names:
                flow.add_routine(seen.Refuses(text=name), name)
            for name in names[1:]:
                flow.connect(names[0], "out", name, "input")
            flow.set_error_handler("continue")
            job = flow.run(names[0])
        job.report(path)
        texts = texts_in(facts_in(path))
        assert all(text.replace("\n", "").replace("\t", "").isprintable() for text in texts)
        assert max(map(len, texts)) <= 8_100
        raw = path.read_text("utf-8")
        assert raw.count("<script") == 3
        assert raw.count("</script") == 3
        assert raw.count("<title>") == raw.count("</title>") == 1


@pytest.mark.parametrize("fails", [False, True])
def test_the_command_line_writes_a_report_and_a_trace(
    seen: ModuleType, fails: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "failing" if fails else "wired"
    code = main(
        ["run", f"seen_routines:{name}", "--entry", "numbers", "--report", "run.html", "--trace", "run.json.gz"]
    )
    assert code == (1 if fails else 0)
    told = json.loads(capsys.readouterr().out)
    [shown] = facts_in(tmp_path / "run.html")["jobs"]
    assert (shown["id"], shown["status"], shown["ledger"]) == (told["job_id"], told["status"], told["ledger"])
    assert (tmp_path / "run.json.gz").stat().st_size > 100


def test_a_report_that_can_not_be_written_is_said(
    seen: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "no" / "such" / "folder.html"
    assert main(["run", "seen_routines:wired", "--entry", "numbers", "--report", str(place)]) == 1
    assert "No such file" in capsys.readouterr().err
