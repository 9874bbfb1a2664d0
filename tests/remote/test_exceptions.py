"""An exception comes home as what it is: its type and arguments decide, not its text; so RETRY goes on retrying."""

from __future__ import annotations

import threading
import urllib.error
from collections.abc import Callable
from typing import Any

import pytest

from routilux_core import ErrorHandler, Flow, JobState, RemoteError
from routilux_core._remote.exceptions import RemoteTraceback, decode, encode
from shipped.exceptions import KINDS, Fails, Inner, LosesItself, Transient, Wraps

MakeFlow = Callable[..., Flow]
SECONDS = 20.0


def there_and_back(error: BaseException) -> BaseException:
    return decode(encode(error))[0]


def finished(job: JobState) -> JobState:
    assert job.wait(SECONDS), job.explain()
    return job


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_type_text_arguments_and_attributes_survive(kind: str) -> None:
    error = KINDS[kind]()
    home = there_and_back(error)
    assert type(home) is type(error)
    assert str(home) == str(error)
    assert repr(home.args) == repr(error.args)
    assert vars(home).keys() == vars(error).keys()
    for name in ("code", "number", "x", "errno", "strerror", "filename", "name", "path", "value"):
        assert repr(getattr(home, name, None)) == repr(getattr(error, name, None))


@pytest.mark.parametrize("strategy", ["sequential", "shipped"])
@pytest.mark.parametrize("kind", ["text changes", "keyword only", "group"])
def test_a_policy_sees_the_type(make_flow: MakeFlow, executor: Any, kind: str, strategy: str) -> None:
    from shipped.strategies import Shared

    handler = ErrorHandler("retry", 2, 0.0, after_retries="continue", retryable_exceptions=(type(KINDS[kind]()),))
    chosen = "sequential" if strategy == "sequential" else Shared(max_workers=2, executor=executor)
    flow = make_flow(execution_strategy=chosen, error_handler=handler)
    flow.add_routine(Fails(kind=kind), "fails")
    job = finished(flow.execute("fails"))
    assert job.ledger.retried == 2
    assert type(job.errors[-1].exception) is type(KINDS[kind]())


def test_a_group_keeps_its_type_whatever_its_members_are() -> None:
    error = ExceptionGroup("some", [ValueError(1), LosesItself(threading.Lock()), ExceptionGroup("in", [Wraps(2)])])
    home = there_and_back(error)
    assert isinstance(home, ExceptionGroup)
    assert home.message == "some"
    first, second, third = home.exceptions
    assert (type(first), first.args) == (ValueError, (1,))
    assert isinstance(second, RemoteError)
    assert second.type_name == "LosesItself"
    assert isinstance(third, ExceptionGroup)
    assert [str(each) for each in third.exceptions] == ["wraps 2"]
    assert home.subgroup(ValueError) is not None


def test_what_led_to_an_exception_comes_along() -> None:
    def raised() -> BaseException:
        try:
            try:
                raise Transient(Inner("why"))
            except Transient as cause:
                raise Wraps(3) from cause
        except Wraps as error:
            error.add_note("a note")
            return error

    home = there_and_back(raised())
    assert home.__notes__ == ["a note"]
    assert type(home.__cause__) is Transient
    assert str(home.__cause__) == "why"
    assert isinstance(home.__cause__.__cause__, RemoteTraceback)
    assert "in raised" in str(home.__cause__.__cause__)


def test_the_context_comes_along() -> None:
    def raised(without: bool) -> BaseException:
        try:
            try:
                raise KeyError("a")
            except KeyError:
                if without:
                    raise ValueError("b") from None
                raise ValueError("b")  # noqa: B904
        except ValueError as error:
            return error

    home = there_and_back(raised(False))
    assert isinstance(home.__context__, KeyError)
    assert isinstance(home.__cause__, RemoteTraceback)
    assert isinstance(there_and_back(raised(True)).__context__, KeyError)


def test_a_ring_or_a_long_chain_of_causes_is_cut() -> None:
    one, other = ValueError(1), ValueError(2)
    one.__cause__, other.__cause__ = other, one
    home, seen = there_and_back(one), 0
    while home is not None:
        home, seen = home.__cause__, seen + 1  # type: ignore[assignment]
    assert 2 <= seen < 20


def test_what_has_no_way_at_all_is_told_of() -> None:
    home = there_and_back(LosesItself(threading.Lock()))
    assert isinstance(home, RemoteError)
    assert home.type_name == "LosesItself"


def test_one_of_pythons_own_is_unchanged() -> None:
    error = urllib.error.HTTPError("http://x", 404, "not found", {}, None)  # type: ignore[arg-type]
    home = there_and_back(error)
    assert isinstance(home, urllib.error.HTTPError)
    assert (home.code, str(home)) == (404, str(error))
