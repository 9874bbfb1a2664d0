"""What reaches a handler: binding by parameter name, renaming on the way, and merging with what came before."""

from __future__ import annotations

import asyncio
import functools
import typing
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from routilux_core import DefinitionError, ErrorHandler, Flow, JobState, PayloadError, Routine, event, slot

pytestmark = pytest.mark.in_processes_too

MakeFlow = Callable[..., Flow]
SECONDS = 20.0
ABSENT = object()


class Source(Routine):
    """Emits what the test gives it, one payload after the other."""

    item = event()

    def __call__(self, payloads: list[dict[str, Any]]) -> None:
        for payload in payloads:
            self.emit("item", **payload)


class Sink(Routine):
    """Gives what its handler gets to a list."""

    def __init__(
        self, make_handler: Callable[[list[Any]], Callable[..., Any]], merge: Any = "override", whole: bool = False
    ) -> None:
        super().__init__()
        self.calls: list[Any] = []
        self.define_slot("input", make_handler(self.calls), merge, whole=whole)


class SumUp(Routine):
    """Gathers everything into one total, and says so."""

    total = event("value")

    @slot(merge_strategy="gather")
    def values(self, value: list[int]) -> None:
        self.emit("total", value=sum(value))


def deliver(flow: Flow, sink: Sink, *payloads: dict[str, Any], mapping: dict[str, str] | None = None) -> JobState:
    flow.add_routine(Source(), "source")
    flow.add_routine(sink, "sink")
    flow.connect("source", "item", "sink", "input", mapping)
    job = flow.execute("source", {"payloads": list(payloads)})
    assert job.wait(SECONDS)
    return job


def takes_everything(calls: list[Any]) -> Callable[..., Any]:
    def handler(**kwargs: Any) -> None:
        calls.append(kwargs)

    return handler


def takes_one(calls: list[Any]) -> Callable[..., Any]:
    def handler(a: int) -> None:
        calls.append(a)

    return handler


def takes_two(calls: list[Any]) -> Callable[..., Any]:
    def handler(b: int, a: int) -> None:
        calls.append((a, b))

    return handler


def takes_nothing(calls: list[Any]) -> Callable[..., Any]:
    def handler() -> None:
        calls.append("called")

    return handler


def takes_a_name_and_the_rest(calls: list[Any]) -> Callable[..., Any]:
    def handler(a: int, **rest: Any) -> None:
        calls.append((a, rest))

    return handler


def takes_a_default(calls: list[Any]) -> Callable[..., Any]:
    def handler(a: int, b: Any = "default") -> None:
        calls.append((a, b))

    return handler


def takes_only_defaults(calls: list[Any]) -> Callable[..., Any]:
    def handler(a: Any = "default") -> None:
        calls.append(a)

    return handler


def takes_by_position(calls: list[Any]) -> Callable[..., Any]:
    def handler(a: int, /, b: int) -> None:
        calls.append((a, b))

    return handler


def takes_by_position_with_defaults(calls: list[Any]) -> Callable[..., Any]:
    def handler(a: int = 1, b: int = 2, /) -> None:
        calls.append((a, b))

    return handler


def takes_by_position_and_the_rest(calls: list[Any]) -> Callable[..., Any]:
    def handler(a: int = 1, b: int = 2, /, **rest: Any) -> None:
        calls.append((a, b, rest))

    return handler


def takes_by_keyword(calls: list[Any]) -> Callable[..., Any]:
    def handler(*, a: int) -> None:
        calls.append(a)

    return handler


def takes_by_keyword_with_default(calls: list[Any]) -> Callable[..., Any]:
    def handler(b: int, *, a: Any = "default") -> None:
        calls.append((a, b))

    return handler


def takes_data(calls: list[Any]) -> Callable[..., Any]:
    def handler(data: Any) -> None:
        calls.append(data)

    return handler


def takes_data_by_keyword(calls: list[Any]) -> Callable[..., Any]:
    def handler(*, data: Any) -> None:
        calls.append(data)

    return handler


def takes_data_and_more(calls: list[Any]) -> Callable[..., Any]:
    def handler(data: Any, a: int) -> None:
        calls.append((data, a))

    return handler


def takes_a_dict(calls: list[Any]) -> Callable[..., Any]:
    def handler(row: dict[str, int]) -> None:
        calls.append(row)

    return handler


def takes_a_mapping(calls: list[Any]) -> Callable[..., Any]:
    def handler(row: Mapping[str, int]) -> None:
        calls.append(row)

    return handler


def takes_an_unquoted_dict(calls: list[Any]) -> Callable[..., Any]:
    handler = takes_a_dict(calls)
    # What a module without `from __future__ import annotations` has: the type itself, not its text.
    handler.__annotations__["row"] = dict[str, int]
    return handler


def takes_an_ordered_dict(calls: list[Any]) -> Callable[..., Any]:
    def handler(row: OrderedDict[str, int]) -> None:
        calls.append(row)

    return handler


def bound_by_partial(calls: list[Any]) -> Callable[..., Any]:
    def handler(first: str, a: int) -> None:
        calls.append((first, a))

    return functools.partial(handler, "fixed")


def wraps_a_coroutine(calls: list[Any]) -> Callable[..., Any]:
    async def handler(a: int) -> None:
        calls.append(a)

    @functools.wraps(handler)
    def plain(*args: Any, **kwargs: Any) -> None:
        asyncio.run(handler(*args, **kwargs))

    return plain


def wraps_a_generator(calls: list[Any]) -> Callable[..., Any]:
    def handler(a: int) -> typing.Iterator[int]:
        yield a

    @functools.wraps(handler)
    def plain(*args: Any, **kwargs: Any) -> None:
        calls.extend(handler(*args, **kwargs))

    return plain


@pytest.mark.parametrize(
    ("make_handler", "payload", "expected"),
    [
        (takes_everything, {"a": 1, "b": 2}, {"a": 1, "b": 2}),
        (takes_everything, {}, {}),
        (takes_one, {"a": 1, "b": 2}, 1),
        (takes_two, {"a": 1, "b": 2, "c": 3}, (1, 2)),
        (takes_nothing, {"a": 1}, "called"),
        (takes_a_name_and_the_rest, {"b": 2, "a": 1}, (1, {"b": 2})),
        (takes_a_default, {"a": 1}, (1, "default")),
        (takes_a_default, {"a": 1, "b": None}, (1, None)),
        (takes_only_defaults, {"b": 1}, "default"),
        (takes_only_defaults, {"a": 1}, 1),
        (takes_by_position, {"b": 2, "a": 1}, (1, 2)),
        (takes_by_position_with_defaults, {"a": 5}, (5, 2)),
        (takes_by_position_with_defaults, {"b": 5}, (1, 5)),
        (takes_by_position_and_the_rest, {"b": 5, "c": 6}, (1, 5, {"c": 6})),
        (takes_by_keyword, {"a": 1, "b": 2}, 1),
        (takes_by_keyword_with_default, {"b": 2}, ("default", 2)),
        (takes_by_keyword_with_default, {"a": 1, "b": 2}, (1, 2)),
        (takes_data, {"data": 1, "b": 2}, 1),
        (takes_data_by_keyword, {"data": 1}, 1),
        (takes_data_and_more, {"data": 1, "a": 2}, (1, 2)),
        (takes_a_dict, {"row": {"a": 1}, "b": 2}, {"a": 1}),
        (takes_a_mapping, {"row": {"a": 1}, "b": 2}, {"a": 1}),
        (takes_an_unquoted_dict, {"row": {"a": 1}, "b": 2}, {"a": 1}),
        (takes_an_ordered_dict, {"row": 1, "b": 2}, 1),
        (bound_by_partial, {"a": 1, "b": 2}, ("fixed", 1)),
        (wraps_a_coroutine, {"a": 1}, 1),
        (wraps_a_generator, {"a": 1}, 1),
    ],
)
def test_a_handler_gets_what_it_names(
    make_flow: MakeFlow,
    strategy: dict[str, Any],
    make_handler: Callable[[list[Any]], Callable[..., Any]],
    payload: dict[str, Any],
    expected: Any,
) -> None:
    sink = Sink(make_handler)
    job = deliver(make_flow(**strategy), sink, payload)
    assert job.errors == []
    assert sink.calls == [expected]


WHOLE = [takes_one, takes_by_keyword, takes_only_defaults, takes_data, takes_a_dict, takes_a_mapping]


@pytest.mark.parametrize("make_handler", WHOLE)
@pytest.mark.parametrize("payload", [{}, {"b": 2}, {"a": 1, "b": 2}, {"row": {"a": 1}}, {"data": 1}])
def test_the_only_parameter_gets_the_whole_payload_where_that_is_asked_for(
    make_flow: MakeFlow,
    strategy: dict[str, Any],
    make_handler: Callable[[list[Any]], Callable[..., Any]],
    payload: dict[str, Any],
) -> None:
    sink = Sink(make_handler, whole=True)
    job = deliver(make_flow(**strategy), sink, payload)
    assert job.errors == []
    assert sink.calls == [payload]


def test_a_declared_slot_and_an_entry_may_take_the_whole_payload(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    class Declared(Routine, scope="job"):
        @slot(whole=True)
        def __call__(self, everything: dict[str, Any]) -> None:
            self.increment_stat(",".join(everything))

        @slot(merge_strategy="gather", whole=True)
        def rows(self, lists: dict[str, Any]) -> None:
            self.increment_stat(f"gathered {lists}")

    flow = make_flow(**strategy)
    flow.add_routine(Declared(), "declared")
    for job in (flow.run("declared", {"a": 1, "everything": 2}), flow.run("declared", {"a": 3}, slot="rows")):
        assert job.errors == []
        assert job.routines["declared"].stats() in ({"a,everything": 1}, {"gathered {'a': [3]}": 1})


@pytest.mark.parametrize(
    "make_handler", [takes_nothing, takes_two, takes_a_default, takes_everything, takes_a_name_and_the_rest]
)
def test_the_whole_payload_goes_to_exactly_one_parameter(
    make_handler: Callable[[list[Any]], Callable[..., Any]],
) -> None:
    with pytest.raises(DefinitionError, match=r"Sink, slot 'input': whole=True .* exactly one"):
        Sink(make_handler, whole=True)
    with pytest.raises(DefinitionError, match=r"Wrong, slot 'take': whole=True .* exactly one"):

        class Wrong(Routine):
            @slot(whole=True)
            def take(self, a: int, b: int) -> None: ...


@pytest.mark.parametrize("make_handler", [takes_data, takes_data_by_keyword, takes_a_dict, takes_a_mapping, takes_one])
def test_a_lone_parameter_that_is_missing_says_how_to_get_the_whole_payload(
    make_flow: MakeFlow, strategy: dict[str, Any], make_handler: Callable[[list[Any]], Callable[..., Any]]
) -> None:
    sink = Sink(make_handler)
    job = deliver(make_flow(**strategy), sink, {"rwo": {"a": 1}})
    assert [type(failure.exception) for failure in job.errors] == [PayloadError]
    assert "what arrived is 'rwo'" in str(job.errors[0].exception)
    assert "add @slot(whole=True)" in str(job.errors[0].exception)
    assert sink.calls == []


@pytest.mark.parametrize("make_handler", [takes_data, takes_a_dict])
def test_the_whole_payload_is_a_copy_that_the_handler_may_change(
    make_flow: MakeFlow, make_handler: Callable[[list[Any]], Callable[..., Any]]
) -> None:
    flow = make_flow()
    first, second = Sink(make_handler, whole=True), Sink(make_handler, whole=True)
    flow.add_routine(second, "second")
    flow.add_routine(Source(), "both")
    flow.add_routine(first, "first")
    flow.connect("both", "item", "first", "input")
    flow.connect("both", "item", "second", "input")
    flow.run("both", {"payloads": [{"a": 1}]})
    first.calls[0]["a"] = 2
    assert second.calls == [{"a": 1}]


@pytest.mark.parametrize(
    ("make_handler", "absent"),
    [
        (takes_one, "'a'"),
        (takes_two, "'b', 'a'"),
        (takes_a_name_and_the_rest, "'a'"),
        (takes_a_default, "'a'"),
        (takes_by_position, "'a', 'b'"),
        (takes_by_keyword, "'a'"),
        (takes_data_and_more, "'data', 'a'"),
    ],
)
def test_a_required_parameter_that_is_missing_is_named(
    make_flow: MakeFlow, make_handler: Callable[[list[Any]], Callable[..., Any]], absent: str
) -> None:
    sink = Sink(make_handler)
    job = deliver(make_flow(), sink, {"x": 1, "y": 2})
    assert [type(failure.exception) for failure in job.errors] == [PayloadError]
    assert f"routine 'sink', slot 'input': the handler requires {absent}" in str(job.errors[0].exception)
    assert "'x', 'y'" in str(job.errors[0].exception)
    assert job.errors[0].payload_keys == ("x", "y")
    assert sink.calls == []


def test_a_keyerror_or_typeerror_of_the_handler_itself_is_its_own(make_flow: MakeFlow) -> None:
    def raises(calls: list[Any]) -> Callable[..., Any]:
        def handler(a: dict[str, int]) -> None:
            a["missing"]

        return handler

    job = deliver(make_flow(), Sink(raises), {"a": {}})
    assert [type(failure.exception) for failure in job.errors] == [KeyError]


def test_an_object_with_an_async_call_is_refused_as_an_async_handler(make_flow: MakeFlow) -> None:
    class Awaits:
        async def __call__(self, a: int) -> None: ...

    with pytest.raises(Exception, match="async def"):
        deliver(make_flow(), Sink(lambda calls: Awaits()), {"a": 1})


def test_what_cannot_be_called_is_no_handler() -> None:
    with pytest.raises(DefinitionError, match=r"slot 'input'.*callable, not 3"):
        Sink(lambda calls: 3)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("mapping", "payload", "expected"),
    [
        ({"a": "b"}, {"a": 1}, {"b": 1}),
        ({"a": "b"}, {"a": 1, "c": 3}, {"b": 1, "c": 3}),
        ({"a": "b"}, {"a": 1, "b": 2}, {"b": 1}),
        ({"a": "b"}, {"b": 2}, {"b": 2}),
        ({"a": "b"}, {"c": 3}, {"c": 3}),
        ({"a": "b", "b": "a"}, {"a": 1, "b": 2}, {"a": 2, "b": 1}),
        ({"a": "b", "b": "c"}, {"a": 1, "b": 2}, {"b": 1, "c": 2}),
        ({"a": "a"}, {"a": 1}, {"a": 1}),
        ({}, {"a": 1}, {"a": 1}),
    ],
)
def test_param_mapping_renames(
    make_flow: MakeFlow, mapping: dict[str, str], payload: dict[str, Any], expected: dict[str, Any]
) -> None:
    sink = Sink(takes_everything)
    deliver(make_flow(), sink, payload, mapping=mapping)
    assert sink.calls == [expected]


def test_a_renamed_parameter_that_is_absent_passes_nothing(make_flow: MakeFlow) -> None:
    sink = Sink(takes_only_defaults)
    deliver(make_flow(), sink, {"c": 3}, mapping={"b": "a"})
    assert sink.calls == ["default"]


def test_override_keeps_nothing_of_what_came_before(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    sink = Sink(takes_everything)
    deliver(make_flow(**strategy), sink, {"a": 1, "b": 2}, {"a": 3})
    assert sink.calls == [{"a": 1, "b": 2}, {"a": 3}]


def test_append_gives_a_list_so_far_for_each_key(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    sink = Sink(takes_everything, "append")
    deliver(make_flow(**strategy), sink, {"a": 1}, {"a": 2, "b": 3}, {"b": 4})
    assert sink.calls == [{"a": [1]}, {"a": [1, 2], "b": [3]}, {"a": [1, 2], "b": [3, 4]}]


def test_appended_lists_are_snapshots(make_flow: MakeFlow) -> None:
    def spoils(calls: list[Any]) -> Callable[..., Any]:
        def handler(a: list[int]) -> None:
            calls.append(list(a))
            a.clear()

        return handler

    sink = Sink(spoils, "append")
    deliver(make_flow(), sink, {"a": 1}, {"a": 2})
    assert sink.calls == [[1], [1, 2]]


def test_a_callable_merges_the_old_and_the_new(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    def keep_the_highest(old: dict[str, int], new: dict[str, int]) -> dict[str, int]:
        return {**old, **{key: max(value, old.get(key, value)) for key, value in new.items()}}

    sink = Sink(takes_everything, keep_the_highest)
    deliver(make_flow(**strategy), sink, {"a": 2}, {"a": 1, "b": 5}, {"a": 3})
    assert sink.calls == [{"a": 2}, {"a": 2, "b": 5}, {"a": 3, "b": 5}]


def test_what_merges_begins_anew_in_each_job(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow = make_flow(**strategy)
    sink = Sink(takes_everything, "append")
    deliver(flow, sink, {"a": 1})
    assert flow.execute("source", {"payloads": [{"a": 2}]}).wait(SECONDS)
    assert sink.calls == [{"a": [1]}, {"a": [2]}]


def test_a_merge_function_that_returns_no_dict_is_an_error_of_the_call(make_flow: MakeFlow) -> None:
    job = deliver(make_flow(), Sink(takes_everything, lambda old, new: None), {"a": 1})
    assert [type(failure.exception) for failure in job.errors] == [PayloadError]
    assert "slot 'input': the merge function has to return a dict, not None" in str(job.errors[0].exception)


def test_a_retry_sees_what_was_merged_once(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    def fails_once(calls: list[Any]) -> Callable[..., Any]:
        def handler(a: list[int]) -> None:
            calls.append(a)
            if len(calls) == 2:
                raise OSError("try again")

        return handler

    sink = Sink(fails_once, "append")
    flow = make_flow(**strategy, error_handler=ErrorHandler("retry", retry_delay=0.0))
    job = deliver(flow, sink, {"a": 1}, {"a": 2}, {"a": 3})
    assert job.status == "completed"
    assert sink.calls == [[1], [1, 2], [1, 2], [1, 2, 3]]


def test_a_merge_that_failed_is_done_again_by_the_retry(make_flow: MakeFlow) -> None:
    merges: list[dict[str, int]] = []

    def fails_once(old: dict[str, int], new: dict[str, int]) -> dict[str, int]:
        merges.append(new)
        if len(merges) == 1:
            raise OSError("try again")
        return {**old, **new}

    sink = Sink(takes_everything, fails_once)
    job = deliver(make_flow(error_handler=ErrorHandler("retry", retry_delay=0.0)), sink, {"a": 1})
    assert job.status == "completed"
    assert sink.calls == [{"a": 1}]


def test_gather_calls_once_with_a_list_for_each_parameter(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    sink = Sink(takes_everything, "gather")
    job = deliver(make_flow(**strategy), sink, {"a": 1}, {"a": 2, "b": 3}, {"a": 4})
    assert sink.calls == [{"a": [1, 2, 4], "b": [3]}]
    assert (job.ledger.gathered, job.ledger.posted, job.ledger.completed) == (3, 2, 2)


def test_a_gathered_payload_without_a_required_parameter_is_an_error(make_flow: MakeFlow) -> None:
    sink = Sink(takes_one, "gather")
    job = deliver(make_flow(), sink, {"a": 1}, {"b": 2}, {"a": 3})
    assert [type(failure.exception) for failure in job.errors] == [PayloadError]
    assert "requires 'a', but 1 of the 3 gathered payloads have none" in str(job.errors[0].exception)
    assert sink.calls == []


def test_a_failed_gather_names_what_had_arrived(make_flow: MakeFlow) -> None:
    def raises(calls: list[Any]) -> Callable[..., Any]:
        def handler(a: list[int], **rest: Any) -> None:
            raise ValueError("no")

        return handler

    job = deliver(make_flow(), Sink(raises, "gather"), {"a": 1}, {"a": 2, "b": 3})
    assert [failure.payload_keys for failure in job.errors] == [("a", "b")]


def test_gather_waits_for_all_upstreams(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow = make_flow(**strategy)
    flow.add_routine(Source(), "source")
    sums = SumUp()
    flow.add_routine(sums, "sum")
    flow.add_output("sum", "total")
    for number in range(8):
        relay = Source()
        relay.define_slot("pass_on", lambda value, relay=relay: relay.emit("item", value=value + 1))
        flow.add_routine(relay, f"relay{number}")
        flow.connect("source", "item", f"relay{number}", "pass_on")
        flow.connect(f"relay{number}", "item", "sum", "values")
    job = flow.execute("source", {"payloads": [{"value": 1}, {"value": 10}]})
    assert job.wait(SECONDS)
    assert job.outputs == {"sum.total": [{"value": 8 * (2 + 11)}]}
    assert job.ledger.gathered == 16


def test_gather_slots_are_called_in_topological_order(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow = make_flow(**strategy)
    # Added in the order in which they must not be called.
    flow.add_routine(SumUp(), "third")
    flow.add_routine(SumUp(), "second")
    flow.add_routine(SumUp(), "first")
    flow.add_routine(Source(), "source")
    for target in ("first", "second", "third"):
        flow.connect("source", "item", target, "values")
    flow.connect("first", "total", "second", "values")
    flow.connect("second", "total", "third", "values")
    flow.add_output("third", "total")
    job = flow.execute("source", {"payloads": [{"value": 1}, {"value": 2}]})
    assert job.wait(SECONDS)
    order = [record.routine_id for record in job.get_execution_history()]
    assert order == ["source", "first", "second", "third"]
    assert job.outputs == {"third.total": [{"value": 3 + (3 + 3)}]}


def test_a_gather_slot_where_nothing_arrived_is_not_called(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    sink = Sink(takes_everything, "gather")
    job = deliver(make_flow(**strategy), sink)
    assert (job.status, sink.calls) == ("completed", [])
    assert (job.ledger.posted, job.ledger.gathered) == (1, 0)


@pytest.mark.in_this_process("cancels its own flow in a handler")
@pytest.mark.parametrize("end", ["cancel", "stop"])
def test_a_gather_slot_of_a_job_that_was_stopped_is_not_called(
    make_flow: MakeFlow, strategy: dict[str, Any], end: str
) -> None:
    flow = make_flow(**strategy)

    class Ends(Source):
        def __call__(self, payloads: list[dict[str, Any]]) -> None:
            super().__call__(payloads)
            if end == "stop":
                raise ValueError("stop")
            flow.cancel()
            self.emit("item", a=0)

    sink = Sink(takes_everything, "gather")
    flow.add_routine(Ends(), "source")
    flow.add_routine(sink, "sink")
    flow.connect("source", "item", "sink", "input")
    job = flow.execute("source", {"payloads": [{"a": 1}, {"a": 2}]})
    assert job.wait(SECONDS)
    assert job.status == ("failed" if end == "stop" else "cancelled")
    assert sink.calls == []
    assert job.ledger.gathered == (2 if end == "stop" else 3)


def test_gather_is_refused_only_where_its_own_routine_can_reach_it(make_flow: MakeFlow) -> None:
    flow = make_flow()
    for name in ("first", "second", "third"):
        flow.add_routine(SumUp(), name)
    flow.connect("first", "total", "second", "values")
    flow.connect("first", "total", "third", "values")
    flow.connect("second", "total", "third", "values")
    with pytest.raises(ValueError, match=r"first\.values gathers"):
        flow.connect("third", "total", "first", "values")


def test_a_circle_that_is_closed_behind_a_gather_slot_is_refused_too(make_flow: MakeFlow) -> None:
    flow = make_flow()
    relay = Source()
    relay.define_slot("pass_on", takes_nothing([]))
    flow.add_routine(SumUp(), "sum")
    flow.add_routine(relay, "relay")
    flow.connect("relay", "item", "sum", "values")
    with pytest.raises(ValueError, match=r"sum\.values gathers"):
        flow.connect("sum", "total", "relay", "pass_on")
