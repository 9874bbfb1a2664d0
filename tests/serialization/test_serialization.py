"""What is saved, what is refused, and that a flow is loaded whole or not at all."""

from __future__ import annotations

import datetime
import json
import os
import stat
import subprocess
import sys
import threading
import zoneinfo
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest
from attrs import field, frozen

from routilux_core import (
    Capabilities,
    ConfigurationError,
    ErrorHandler,
    ExecutionStrategy,
    Flow,
    FlowStateError,
    Host,
    JobState,
    Routine,
    SerializationError,
    UnknownStrategyError,
    WorkerPool,
    event,
    per_worker,
    slot,
)

MakeFlow = Callable[..., Flow]


class Adds(Routine):
    amount: int = 1
    total: int = 0
    limits: list[float] = field(factory=list)
    connection = per_worker(object)
    done = event("total")

    @slot
    def input(self, number: int) -> None:
        assert self.connection
        self.total += number * self.amount
        self.emit("done", total=self.total)


class Checked(Routine):
    share: float = field(default=0.5, validator=attrs.validators.le(1.0))

    def __attrs_post_init__(self) -> None:
        if self.share == 0:
            raise ArithmeticError("nothing to share")

    @cached_property
    def percent(self) -> float:
        return self.share * 100


class Waits(Routine):
    started: ClassVar[threading.Event]
    go_on: ClassVar[threading.Event]

    @slot
    def input(self) -> None:
        self.started.set()
        assert self.go_on.wait(30)


class Fails(Routine):
    @slot
    def input(self, **data: Any) -> None:
        raise Unreadable("bad \ud800")


class Unreadable(Exception):
    pass


class Named(Routine, type_name="tests/named"):
    pass


class Whole(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.define_slot("defined", handler=self.take, whole=True)
        self.define_slot("named", handler=self.take)

    @slot(whole=True)
    def take(self, row: dict[str, Any]) -> None:
        self.got = row


@dataclass
class Point:
    x: int


@frozen(kw_only=True)
class Loop(ExecutionStrategy):
    """A strategy that is installed nowhere."""

    name: ClassVar[str] = "loop"
    capabilities: ClassVar[Capabilities] = Capabilities(shares_memory=True)
    depth: int = 1
    hosts: tuple[str, ...] = ()

    def open(self, host: Host) -> WorkerPool:
        raise NotImplementedError


def problems_of(document: Any, **settings: Any) -> list[str]:
    with pytest.raises(SerializationError) as refused:
        Flow().deserialize(document, **settings)
    return [str(each) for each in refused.value.problems]


def saved(*routines: Routine) -> dict[str, Any]:
    flow = Flow("f")
    for number, routine in enumerate(routines):
        flow.add_routine(routine, f"r{number}")
    return flow.serialize()


def refusals(routine: Routine) -> list[str]:
    with pytest.raises(SerializationError) as refused:
        saved(routine)
    return [str(each) for each in refused.value.problems]


def keeping(**attributes: Any) -> Routine:
    routine = Adds()
    for name, value in attributes.items():
        setattr(routine, name, value)
    return routine


def loaded(document: Any, **settings: Any) -> Flow:
    flow = Flow()
    flow.deserialize(json.loads(json.dumps(document)), **settings)
    return flow


# -- what comes back


def test_a_loaded_flow_goes_on_where_the_saved_one_stood(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow = make_flow("sums", **strategy)
    flow.add_routine(Adds(amount=2), "adds")
    flow.add_output("adds", "done")
    flow.run("adds", {"number": 5})
    new = make_flow()
    new.deserialize(flow.serialize())
    assert (new.flow_id, new.execution_strategy, new.max_workers) == ("sums", flow.execution_strategy, flow.max_workers)
    assert new.run("adds", {"number": 1}).outputs["adds.done"] == [{"total": 12}]
    assert flow.run("adds", {"number": 10}).outputs["adds.done"] == [{"total": 30}], "the two share something"


def test_the_document_and_the_flow_share_nothing() -> None:
    routine = keeping(rows=[[1]])
    document = saved(routine)
    before = json.dumps(document)
    routine.rows[0].append(2)
    routine.increment_stat("x")
    assert json.dumps(document) == before
    flow = loaded(document)
    document["routines"]["r0"]["attributes"]["rows"].clear()
    document["routines"]["r0"]["stats"]["y"] = 1
    assert flow.routines["r0"].rows == [[1]]
    assert flow.routines["r0"].stats() == {}


def test_a_flow_that_was_saved_can_be_changed_after_loading(make_flow: MakeFlow) -> None:
    flow = make_flow()
    flow.deserialize(saved(Adds(), Adds()))
    flow.connect("r0", "done", "r1", "input", {"total": "number"})
    flow.add_output("r1", "done")
    flow.routines["r0"].define_event("later")
    flow.set_execution_strategy("concurrent", max_workers=2)
    assert flow.run("r0", {"number": 4}).outputs == {"r1.done": [{"total": 4}]}


def test_what_the_flow_held_before_is_let_go() -> None:
    flow, routine = Flow("old"), Adds()
    flow.add_routine(routine, "adds")
    flow.run("adds", {"number": 1})
    flow.deserialize(saved())
    assert flow.routines == {}
    assert flow.job_state is None
    Flow("other").add_routine(routine, "adds")


def test_cached_properties_are_worked_out_again() -> None:
    routine = Checked(share=0.25)
    assert routine.percent == 25
    assert saved(routine)["routines"]["r0"]["attributes"] == {}


def test_a_type_name_stands_for_a_class_wherever_it_is() -> None:
    assert saved(Named())["routines"]["r0"]["type"] == "tests/named"
    assert type(loaded(saved(Named())).routines["r0"]) is Named


def test_a_class_of_a_function_is_found_while_it_exists_and_when_it_is_given() -> None:
    def make() -> type[Routine]:
        class Local(Routine):
            pass

        return Local

    first = make()
    document = saved(first())
    assert type(loaded(document).routines["r0"]) is first
    second = make()
    assert "2 classes are called" in problems_of(document)[0]
    assert type(loaded(document, types=[second]).routines["r0"]) is second


def test_the_classes_of_a_script_are_found_among_those_given() -> None:
    document = saved(Adds())
    document["routines"]["r0"]["type"] = "__main__:Adds"
    assert "no routine class is called '__main__:Adds'" in problems_of(document)[0]
    assert type(loaded(document, types=[sys.modules[__name__]]).routines["r0"]) is Adds


def test_a_value_of_an_unannotated_attribute_comes_back_from_the_package_of_a_routine() -> None:
    document = saved(keeping(point=Point(3)))
    assert loaded(document).routines["r0"].point == Point(3)


def test_a_class_of_a_package_without_routines_has_to_be_given() -> None:
    document = saved(keeping(value=1))
    document["routines"]["r0"]["attributes"]["value"] = {"$object": "attr._make:Attribute", "fields": {}}
    [problem] = problems_of(document)
    assert problem.startswith("routines['r0'].attributes.value: no attrs class")


# -- strategies


def test_a_strategy_that_is_not_installed_comes_back_and_running_says_what_to_do(make_flow: MakeFlow) -> None:
    document = saved(Adds())
    document["strategy"] = {"name": "elsewhere", "max_workers": None, "options": {"address": {"$tuple": ["h", 1]}}}
    document["routines"]["r0"]["strategy"] = "yonder"
    flow = make_flow()
    flow.deserialize(document)
    assert (flow.execution_strategy, flow.max_workers) == ("elsewhere", None)
    assert flow.serialize() == document
    with pytest.raises(UnknownStrategyError, match=r"elsewhere.*install"):
        flow.execute("r0", {"number": 1})
    flow.set_execution_strategy("sequential")
    with pytest.raises(UnknownStrategyError, match=r"yonder.*install"):
        flow.execute("r0", {"number": 1})


def test_options_are_saved_as_given_and_objects_by_what_is_not_their_default() -> None:
    flow = Flow(execution_strategy=Loop(max_workers=2, hosts=("a", "b")))
    record = flow.serialize()["strategy"]
    assert record == {"name": "loop", "max_workers": 2, "options": {"hosts": {"$tuple": ["a", "b"]}}}
    assert loaded(flow.serialize(), types=[Loop])._runtime.default.strategy == Loop(max_workers=2, hosts=("a", "b"))
    flow.set_execution_strategy("sequential")
    assert flow.serialize()["strategy"] == {"name": "sequential", "max_workers": 2, "options": {}}


@pytest.mark.parametrize("options", [{"$tuple": ["h", 1]}, {"$dict": [[1, 2]]}])
def test_options_that_have_no_names_are_a_problem(options: Any) -> None:
    document = Flow().serialize() | {"strategy": {"name": "elsewhere", "max_workers": 1, "options": options}}
    [problem] = problems_of(document)
    assert problem.startswith("strategy: options: expected an object with the names of the strategy's options")


def test_options_that_a_given_strategy_refuses_are_a_problem() -> None:
    document = Flow().serialize() | {"strategy": {"name": "loop", "max_workers": 1, "options": {"depht": 1}}}
    [problem] = problems_of(document, types=[Loop])
    assert problem.startswith("strategy: ")
    assert "depht" in problem


def test_loading_imports_no_strategy() -> None:
    code = (
        "import sys, json; from routilux_core import Flow\n"
        "flow = Flow(); data = json.loads(sys.argv[1]); flow.deserialize(data)\n"
        "assert 'routilux_core_plugins.threaded' not in sys.modules\n"
        "assert flow.execution_strategy == 'concurrent'\n"
        "assert 'multiprocessing' not in sys.modules and 'importlib.metadata' not in sys.modules\n"
    )
    text = json.dumps(Flow(execution_strategy="concurrent").serialize())
    subprocess.run([sys.executable, "-c", code, text], check=True, timeout=60)


# -- what is refused


def test_what_cannot_be_saved_is_refused_by_its_path() -> None:
    routine = keeping(kept={"a": [1, threading.Lock()]}, call=print, kind=dict, many={1: object()})
    paths = [each.partition(": ")[0] for each in refusals(routine)]
    within = "routines['r0'].attributes."
    assert paths == [f"{within}kept['a'][1]", f"{within}call", f"{within}kind", f"{within}many[1]"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (10**5000, "too large"),
        ("\ud800", "surrogate"),
        (datetime.datetime(2024, 1, 1, tzinfo=zoneinfo.ZoneInfo("UTC")), "time zone"),
        (datetime.datetime(2024, 1, 1, fold=1), "fold"),
        (range(3), "range"),
        (Named(), "tests/named"),
        (ValueError("x"), "ValueError"),
        (type("Ints", (list,), {})([1]), "Ints"),
    ],
    ids=["int", "text", "zone", "fold", "range", "routine", "exception", "subclass"],
)
def test_a_value_that_would_not_come_back_is_refused(value: Any, words: str) -> None:
    [problem] = refusals(keeping(value=value))
    assert problem.startswith("routines['r0'].attributes.value: ")
    assert words in problem


def test_what_contains_itself_is_refused() -> None:
    rows: list[Any] = []
    rows.append(rows)
    assert "contains itself" in refusals(keeping(rows=rows))[0]


def test_a_field_that_does_not_fit_its_annotation_is_refused_when_saved_not_when_loaded() -> None:
    routine = Adds(amount="two", limits=[1.5, "x"])  # type: ignore[arg-type]
    assert refusals(routine) == [
        "routines['r0'].fields.amount: 'two' does not fit the annotation int",
        "routines['r0'].fields.limits: [1.5, 'x'] does not fit the annotation list[float]",
    ]


def test_code_that_is_no_method_is_refused() -> None:
    routine = Adds()
    routine.define_slot("extra", lambda number: None, lambda old, new: new)
    handler, merge = refusals(routine)
    assert handler.startswith("routines['r0'].slots['extra'].handler: <function")
    assert merge.startswith("routines['r0'].slots['extra'].merge: <function")
    other = Adds()
    other.get_slot("input").handler = Adds().input
    assert "no method of" in refusals(other)[0]


def test_an_error_handler_of_another_class_is_refused() -> None:
    class Patient(ErrorHandler):
        pass

    routine = Adds()
    routine.set_error_handler(Patient())
    assert refusals(routine)[0].startswith("routines['r0'].error_handler: a ")


def test_every_problem_of_a_document_is_told_with_its_path() -> None:
    document = saved(Adds(), Adds(), Checked(), Checked())
    routines = document["routines"]
    routines["r0"]["type"] = "os:system"
    routines["r1"]["fields"] = {"amount": "x", "total": 0, "surplus": 1}
    routines["r2"]["fields"]["share"] = 2.0
    routines["r3"]["fields"]["share"] = 0.0
    document["connections"] = [
        dict(zip(("source", "event", "target", "slot"), ("r3", "no", "nobody", "x"), strict=True))
    ]
    document["connections"][0]["mapping"] = {"a": "x", "b": "x"}
    document["strategy"]["max_workers"] = 0
    found = problems_of(document)
    assert [each.partition(": ")[0] for each in found] == [
        "strategy",
        "routines['r0'].type",
        "routines['r1'].fields.amount",
        "routines['r1'].fields['surplus']",
        "routines['r1'].fields.limits",
        "routines['r2']",
        "routines['r3']",
        "connections[0].target",
        "connections[0].mapping",
    ]
    assert "nothing to share" in found[6]


def test_class_keywords_have_to_be_those_of_the_class() -> None:
    document = saved(Adds())
    document["routines"]["r0"]["settings"]["stateless"] = True
    [problem] = problems_of(document)
    assert problem.startswith("routines['r0'].settings.stateless: saved as True, but")


def test_a_circle_through_a_gather_slot_is_refused() -> None:
    class Gathers(Routine):
        out = event("x")

        @slot(merge_strategy="gather")
        def input(self, x: list[Any]) -> None: ...

    document = saved(Gathers(), Gathers())
    ends = [("r0", "r1"), ("r1", "r0")]
    document["connections"] = [
        {"source": source, "event": "out", "target": target, "slot": "input", "mapping": {}} for source, target in ends
    ]
    assert [each.partition(": ")[0] for each in problems_of(document)] == ["connections[0]", "connections[1]"]


@pytest.mark.parametrize("handler", ["__init__", "emit", "define_slot", "amount", "connection", "nothing", "input.x"])
def test_a_handler_is_a_method_of_the_users_own(handler: str) -> None:
    document = saved(Adds())
    document["routines"]["r0"]["slots"]["input"]["handler"] = handler
    assert "has no method" in problems_of(document)[0]


def test_values_chosen_to_have_one_hash_are_refused() -> None:
    document = saved(keeping(values=set()))
    step = sys.hash_info.modulus
    document["routines"]["r0"]["attributes"]["values"] = {"$set": [number * step for number in range(5000)]}
    assert "same hash" in problems_of(document)[0]


def test_no_more_problems_are_told_than_anyone_reads() -> None:
    document = Flow().serialize() | {"connections": [{} for _ in range(50_000)]}
    found = problems_of(document)
    assert len(found) < 200
    assert "stopped" in found[-1]


# -- whole or not at all


def test_a_refused_document_leaves_the_flow_as_it_was(make_flow: MakeFlow) -> None:
    flow = make_flow("before")
    flow.add_routine(Adds(), "adds")
    before, job = flow.serialize(), flow.run("adds", {"number": 0})
    document = saved(Adds())
    document["outputs"] = [{"routine": "r0", "event": "none", "name": "x"}]
    with pytest.raises(SerializationError, match=r"outputs\[0\].event"):
        flow.deserialize(document)
    assert flow.serialize() == before
    assert flow.job_state is job


def test_deserialize_is_refused_while_a_job_runs(make_flow: MakeFlow) -> None:
    Waits.started, Waits.go_on = threading.Event(), threading.Event()
    flow = make_flow(execution_strategy="concurrent")
    flow.add_routine(Waits(), "waits")
    job = flow.execute("waits")
    try:
        assert Waits.started.wait(30)
        with pytest.raises(FlowStateError, match="deserialize was called"):
            flow.deserialize(saved())
    finally:
        Waits.go_on.set()
    assert job.wait(30)
    flow.deserialize(saved())


# -- files


def test_a_file_is_replaced_whole_and_keeps_its_permissions(tmp_path: Path) -> None:
    file, link = tmp_path / "flow.json", tmp_path / "link.json"
    Flow("one").save(file)
    file.chmod(0o640)
    link.symlink_to(file)
    Flow("äöü 😀").save(link)
    assert link.is_symlink()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert Flow.load(link).flow_id == "äöü 😀"
    assert sorted(os.listdir(tmp_path)) == ["flow.json", "link.json"]


def test_a_flow_that_cannot_be_saved_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "flow.json"
    Flow("one").save(file)
    flow = Flow("two")
    flow.add_routine(keeping(lock=threading.Lock()), "adds")
    with pytest.raises(SerializationError):
        flow.save(file)
    assert Flow.load(file).flow_id == "one"
    assert os.listdir(tmp_path) == ["flow.json"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Expecting value"),
        ("{", "Expecting"),
        ('{"a": NaN}', "NaN is no JSON"),
        ('{"format": 1, "format": 2}', "the key 'format' twice"),
        ("[" * 200_000, "nested too deeply"),
        ("9" * 5000, "digit"),
        ("[1]", "routilux-flow"),
        (b"\xff\xfe", "decode"),
    ],
    ids=["empty", "cut", "nan", "twice", "deep", "digits", "other", "bytes"],
)
def test_a_file_that_is_no_json_is_refused(tmp_path: Path, text: str | bytes, words: str) -> None:
    file = tmp_path / "flow.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SerializationError, match=words):
        Flow.load(file)


# -- jobs


def test_a_job_comes_back_as_a_record(
    make_flow: MakeFlow, tmp_path: Path, strategy: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL", "routilux_core")  # its log has what pytest-xdist can't pass on
    flow = make_flow("f", error_handler="skip", **strategy)
    flow.add_routine(Adds(), "adds")
    flow.add_routine(Fails(), "fails")
    flow.connect("adds", "done", "fails", "input")
    flow.add_output("adds", "done")
    job = flow.run("adds", {"number": 3})
    job.save(tmp_path / "job.json")
    record = JobState.load(tmp_path / "job.json")
    assert record.serialize() == job.serialize()
    assert (record.job_id, record.status, record.ledger) == (job.job_id, "completed", job.ledger)
    assert (record.outputs, record.routine_states) == (job.outputs, job.routine_states)
    assert record.get_execution_history() == job.get_execution_history()
    [failure] = record.errors
    assert str(failure.exception) == f"{__name__}:Unreadable: bad \\ud800"
    assert failure.decision == "skip"
    assert record.wait()
    with pytest.raises(FlowStateError, match="read from its record"):
        record.cancel()


def test_a_payload_that_cannot_be_saved_is_refused_by_its_path(make_flow: MakeFlow) -> None:
    class Sends(Routine):
        out = event("client")

        @slot
        def input(self) -> None:
            self.emit("out", client=threading.Lock())

    flow = make_flow()
    flow.add_routine(Sends(), "sends")
    flow.add_output("sends", "out")
    job = flow.run("sends")
    with pytest.raises(SerializationError) as refused:
        job.serialize()
    assert refused.value.problems[0].path == "outputs['sends.out'][0]['client']"


def test_a_slot_that_takes_the_whole_payload_comes_back_as_one(make_flow: MakeFlow) -> None:
    document = saved(Whole())
    slots = document["routines"]["r0"]["slots"]
    assert [each.get("whole") for each in slots.values()] == [True, True, None]
    flow = loaded(document)
    assert flow.serialize() == document
    for name, got in (("defined", {"row": 1}), ("take", {"row": 1}), ("named", 1)):
        assert flow.run("r0", {"row": 1}, slot=name).status == "completed"
        assert flow.routines["r0"].got == got
    del slots["take"]["whole"]  # as a file of an earlier version has it: what the class declares holds
    assert loaded(document).serialize() == saved(Whole())


def test_a_slot_saved_with_the_whole_payload_that_its_class_declares_without_is_refused() -> None:
    document = saved(Adds())
    document["routines"]["r0"]["slots"]["input"]["whole"] = True
    [problem] = problems_of(document)
    assert "slots['input'].whole: saved as true" in problem
    document = saved(Whole())
    document["routines"]["r0"]["slots"]["defined"]["whole"] = "yes"
    assert problems_of(document) == ["routines['r0'].slots['defined'].whole: expected bool, not 'yes'"]


@pytest.mark.skipif(os.name != "posix", reason="makes a named pipe")
def test_a_file_is_never_renamed_over_what_is_none(tmp_path: Path, make_flow: MakeFlow) -> None:
    flow = make_flow()
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for target, kind in ((pipe, "a pipe"), (link, "a pipe"), (Path(os.devnull), "a device"), (tmp_path, "a directory")):
        with pytest.raises(ConfigurationError, match=f"is {kind}, which a file can't be renamed over"):
            flow.save(target)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["link", "pipe"]


@pytest.mark.skipif(os.name != "posix", reason="makes links")
def test_a_file_is_written_where_a_link_leads_and_a_link_to_itself_is_refused(
    tmp_path: Path, make_flow: MakeFlow
) -> None:
    flow = make_flow("f")
    link, circle = tmp_path / "link", tmp_path / "circle"
    link.symlink_to("new.json")
    circle.symlink_to("circle")
    flow.save(link)
    assert link.is_symlink()
    assert Flow.load(tmp_path / "new.json").flow_id == "f"
    with pytest.raises(OSError, match="circle"):
        flow.save(circle)
    assert circle.is_symlink()
