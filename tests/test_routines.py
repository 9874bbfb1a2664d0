"""Routines: what a class declares, what an instance keeps, and what `stateless` means."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest

from routilux_core import (
    ConfigurationError,
    DefinitionError,
    ErrorHandler,
    ErrorStrategy,
    Event,
    Flow,
    Routine,
    SealedRoutineError,
    Slot,
    UnknownNameError,
    event,
    field,
    slot,
)

pytestmark = pytest.mark.in_processes_too

MakeFlow = Callable[..., Flow]
SECONDS = 20.0


class Scale(Routine):
    """Everything declared: fields, a slot, an event."""

    factor: float
    offset: float = 0.0
    seen: list[float] = field(factory=list)
    scaled = event("value")

    @slot
    def value(self, value: float) -> None:
        self.seen.append(value)
        self.emit("scaled", value=value * self.factor + self.offset)


class Imperative(Routine):
    """The same with calls."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.define_slot("value", handler=self.work)
        self.define_event("scaled", ["value"])

    def work(self, value: float) -> None:
        self.emit("scaled", value=value * self.factor)


class FieldsAndInit(Routine):
    """Fields and an own `__init__` go together."""

    factor: float = 1.0
    scaled = event("value")

    def __init__(self, label: str, **fields: Any) -> None:
        super().__init__(**fields)
        self.label = label

    def __call__(self, value: float) -> None:
        self.emit("scaled", value=value * self.factor)


def result_of(flow: Flow, routine: Routine, **params: Any) -> Any:
    flow.add_routine(routine, "it")
    flow.add_output("it", "scaled", "result")
    job = flow.execute("it", params)
    assert job.wait(SECONDS)
    assert job.errors == []
    return job.outputs["result"][0]["value"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Scale(factor=3.0),
        lambda: Imperative(3.0),
        lambda: FieldsAndInit("thrice", factor=3.0),
    ],
    ids=["declarative", "imperative", "fields and an own __init__"],
)
def test_all_ways_to_write_a_routine_do_the_same(
    make_flow: MakeFlow, strategy: dict[str, Any], make: Callable[[], Routine]
) -> None:
    assert result_of(make_flow(**strategy), make(), value=2.0) == 6.0


def test_fields_are_keyword_only_configuration() -> None:
    scale = Scale(factor=2.0)
    assert (scale.factor, scale.offset, scale.seen) == (2.0, 0.0, [])
    with pytest.raises(TypeError, match="factor"):
        Scale()
    with pytest.raises(TypeError, match="fctor"):
        Scale(fctor=1.0)
    with pytest.raises(TypeError):
        Scale(2.0)


def test_a_plain_routine_takes_no_fields() -> None:
    with pytest.raises(TypeError, match="factor"):
        Routine(factor=2.0)


def test_instances_do_not_share_what_a_factory_made() -> None:
    assert Scale(factor=1.0).seen is not Scale(factor=1.0).seen


def test_a_validator_checks_a_field_also_when_it_is_assigned() -> None:
    class Checked(Routine):
        factor: float = field(default=1.0, validator=attrs.validators.gt(0))

    checked = Checked(factor=2.0)
    with pytest.raises(ValueError, match="factor"):
        checked.factor = -1.0
    with pytest.raises(ValueError, match="factor"):
        Checked(factor=0)


def test_a_subclass_has_fields_slots_and_events_of_its_bases(make_flow: MakeFlow) -> None:
    class Louder(Scale):
        gain: float = 10.0
        clipped = event("value")

        @slot
        def level(self, level: float) -> None: ...

    louder = Louder(factor=2.0, gain=3.0)
    assert [louder.get_slot(name).name for name in ("value", "level")] == ["value", "level"]
    assert [louder.get_event(name).name for name in ("scaled", "clipped")] == ["scaled", "clipped"]
    flow = make_flow()
    flow.add_routine(louder, "louder")
    flow.add_output("louder", "scaled")
    assert flow.run("louder", {"value": 2.0}, slot="value").outputs == {"louder.scaled": [{"value": 4.0}]}


def test_a_subclass_may_replace_a_handler(make_flow: MakeFlow) -> None:
    class Silent(Scale):
        @slot(merge_strategy="append")
        def value(self, value: list[float]) -> None:  # type: ignore[override]
            self.seen.append(len(value))

    silent = Silent(factor=2.0)
    assert silent.get_slot("value").merge_strategy == "append"
    flow = make_flow()
    flow.add_routine(silent, "silent")
    flow.run("silent", {"value": 5.0})
    assert silent.seen == [1]


def test_a_handler_that_a_subclass_overrides_without_saying_slot_again_still_is_the_slot(make_flow: MakeFlow) -> None:
    class Silent(Scale):
        def value(self, value: float) -> None:
            self.seen.append(-value)

    silent = Silent(factor=2.0)
    flow = make_flow()
    flow.add_routine(silent, "silent")
    flow.run("silent", {"value": 5.0})
    assert silent.seen == [-5.0]


def test_the_handler_of_a_slot_is_the_method_of_the_same_name_by_default(make_flow: MakeFlow) -> None:
    class Works(Routine):
        got = 0

        def __init__(self) -> None:
            super().__init__()
            made = self.define_slot("work")
            assert isinstance(made, Slot)
            assert isinstance(self.define_event("done", ["result"]), Event)

        def work(self, value: int) -> None:
            self.got = value

    works = Works()
    flow = make_flow()
    flow.add_routine(works)
    flow.run("works", {"value": 7})
    assert works.got == 7
    with pytest.raises(DefinitionError, match=r"'play'.*define a method 'play'"):
        works.define_slot("play")


def test_asking_for_a_slot_or_event_that_is_not_there_says_what_is() -> None:
    with pytest.raises(UnknownNameError, match=r"slot 'vlaue'.*did you mean 'value'") as caught:
        Scale(factor=1.0).get_slot("vlaue")
    assert (caught.value.asked, caught.value.known) == ("vlaue", ["value"])
    with pytest.raises(UnknownNameError, match=r"event 'scale'.*did you mean 'scaled'"):
        Scale(factor=1.0).get_event("scale")


@pytest.mark.in_this_process("collects in a list of this process")
def test_slots_and_events_may_come_after_the_routine_was_added(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow = make_flow(**strategy)
    late, calls = Routine(), []
    flow.add_routine(late, "late")
    late.define_slot("start", lambda: late.emit("done", value=1))
    late.define_slot("end", calls.append)
    late.define_event("done", ["value"])
    flow.connect("late", "done", "late", "end", {"value": "object"})
    assert flow.execute("late", slot="start").wait(SECONDS)
    assert calls == [1]


def test_call_is_the_entry_also_beside_slots(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    class Starts(FieldsAndInit):
        @slot
        def value(self, value: float) -> None:
            raise AssertionError("the entry is __call__")

    assert result_of(make_flow(**strategy), Starts("x", factor=2.0), value=4.0) == 8.0


def test_attributes_last_from_job_to_job(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow, scale = make_flow(**strategy), Scale(factor=1.0)
    flow.add_routine(scale, "scale")
    for value in (1.0, 2.0, 3.0):
        assert flow.execute("scale", {"value": value}).wait(SECONDS)
    assert scale.seen == [1.0, 2.0, 3.0]


# -- the routine's own counters


@pytest.fixture
def short_switches() -> Iterator[None]:
    """Let threads take turns as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_counting_from_16_threads_loses_nothing(short_switches: None) -> None:
    routine, start = Routine(), threading.Barrier(16)

    def count() -> None:
        start.wait(SECONDS)
        for _ in range(2_000):
            routine.increment_stat("events")
            routine.increment_stat("bytes", 3)

    threads = [threading.Thread(target=count) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert routine.stats() == {"events": 32_000, "bytes": 96_000}


def test_counters_can_be_read_and_forgotten() -> None:
    routine = Routine()
    assert routine.stats() == {}
    assert [routine.increment_stat("n"), routine.increment_stat("n", 0.5), routine.increment_stat("n", -1)] == [
        1,
        1.5,
        0.5,
    ]
    routine.stats()["n"] = 99
    assert routine.stats() == {"n": 0.5}
    routine.reset_stats()
    assert routine.stats() == {}


# -- stateless, and the other class keywords


class Stateless(Routine, stateless=True):
    url: str = "http://127.0.0.1/"

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self.prepared = self.url.upper()

    def __call__(self) -> None: ...


def test_a_stateless_routine_is_sealed_when_it_is_added(make_flow: MakeFlow) -> None:
    routine = Stateless()
    routine.url = "http://127.0.0.2/"
    routine.prepared += "X"
    make_flow().add_routine(routine)
    for name in ("url", "prepared", "new"):
        with pytest.raises(SealedRoutineError, match=f"Stateless.{name}") as caught:
            setattr(routine, name, "changed")
        assert caught.value.name == name
    assert (routine.url, routine.prepared) == ("http://127.0.0.2/", "HTTP://127.0.0.1/X")
    assert not hasattr(routine, "new")


def test_a_routine_of_a_refused_add_is_not_sealed(make_flow: MakeFlow) -> None:
    flow, routine = make_flow(), Stateless()
    flow.add_routine(Stateless(), "first")
    with pytest.raises(ConfigurationError):
        flow.add_routine(routine, "first")
    routine.url = "free"
    flow.add_routine(routine, "second")


def test_stateless_is_not_inherited(make_flow: MakeFlow) -> None:
    class Remembers(Stateless):
        calls: int = 0

        def __call__(self) -> None:
            self.calls += 1

    remembers = Remembers()
    flow = make_flow()
    flow.add_routine(remembers, "it")
    flow.run("it")
    flow.run("it")
    assert remembers.calls == 2


def test_a_stateless_subclass_of_a_routine_with_a_validator_is_sealed(make_flow: MakeFlow) -> None:
    class Checked(Routine):
        factor: float = field(default=1.0, validator=attrs.validators.gt(0))

    class Sealed(Checked, stateless=True):
        def __call__(self) -> None: ...

    sealed = Sealed(factor=2.0)
    make_flow().add_routine(sealed)
    with pytest.raises(SealedRoutineError):
        sealed.factor = 3.0
    assert sealed.factor == 2.0


def test_a_routine_with_state_below_a_stateless_one_checks_its_fields_again() -> None:
    class Checked(Stateless):
        factor: float = field(default=1.0, validator=attrs.validators.gt(0))

    checked = Checked()
    with pytest.raises(ValueError, match="factor"):
        checked.factor = -1.0


@pytest.mark.parametrize(
    ("keywords", "names"),
    [
        ({"stateless": True, "concurrency": 0}, ("concurrency", "not 0")),
        ({"stateless": True, "concurrency": True}, ("concurrency", "not True")),
        ({"stateless": True, "concurrency": 1.5}, ("concurrency", "not 1.5")),
        ({"concurrency": 2}, ("concurrency", "stateless=True")),
        ({"scope": "jobs"}, ("'jobs'", "did you mean 'job'")),
        ({"timeout": 0}, ("timeout", "not 0")),
        ({"timeout": "1"}, ("timeout", "not '1'")),
    ],
)
def test_a_wrong_class_keyword_is_refused(keywords: dict[str, Any], names: tuple[str, ...]) -> None:
    with pytest.raises((ConfigurationError, UnknownNameError)) as caught:
        type("Wrong", (Routine,), {}, **keywords)
    assert "class Wrong" in str(caught.value)
    assert [name for name in names if name not in str(caught.value)] == [], str(caught.value)


# -- its error policy


def test_a_policy_can_be_an_object_an_enum_or_a_name() -> None:
    routine = Routine()
    assert routine.get_error_handler() is None
    handler = ErrorHandler("skip")
    routine.set_error_handler(handler)
    assert routine.get_error_handler() is handler
    for given in (ErrorStrategy.CONTINUE, "continue", "CONTINUE"):
        routine.set_error_handler(given)
        assert routine.get_error_handler() == ErrorHandler(ErrorStrategy.CONTINUE)
    routine.set_error_handler(None)
    assert routine.get_error_handler() is None
    with pytest.raises(ConfigurationError, match=r"'ignore'.*'continue'"):
        routine.set_error_handler("ignore")
    with pytest.raises(ConfigurationError, match="not 3"):
        routine.set_error_handler(3)  # type: ignore[arg-type]


def test_optional_means_continue_and_critical_means_retry_then_stop() -> None:
    routine = Routine()
    routine.set_as_optional()
    assert routine.get_error_handler() == ErrorHandler("continue")
    routine.set_as_critical(max_retries=5, retry_delay=0.1, retry_backoff=3.0)
    assert routine.get_error_handler() == ErrorHandler("retry", 5, 0.1, 3.0, after_retries="stop")


def test_cancelled_is_false_outside_a_handler() -> None:
    assert Routine().cancelled is False


def test_a_handler_may_be_a_partial_of_a_method(make_flow: MakeFlow) -> None:
    class Works(Routine):
        got: int = 0

        def work(self, factor: int, value: int) -> None:
            self.got = factor * value

    works = Works()
    works.define_slot("twice", functools.partial(works.work, 2))
    flow = make_flow()
    flow.add_routine(works, "works")
    flow.run("works", {"value": 4})
    assert works.got == 8
