"""`routilux_core.map`: a function, called on each of many items under any strategy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TypeVar, overload

import attrs

from routilux_core.error_handling import ErrorHandler, ErrorStrategy, Failure
from routilux_core.errors import ConfigurationError, FlowStateError, brief
from routilux_core.flow import Flow
from routilux_core.functions import Function, check_function
from routilux_core.ports import event, slot
from routilux_core.routine import Routine
from routilux_core.strategy import ExecutionStrategy

T = TypeVar("T")
R = TypeVar("R")
FIRST = 2  # the id of the first item's call in the job: the entry's is 1
DECIDED = (ErrorStrategy.STOP, ErrorStrategy.CONTINUE)


class _Items(Routine):
    """Emits the items of `map`, in the thread that called it."""

    item = event("index", "item")

    def __call__(self, items: Iterable[Any]) -> None:
        for index, item in enumerate(items):
            self.emit("item", index=index, item=item)


class _Call(Routine, stateless=True):
    """Calls the function of `map`."""

    function: Function
    done = event("index", "value")

    @slot
    def item(self, index: int, item: Any) -> None:
        self.emit("done", index=index, value=self.function(item))


@overload
def map(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    strategy: str | ExecutionStrategy = ...,
    max_workers: int | None = ...,
    on_error: Literal["raise"] = ...,
    retries: int | ErrorHandler = ...,
    timeout: float | None = ...,
    progress: bool = ...,
) -> list[R]: ...
@overload
def map(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    strategy: str | ExecutionStrategy = ...,
    max_workers: int | None = ...,
    on_error: Literal["collect"],
    retries: int | ErrorHandler = ...,
    timeout: float | None = ...,
    progress: bool = ...,
) -> list[R | BaseException]: ...
def map(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    strategy: str | ExecutionStrategy = "concurrent",
    max_workers: int | None = None,
    on_error: Literal["raise", "collect"] = "raise",
    retries: int | ErrorHandler = 0,
    timeout: float | None = None,
    progress: bool = False,
) -> Any:
    """Call a function on each item, as many at a time as the strategy has workers; the results in the items' order.

    `strategy` is any installed one, `max_workers` its number of workers. With `on_error="raise"` the first exception is
    raised, with a note that says which item it was, and what has not begun is not called; with `"collect"` the
    exceptions stand among the results. `retries` is how often a call is tried again, at once, or an `ErrorHandler`.
    After `timeout` seconds `JobTimeout` is raised. `progress` shows how many calls are done. The items are taken in the
    calling thread.

    >>> map(len, ["Oslo", "Lima", "Accra"], strategy="concurrent", max_workers=8)
    [4, 4, 5]
    >>> map(int, ["1", "two"], on_error="collect")
    [1, ValueError("invalid literal for int() with base 10: 'two'")]

    It is a flow underneath: under strategies with worker processes, function, items and results travel by pickle. Each
    call starts its own workers; who calls often makes a flow once, whose workers stay.
    """
    check_function(function, "map")
    if on_error not in ("raise", "collect"):
        raise ConfigurationError(f"on_error is 'raise' or 'collect', not {brief(on_error)}")
    with Flow("map", strategy, max_workers, history_size=0, progress=progress) as flow:
        flow.add_routine(_Items(), "items", execution_strategy="sequential")
        flow.add_routine(_Call(function=function), "call")
        flow.connect("items", "item", "call", "item")
        flow.add_output("call", "done", "done")
        flow.routines["call"].set_error_handler(_policy(on_error, retries))
        taken: list[T] = []
        job = flow.run("items", {"items": _noted(items, taken)}, timeout=timeout)
    failures = {each.activation - FIRST: _with_item(each, taken) for each in job.errors if each.decision in DECIDED}
    if failures and (on_error == "raise" or min(failures) < 0):
        raise failures[min(failures)]
    results: list[Any] = [None] * len(taken)
    if job.errors_left_out.failures:
        results = [_not_kept(index) for index in range(len(taken))]
    for index, error in failures.items():
        results[index] = error
    for payload in job.results("done"):
        results[payload["index"]] = payload["value"]
    return results


def _noted(items: Iterable[T], taken: list[T]) -> Iterator[T]:
    for item in items:
        taken.append(item)
        yield item


def _policy(on_error: str, retries: int | ErrorHandler) -> ErrorHandler:
    last = ErrorStrategy.STOP if on_error == "raise" else ErrorStrategy.CONTINUE
    if isinstance(retries, ErrorHandler):
        return attrs.evolve(retries, strategy=ErrorStrategy.RETRY, after_retries=last)
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise ConfigurationError(f"retries is a whole number from 0, or an ErrorHandler, not {brief(retries)}")
    if not retries:
        return ErrorHandler(last)
    return ErrorHandler(ErrorStrategy.RETRY, max_retries=retries, retry_delay=0.0, after_retries=last)


def _not_kept(index: int) -> BaseException:
    return FlowStateError(f"routilux_core.map: item {index} failed, and of so many exceptions a job keeps the first")


def _with_item(failure: Failure, taken: list[Any]) -> BaseException:
    """Return the exception of a call, with a note that says which item it was."""
    index = failure.activation - FIRST
    if 0 <= index < len(taken):
        failure.exception.add_note(f"routilux_core.map: item {index}, {brief(taken[index])}")
    return failure.exception
