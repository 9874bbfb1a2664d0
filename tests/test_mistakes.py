"""A newcomer's mistakes: each is told in one sentence, at the call that is wrong, with the right form."""

from __future__ import annotations

import re
import threading
import warnings
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from routilux_core import (
    ConfigurationError,
    DefinitionError,
    EmitError,
    ErrorStrategy,
    Flow,
    JobState,
    JobTimeout,
    PayloadError,
    Routine,
    UnknownNameError,
    event,
    per_worker,
    slot,
)


class Source(Routine):
    count: int = 3
    out = event("n")

    def __call__(self, n: int = 3) -> None:
        for number in range(n):
            self.emit("out", n=number)


class Sink(Routine):
    @slot
    def take(self, n: int) -> None:
        pass


@pytest.fixture
def flow(make_flow: Callable[..., Flow]) -> Flow:
    made = make_flow(flow_id="f")
    made.add_routine(Source(), "src")
    made.add_routine(Sink(), "snk")
    made.connect("src", "out", "snk", "take")
    return made


# -- where a class is written


def test_a_misspelt_class_keyword_is_named_with_the_one_that_is_like_it() -> None:
    with pytest.raises(DefinitionError, match=r"unknown class keyword 'statless'; did you mean 'stateless'\?"):
        type("P", (Routine,), {}, statless=True)


def test_a_slot_is_not_given_its_name() -> None:
    with pytest.raises(DefinitionError, match="@slot is put on a method, whose name is the slot's, not on 'take'"):
        slot("take")  # type: ignore[call-overload]


def test_an_event_is_made_by_a_call() -> None:
    with pytest.raises(DefinitionError, match=r"P\.out is the function 'event' itself: call it, as in out = event"):
        type("P", (Routine,), {"out": event})


def test_a_routine_is_no_dataclass() -> None:
    with pytest.raises(DefinitionError, match=r"leave @dataclass or @attrs.define out, annotate its fields"):
        dataclass(type("P", (Routine,), {"__annotations__": {"a": int}, "a": 1}))()


def test_a_method_without_self_is_refused() -> None:
    with pytest.raises(DefinitionError, match=r"P, slot 'take': the method has no self; write def take\(self\)"):

        class P(Routine):
            @slot
            def take() -> None:  # type: ignore[misc]
                pass

    with pytest.raises(DefinitionError, match=r"Q, slot 'take': the method has no self; write def take\(self, name\)"):

        class Q(Routine):
            @slot
            def take(name) -> None:  # noqa: N805
                pass


def _handle(routine: Routine, n: int) -> None:
    pass


def test_a_function_from_elsewhere_may_name_its_first_parameter_as_it_likes() -> None:
    class P(Routine):
        take = slot(_handle)

    assert list(P()._routilux.slots) == ["take"]


def test_values_without_names_have_no_parameter() -> None:
    with pytest.raises(DefinitionError, match=r"nothing would arrive in \*values; name the parameters, or take every"):

        class P(Routine):
            @slot
            def take(self, *values: int) -> None:
                pass


@pytest.mark.parametrize(
    ("value", "form"),
    [
        *((kind(), f"field(factory={kind.__name__})") for kind in (list, dict, set, bytearray, deque, Counter)),
        ([1, 2], "field(factory=lambda: [1, 2])"),
        (defaultdict(list), "field(factory=lambda: defaultdict(...))"),
    ],
)
def test_what_all_instances_would_share_is_refused(value: Any, form: str) -> None:
    kind = type(value)
    share = f"is a {kind.__name__} that all instances would share; write"
    told = f"'seen' {share} seen: {kind.__name__} = {form}, or annotate"
    with pytest.raises(DefinitionError, match=re.escape(f"class P: {told} it with ClassVar")):
        type("P", (Routine,), {"seen": value})
    told = f"the default of field 'seen' {share} {form}"
    for stateless in (True, False):
        with pytest.raises(DefinitionError, match=re.escape(f"class P: {told}")):
            type("P", (Routine,), {"seen": value, "__annotations__": {"seen": kind}}, stateless=stateless)


def test_what_a_stateless_class_shares_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="class P: 'seen' is a list that all instances would share"):

        class P(Routine, stateless=True):
            seen = []

    assert P().seen is P.seen


def test_constants_and_class_variables_may_be_shared() -> None:
    class P(Routine):
        CODES = {"a": 1}
        known: ClassVar[list[str]] = []

    assert P().CODES is P.CODES
    assert P().known is P.known


# -- where an instance is made


class Fetch(Routine):
    url: str
    seconds: float = 1.0


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Fetch("x"), r"Fetch\('x'\): a routine takes its fields by name: Fetch\(url=..., seconds=...\)"),
        (lambda: Fetch(), r"Fetch\(\) lacks 'url': write Fetch\(url=..., seconds=...\)"),
        (
            lambda: Fetch(ulr="x"),
            r"Fetch has no field 'ulr'; did you mean 'url'\?; it takes Fetch\(url=..., seconds=...",
        ),
    ],
)
def test_wrong_fields_are_told_with_the_right_ones(make: Callable[[], Any], text: str) -> None:
    with pytest.raises(DefinitionError, match=text):
        make()


def test_a_type_error_of_the_users_own_code_is_left_as_it_is() -> None:
    class P(Routine):
        a: int = 1

        def __attrs_post_init__(self) -> None:
            raise TypeError("mine")

    with pytest.raises(TypeError, match=r"^mine$"):
        P(a=2)


# -- where a flow is made and wired


def test_workers_without_a_strategy_are_warned_of() -> None:
    text = (
        r"Flow\(max_workers=5\) names no strategy, and 'sequential' .* did you mean execution_strategy='concurrent'\?"
    )
    with pytest.warns(UserWarning, match=text):
        Flow(max_workers=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Flow().execution_strategy == "sequential"
        Flow(execution_strategy="sequential", max_workers=5)


def test_an_option_that_does_not_exist_is_named_with_those_that_do() -> None:
    with pytest.raises(
        ConfigurationError, match=r"'process' has no option 'max_task'.*it has 'max_tasks_per_worker', "
    ):
        Flow(execution_strategy="process", strategy_options={"max_task": 3})
    with pytest.raises(ConfigurationError, match="'sequential' has no option 'threads'; it has none"):
        Flow(strategy_options={"threads": 3})


def test_the_keywords_of_connect_are_those_of_routilux_08(flow: Flow) -> None:
    flow.add_routine(Sink(), "other")
    made = flow.connect(source_routine_id="src", source_event="out", target_routine_id="other", target_slot="take")
    assert (made.source, made.event, made.target, made.slot) == ("src", "out", "other", "take")


def test_a_routine_is_named_by_its_id(flow: Flow) -> None:
    routine: Any = flow.routines["src"]
    with pytest.raises(
        ConfigurationError, match="this Source is a routine; its id is 'src', which is what to give here"
    ):
        flow.connect(routine, "out", "snk", "take")
    with pytest.raises(ConfigurationError, match="its id is 'src'"):
        flow.run(routine)
    with pytest.raises(ConfigurationError, match="is not in flow 'f': add it with add_routine"):
        flow.connect("src", "out", Sink(), "take")  # type: ignore[arg-type]


def test_names_in_another_order_are_told(flow: Flow) -> None:
    text = (
        r"connect\('src', 'snk', 'out', 'take'\): the order is source routine, event, target routine, slot, and 'snk'"
    )
    with pytest.raises(ConfigurationError, match=text):
        flow.connect("src", "snk", "out", "take")


def test_a_method_that_is_no_slot_is_told(flow: Flow) -> None:
    class Plain(Routine):
        def take(self, n: int) -> None:
            pass

    flow.add_routine(Plain(), "plain")
    with pytest.raises(UnknownNameError, match="its method 'take' is no slot; put @slot on it"):
        flow.connect("src", "out", "plain", "take")


def test_what_is_renamed_in_vain_is_warned_of(flow: Flow) -> None:
    with pytest.warns(UserWarning, match="'m': 'n'} has no effect: src.out declares 'n', not 'm'"):
        flow.connect("src", "out", "snk", "take", {"m": "n"})


def test_the_second_of_a_class_gets_a_number(make_flow: Callable[..., Flow]) -> None:
    flow = make_flow()
    assert [flow.add_routine(Sink()) for _ in range(3)] == ["sink", "sink_2", "sink_3"]


def test_unknown_names_are_value_errors_and_lookup_errors() -> None:
    assert issubclass(UnknownNameError, ValueError)
    assert issubclass(UnknownNameError, LookupError)


# -- where a flow runs


def test_parameters_of_the_entry_are_one_mapping(flow: Flow) -> None:
    for method in (flow.run, flow.execute):
        text = rf"{method.__name__}\(\) takes the parameters .* flow.{method.__name__}\('src', {{'count': \.\.\.}}\)"
        with pytest.raises(PayloadError, match=text):
            method("src", count=3)  # type: ignore[arg-type]


def test_a_parameter_that_the_entry_does_not_take_is_warned_of(flow: Flow) -> None:
    with pytest.warns(UserWarning, match=r"entry_params has 'm', which src.__call__ does not take \(it takes 'n'\)"):
        assert flow.run("src", {"m": 3}).status == "completed"


def test_a_connection_that_seems_to_be_missing_is_named_once(make_flow: Callable[..., Flow]) -> None:
    flow = make_flow(flow_id="f")
    flow.add_routine(Source(), "src")
    flow.add_routine(Sink(), "snk")
    with pytest.warns(
        UserWarning, match=r"routine 'src', and nothing .*: is flow\.connect\('src', 'out', 'snk', 'take'\) missing"
    ):
        flow.run("src")
    flow.run("src")
    flow.connect("src", "out", "snk", "take")
    flow.run("src")


def test_an_event_that_leads_nowhere_may_be_meant_so(make_flow: Callable[..., Flow]) -> None:
    flow = make_flow()
    flow.add_routine(Source(), "last")
    flow.add(lambda path: path, "another entry")
    flow.run("last")
    flow.add_output("last", "out")
    flow.add_routine(Sink(), "sink")
    assert len(flow.run("last").results("last.out")) == 3


def test_an_absent_parameter_of_the_entry_is_told_with_entry_params(flow: Flow) -> None:
    class Needy(Routine):
        def __call__(self, names: list[str]) -> None:
            pass

    flow.add_routine(Needy(), "needy")
    (failure,) = flow.run("needy").errors
    assert "requires 'names', but what arrived is nothing; give it in entry_params" in str(failure.exception)


def test_a_timeout_that_is_no_number_is_refused(flow: Flow) -> None:
    with pytest.raises(ConfigurationError, match="has to be a number of seconds, or None for no limit, not '5'"):
        flow.wait_for_completion("5")  # type: ignore[arg-type]


def test_run_gives_up_after_its_timeout(make_flow: Callable[..., Flow]) -> None:
    class Waits(Routine):
        def __call__(self) -> None:
            while not self.cancelled:
                threading.Event().wait(0.005)

    flow = make_flow(execution_strategy="concurrent", max_workers=1)
    flow.add_routine(Waits(), "waits")
    with pytest.raises(JobTimeout, match=r"had not ended after 0.05 s, and was cancelled") as raised:
        flow.run("waits", timeout=0.05)
    assert flow.job_state is not None
    assert flow.job_state.job_id == raised.value.job_id
    assert flow.job_state.wait(30)
    assert flow.job_state.status == "cancelled"


def test_run_raises_the_errors_of_its_job_where_asked(make_flow: Callable[..., Flow], strategy: dict[str, Any]) -> None:
    class Fails(Routine):
        def __call__(self) -> None:
            raise OSError("no network")

    flow = make_flow(**strategy)
    flow.add_routine(Fails(), "fails")
    with pytest.raises(ExceptionGroup, match="errors in fails") as raised:
        flow.run("fails", raise_for_errors=True)
    assert [str(each) for each in raised.value.exceptions] == ["no network"]
    assert flow.run("fails").status == "failed"


def emission(make_flow: Callable[..., Flow], handler: Callable[..., None]) -> BaseException:
    """Return what a handler fails with."""

    class P(Routine):
        out = event("n")
        client = per_worker(object)

        def __call__(self) -> None:
            handler(self)

    flow = make_flow()
    flow.add_routine(P(), "p")
    (failure,) = flow.run("p").errors
    return failure.exception


def test_values_that_are_emitted_have_names(make_flow: Callable[..., Flow]) -> None:
    error = emission(make_flow, lambda self: self.emit("out", 3))
    assert isinstance(error, PayloadError)
    assert str(error) == "routine 'p', emit('out', ...): each value has a name, as in emit('out', n=3)"


def test_no_flow_is_emitted_into(make_flow: Callable[..., Flow]) -> None:
    error = emission(make_flow, lambda self: self.emit("out", flow=Flow(), n=3))
    assert isinstance(error, PayloadError)
    assert "leave flow= out; a routine emits into the flow that runs it" in str(error)


def test_a_value_may_be_called_flow(make_flow: Callable[..., Flow], strategy: dict[str, Any]) -> None:
    class Meter(Routine):
        out = event("flow")

        def __call__(self) -> None:
            for flow in (3.5, None):
                self.emit("out", flow=flow)

    flow = make_flow(**strategy)
    flow.add_routine(Meter(), "meter")
    flow.add_output("meter", "out")
    assert flow.run("meter").results("meter.out") == [{"flow": 3.5}, {"flow": None}]


def test_a_helper_thread_that_emits_is_named(make_flow: Callable[..., Flow]) -> None:
    def emits_elsewhere(self: Routine) -> None:
        raised: list[BaseException] = []

        def work() -> None:
            try:
                self.emit("out", n=1)
            except EmitError as error:
                raised.append(error)

        thread = threading.Thread(target=work, name="helper")
        thread.start()
        thread.join()
        raise raised[0]

    text = str(emission(make_flow, emits_elsewhere))
    assert "was called outside a handler of it, in thread 'helper': give the data to the handler" in text


def test_what_a_worker_has_made_is_not_deleted(make_flow: Callable[..., Flow]) -> None:
    def deletes(self: Any) -> None:
        del self.client

    error = emission(make_flow, deletes)
    assert isinstance(error, ConfigurationError)
    assert "P.client is made by its factory in each worker" in str(error)


# -- afterwards


def test_the_state_of_a_routine_that_does_not_exist_is_an_error(flow: Flow) -> None:
    job = flow.run("src")
    with pytest.raises(UnknownNameError, match=r"unknown routine 'srcs'; did you mean 'src'\?"):
        job.get_routine_state("srcs")
    assert job.get_routine_state("src") == "completed"


def test_results_are_found_by_name(flow: Flow, strategy: dict[str, Any]) -> None:
    flow.set_execution_strategy(**strategy)
    name = flow.add_output("src", "out")
    job = flow.run("src", {"n": 2})
    assert job.results(name) == [{"n": 0}, {"n": 1}]
    assert job.results() == {name: [{"n": 0}, {"n": 1}]}
    with pytest.raises(
        UnknownNameError, match=r"unknown output 'src.uot'; did you mean .*flow.add_output\(routine_id, "
    ):
        job.results("src.uot")


def test_what_makes_a_new_object_is_refused_on_an_object(flow: Flow, tmp_path: Path) -> None:
    path = tmp_path / "flow.json"
    flow.save(path)
    with pytest.raises(
        ConfigurationError, match=r"leaves the one that it is called on as it is: .* Flow.load\(\.\.\.\)"
    ):
        flow.load(path)
    job = flow.run("src")
    job.save(path)
    for call in (lambda: job.load(path), lambda: job.deserialize({})):
        with pytest.raises(ConfigurationError, match="JobState"):
            call()
    assert JobState.load(path).status == "completed"


def test_counters_are_reset_by_name() -> None:
    routine = Sink()
    for name in ("a", "b", "c"):
        routine.increment_stat(name)
    routine.reset_stats(["a", "unknown"])
    assert routine.stats() == {"b": 1, "c": 1}
    routine.reset_stats([])
    assert routine.stats() == {"b": 1, "c": 1}
    routine.reset_stats()
    assert routine.stats() == {}


def test_an_optional_routine_may_skip(flow: Flow) -> None:
    routine = flow.routines["snk"]
    routine.set_as_optional("skip")
    assert routine.get_error_handler().strategy is ErrorStrategy.SKIP  # type: ignore[union-attr]
    routine.set_as_optional()
    assert routine.get_error_handler().strategy is ErrorStrategy.CONTINUE  # type: ignore[union-attr]
    with pytest.raises(
        ConfigurationError, match=r"set_as_optional\('stop'\): a job goes on .* by 'continue' or 'skip'"
    ):
        routine.set_as_optional(ErrorStrategy.STOP)


def test_the_policy_of_a_flow_is_an_attribute_too(flow: Flow) -> None:
    flow.error_handler = "continue"
    assert flow.error_handler.strategy is ErrorStrategy.CONTINUE


def test_a_failure_leads_back_to_the_entry(
    make_flow: Callable[..., Flow], tmp_path: Path, strategy: dict[str, Any]
) -> None:
    class Middle(Routine, stateless=True):
        out = event("n")

        @slot
        def take(self, n: int) -> None:
            self.emit("out", n=n * 10)

    class Picky(Routine, stateless=True):
        @slot
        def take(self, n: int) -> None:
            if n == 20:
                raise ValueError("twenty")

    flow = make_flow(**strategy, error_handler="continue")
    for name, routine in {"src": Source(), "middle": Middle(), "picky": Picky()}.items():
        flow.add_routine(routine, name)
    flow.connect("src", "out", "middle", "take")
    flow.connect("middle", "out", "picky", "take")
    job = flow.run("src", {"n": 4})
    (failure,) = job.errors
    chain = job.lineage(failure)
    assert [record.routine_id for record in chain] == ["src", "middle", "picky"]
    assert [record.cause for record in chain] == [None, chain[0].id, chain[1].id]
    assert (failure.activation, failure.cause) == (chain[2].id, chain[1].id)
    assert chain[2].outcome == "failed"
    job.save(tmp_path / "job.json")
    saved = JobState.load(tmp_path / "job.json")
    assert [record.id for record in saved.lineage(saved.errors[0])] == [record.id for record in chain]
    assert job.lineage(12345) == []


def test_a_failed_job_that_nobody_looked_at_is_told_once(
    caplog: pytest.LogCaptureFixture, strategy: dict[str, Any]
) -> None:
    class Fails(Routine):
        def __call__(self) -> None:
            raise OSError("no network")

    def left(look: Callable[[JobState], object]) -> list[str]:
        caplog.clear()
        with Flow(**strategy) as flow:
            flow.add_routine(Fails(), "fails")
            look(flow.run("fails"))
        return [each.getMessage() for each in caplog.records if "nobody has looked" in each.getMessage()]

    assert len(left(lambda job: None)) == 1
    assert left(lambda job: job.status) == left(lambda job: job.errors) == []


@pytest.mark.parametrize("ask", [Flow.pause, Flow.cancel])
def test_the_reason_for_a_pause_or_an_end_is_kept(make_flow: Callable[..., Flow], ask: Callable[..., None]) -> None:
    begun, gate = threading.Event(), threading.Event()

    class Waits(Routine):
        def __call__(self) -> None:
            begun.set()
            gate.wait(30)

    flow = make_flow(execution_strategy="concurrent", max_workers=1)
    flow.add_routine(Waits(), "waits")
    job = flow.execute("waits")
    assert begun.wait(30)
    assert job.reason == ""
    ask(flow, reason="maintenance")
    assert job.reason == "maintenance"
    assert "the reason given: maintenance" in job.explain()
    job.cancel(reason="too late")
    gate.set()
    assert job.wait(30)
    job.cancel(reason="afterwards")
    assert job.reason == "too late"
