"""What no file holds: fields that are marked as secret; and without the state, what handlers have changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any, ClassVar

import jsonschema
import pytest
from attrs import frozen

from places import DOCS
from routilux_core import DefinitionError, Flow, Routine, SerializationError, event, field, slot
from routilux_core.strategy import Capabilities, ExecutionStrategy

MakeFlow = Callable[..., Flow]
SECRET = {"secret": True}


@dataclass
class Account:
    name: str
    password: str = dataclass_field(default="asked for", metadata=SECRET)


class Query(Routine):
    table: str
    password: str = field(factory=lambda: "from the environment", metadata=SECRET)
    account: Account | None = None
    calls: int = 0
    seen: list = field(factory=list)
    done = event("n")

    @slot
    def go(self, n: int) -> None:
        self.calls += 1
        self.seen.append(n)
        self.table = "changed"
        self.extra = n
        self.increment_stat("rows", n)
        self.emit("done", n=n)


class Old(Routine):
    """Has a constructor of its own, which no file can call."""

    token: str = field(default="none", metadata=SECRET)

    def __init__(self, token: str = "given") -> None:
        super().__init__()
        self.token = token


class Needy(Routine):
    token: str = field(metadata=SECRET)


@frozen(kw_only=True)
class Remote(ExecutionStrategy):
    name: ClassVar[str] = "remote-with-password"
    capabilities: ClassVar[Capabilities] = Capabilities(shares_memory=True)
    host: str = "here"
    password: str = field(default="", metadata=SECRET)

    def open(self, host: Any) -> Any:
        raise NotImplementedError


def checked(flow: Flow, **options: Any) -> dict[str, Any]:
    """Return what would be saved, which fits the schema."""
    saved = json.loads(json.dumps(flow.serialize(**options)))
    jsonschema.Draft202012Validator(json.loads((DOCS / "saved.schema.json").read_text(encoding="utf-8"))).validate(
        saved
    )
    return saved  # type: ignore[no-any-return]


def again(saved: dict[str, Any]) -> Flow:
    flow = Flow()
    flow.deserialize(saved, types=[Account, Query, Old])
    return flow


def test_a_secret_field_is_in_no_file_and_gets_its_default_again(make_flow: MakeFlow) -> None:
    flow = make_flow()
    flow.add_routine(Query(table="t", password="hunter2", account=Account("me", "hunter2")), "query")
    flow.add_routine(Old("hunter2"), "old")
    saved = checked(flow)
    assert "hunter2" not in str(saved)
    loaded = again(saved).routines
    assert loaded["query"].password == "from the environment"  # type: ignore[attr-defined]
    assert loaded["query"].account == Account("me", "asked for")  # type: ignore[attr-defined]
    assert loaded["old"].token == "none"  # type: ignore[attr-defined]


def test_a_secret_field_is_not_in_the_repr_and_not_in_a_message() -> None:
    assert repr(Query(table="t", password="hunter2")) == "Query(table='t', account=None, calls=0, seen=[])"
    with pytest.raises(DefinitionError) as refused:
        Query("hunter2")  # type: ignore[misc]
    assert "hunter2" not in str(refused.value)


def test_a_secret_without_a_default_could_not_be_loaded(make_flow: MakeFlow) -> None:
    flow = make_flow()
    flow.add_routine(Needy(token="hunter2"), "needy")
    with pytest.raises(
        SerializationError, match="has the secret field 'token', which no file holds, and which so needs"
    ):
        flow.serialize()


def test_a_file_gives_no_secret(make_flow: MakeFlow) -> None:
    flow = make_flow()
    flow.add_routine(Query(table="t"), "query")
    saved = checked(flow)
    saved["routines"]["query"]["attributes"]["password"] = "theirs"
    with pytest.raises(SerializationError, match="no attribute can have this name"):
        again(saved)


def test_a_secret_option_of_a_strategy_is_in_no_file() -> None:
    saved = checked(Flow(execution_strategy=Remote(host="there", password="hunter2")))
    assert saved["strategy"]["options"] == {"host": "there"}


def test_without_state_a_flow_is_saved_as_it_was_made(
    make_flow: MakeFlow, strategy: dict[str, Any], tmp_path: Path
) -> None:
    flow = make_flow(**strategy)
    flow.add_routine(Query(table="t"), "query")
    flow.add_output("query", "done")
    before = flow.serialize(state=False)
    assert flow.run("query", {"n": 3}).status == "completed"
    assert checked(flow, state=False) == before
    flow.save(tmp_path / "flow.json", state=False)
    loaded = make_flow()
    loaded.deserialize(json.loads((tmp_path / "flow.json").read_text(encoding="utf-8")))
    (query,) = loaded.routines.values()
    assert (query.table, query.calls, query.seen, query.stats()) == ("t", 0, [], {})  # type: ignore[attr-defined]
    assert not hasattr(query, "extra")
    assert loaded.run("query", {"n": 5}).results("query.done") == [{"n": 5}]
    assert loaded.serialize(state=False) == before
    with_state = again(checked(flow)).routines["query"]
    assert (with_state.table, with_state.calls, with_state.stats()) == ("changed", 1, {"rows": 3})  # type: ignore[attr-defined]


def test_how_a_class_of_its_own_constructor_was_made_is_not_known(make_flow: MakeFlow) -> None:
    flow = make_flow()
    flow.add_routine(Old(), "old")
    with pytest.raises(SerializationError, match=r"routines\['old'\].*an `__init__` of its own.*save its state"):
        flow.serialize(state=False)


def test_a_field_without_a_default_is_missing_in_such_a_file(make_flow: MakeFlow) -> None:
    flow = make_flow()
    flow.add_routine(Query(table="t"), "query")
    saved = checked(flow, state=False)
    del saved["routines"]["query"]["fields"]["table"]
    with pytest.raises(SerializationError, match=r"Query refused its fields: .* lacks 'table'"):
        again(saved)
