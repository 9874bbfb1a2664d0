"""What a job keeps of its failures: the first that count, how many there were, and nothing that they had in hand."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
from attrs import frozen

from routilux_core import (
    Capabilities,
    ConfigurationError,
    ErrorHandler,
    ErrorStrategy,
    ExecutionStrategy,
    Failure,
    Flow,
    Host,
    JobState,
    Routine,
    SerializationError,
    Task,
    WorkerPool,
    event,
    field,
    slot,
)
from routilux_core._tracking import failures

MakeFlow = Callable[..., Flow]
SECONDS = 30.0
FEW = 20  # stands for 10,000 where calls are really made


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    """Log nothing: a record that a test's own handler keeps has the frames, too."""
    logging.getLogger("routilux_core").disabled = True
    yield
    logging.getLogger("routilux_core").disabled = False


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "MOST", FEW)


def finished(flow: Flow, entry: str, **params: Any) -> JobState:
    job = flow.execute(entry, params)
    assert job.wait(SECONDS), job.explain()
    assert job.ledger.balanced
    return job


class Source(Routine):
    out = event("i")

    def __call__(self, n: int) -> None:
        for i in range(n):
            self.emit("out", i=i)


class Book(Routine):
    """Fails for some numbers: those below `fails_below`, and `fatal`, if that is one."""

    fails_below: int = 0
    fatal: int = -1

    @slot
    def go(self, i: int) -> None:
        if i == self.fatal:
            self.set_error_handler("stop")
        if i < self.fails_below or i == self.fatal:
            raise ValueError(f"order {i} is lost")


class Flaky(Routine):
    tries: int = 0

    @slot
    def go(self, i: int) -> None:
        self.tries += 1
        if self.tries % 3:
            raise ConnectionError("flaky")


def shop(make_flow: MakeFlow, settings: dict[str, Any], book: Book, **others: Any) -> Flow:
    flow = make_flow(**settings, error_handler="continue", **others)
    flow.add_routine(Source(), "source")
    flow.add_routine(book, "book")
    flow.add_routine(Flaky(), "flaky")
    flow.routines["flaky"].set_error_handler(ErrorHandler("retry", max_retries=5, retry_delay=0.0))
    flow.connect("source", "out", "book", "go")
    flow.connect("source", "out", "flaky", "go")
    return flow


# -- which


def test_the_first_failure_is_kept_however_many_attempts_are_made_again(
    make_flow: MakeFlow, strategy: dict[str, Any]
) -> None:
    flow = shop(make_flow, strategy, Book(fails_below=1), history_size=0)
    job = finished(flow, "source", n=150)
    counted = [each for each in job.errors if each.decision != "retry"]
    assert [str(each.exception) for each in counted] == ["order 0 is lost"]
    assert len(job.errors) == 101
    assert job.errors_left_out == (0, 200)
    assert job.ledger.retried == 300
    with pytest.raises(ExceptionGroup) as caught:
        job.raise_for_errors()
    assert [str(each) for each in caught.value.exceptions] == ["order 0 is lost"]


def test_failures_beyond_so_many_are_counted_and_said(make_flow: MakeFlow, strategy: dict[str, Any], few: None) -> None:
    flow = shop(make_flow, strategy, Book(fails_below=FEW + 5))
    job = finished(flow, "source", n=FEW + 5)
    counted = [each for each in job.errors if each.decision == "continue"]
    assert [str(each.exception) for each in counted] == [f"order {i} is lost" for i in range(FEW)]
    assert (job.ledger.failed, job.errors_left_out) == (FEW + 5, (5, 0))
    assert "5 more failures" in repr(job)
    assert "5 more failures" in repr(job.errors)
    with pytest.raises(ExceptionGroup, match=r"errors in book \(not kept: 5 more failures\)"):
        job.raise_for_errors()


def test_what_stopped_the_job_is_kept_though_it_comes_last(
    make_flow: MakeFlow, strategy: dict[str, Any], few: None
) -> None:
    flow = shop(make_flow, strategy, Book(fails_below=FEW + 5, fatal=FEW + 7))
    job = finished(flow, "source", n=FEW + 50)
    assert job.status == "failed"
    stopped = [str(each.exception) for each in job.errors if each.decision == "stop" and each.routine_id == "book"]
    assert stopped == [f"order {FEW + 7} is lost"]
    assert job.errors_left_out.failures == 5


def test_where_all_are_kept_nothing_is_said(make_flow: MakeFlow) -> None:
    job = finished(shop(make_flow, {}, Book(fails_below=2)), "source", n=3)
    assert job.errors_left_out == (0, 0)
    assert "not kept" not in repr(job) + repr(job.errors)
    assert repr(job.errors) == repr(list(job.errors))


def failure(number: int, decision: str) -> Failure:
    return Failure(
        job_id="job",
        routine_id="r",
        slot="s",
        attempt=number,
        exception=ValueError(number),
        traceback="",
        payload_keys=(),
        policy=ErrorHandler(),
        decision=ErrorStrategy(decision),
    )


def test_ten_thousand_failures_are_kept_in_the_order_of_the_decisions() -> None:
    kept = failures.Failures(100)
    for number in range(30_000):
        kept.note(failure(number, ("continue", "retry", "skip")[number % 3] if number else "stop"))
    attempts = [each.attempt for each in kept.kept()]
    assert attempts == sorted(attempts)
    assert len(attempts) == 10_000 + 100
    assert kept.left_out() == (0, 20_000 - 100)
    for number in range(30_000, 30_010):
        kept.note(failure(number, "continue"))
    assert kept.left_out() == (10, 20_000 - 100)


def test_a_record_of_a_job_says_how_many_failures_were_not_kept(make_flow: MakeFlow, few: None, tmp_path: Any) -> None:
    job = finished(shop(make_flow, {}, Book(fails_below=FEW + 5), history_size=0), "source", n=100)
    record = job.serialize()
    assert record["errors_left_out"] == {"failures": 5, "attempts": 100}
    job.save(tmp_path / "job.json")
    again = JobState.load(tmp_path / "job.json")
    assert again.errors_left_out == job.errors_left_out
    assert "5 more failures, 100 more retried or skipped attempts" in repr(again)
    assert again.serialize() == record
    with pytest.raises(ExceptionGroup, match="5 more failures"):
        again.raise_for_errors()


@pytest.mark.parametrize(
    "counts", [{"failures": -1, "attempts": 0}, {"failures": 1}, [1, 2], {"failures": 0.5, "attempts": 0}]
)
def test_a_record_with_counts_that_cannot_be_is_refused(make_flow: MakeFlow, counts: Any) -> None:
    record = finished(shop(make_flow, {}, Book()), "source", n=1).serialize()
    assert "errors_left_out" not in record
    with pytest.raises(SerializationError, match="errors_left_out"):
        JobState.deserialize({**record, "errors_left_out": counts})


# -- and nothing that they had in hand


class Payload:
    """Something large that a handler was given, or has made."""

    def __init__(self) -> None:
        self.made_by = FAILS[0].__name__

    def __repr__(self) -> str:
        return "<a payload>"


class Cause(Exception):
    def __init__(self, inner: BaseException | None = None) -> None:
        super().__init__("wrapped")
        self.inner = inner


def raise_plainly(payload: Payload) -> None:
    raise ValueError("plain")


def raise_from(payload: Payload) -> None:
    try:
        raise_plainly(payload)
    except ValueError as error:
        raise LookupError("from") from error


def raise_while_handling(payload: Payload) -> None:
    try:
        raise_from(payload)
    except LookupError:
        raise_plainly(Payload())


def raise_from_none(payload: Payload) -> None:
    try:
        raise_plainly(payload)
    except ValueError:
        raise LookupError("none") from None


def caught(payload: Payload) -> BaseException:
    try:
        raise_from(payload)
    except LookupError as error:
        return error
    raise AssertionError


def raise_group(payload: Payload) -> None:
    raise ExceptionGroup("some", [caught(payload), ExceptionGroup("more", [ValueError(1), caught(payload)])])


def raise_with_one_as_argument(payload: Payload) -> None:
    error = caught(payload)
    error.__context__ = None
    raise OSError("wrapped", error)


def raise_with_one_as_attribute(payload: Payload) -> None:
    raise Cause(caught(payload))


def raise_for_an_attribute(payload: Payload) -> None:
    payload.no_such_thing  # type: ignore[attr-defined]  # noqa: B018


class Pretends(Exception):
    """Has its own idea of what belongs to an exception."""

    @property
    def __traceback__(self) -> Any:
        raise SystemExit(1)

    @property
    def __dict__(self) -> Any:
        raise SystemExit(2)

    @property
    def __cause__(self) -> Any:
        raise SystemExit(3)


def raise_what_pretends(payload: Payload) -> None:
    raise Pretends


RAISES = [
    raise_plainly,
    raise_from,
    raise_while_handling,
    raise_from_none,
    raise_group,
    raise_with_one_as_argument,
    raise_with_one_as_attribute,
    raise_for_an_attribute,
    raise_what_pretends,
]


FAILS = [raise_plainly]  # how the calls fail that are made now


class Parse(Routine, stateless=True):
    alive: Any = field(factory=weakref.WeakSet)

    @slot
    def go(self, i: int) -> None:
        payload = Payload()
        self.alive.add(payload)
        FAILS[0](payload)


class Handles(Routine):
    """The same, with state, and under an `append`: no call of it is plain."""

    alive: Any = field(factory=weakref.WeakSet)

    @slot(merge_strategy="append")
    def go(self, i: list[int]) -> None:
        payload = Payload()
        self.alive.add(payload)
        FAILS[0](payload)


@pytest.mark.parametrize("decision", ["continue", "skip", "retry"])
@pytest.mark.parametrize("kind", [Parse, Handles])
def test_no_failure_keeps_alive_what_its_handler_had_in_hand(
    make_flow: MakeFlow, strategy: dict[str, Any], decision: str, kind: Any
) -> None:
    policy = ErrorHandler(decision, max_retries=1, retry_delay=0.0, after_retries="continue")
    flow, parse = make_flow(**strategy, error_handler=policy, max_pending=4), kind()
    flow.add_routine(Source(), "source")
    flow.add_routine(parse, "parse")
    flow.connect("source", "out", "parse", "go")
    jobs = []
    for FAILS[0] in RAISES:
        job = finished(flow, "source", n=6)
        jobs.append(job)
        assert len(job.errors) == (12 if decision == "retry" else 6), FAILS
        assert f"in {FAILS[0].__name__}" in job.errors[0].traceback
    gc.collect()
    assert not {each.made_by for each in parse.alive}


@pytest.mark.parametrize("fails", RAISES[:-1])
def test_what_is_raised_for_errors_says_where_they_were_raised(make_flow: MakeFlow, fails: Any) -> None:
    flow, FAILS[0] = make_flow(error_handler="continue"), fails
    flow.add_routine(Parse(), "parse")
    with pytest.raises(ExceptionGroup) as raised:
        finished(flow, "parse", i=1).raise_for_errors()
    assert f"in {fails.__name__}" in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize("capture", ["text", "frames"])
def test_a_flow_may_be_asked_to_keep_the_frames(make_flow: MakeFlow, strategy: dict[str, Any], capture: str) -> None:
    flow, parse, FAILS[0] = make_flow(**strategy, error_handler="continue", capture=capture), Parse(), raise_plainly
    flow.add_routine(parse, "parse")
    job = finished(flow, "parse", i=1)
    gc.collect()
    assert len(parse.alive) == (capture == "frames")
    (failure,) = job.errors
    names = [frame.f_code.co_name for frame, _ in traceback.walk_tb(failure.exception.__traceback__)]
    assert names[-2:] == (["go", "raise_plainly"] if capture == "frames" else [])
    assert "in raise_plainly" in failure.traceback
    flow.deserialize(Flow(capture="text").serialize())
    assert flow._runtime.engine.keeps_frames is (capture == "frames")


@pytest.mark.parametrize("capture", [None, "locals", 1, True])
def test_what_else_is_to_be_captured_is_refused(capture: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"capture is 'text', 'frames' \(with"):
        Flow(capture=capture)


def test_what_is_handled_where_a_flow_runs_keeps_its_traceback(make_flow: MakeFlow) -> None:
    flow, FAILS[0] = make_flow(error_handler="continue"), raise_from
    flow.add_routine(Parse(), "parse")
    chain: list[BaseException] = []
    try:
        raise_plainly(Payload())
    except ValueError as error:
        exception: BaseException | None = finished(flow, "parse", i=1).errors[0].exception
        while exception is not None:
            chain.append(exception)
            exception = exception.__context__
        handled = error
    # Behind it there may be one that Python itself has left as handled, where a test has raised at each of its steps.
    assert all(each.__traceback__ is None for each in chain[: chain.index(handled)])
    assert handled.__traceback__ is not None
    assert "raise_plainly" in "".join(traceback.format_exception(handled))


def test_a_handler_that_emits_while_it_handles_an_exception_keeps_its_traceback(
    make_flow: MakeFlow, strategy: dict[str, Any]
) -> None:
    class Emits(Routine):
        out = event("i")
        told: str = ""

        def __call__(self) -> None:
            try:
                raise_plainly(Payload())
            except ValueError:
                for i in range(50):  # more than may wait: `emit` runs some of the calls, which fail
                    self.emit("out", i=i)
                self.told = "".join(traceback.format_exception(sys.exception()))
                raise

    flow, emits = make_flow(**strategy, error_handler="continue", max_pending=4), Emits()
    parse, FAILS[0] = Parse(), raise_from
    flow.add_routine(emits, "emits")
    flow.add_routine(parse, "parse")
    flow.connect("emits", "out", "parse", "go")
    job = finished(flow, "emits")
    assert "in raise_plainly" in emits.told
    (own,) = [each for each in job.errors if each.routine_id == "emits"]
    assert "in raise_plainly" in own.traceback
    gc.collect()
    assert not parse.alive


def test_while_a_job_runs_no_more_is_alive_than_is_in_hand(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    most = 0

    def count_and_raise(payload: Payload) -> None:
        nonlocal most
        most = max(most, len(parse.alive))
        raise_while_handling(payload)

    flow, parse, FAILS[0] = make_flow(**strategy, error_handler="skip", max_pending=16), Parse(), count_and_raise
    flow.add_routine(Source(), "source")
    flow.add_routine(parse, "parse")
    flow.connect("source", "out", "parse", "go")
    gc.disable()  # without cycles nothing has to wait for the collector
    try:
        finished(flow, "source", n=300)
    finally:
        gc.enable()
    assert most < 50


def test_tracebacks_of_the_first_failures_are_in_what_is_raised(make_flow: MakeFlow) -> None:
    flow = make_flow(error_handler="continue")
    flow.add_routine(Source(), "source")
    flow.add_routine(Book(fails_below=15), "book")
    flow.connect("source", "out", "book", "go")
    job = finished(flow, "source", n=15)
    with pytest.raises(ExceptionGroup) as raised:
        job.raise_for_errors()
    assert len(raised.value.exceptions) == 15
    assert len(raised.value.__notes__) == 10
    assert raised.value.__notes__[0].startswith("routine 'book', slot 'go': Traceback (most recent call last)")


class Refuses(WorkerPool):
    """Raises in `submit`, which no pool should."""

    def submit(self, task: Task) -> None:
        raise OSError(f"no room for {task.id}")

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> None:
        pass


@frozen(kw_only=True)
class RefusingStrategy(ExecutionStrategy):
    name: ClassVar[str] = "refusing"
    contract: ClassVar[int] = 2
    capabilities: ClassVar[Capabilities] = Capabilities(shares_memory=False)

    def open(self, host: Host) -> WorkerPool:
        return Refuses()


class Makes(Routine):
    """Emits payloads: some can be sent, some can't."""

    out = event("i")
    alive: Any = field(factory=weakref.WeakSet)

    def __call__(self, sends: bool) -> None:
        for _ in range(3):
            payload = Payload()
            self.alive.add(payload)
            self.emit("out", i=payload if sends else [payload, threading.Lock()])


@pytest.mark.parametrize("sends", [True, False])
def test_what_could_not_be_sent_is_not_kept(make_flow: MakeFlow, sends: bool) -> None:
    flow, makes = make_flow(execution_strategy=RefusingStrategy(), error_handler="continue"), Makes()
    flow.add_routine(makes, "makes", execution_strategy="sequential")
    flow.add_routine(Book(), "book")
    flow.connect("makes", "out", "book", "go")
    job = finished(flow, "makes", sends=sends)
    assert len(job.errors) == 3
    assert ("no room for" if sends else "can't be sent") in job.errors[0].traceback
    gc.collect()
    assert not makes.alive
