"""The saved form: its schema, its golden files, its versions."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from places import CHECKOUT, DOCS
from routilux_core import Flow, JobState, SerializationError
from routilux_core.serialization import versions as upgrade
from saving import golden

SCHEMA = DOCS / "saved.schema.json"
DATA = CHECKOUT / "tests" / "data"
GOLDEN = sorted(DATA.glob("*.json"))


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    logging.getLogger("routilux_core").disabled = True
    yield
    logging.getLogger("routilux_core").disabled = False


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def load(document: Any) -> Any:
    if "job_id" in document or "ledger" in document:
        return JobState.deserialize(document)
    flow = Flow()
    flow.deserialize(document)
    return flow


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(node, (dict, list)):
        for key, each in list(node.items() if isinstance(node, dict) else enumerate(node)):
            yield node, key
            yield from places(each)


def test_what_is_written_today_is_what_the_schema_says(validator: Any) -> None:
    validator.validate(golden.honest_flow().serialize())
    validator.validate(golden.job().serialize())


@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.stem)
def test_a_golden_file_loads_and_is_what_the_schema_says(validator: Any, file: Path) -> None:
    document = json.loads(file.read_text(encoding="utf-8"))
    validator.validate(document)
    assert load(document).serialize() == document


def test_the_golden_flow_runs() -> None:
    with Flow.load(DATA / "flow-1.json") as flow:
        job = flow.run("old", {"ttl": 1}, slot="input")
        assert job.status == "completed"
        assert job.outputs["old.output"] == [{"ttl": 0, "seen": ("old", "'k'")}]


def test_the_golden_job_tells_what_happened() -> None:
    job = JobState.load(DATA / "job-1.json")
    assert job.outputs["divides.output"] == [{"quotient": (4.0, 3)}, {"quotient": (3.0, 4)}]
    [failure] = job.errors
    assert failure.exception.type_name == "builtins:ZeroDivisionError"
    assert "division by zero" in failure.traceback
    assert failure.traceback.count('File "') == failure.traceback.count(f'File "{golden.ANYWHERE}/') > 0
    assert failure.decision == "continue"
    assert [record.outcome for record in job.get_execution_history("divides")] == ["completed", "failed", "completed"]


@pytest.mark.once
@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.stem)
def test_the_schema_refuses_what_the_loader_refuses(validator: Any, file: Path) -> None:
    """Drop each key in turn, and add one beside it: neither of the two may be more lenient about the format's own."""
    document = json.loads(file.read_text(encoding="utf-8"))
    judged = 0
    for number, (node, key) in enumerate(places(document)):
        if number > 60 and number % 5:  # all of the head, and some of the rest
            continue
        if not isinstance(node, dict) or {"$set", "$dict", "$tuple"} & node.keys():
            continue
        changed = copy.deepcopy(document)
        inside, _ = list(places(changed))[number]
        inside["unexpected"] = inside.pop(key)
        if validator.is_valid(changed):
            continue  # a name that is the user's own: of a routine, a field, a slot
        judged += 1
        with pytest.raises(SerializationError):
            load(changed)
    assert judged > 20


@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.stem)
def test_a_newer_version_is_refused_by_its_number(file: Path) -> None:
    document = json.loads(file.read_text(encoding="utf-8")) | {"version": 2, "what is new": []}
    with pytest.raises(
        SerializationError, match=r"version: the file has version 2 .* up to version 1: install a newer"
    ):
        load(document)


@pytest.mark.parametrize("version", [0, -1, True, 1.0, "1", None])
def test_a_version_that_is_no_version_is_refused(version: Any) -> None:
    with pytest.raises(SerializationError, match="version: expected a whole number"):
        Flow().deserialize(Flow("x").serialize() | {"version": version})


@pytest.mark.parametrize("document", [None, [], "flow", {}, {"format": "other"}, {"format": ["routilux-flow"]}])
def test_what_is_no_flow_is_refused(document: Any) -> None:
    with pytest.raises(SerializationError, match="routilux-flow"):
        Flow().deserialize(document)


def test_older_versions_are_upgraded_step_by_step_on_plain_dicts(monkeypatch: pytest.MonkeyPatch) -> None:
    def rename(document: dict[str, Any]) -> dict[str, Any]:
        document["flow_id"] = document.pop("name")
        return document | {"version": 2}

    def count(document: dict[str, Any]) -> dict[str, Any]:
        return document | {"version": 3, "max_pending": 2 * document["max_pending"]}

    monkeypatch.setattr(upgrade, "VERSION", 3)
    monkeypatch.setitem(upgrade.STEPS, upgrade.FLOW, {1: rename, 2: count})
    old = Flow("x", max_pending=5).serialize()
    old["name"] = old.pop("flow_id")
    given = copy.deepcopy(old)
    flow = Flow()
    flow.deserialize(old)
    assert (flow.flow_id, flow.max_pending) == ("x", 10)
    assert old == given, "the document that was given has changed"


def test_a_document_that_a_step_can_not_upgrade_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrade, "VERSION", 2)
    monkeypatch.setitem(upgrade.STEPS, upgrade.FLOW, {1: lambda document: document["name"]})
    with pytest.raises(SerializationError, match="can't be upgraded from version 1 to 2 of the format: KeyError"):
        Flow().deserialize(Flow("x").serialize() | {"version": 1})


def test_there_is_a_step_from_every_version_to_the_next() -> None:
    assert all(list(steps) == list(range(1, upgrade.VERSION)) for steps in upgrade.STEPS.values())
