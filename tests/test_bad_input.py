"""Bad input is refused at the call that is wrong, by name, and the flow runs afterwards as if nothing had been."""

from __future__ import annotations

import contextvars
import sys
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import attrs
import pytest

from routilux_core import (
    ActivationRecord,
    CapabilityError,
    ConfigurationError,
    DefinitionError,
    DuplicateNameError,
    EmitError,
    Flow,
    FlowStateError,
    PayloadError,
    Routine,
    SealedRoutineError,
    SerializationError,
    UnknownNameError,
    UnknownStrategyError,
    event,
    field,
    slot,
)

MakeFlow = Callable[..., Flow]
SECONDS = 20.0


class Double(Routine):
    doubled = event("result")

    @slot
    def number(self, number: int) -> None:
        self.emit("doubled", result=2 * number)


class Keep(Routine):
    kept: list[int] = field(factory=list)

    @slot
    def value(self, result: int) -> None:
        self.kept.append(result)


class TwoSlots(Routine):
    @slot
    def left(self) -> None: ...

    @slot
    def right(self) -> None: ...


class NoSlots(Routine):
    done = event()


class Fixed(Routine, stateless=True):
    url: str = "http://127.0.0.1/"

    @slot
    def number(self, number: int) -> None: ...


class FixedAndChecked(Routine, stateless=True):
    count: int = field(default=1, validator=attrs.validators.instance_of(int))

    @slot
    def number(self, number: int) -> None:
        self.count = number


class Awaits(Routine):
    @slot
    async def number(self, number: int) -> None: ...


class Calls(Routine):
    """Does in its handler what the test says, with itself."""

    done = event("result")

    def __init__(self, action: Callable[[Calls], object]) -> None:
        super().__init__()
        self.action = action

    def __call__(self) -> None:
        self.action(self)


def in_handler(action: Callable[[Flow, Calls], object]) -> Callable[[Flow], None]:
    """Do it in a handler of the flow while the job runs, and raise what the handler raised."""

    def wrong(flow: Flow) -> None:
        flow.add_routine(Calls(lambda routine: action(flow, routine)), "calls")
        raise_first_error(flow, "calls")

    return wrong


def raise_first_error(flow: Flow, entry: str, params: dict[str, Any] | None = None) -> None:
    job = flow.execute(entry, params)
    assert job.wait(SECONDS)
    assert job.status == "failed"
    raise job.errors[0].exception


def emit_in_another_thread(flow: Flow, routine: Calls) -> None:
    in_thread(lambda: routine.emit("done", result=1))


def emit_in_another_thread_with_the_context(flow: Flow, routine: Calls) -> None:
    context = contextvars.copy_context()
    in_thread(lambda: context.run(routine.emit, "done", result=1))


def in_thread(action: Callable[[], object]) -> None:
    """Do it in a thread of its own, and raise here what it raised there."""
    raised: list[BaseException] = []

    def work() -> None:
        try:
            action()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    for error in raised:
        raise error


def emit_after_the_job(flow: Flow) -> None:
    routine = Calls(lambda routine: None)
    flow.add_routine(routine, "calls")
    assert flow.execute("calls").wait(SECONDS)
    routine.emit("done", result=1)


def emit_after_the_job_with_its_context(flow: Flow) -> None:
    contexts: list[contextvars.Context] = []
    routine = Calls(lambda routine: contexts.append(contextvars.copy_context()))
    flow.add_routine(routine, "calls")
    assert flow.execute("calls").wait(SECONDS)
    contexts[0].run(routine.emit, "done", result=1)


def define_list_default() -> None:
    class Shares(Routine):
        rows: list[int] = []


def define_dict_default() -> None:
    class Shares(Routine):
        prices: dict[str, float] = {}


def define_set_default() -> None:
    class Shares(Routine):
        seen: set[str] = set()


def define_field_with_list_default() -> None:
    class Shares(Routine):
        rows: list[int] = field(default=[])


def define_field_named_emit() -> None:
    class Hides(Routine):
        emit: str = "always"


def define_event_named_stats() -> None:
    class Hides(Routine):
        stats = event("count")


def define_slot_named_get_event() -> None:
    class Hides(Routine):
        @slot
        def get_event(self, name: str) -> None: ...


def define_unknown_merge_strategy() -> None:
    class Merges(Routine):
        @slot(merge_strategy="apend")
        def rows(self, row: int) -> None: ...


def define_generator_handler() -> None:
    class Yields(Routine):
        @slot
        def rows(self, row: int) -> Any:
            yield row

    Yields()


def assign_new_attribute(flow: Flow) -> None:
    routine = Fixed()
    flow.add_routine(routine, "fixed")
    routine.client = object()


def assign_field(flow: Flow) -> None:
    routine = Fixed()
    flow.add_routine(routine, "fixed")
    routine.url = "http://127.0.0.2/"


def assign_checked_field_in_handler(flow: Flow) -> None:
    flow.add_routine(FixedAndChecked(), "fixed")
    raise_first_error(flow, "fixed", {"number": 2})


def add_to_a_second_flow(flow: Flow) -> None:
    Flow("other").add_routine(flow.routines["keep"], "twin")


def connect_in_a_circle_of_gathers(flow: Flow) -> None:
    routine = NoSlots()
    routine.define_slot("all", handler=lambda result: None, merge_strategy="gather")
    flow.add_routine(routine, "collect")
    flow.connect("collect", "done", "collect", "all")


def add(routine_type: type[Routine], then: Callable[[Flow], object]) -> Callable[[Flow], object]:
    """Add a routine under the id 'extra', then do what is wrong."""

    def wrong(flow: Flow) -> None:
        flow.add_routine(routine_type(), "extra")
        then(flow)

    return wrong


class Row(NamedTuple):
    """What is wrong, the error that says so, and the names that its text has to hold."""

    name: str
    wrong: Callable[[Flow], object]
    error: type[Exception]
    names: tuple[str, ...]


def no_flow(define: Callable[[], None]) -> Callable[[Flow], None]:
    return lambda flow: define()


ROWS = [
    Row(
        "unknown strategy",
        lambda flow: Flow(execution_strategy="concurent"),
        UnknownStrategyError,
        ("'concurent'", "did you mean 'concurrent'", "'sequential'", "install"),
    ),
    Row(
        "switch to an unknown strategy",
        lambda flow: flow.set_execution_strategy("sequental", max_workers=2),
        UnknownStrategyError,
        ("'sequental'", "did you mean 'sequential'"),
    ),
    Row(
        "unknown strategy of one routine",
        lambda flow: flow.add_routine(Keep(), "extra", execution_strategy="thread"),
        UnknownStrategyError,
        ("'thread'", "'concurrent'"),
    ),
    *(
        Row(f"plugins={bad!r}", lambda flow, bad=bad: Flow(plugins=bad), ConfigurationError, ("plugins", repr(bad)))
        for bad in ("breaker", 7)
    ),
    Row(
        "options of a plugin that is not installed, without a list around them",
        lambda flow: Flow(plugins={"braker": {"limit": 5}}),
        UnknownNameError,
        ("'braker'", "routilux plugins"),
    ),
    Row("a flow id that is no string", lambda flow: Flow(5), ConfigurationError, ("flow id", "not 5")),
    Row(
        "an output name that is no string",
        lambda flow: flow.add_output("double", "doubled", 7),
        ConfigurationError,
        ("name of an output", "not 7"),
    ),
    *(
        Row(f"max_workers={bad!r}", lambda flow, bad=bad: Flow(None, "concurrent", bad), ConfigurationError, names)
        for bad, names in [
            (0, ("max_workers", "not 0")),
            (-1, ("max_workers", "not -1")),
            ("3", ("max_workers", "not '3'")),
            (2.5, ("max_workers", "not 2.5")),
            (True, ("max_workers", "not True")),
            (2**31, ("max_workers", "1,000,000", "not 2147483648")),
            (10**400, ("max_workers", "1,000,000", "not 1000")),
        ]
    ),
    *(
        Row(
            f"{name}=2**{power}",
            lambda flow, name=name, power=power: Flow(**{name: 2**power}),
            ConfigurationError,
            (name, str(sys.maxsize), "not 9223372036854775808" if power == 63 else "digits"),
        )
        for name in ("history_size", "max_pending")
        for power in (63, 50_000)
    ),
    Row(
        "a bound on parallel calls beyond reason",
        lambda flow: type("Wide", (Routine,), {}, stateless=True, concurrency=2**63),
        ConfigurationError,
        ("concurrency", str(sys.maxsize), "not 9223372036854775808"),
    ),
    Row(
        "a saved flow with a history beyond reason",
        lambda flow: Flow().deserialize({**Flow().serialize(), "history_size": 2**63}),
        SerializationError,
        ("history_size", str(sys.maxsize)),
    ),
    *(
        Row(
            f"switch to max_workers={bad!r}",
            lambda flow, bad=bad: flow.set_execution_strategy(flow.execution_strategy, max_workers=bad),
            ConfigurationError,
            ("max_workers", f"not {bad!r}"),
        )
        for bad in (0, -1, "3", 2.5, True)
    ),
    Row(
        "connect an unknown routine",
        lambda flow: flow.connect("dubble", "doubled", "keep", "value"),
        UnknownNameError,
        ("routine 'dubble'", "did you mean 'double'", "'keep'"),
    ),
    Row(
        "connect to an unknown routine",
        lambda flow: flow.connect("double", "doubled", "keeper", "value"),
        UnknownNameError,
        ("routine 'keeper'", "'keep'"),
    ),
    Row(
        "connect an unknown event",
        lambda flow: flow.connect("double", "dobled", "keep", "value"),
        UnknownNameError,
        ("event 'dobled'", "'doubled'", "'double'"),
    ),
    Row(
        "connect an unknown slot",
        lambda flow: flow.connect("double", "doubled", "keep", "values"),
        UnknownNameError,
        ("slot 'values'", "'value'", "'keep'"),
    ),
    Row(
        "unknown event as output",
        lambda flow: flow.add_output("double", "halved"),
        UnknownNameError,
        ("event 'halved'", "'doubled'"),
    ),
    Row("duplicate routine id", lambda flow: flow.add_routine(Keep(), "keep"), DuplicateNameError, ("'keep'",)),
    Row(
        "duplicate output name",
        lambda flow: flow.add_output("double", "doubled"),
        DuplicateNameError,
        ("'double.doubled'",),
    ),
    Row(
        "duplicate slot",
        lambda flow: flow.routines["keep"].define_slot("value", handler=print),
        DuplicateNameError,
        ("'value'", "Keep"),
    ),
    Row(
        "duplicate event",
        lambda flow: flow.routines["double"].define_event("doubled"),
        DuplicateNameError,
        ("'doubled'", "Double"),
    ),
    Row(
        "one instance twice",
        lambda flow: flow.add_routine(flow.routines["keep"], "twin"),
        DuplicateNameError,
        ("Keep", "'keep'", "one flow"),
    ),
    Row("one instance in two flows", add_to_a_second_flow, DuplicateNameError, ("Keep", "'keep'", "one flow")),
    Row(
        "the same connection twice",
        lambda flow: flow.connect("double", "doubled", "keep", "value"),
        DuplicateNameError,
        ("double.doubled", "keep.value"),
    ),
    Row("gather in a circle", connect_in_a_circle_of_gathers, ConfigurationError, ("collect.all", "collect.done")),
    Row(
        "two parameters with one new name",
        lambda flow: flow.connect("double", "doubled", "keep", "value", {"a": "result", "b": "result"}),
        ConfigurationError,
        ("param_mapping", "'result'"),
    ),
    Row(
        "unknown merge strategy",
        no_flow(define_unknown_merge_strategy),
        UnknownNameError,
        ("'apend'", "did you mean 'append'", "'gather'", "'override'"),
    ),
    Row(
        "unknown merge strategy of a slot that comes later",
        lambda flow: flow.routines["keep"].define_slot("more", handler=print, merge_strategy="sum"),
        UnknownNameError,
        ("'sum'", "'append'", "'more'"),
    ),
    Row(
        "append in a stateless routine",
        lambda flow: Fixed().define_slot("more", handler=print, merge_strategy="append"),
        DefinitionError,
        ("Fixed", "'more'", "stateless", "'append'"),
    ),
    Row("a list as default", no_flow(define_list_default), DefinitionError, ("'rows'", "factory=list")),
    Row("a dict as default", no_flow(define_dict_default), DefinitionError, ("'prices'", "factory=dict")),
    Row("a set as default", no_flow(define_set_default), DefinitionError, ("'seen'", "factory=set")),
    Row("field(default=[])", no_flow(define_field_with_list_default), DefinitionError, ("'rows'", "factory=list")),
    Row("a field named like a method", no_flow(define_field_named_emit), DefinitionError, ("Hides", "'emit'")),
    Row("an event named like a method", no_flow(define_event_named_stats), DefinitionError, ("Hides", "'stats'")),
    Row("a slot named like a method", no_flow(define_slot_named_get_event), DefinitionError, ("'get_event'",)),
    Row(
        "a generator as handler", no_flow(define_generator_handler), DefinitionError, ("Yields", "'rows'", "generator")
    ),
    Row("assign a field of a sealed routine", assign_field, SealedRoutineError, ("Fixed.url", "stateless")),
    Row("assign a new name in a sealed routine", assign_new_attribute, SealedRoutineError, ("Fixed.client",)),
    Row(
        "assign a field with a validator in a handler of a sealed routine",
        assign_checked_field_in_handler,
        SealedRoutineError,
        ("FixedAndChecked.count", "stateless"),
    ),
    Row(
        "a required parameter that did not arrive",
        lambda flow: raise_first_error(flow, "double", {"nummer": 21, "unit": "m"}),
        PayloadError,
        ("'double'", "slot 'number'", "requires 'number'", "'nummer'", "'unit'", "entry_params"),
    ),
    Row(
        "nothing arrived",
        lambda flow: raise_first_error(flow, "double"),
        PayloadError,
        ("'double'", "slot 'number'", "nothing"),
    ),
    Row(
        "an async handler",
        add(Awaits, lambda flow: flow.execute("extra", {"number": 1})),
        CapabilityError,
        ("'extra'", "Awaits", "async def", "coroutines"),
    ),
    Row(
        "emit of an unknown event",
        in_handler(lambda flow, routine: routine.emit("dona", result=1)),
        UnknownNameError,
        ("event 'dona'", "did you mean 'done'", "'calls'"),
    ),
    Row(
        "emit from a foreign thread",
        in_handler(emit_in_another_thread),
        EmitError,
        ("'done'", "'calls'"),
    ),
    Row(
        "emit from a foreign thread with the handler's context",
        in_handler(emit_in_another_thread_with_the_context),
        EmitError,
        ("'done'", "'calls'", "thread"),
    ),
    Row(
        "emit for another routine",
        in_handler(lambda flow, routine: flow.routines["double"].emit("doubled", result=1)),
        EmitError,
        ("'doubled'", "'double'", "another routine"),
    ),
    Row("emit outside any job", lambda flow: flow.routines["double"].emit("doubled"), EmitError, ("'double'",)),
    Row("emit after the job", emit_after_the_job, EmitError, ("'done'", "'calls'")),
    Row("emit after the job in its context", emit_after_the_job_with_its_context, EmitError, ("'done'", "'calls'")),
    Row(
        "execute an unknown entry",
        lambda flow: flow.execute("dubble"),
        UnknownNameError,
        ("routine 'dubble'", "did you mean 'double'"),
    ),
    Row(
        "execute an unknown slot",
        lambda flow: flow.execute("double", slot="numbr"),
        UnknownNameError,
        ("slot 'numbr'", "'number'", "'double'"),
    ),
    Row(
        "execute one with two slots and no slot=",
        add(TwoSlots, lambda flow: flow.execute("extra")),
        ConfigurationError,
        ("'extra'", "TwoSlots", "'left'", "'right'", "slot="),
    ),
    Row(
        "execute one without slots",
        add(NoSlots, lambda flow: flow.execute("extra")),
        ConfigurationError,
        ("'extra'", "NoSlots", "none"),
    ),
    Row(
        "entry_params that are no mapping",
        lambda flow: flow.execute("double", [21]),
        ConfigurationError,
        ("entry_params", "[21]"),
    ),
    *(
        Row(f"{name} while a job runs", in_handler(action), FlowStateError, (called, "of its jobs run"))
        for name, called, action in [
            ("add_routine", "add_routine", lambda flow, _: flow.add_routine(Keep(), "late")),
            ("connect", "connect", lambda flow, _: flow.connect("calls", "done", "keep", "value")),
            ("add_output", "add_output", lambda flow, _: flow.add_output("calls", "done")),
            ("set_execution_strategy", "set_execution_strategy", lambda f, _: f.set_execution_strategy("concurrent")),
            ("define_slot", "define_slot", lambda flow, _: flow.routines["keep"].define_slot("late", handler=print)),
            ("define_event", "define_event", lambda flow, _: flow.routines["keep"].define_event("late")),
        ]
    ),
    # Each with a time-out, so that an engine which does wait fails the test and does not hang it.
    *(
        Row(f"{name} in a handler of the flow", in_handler(action), FlowStateError, (name, "handler of the same flow"))
        for name, action in [
            ("wait_for_completion", lambda flow, _: flow.wait_for_completion(0.5)),
            ("wait", lambda flow, _: flow.job_state.wait(0.5)),
            ("run", lambda flow, _: flow.run("double", {"number": 1})),
            ("shutdown", lambda flow, _: flow.shutdown(timeout=0.5)),
        ]
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_bad_input_is_a_clear_error_and_the_flow_runs_afterwards(
    row: Row, strategy: dict[str, Any], make_flow: MakeFlow
) -> None:
    flow = make_flow("prices", **strategy)
    flow.add_routine(Double(), "double")
    keep = Keep()
    flow.add_routine(keep, "keep")
    flow.connect("double", "doubled", "keep", "value")
    flow.add_output("double", "doubled")

    with pytest.raises(row.error) as caught:
        row.wrong(flow)

    text = str(caught.value)
    assert [name for name in row.names if name not in text] == [], text
    assert flow.execution_strategy == strategy["execution_strategy"]
    assert flow.max_workers == strategy.get("max_workers")
    keep.kept.clear()  # a handler that broke a rule may have emitted before
    job = flow.execute("double", {"number": 21})
    assert job.wait(SECONDS)
    assert (job.status, job.errors, keep.kept) == ("completed", [], [42])
    assert job.outputs == {"double.doubled": [{"result": 42}]}
    assert [type(record) for record in job.get_execution_history()] == [ActivationRecord] * 2
