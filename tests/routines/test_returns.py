"""What a handler returns is ignored, unless it is work that nobody does: then the call has failed."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest

from failing.broken import Mixed, MixedStateless, Returns
from quickest import keywords
from routilux_core import DefinitionError, Flow, JobState, Routine, hookimpl, slot

MakeFlow = Callable[..., Flow]
SECONDS = 30.0
SLOTS = (
    *("decorated_async", "decorated_generator", "decorated_async_generator"),
    *("returns_coroutine", "returns_generator", "returns_awaitable"),
)


@pytest.fixture(params=["sequential", "concurrent", "process"])
def anywhere(request: pytest.FixtureRequest) -> dict[str, Any]:
    return keywords(request.param, 1)


class Details:
    """Listens to every call, so that none is plain."""

    @hookimpl
    def routilux_activation_started(self) -> None:
        pass


def run(flow: Flow, name: str, **params: Any) -> JobState:
    job = flow.execute("routine", params, slot=name)
    assert job.wait(SECONDS), job.explain()
    assert job.ledger.balanced
    return job


@pytest.mark.parametrize("routine", [Mixed, MixedStateless])
@pytest.mark.parametrize("how", ["plain", "told of each call", "under RETRY"])
def test_a_handler_that_returns_work_to_be_done_has_failed(
    make_flow: MakeFlow, anywhere: dict[str, Any], routine: type[Mixed], how: str
) -> None:
    flow = make_flow(**anywhere, error_handler="continue", plugins=[Details()] if how == "told of each call" else [])
    made = routine()
    if how == "under RETRY":
        made.set_as_critical(max_retries=0)
    flow.add_routine(made, "routine")
    flow.add_output("routine", "out")
    for name in SLOTS:
        job = run(flow, name, n=1)
        (failure,) = job.errors
        assert isinstance(failure.exception, DefinitionError), name
        assert f"slot {name!r}: the handler returned an object of type" in str(failure.exception)
        assert (job.ledger.failed, job.ledger.completed) == (1, 0)
        if how != "under RETRY":  # there what an attempt that failed has emitted is dropped
            assert job.outputs["routine.out"] == ([] if name.startswith("decorated") else [{"n": 1}])
    gc.collect()  # a coroutine that was left behind would be warned of now, and the warning is an error


def test_what_else_a_handler_returns_is_ignored(make_flow: MakeFlow, anywhere: dict[str, Any]) -> None:
    flow = make_flow(**anywhere)
    flow.add_routine(Returns(), "routine")
    for n in range(len(Returns().kinds)):
        assert run(flow, "n", n=n).status == "completed"
    assert run(flow, "iterator").status == "completed"


def test_one_that_was_begun_may_do_as_it_likes_when_it_is_closed(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    def stubborn() -> Any:
        try:
            yield 1
        except GeneratorExit:
            raise SystemExit(9) from None

    class Begins(Routine):
        @slot
        def n(self) -> Any:
            items = stubborn()
            next(items)
            return items

    flow = make_flow(**strategy)
    flow.add_routine(Begins(), "routine")
    (failure,) = run(flow, "n").errors
    assert isinstance(failure.exception, DefinitionError)


def test_nothing_of_what_is_returned_is_asked_but_its_type(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    class Lies:
        @property
        def __class__(self) -> Any:
            raise RuntimeError("working outside of its context")

        def __getattr__(self, name: str) -> Any:
            raise SystemExit(name)

    class Gives(Routine):
        @slot
        def n(self) -> Any:
            return Lies()

    flow = make_flow(**strategy)
    flow.add_routine(Gives(), "routine")
    assert run(flow, "n").status == "completed"
