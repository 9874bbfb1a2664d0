"""Handlers that are called otherwise than where they are found: under every strategy, in copies, and when saved."""

from __future__ import annotations

import copy
import functools
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from attrs import define

from routilux_core import (
    DefinitionError,
    Flow,
    Routine,
    SerializationError,
    ShippingError,
    event,
    slot,
)
from routilux_core._remote import pickling
from routilux_core._remote.routines import Blueprint, definition_of, pickle_state

pytestmark = pytest.mark.in_processes_too

MakeFlow = Callable[..., Flow]
SECONDS = 20.0


class Notes(Routine):
    """Notes what its handlers get."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def note(self, x: Any) -> None:
        self.seen = [*self.seen, x]

    def note_with(self, label: str, x: Any) -> None:
        self.note((label, x))


def bare(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that forgets what it decorates."""

    def wrapper(self: Notes, x: Any) -> None:
        function(self, x)

    return wrapper


def bare_for_bound(method: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(x: Any) -> None:
        method(x)

    return wrapper


def from_module(self: Notes, x: Any) -> None:
    self.note(x)


class Decorated(Notes):
    @slot
    @bare
    def input(self, x: Any) -> None:
        self.note(x)


class Lambda(Notes):
    input = slot(lambda self, x: self.note(x))


class ModuleFunction(Notes):
    input = slot(from_module)


class Partial(Notes):
    input = slot(functools.partialmethod(Notes.note_with, "fixed"))


class Dispatches(Notes):
    @slot
    @functools.singledispatchmethod
    def input(self, x: Any, y: int = 0) -> None:
        self.note(("any", x, y))

    @input.register
    def _(self, x: int, y: int = 0) -> None:
        self.note(("int", x, y))


class DefinesDecorated(Notes):
    def __init__(self) -> None:
        super().__init__()
        self.define_slot("input", handler=self.process, merge_strategy=self.merge)

    class Row:
        """What its methods may make."""

    @bare
    def process(self, x: Any) -> None:
        self.note(x)

    @staticmethod
    def merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
        return new


class DefinesPrivate(Notes):
    def __init__(self) -> None:
        super().__init__()
        self.define_slot("input", handler=self.__process)

    @bare
    def __process(self, x: Any) -> None:
        self.note(x)


class DefinesPartial(Notes):
    def __init__(self) -> None:
        super().__init__()
        self.define_slot("input", handler=self.process)

    process = functools.partialmethod(Notes.note_with, "fixed")


class DefinesDispatching(Notes):
    def __init__(self) -> None:
        super().__init__()
        self.define_slot("input", handler=self.process)

    @functools.singledispatchmethod
    def process(self, x: Any) -> None:
        self.note(x)


class DefinesInherited(Notes):
    """Its handler is the method of the base, which it has hidden under its own."""

    def __init__(self) -> None:
        super().__init__()
        self.define_slot("input", handler=super().note)

    def note(self, x: Any) -> None:
        raise AssertionError("this one was not asked for")


class DefinesPartialOfMethod(Notes):
    def __init__(self) -> None:
        super().__init__()
        self.define_slot("input", handler=functools.partial(self.note_with, "fixed"))


class DefinesClosure(Notes):
    def __init__(self) -> None:
        super().__init__()
        self.define_slot("input", handler=lambda x: self.note(x))


class DefinesNestedClosure(Notes):
    def __init__(self) -> None:
        super().__init__()
        self.define_slot("input", handler=functools.partial(bare_for_bound(bare_for_bound(self.note))))


class DefinesDefault(Notes):
    def __init__(self) -> None:
        super().__init__()
        self.define_slot("input", handler=lambda x, me=self: me.note(x))


class DefinesKeywordDefault(Notes):
    def __init__(self) -> None:
        super().__init__()
        self.define_slot("input", handler=lambda x, *, me=self: me.note(x))


class DefinesRecursive(Notes):
    def __init__(self) -> None:
        super().__init__()

        def handler(x: Any) -> None:
            handler(x[0]) if isinstance(x, list) else self.note(x)

        self.define_slot("input", handler=handler)


class CallsWhatItHolds(Notes):
    """Its handler goes through code that it keeps in attributes."""

    def __init__(self) -> None:
        super().__init__()
        counts: list[int] = []
        self.count = lambda: counts.append(len(counts))
        self.steps: list[Any] = [lambda x: self.note(x), self.note]
        self.table: dict[str, Any] = {"first": [lambda x: self.steps[0](x)], "self": self}
        self.table["table"] = self.table
        self.counts = counts
        self.last = functools.partial(lambda me, x: me.steps[1](x), self)

    @slot
    def input(self, x: Any) -> None:
        assert self.table["self"] is self
        self.count()
        assert self.counts[-1] == len(self.counts) - 1
        self.table["table"]["first"][0](x)
        self.last(x)


@define
class Helper:
    got: list[Any]

    def handle(self, x: Any) -> None:
        self.got.append(x)

    @bare
    def handle_oddly(self, x: Any) -> None:
        self.got.append(x)


class DefinesMethodOfHelper(Notes):
    def __init__(self) -> None:
        super().__init__()
        self.helper = Helper(self.seen)
        self.define_slot("input", handler=self.helper.handle)


class DefinesOddMethodOfHelper(Notes):
    def __init__(self) -> None:
        super().__init__()
        self.helper = Helper(self.seen)
        self.define_slot("input", handler=self.helper.handle_oddly)


BY_NAME: dict[type[Notes], list[Any]] = {
    Decorated: [1, "a"],
    Lambda: [1, "a"],
    ModuleFunction: [1, "a"],
    Partial: [("fixed", 1), ("fixed", "a")],
    Dispatches: [("int", 1, 0), ("any", "a", 0)],
    DefinesDecorated: [1, "a"],
    DefinesPrivate: [1, "a"],
    DefinesPartial: [("fixed", 1), ("fixed", "a")],
    DefinesDispatching: [1, "a"],
}
CODE: dict[type[Notes], list[Any]] = {
    DefinesInherited: [1, "a"],
    DefinesPartialOfMethod: [("fixed", 1), ("fixed", "a")],
    DefinesClosure: [1, "a"],
    DefinesNestedClosure: [1, "a"],
    DefinesDefault: [1, "a"],
    DefinesKeywordDefault: [1, "a"],
    DefinesRecursive: [1, "a"],
    DefinesMethodOfHelper: [1, "a"],
    DefinesOddMethodOfHelper: [1, "a"],
}
LOCAL = (DefinesClosure, DefinesNestedClosure, DefinesDefault, DefinesKeywordDefault, DefinesRecursive)
ALL = BY_NAME | CODE
every_kind = pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)


def run(flow: Flow, routine: Routine) -> Any:
    """Run two events, each as a job; return the routine of the last."""
    if "r" not in flow.routines:
        flow.add_routine(routine, "r")
    for x in (1, "a"):
        job = flow.execute("r", {"x": x}, slot="input")
        assert job.wait(SECONDS)
        assert [failure.exception for failure in job.errors] == []
    return job.routines["r"]


@every_kind
def test_a_handler_is_bound_by_where_it_was_found(
    make_flow: MakeFlow, strategy: dict[str, Any], kind: type[Notes]
) -> None:
    routine = kind()
    run(make_flow(**strategy), routine)
    assert routine.seen == ALL[kind]


@every_kind
def test_by_reference_a_handler_is_sent_as_what_it_is_or_refused(
    monkeypatch: pytest.MonkeyPatch, kind: type[Notes]
) -> None:
    monkeypatch.setattr(pickling, "has_cloudpickle", lambda: False)
    routine = kind()
    try:
        parts = definition_of(routine, "r"), pickle_state(routine, "r")
    except ShippingError:
        assert kind in LOCAL
        return
    ready = Blueprint(parts[0], "r").build(parts[1], {})
    for x in (1, "a"):
        ready.calls["input"]({"x": x})
    assert (ready.routine.seen, routine.seen) == (ALL[kind], [])  # type: ignore[attr-defined]


@every_kind
def test_in_a_job_of_its_own_a_handler_is_that_of_the_copy(
    make_flow: MakeFlow, strategy: dict[str, Any], kind: type[Notes]
) -> None:
    routine = type("Own", (kind,), {}, scope="job")()
    assert run(make_flow(**strategy), routine).seen == ALL[kind][1:]
    assert routine.seen == []


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda routine: pickle.loads(pickle.dumps(routine))])
@every_kind
def test_a_copy_of_a_routine_works_on_itself(make_flow: MakeFlow, kind: type[Notes], how: Any) -> None:
    routine = kind()
    try:
        twin = how(routine)
    except (pickle.PicklingError, AttributeError):
        assert kind in CODE  # a function that no name leads to
        return
    run(make_flow(), routine)
    assert routine.seen == ALL[kind]
    if how is copy.copy and "Helper" in kind.__name__:
        return  # the two share the helper, as they share the list
    assert twin.seen == []
    run(make_flow(), twin)
    assert twin.seen == ALL[kind]


def test_a_copy_of_a_routine_has_code_of_its_own_in_its_attributes(make_flow: MakeFlow) -> None:
    routine = CallsWhatItHolds()
    twin = copy.deepcopy(routine)
    run(make_flow(), twin)
    assert routine.seen == []
    assert (twin.seen, twin.counts, routine.counts) == ([1, 1, "a", "a"], [0, 1], [])


def test_in_a_job_of_its_own_the_code_in_attributes_is_the_copys(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    routine = type("Own", (CallsWhatItHolds,), {}, scope="job")()
    assert run(make_flow(**strategy), routine).seen == ["a", "a"]
    assert routine.seen == []


@pytest.mark.parametrize("kind", BY_NAME, ids=lambda kind: kind.__name__)
def test_a_handler_is_saved_by_the_name_under_which_the_class_has_it(make_flow: MakeFlow, kind: type[Notes]) -> None:
    flow = make_flow()
    flow.add_routine(kind(), "r")
    document = json.loads(json.dumps(flow.serialize()))
    loaded = make_flow()
    loaded.deserialize(document)
    assert loaded.serialize() == document
    assert run(loaded, loaded.routines["r"]).seen == ALL[kind]


@pytest.mark.parametrize("kind", CODE, ids=lambda kind: kind.__name__)
def test_a_handler_that_the_class_does_not_have_is_not_saved(make_flow: MakeFlow, kind: type[Notes]) -> None:
    flow = make_flow()
    flow.add_routine(kind(), "r")
    with pytest.raises(SerializationError, match=r"slots\['input'\]\.handler: .* is no method of"):
        flow.serialize()


def test_the_method_of_another_routine_is_no_handler() -> None:
    other = Decorated()
    with pytest.raises(DefinitionError, match=r"Notes, slot 'input': 'note' is a method of another routine"):
        Notes().define_slot("input", handler=other.note)


class Hidden(Notes):
    """Has attributes that hide methods of its class."""

    def __init__(self) -> None:
        super().__init__()
        self.define_slot("defined", handler=self.process)
        self.process = None  # type: ignore[assignment, method-assign]
        self.input = None  # type: ignore[assignment, method-assign]

    @slot
    def input(self, x: Any) -> None:
        self.note(("input", x))

    def process(self, x: Any) -> None:
        self.note(("process", x))


def test_an_attribute_never_takes_the_place_of_a_method(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow = make_flow(**strategy)
    routine = Hidden()
    run(flow, routine)
    job = flow.execute("r", {"x": 2}, slot="defined")
    assert job.wait(SECONDS)
    assert routine.seen == [("input", 1), ("input", "a"), ("process", 2)]


def test_an_attribute_that_hides_a_method_is_not_saved(make_flow: MakeFlow) -> None:
    flow = make_flow()
    flow.add_routine(Hidden(), "r")
    with pytest.raises(SerializationError) as refused:
        flow.serialize()
    assert [str(each) for each in refused.value.problems] == [
        f"routines['r'].attributes[{name!r}]: an attribute that hides a method of that name can't be saved"
        for name in ("process", "input")
    ]


@pytest.mark.parametrize("name", ["note", "process", "merge", "Row"])
def test_a_file_cannot_put_an_object_where_a_method_is(make_flow: MakeFlow, name: str) -> None:
    flow = make_flow()
    flow.add_routine(DefinesDecorated(), "r")
    document = flow.serialize()
    document["routines"]["r"]["attributes"][name] = "chosen by the file"
    with pytest.raises(SerializationError, match=rf"attributes\['{name}'\]: no .* it is a method"):
        make_flow().deserialize(document)


# -- slots and events that a routine keeps in attributes


class Keeps(Notes):
    """Keeps what `define_slot` and `define_event` return, as a document that we start from has it."""

    declared = event("x")

    def __init__(self) -> None:
        super().__init__()
        self.input_slot = self.define_slot("input", handler=self.process)
        self.output_event = self.define_event("output", ["x"])
        self.ports = {
            "in": [self.input_slot, self.get_slot("taken")],
            "out": (self.output_event, self.get_event("declared")),
        }

    @slot
    def taken(self, x: Any) -> None: ...

    def process(self, x: Any) -> None:
        assert self.knows_its_ports()
        self.note(x)
        self.emit(self.output_event.name, x=x)

    def knows_its_ports(self) -> bool:
        inputs, outputs = self.ports["in"], self.ports["out"]
        return (
            self.input_slot is self.get_slot("input") is inputs[0]
            and self.output_event is self.get_event("output") is outputs[0]
            and inputs[1] is self.get_slot("taken")
            and outputs[1] is self.get_event("declared")
            and self.input_slot.handler.__self__ is self  # type: ignore[attr-defined]
        )


@pytest.mark.parametrize("scope", ["flow", "job"])
def test_a_slot_or_an_event_in_an_attribute_stays_what_it_is(
    make_flow: MakeFlow, strategy: dict[str, Any], scope: str
) -> None:
    routine: Any = Keeps() if scope == "flow" else type("Own", (Keeps,), {}, scope="job")()
    mine = run(make_flow(**strategy), routine)
    assert mine.seen == ([1, "a"] if scope == "flow" else ["a"])
    assert mine.knows_its_ports()
    assert routine.knows_its_ports()


@pytest.mark.parametrize("how", [copy.deepcopy, lambda routine: pickle.loads(pickle.dumps(routine))])
def test_a_copy_has_its_own_slots_in_its_attributes(make_flow: MakeFlow, how: Any) -> None:
    routine = Keeps()
    twin = how(routine)
    assert twin.knows_its_ports()
    assert twin.input_slot is not routine.input_slot
    run(make_flow(), twin)
    assert (twin.seen, routine.seen) == ([1, "a"], [])


def test_slots_and_events_in_attributes_are_saved_by_name(make_flow: MakeFlow) -> None:
    flow = make_flow()
    flow.add_routine(Keeps(), "r")
    document = json.loads(json.dumps(flow.serialize()))
    assert document["routines"]["r"]["attributes"]["input_slot"] == {"$slot": "input"}
    loaded = make_flow()
    loaded.deserialize(document)
    assert loaded.serialize() == document
    again: Any = loaded.routines["r"]
    assert again.knows_its_ports()
    assert again.declared is again.get_event("declared")
    assert run(loaded, again).seen == [1, "a"]


@pytest.mark.parametrize(("saved", "problem"), [
    ({"$slot": "inptu"}, "LookupError: \"the routine has no slot 'inptu'\""),
    ({"$event": "input"}, "LookupError: \"the routine has no event 'input'\""),
    ({"$slot": ["input"]}, "TypeError: 'a $slot is a string, not list'"),
])  # fmt: skip
def test_a_slot_that_is_not_there_is_a_problem_with_a_path(make_flow: MakeFlow, saved: Any, problem: str) -> None:
    flow = make_flow()
    flow.add_routine(Keeps(), "r")
    document = flow.serialize()
    document["routines"]["r"]["attributes"]["input_slot"] = saved
    with pytest.raises(SerializationError) as refused:
        make_flow().deserialize(document)
    assert [str(each) for each in refused.value.problems] == [f"routines['r'].attributes.input_slot: {problem}"]


def test_the_slot_of_another_routine_is_not_saved(make_flow: MakeFlow) -> None:
    flow = make_flow()
    flow.add_routine(Keeps(), "r")
    flow.add_routine(Keeps(), "s")
    routine: Any = flow.routines["r"]
    routine.input_slot = flow.routines["s"].get_slot("input")
    with pytest.raises(SerializationError, match=r"attributes\.input_slot: .* is no slot of the routine that holds it"):
        flow.serialize()
