"""What a routine holds, wherever its class keeps it, and what a routine class can be: in jobs, copies and files."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import sys
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import attrs
import pytest

from routilux_core import DefinitionError, Flow, Routine, SerializationError, event, field, per_worker, slot

MakeFlow = Callable[..., Flow]
SECONDS = 20.0
T = TypeVar("T")


class Mixin:
    """Keeps its attributes in slots, one of them private to it."""

    __slots__ = ("__hidden", "never_set", "shared")

    def hide(self, value: Any) -> None:
        self.__hidden = value

    def hidden(self) -> Any:
        return self.__hidden


class InSlots(Mixin, Routine):
    __slots__ = ("calls", "gone")
    kept: int = 0
    shared: str = "a field, kept in the slot of the mix-in"

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self.calls: list[Any] = []
        self.gone = "soon"
        self.beside = 1
        self.hide(0)

    @slot
    def input(self, x: Any) -> None:
        self.calls.append(x)
        self.kept += 1
        self.hide(x)
        self.beside += 1
        self.shared = str(x)
        if hasattr(self, "gone"):
            del self.gone


class OnlyMixin(Routine, Mixin):
    @slot
    def input(self, x: Any) -> None:
        self.shared = [*getattr(self, "shared", ()), x]
        self.hide(x)


class SealedInSlots(Mixin, Routine, stateless=True):
    out = event("x")

    def __init__(self) -> None:
        super().__init__()
        self.hide(5)

    @slot
    def input(self, x: int) -> None:
        self.emit("out", x=x + self.hidden())


@attrs.define
class DefinedMixin:
    """attrs has given it a `__getstate__`, which knows its own fields alone."""

    total: int = 0


@dataclasses.dataclass(slots=True, frozen=True)
class FrozenMixin:
    start: int = 0


class WithDefinedMixin(Routine, DefinedMixin):
    @slot
    def input(self, x: int) -> None:
        self.total += x
        self.shared = x


class WithFrozenMixin(FrozenMixin, Routine):
    @slot
    def input(self, x: int) -> None:
        vars(self)["shared"] = x


class Box(Routine, Generic[T]):
    content: T | None = None
    calls: list[T] = field(factory=list)

    @slot
    def input(self, x: T) -> None:
        self.content = x
        self.calls.append(x)


class IntBox(Box[int]):
    pass


def facts(routine: Any) -> dict[str, Any]:
    names = ("calls", "kept", "shared", "gone", "beside", "never_set", "_Mixin__hidden", "content", "total", "start")
    return {name: getattr(routine, name) for name in names if hasattr(routine, name)}


def run(flow: Flow, routine: Routine, *given: Any) -> Any:
    if "r" not in flow.routines:
        flow.add_routine(routine, "r")
    for x in given:
        job = flow.execute("r", {"x": x}, slot="input")
        assert job.wait(SECONDS)
        assert [failure.exception for failure in job.errors] == []
    return job.routines["r"]


AFTER = {"calls": [1, 2], "kept": 2, "shared": "2", "beside": 3, "_Mixin__hidden": 2}
KINDS: list[tuple[Callable[[], Any], dict[str, Any]]] = [
    (InSlots, AFTER),
    (OnlyMixin, {"shared": [1, 2], "_Mixin__hidden": 2}),
    (WithDefinedMixin, {"shared": 2, "total": 3}),
    (WithFrozenMixin, {"shared": 2, "start": 0}),
    (lambda: Box[int](content=0), {"calls": [1, 2], "content": 2}),
    (IntBox, {"calls": [1, 2], "content": 2}),
]
IDS = ["slots", "mix-in", "mix-in of attrs", "mix-in of dataclasses", "Box[int]", "IntBox"]
every_kind = pytest.mark.parametrize(("make", "after"), KINDS, ids=IDS)


@every_kind
def test_every_attribute_is_there_after_a_job(
    make_flow: MakeFlow, strategy: dict[str, Any], make: Callable[[], Any], after: dict[str, Any]
) -> None:
    routine = make()
    assert run(make_flow(**strategy), routine, 1, 2) is routine
    assert facts(routine) == after


@every_kind
def test_a_job_of_its_own_has_every_attribute(
    make_flow: MakeFlow, strategy: dict[str, Any], make: Callable[[], Any], after: dict[str, Any]
) -> None:
    cls = type(make())
    own = type(cls.__name__, (cls,), {}, scope="job")
    routine = own()
    before = facts(routine)
    expected = {**after, **{name: value[:1] for name, value in after.items() if isinstance(value, list)}}
    expected |= {"kept": 1, "shared": "1", "beside": 2} if "kept" in after else {}
    expected |= {name: 1 for name in ("_Mixin__hidden", "content", "total") if name in after}
    expected |= {"shared": 1} if after.get("shared") == 2 else {}
    assert facts(run(make_flow(**strategy), routine, 1)) == expected
    assert facts(routine) == before


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda routine: pickle.loads(pickle.dumps(routine))])
@every_kind
def test_a_copy_has_every_attribute(
    make_flow: MakeFlow, make: Callable[[], Any], after: dict[str, Any], how: Callable[[Any], Any]
) -> None:
    routine = run(make_flow(), make(), 1)
    twin = how(routine)
    assert facts(twin) == facts(routine)
    assert facts(run(make_flow(), twin, 2)) == after


@every_kind
def test_every_attribute_is_saved(make_flow: MakeFlow, make: Callable[[], Any], after: dict[str, Any]) -> None:
    flow = make_flow()
    routine = run(flow, make(), 1)
    document = json.loads(json.dumps(flow.serialize()))
    again = make_flow()
    again.deserialize(document)
    assert again.serialize() == document
    assert facts(again.routines["r"]) == facts(routine)
    assert facts(run(again, again.routines["r"], 2)) == after


def test_a_stateless_routine_has_what_it_keeps_in_slots(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow = make_flow(**strategy)
    flow.add_routine(SealedInSlots(), "r")
    flow.add_output("r", "out", "out")
    job = flow.execute("r", {"x": 1}, slot="input")
    assert job.wait(SECONDS)
    assert job.outputs == {"out": [{"x": 6}]}
    assert [failure.exception for failure in job.errors] == []


def test_what_a_value_keeps_in_a_private_slot_of_a_base_is_not_dropped(make_flow: MakeFlow) -> None:
    @dataclasses.dataclass
    class Value(Mixin):
        x: int

    flow = make_flow()
    routine = Box[Any](content=Value(1))
    routine.content.hide("secret")
    flow.add_routine(routine, "r")
    with pytest.raises(SerializationError, match=r"content\._Mixin__hidden: is no field of"):
        flow.serialize()


def test_what_a_value_keeps_in_a_slot_of_a_base_of_another_kind_is_not_dropped(make_flow: MakeFlow) -> None:
    @dataclasses.dataclass(slots=True)
    class Base:
        start: int = 0

    @attrs.define
    class Value(Base):
        x: int

    flow = make_flow()
    value = Value(1)
    value.start = 7
    flow.add_routine(Box[Any](content=value), "r")
    with pytest.raises(SerializationError, match=r"content\.start: is no field of"):
        flow.serialize()


def test_a_type_that_is_given_for_checkers_is_not_saved(make_flow: MakeFlow) -> None:
    flow = make_flow()
    flow.add_routine(Box[int](), "r")
    assert flow.serialize()["routines"]["r"]["attributes"] == {}


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the syntax came with Python 3.12")
def test_a_routine_may_take_type_parameters(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    found: dict[str, Any] = {"Routine": Routine, "slot": slot, "__name__": __name__}
    exec("class New[T](Routine):\n    got: T | None = None\n    @slot\n    def input(self, x: T): self.got = x", found)
    assert run(make_flow(**strategy), found["New"][int](), 3).got == 3


# -- what no routine class can be


def again(decorate: Callable[..., Any]) -> None:
    @decorate
    class Fetch(Routine, stateless=True):
        url: str
        tries: int = 3

    Fetch(url="u")


def again_in_a_base(decorate: Callable[..., Any]) -> None:
    @decorate
    class Fetch(Routine):
        url: str

    class Derived(Fetch):
        pass


@pytest.mark.parametrize("define", [again, again_in_a_base])
@pytest.mark.parametrize(
    "decorate",
    [
        dataclasses.dataclass,
        dataclasses.dataclass(slots=True),
        dataclasses.dataclass(eq=False, init=False),
        attrs.define,
        attrs.define(slots=False),
        attrs.define(slots=False, init=False, eq=False),
    ],
)
def test_a_decorator_that_makes_a_routine_class_anew_is_refused(define: Any, decorate: Callable[..., Any]) -> None:
    with pytest.raises(DefinitionError, match=r"class Fetch .* decorator.* leave @dataclass or @attrs\.define out"):
        define(decorate)


def field_and_slot() -> None:
    class Wrong(Routine):
        __slots__ = ("url",)
        url: str


def field_over_a_handler() -> None:
    class Wrong(InSlots):
        input: Any = None  # type: ignore[assignment]


def field_of_dataclasses() -> None:
    class Wrong(Routine):
        rows: list[int] = dataclasses.field(default_factory=list)


def forgotten_parentheses() -> None:
    class Wrong(Routine):
        out = event


def forgotten_factory() -> None:
    class Wrong(Routine):
        client = per_worker


def slot_with_a_name() -> None:
    class Wrong(Routine):
        @slot("take")  # type: ignore[call-overload]
        def take(self) -> None: ...


def mistyped_keyword() -> None:
    class Wrong(Routine, statless=True):  # type: ignore[call-arg]
        pass


@pytest.mark.parametrize(
    ("define", "words"),
    [
        (field_and_slot, "class Wrong: 'url' is a field and in __slots__"),
        (field_over_a_handler, "class Wrong: the field 'input' would hide the handler"),
        (field_of_dataclasses, "class Wrong: 'rows' is a field of dataclasses; take `field` from routilux_core"),
        (forgotten_parentheses, r"Wrong.out is the function 'event' itself: call it, as in out = event\("),
        (forgotten_factory, "Wrong.client is the function 'per_worker' itself"),
        (slot_with_a_name, "@slot is put on a method.* not on 'take'"),
        (mistyped_keyword, "class Wrong: unknown class keyword 'statless'; did you mean 'stateless'"),
    ],
)
def test_what_no_routine_class_can_have_is_refused_where_it_is_written(define: Any, words: str) -> None:
    with pytest.raises(DefinitionError, match=words):
        define()
