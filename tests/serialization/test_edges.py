"""What is hard to save comes back as it was or is refused when saved; what a document names never makes code run."""

from __future__ import annotations

import copy
import enum
import functools
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import pytest
from attrs import field

from routilux_core import ConfigurationError, Flow, JobState, Routine, SerializationError, event, slot


class Adds:
    """A merge strategy that is an object."""

    def __call__(self, old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
        return {**old, **new}


class Plain(Routine):
    out = event("number")

    @slot
    def input(self, number: int = 0) -> None:
        self.emit("out", number=number)


class Merges(Routine):
    @slot(merge_strategy=Adds())
    def input(self, **data: Any) -> None: ...

    @slot(merge_strategy=functools.partial(lambda old, new: new))
    def other(self, **data: Any) -> None: ...


class Private(Routine):
    def __init__(self, needed: int) -> None:
        super().__init__()
        self.needed = needed
        self.define_slot("in", self.__handle)

    def __handle(self, number: int) -> None:
        self.needed += number


class Inherits(Private):
    def __init__(self) -> None:
        super().__init__(1)


class Calls(Routine):
    def __call__(self, number: int) -> None: ...


class Colour(enum.Enum):
    RED = 1
    ROT = RED


class Word(enum.StrEnum):
    A = "a"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


@dataclass
class Span:
    """Its constructor takes something else than its fields."""

    low: int
    high: int

    def __init__(self, text: str) -> None:
        self.low, self.high = map(int, text.split("-"))


@dataclass
class Tree:
    name: str = "leaf"
    weight: int = dataclass_field(default=1, kw_only=True)
    below: list[Tree] = dataclass_field(default_factory=list)


@attrs.frozen(cache_hash=True, slots=False)
class Hashed:
    number: int = 1


class Holds(Routine):
    colours: dict[Colour, list[Tree]] = field(factory=dict)
    number: int = 0


def saved(*routines: Routine) -> dict[str, Any]:
    flow = Flow("f")
    for number, routine in enumerate(routines):
        flow.add_routine(routine, f"r{number}")
    return flow.serialize()


def returned(routine: Routine) -> Any:
    """Save a routine, and return it as it was loaded; both save to the same bytes."""
    text = json.dumps(saved(routine), allow_nan=False)
    flow = Flow()
    flow.deserialize(json.loads(text))
    assert json.dumps(flow.serialize()) == text
    return flow.routines["r0"]


def keeping(value: Any) -> Routine:
    routine = Plain()
    routine.kept = value
    return routine


def problems(call: Callable[[], Any]) -> list[str]:
    with pytest.raises(SerializationError) as refused:
        call()
    return [str(each) for each in refused.value.problems]


# -- what comes back


@pytest.mark.parametrize(
    "value",
    [
        {Colour.RED: 1, Word.A: 2, Rights.READ | Rights.WRITE: 3, Rights(0): 4},
        Tree("root", [Tree("a", weight=5), Tree("b", [Tree()])]),
        Span("3-9"),
        10**3000,
        [-math.inf, -0.0, 1e308, 5e-324],
        {(1, "a"): {frozenset({Colour.ROT})}},
        {"$object": "os:system", "fields": {}},
    ],
    ids=["enum keys", "nested defaults", "own constructor", "huge int", "floats", "keys", "dollar"],
)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    found = returned(keeping(value)).kept
    assert found == value
    assert repr(found) == repr(value)


def test_nan_comes_back_wherever_it_is() -> None:
    first, inside, keys = returned(keeping([math.nan, {math.nan}, {math.nan: 1}])).kept
    assert math.isnan(first)
    assert math.isnan(inside.pop())
    assert math.isnan(next(iter(keys)))


def test_a_hash_that_attrs_has_kept_is_no_part_of_the_value() -> None:
    value = Hashed(5)
    assert hash(value) == hash(returned(keeping(value)).kept)


def test_fields_with_enum_keys_and_nested_dataclasses_come_back() -> None:
    held = {Colour.RED: [Tree("x", weight=2)]}
    assert returned(Holds(colours=held)).colours == held


@pytest.mark.parametrize("routine", [Private(4), Inherits()], ids=["own", "inherited"])
def test_a_private_method_is_a_handler_like_any_other(routine: Private) -> None:
    text = json.dumps(saved(routine))
    assert '"handler": "_Private__handle"' in text
    with Flow() as flow:
        flow.deserialize(json.loads(text))
        assert flow.run("r0", {"number": 2}).status == "completed"
        assert flow.routines["r0"].needed == routine.needed + 2  # type: ignore[attr-defined]


def test_a_routine_that_is_called_itself_comes_back() -> None:
    assert [*returned(Calls())._routilux.slots] == ["__call__"]


def test_a_merge_strategy_that_is_an_object_has_the_same_name_in_every_process() -> None:
    slots = saved(Merges())["routines"]["r0"]["slots"]
    assert slots["input"]["merge"] == f"function:{__name__}:Adds"
    assert slots["other"]["merge"] == "function:functools:partial"
    assert isinstance(returned(Merges()).get_slot("input").merge_strategy, Adds)


def test_counters_of_any_finite_size_come_back() -> None:
    routine = Plain()
    routine.increment_stat("bytes", 1e30)
    routine.increment_stat("calls", 10**30)
    assert returned(routine).stats() == {"bytes": 1e30, "calls": 10**30}


# -- what is refused when it is saved, not when it is loaded


def two_of_one_name() -> list[Any]:
    def make() -> Any:
        @dataclass
        class Local:
            number: int

        return Local(1)

    return [make(), make()]


def test_two_classes_of_one_name_are_refused_in_one_file() -> None:
    class One(Routine, type_name="the same"): ...

    class Other(Routine, type_name="the same"): ...

    [problem] = problems(lambda: saved(One(), Other()))
    assert problem.startswith("routines['r1'].type: two classes that are saved here are both called 'the same'")
    [problem] = problems(lambda: saved(keeping(two_of_one_name())))
    assert problem.startswith("routines['r0'].attributes.kept[1]: two classes")


def test_what_could_not_be_read_in_good_time_is_not_written() -> None:
    step = sys.hash_info.modulus
    for value in ({number * step for number in range(300)}, {number * step: 0 for number in range(300)}):
        [problem] = problems(functools.partial(saved, keeping(value)))
        assert "more than 200 elements have the same hash" in problem


def names(flow: Flow, routine: Routine) -> dict[str, Callable[[], Any]]:
    return {
        "routines['r'].events[1]": lambda: routine.define_event(1),  # type: ignore[arg-type]
        "routines['r'].events['e']": lambda: routine.define_event("e", ["\ud800"]),
        "routines['r'].stats": lambda: routine.increment_stat("\ud800"),
        "routines['r'].stats['x']": lambda: routine.increment_stat("x", math.inf),
        "outputs[0].name": lambda: flow.add_output("r", "out", "\ud800"),
        "connections[0].mapping": lambda: flow.connect("r", "out", "r", "input", {"number": "\ud800"}),
    }


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("path", names(Flow(), Plain()))
def test_a_name_that_no_file_can_hold_is_refused_by_its_path(path: str) -> None:
    flow, routine = Flow("f"), Plain()
    flow.add_routine(routine, "r")
    names(flow, routine)[path]()
    found = problems(flow.serialize)
    assert [each.partition(": ")[0] for each in found] == [path]


def test_a_flow_id_that_is_no_plain_string_is_refused() -> None:
    class Name(str):
        pass

    assert problems(Flow(flow_id=Name("prices")).serialize) == [
        "flow_id: a name is a plain string, not 'prices', a Name"
    ]


@pytest.mark.parametrize(
    "keywords", [{"timeout": math.inf}, {"timeout": math.nan}, {"type_name": ""}, {"type_name": 5}]
)
def test_a_class_keyword_that_no_file_can_hold_is_refused_by_the_class(keywords: dict[str, Any]) -> None:
    [name] = keywords
    with pytest.raises(ConfigurationError, match=f"class Wrong: {name} (has to be|can't be)"):
        type(Routine)("Wrong", (Routine,), {}, **keywords)


def test_a_handler_of_another_object_or_of_a_base_class_is_refused() -> None:
    class Base(Routine):
        def handle(self) -> None: ...

    class Derived(Base):
        def handle(self) -> None: ...

    class Helper:
        def handle(self) -> None: ...

    routine = Derived()
    routine.define_slot("base", super(Derived, routine).handle)
    routine.define_slot("other", Helper().handle)
    routine.define_slot("part", functools.partial(routine.handle))
    found = problems(lambda: saved(routine))
    slots = [f"routines['r0'].slots['{name}'].handler" for name in ("base", "other", "part")]
    assert [each.partition(": ")[0] for each in found] == slots


@pytest.mark.parametrize("text", ["READ|READ", "WRITE|READ", "READ|", "|", "READ|" * 100_000 + "READ"])
def test_a_flag_is_read_only_as_it_is_written(text: str) -> None:
    document = saved(keeping(Rights.READ | Rights.WRITE))
    document["routines"]["r0"]["attributes"]["kept"]["name"] = text
    [problem] = problems(lambda: Flow().deserialize(document))
    assert problem.startswith("routines['r0'].attributes.kept: ")


# -- a class that has changed since


def test_a_class_that_has_lost_or_got_something_says_what() -> None:
    document = saved(Holds())
    record = document["routines"]["r0"]
    record["slots"]["gone"] = {"handler": "gone", "merge": "override"}
    record["fields"]["dropped"] = 1
    del record["fields"]["number"]
    record["settings"].update(scope="job", timeout=3.0, stateless=True, concurrency=2)
    found = problems(lambda: Flow().deserialize(document))
    assert [each.partition(": ")[0] for each in found] == [
        *(f"routines['r0'].settings.{name}" for name in ("stateless", "concurrency", "scope", "timeout")),
        "routines['r0'].fields['dropped']",
        "routines['r0'].fields.number",
    ]
    del record["fields"]["dropped"]
    record["fields"]["number"] = 1
    record["settings"] = saved(Holds())["routines"]["r0"]["settings"]
    [problem] = problems(lambda: Flow().deserialize(document))
    assert problem.startswith("routines['r0'].slots['gone'].handler: ")
    assert "has no method 'gone' of its own" in problem


# -- data is never code


class Asked(Exception):
    """Something that waits to be looked at was."""


class LazyObject:
    """A proxy: whoever asks for its class makes it load what it stands for."""

    @property
    def __class__(self) -> Any:
        raise Asked

    @__class__.setter
    def __class__(self, value: Any) -> None: ...


class LazyModule(ModuleType):
    """A module that is imported when something of it is first asked for."""

    def __getattribute__(self, name: str) -> Any:
        raise Asked(name)


class LazyClass(type):
    def __getattribute__(cls, name: str) -> Any:
        if name == "__dict__":
            raise Asked(name)
        return super().__getattribute__(name)


@pytest.mark.parametrize("name", ["lazy_module:x", "module:proxy", "module:proxy.x", "module:Class.x", "proxy:x"])
def test_what_is_lazy_stays_so_when_a_document_names_it(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    module = ModuleType("module")
    vars(module).update(proxy=LazyObject(), Class=LazyClass("Class", (), {}))
    lazy: dict[str, Any] = {"module": module, "lazy_module": LazyModule("lazy_module"), "proxy": LazyObject()}
    for each, value in lazy.items():
        monkeypatch.setitem(sys.modules, each, value)
    document = saved(Plain(), keeping(0))
    document["routines"]["r0"]["type"] = name
    document["routines"]["r1"]["attributes"]["kept"] = [{"$object": name, "fields": {}}, {"$enum": name, "name": "x"}]
    document["error_handler"]["retryable_exceptions"] = [name]
    found = problems(lambda: Flow().deserialize(document))
    assert [each.partition(": ")[0] for each in found] == [
        "error_handler.retryable_exceptions[0]",
        "routines['r0'].type",
        "routines['r1'].attributes.kept[0]",
        "routines['r1'].attributes.kept[1]",
    ]


# -- files and records


def test_a_file_may_have_as_long_a_name_as_the_system_allows(tmp_path: Path) -> None:
    file = tmp_path / ("あ" * 85)
    Flow("long").save(file)
    assert Flow.load(file).flow_id == "long"


def test_the_record_of_a_job_is_no_place_for_counts_below_zero() -> None:
    with Flow("f") as flow:
        flow.add_routine(Plain(), "r")
        record = flow.run("r").serialize()
    changed = copy.deepcopy(record)
    changed["ledger"].update(pending=-1, completed=record["ledger"]["completed"] + 1)
    assert problems(lambda: JobState.deserialize(changed)) == ["ledger: it does not balance"]
