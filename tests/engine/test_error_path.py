"""What goes wrong while a failure is told of and decided about costs that failure, and never a worker or a job."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from failing.broken import Emits, Row
from quickest import keywords
from routilux_core import (
    ConfigurationError,
    Decision,
    ErrorHandler,
    ErrorStrategy,
    Failure,
    Flow,
    JobState,
    Routine,
    event,
    hookimpl,
    slot,
)

MakeFlow = Callable[..., Flow]
SECONDS = 30.0
STRATEGIES = ("sequential", "concurrent", "process")


@pytest.fixture(params=STRATEGIES)
def alone(request: pytest.FixtureRequest) -> dict[str, Any]:
    """One worker: if it is lost, nothing runs any more."""
    return keywords(request.param, 1)


def run(flow: Flow, name: str, routine_id: str = "row", **params: Any) -> JobState:
    job = flow.execute(routine_id, params, slot=name)
    assert job.wait(SECONDS), job.explain()
    assert job.ledger.balanced
    return job


# -- what tells of an exception is somebody else's code


def test_an_exception_that_cannot_be_shown_is_a_failure_like_any_other(
    make_flow: MakeFlow, alone: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    flow = make_flow(**alone, error_handler="continue")
    flow.add_routine(Row(), "row")
    for name, kind in (("typo", "NameError"), ("says_nothing", "Speechless"), ("has_notes", "Noted")):
        job = run(flow, name)
        (failure,) = job.errors
        assert (job.status, job.ledger.failed, failure.decision) == ("completed", 1, "continue")
        shown = type(failure.exception).__name__
        assert kind in (shown, getattr(failure.exception, "type_name", None))
        assert kind in failure.traceback
        assert f"in {name}" in failure.traceback
        assert f"slot {name!r}" in caplog.text
    assert run(flow, "works").status == "completed"


class Ends(logging.Handler):
    """Ends the program on errors, as a recipe for scripts has it."""

    def emit(self, record: logging.LogRecord) -> None:
        raise SystemExit(1)


class Refuses(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        raise KeyboardInterrupt if threading.current_thread() is not threading.main_thread() else GeneratorExit


@pytest.fixture(params=["handler", "filter", "factory"])
def fatal_log(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let what is logged raise what is no `Exception`."""
    log, factory = logging.getLogger("routilux_core"), logging.getLogRecordFactory()
    handler, refuses = Ends(), Refuses()

    def broken(*args: Any, **kwargs: Any) -> logging.LogRecord:
        raise SystemExit(2)

    if request.param == "handler":
        log.addHandler(handler)
    elif request.param == "filter":
        log.addFilter(refuses)
    else:
        logging.setLogRecordFactory(broken)
    yield
    log.removeHandler(handler)
    log.removeFilter(refuses)
    logging.setLogRecordFactory(factory)


def test_a_log_that_ends_the_program_costs_the_line(
    make_flow: MakeFlow, alone: dict[str, Any], fatal_log: None
) -> None:
    flow = make_flow(**alone)
    flow.add_routine(Row(), "row")
    job = run(flow, "fails")
    assert (job.status, [type(each.exception) for each in job.errors]) == ("failed", [ValueError])
    assert run(flow, "works").status == "completed"


def test_a_line_that_cannot_be_logged_is_told_on_stderr(
    make_flow: MakeFlow, capsys: pytest.CaptureFixture[str]
) -> None:
    log, ends = logging.getLogger("routilux_core"), Ends()
    log.addHandler(ends)
    try:
        flow = make_flow(execution_strategy="concurrent", max_workers=1)
        flow.add_routine(Row(), "row")
        run(flow, "fails", n=7)
    finally:
        log.removeHandler(ends)
    said = capsys.readouterr().err
    assert "SystemExit" in said
    assert "routine 'row', slot 'fails', attempt 1: ValueError: 7 -> stop" in said


# -- what is decided


class OtherBase(BaseException):
    pass


def raises(error: BaseException) -> Any:
    raise error


RUBBISH: dict[str, Callable[[Failure], Any]] = {
    "None": lambda failure: None,
    "text": lambda failure: "retry",
    "member": lambda failure: ErrorStrategy.CONTINUE,
    "raises": lambda failure: 1 / 0,
    "exit": lambda failure: raises(SystemExit()),
    "cancelled": lambda failure: raises(asyncio.CancelledError()),
    "base": lambda failure: raises(OtherBase()),
    "delay as text": lambda failure: Decision("retry", "soon"),  # type: ignore[arg-type]
    "delay None": lambda failure: Decision("retry", None),  # type: ignore[arg-type]
    "delay nan": lambda failure: Decision("retry", math.nan),
    "delay inf": lambda failure: Decision("retry", math.inf),
    "delay huge": lambda failure: Decision("retry", 10**400),
}


class Rubbish(ErrorHandler):
    def decide(self, failure: Failure) -> Any:
        return RUBBISH[KIND[0]](failure)


KIND = [""]


class RubbishPlugin:
    @hookimpl
    def routilux_handle_error(self, failure: Failure) -> Any:
        return RUBBISH[KIND[0]](failure)


def test_a_policy_that_decides_rubbish_stops_the_job_and_costs_no_worker(
    make_flow: MakeFlow, alone: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    flow = make_flow(**alone, error_handler=Rubbish())
    flow.add_routine(Row(), "row")
    for KIND[0] in RUBBISH:
        caplog.clear()
        job = run(flow, "fails")
        assert (job.status, [type(each.exception) for each in job.errors]) == ("failed", [ValueError]), KIND
        assert "the error handler of routine 'row' raised" in caplog.text
    assert run(flow, "works").status == "completed"


def test_a_plugin_that_decides_rubbish_leaves_it_to_the_policy(make_flow: MakeFlow, alone: dict[str, Any]) -> None:
    flow = make_flow(**alone, error_handler="continue", plugins=[RubbishPlugin()])
    flow.add_routine(Row(), "row")
    for KIND[0] in RUBBISH:
        job = run(flow, "fails")
        assert (job.status, [each.decision for each in job.errors]) == ("completed", ["continue"]), KIND
    assert run(flow, "works").status == "completed"


@pytest.mark.parametrize("decider", ["policy", "plugin"])
def test_an_interrupt_raised_on_a_worker_by_who_decides_is_no_ctrl_c(make_flow: MakeFlow, decider: str) -> None:
    class Interrupts(ErrorHandler):
        def decide(self, failure: Failure) -> Any:
            raise KeyboardInterrupt

    class Plugin:
        @hookimpl
        def routilux_handle_error(self, failure: Failure) -> Any:
            raise KeyboardInterrupt

    by_plugin = decider == "plugin"
    flow = make_flow(
        execution_strategy="concurrent",
        max_workers=1,
        error_handler="continue" if by_plugin else Interrupts(),
        plugins=[Plugin()] if by_plugin else [],
    )
    flow.add_routine(Row(), "row")
    assert run(flow, "fails").status == ("completed" if by_plugin else "failed")
    assert run(flow, "works").status == "completed"


def test_a_delay_that_is_no_number_of_seconds_is_refused_where_it_is_given() -> None:
    for delay in ("soon", None, b"1", True, math.nan, math.inf, -math.inf, 10**400, -(10**5000), object()):
        with pytest.raises(ConfigurationError, match=r"delay has to be a number of seconds"):
            Decision("retry", delay)  # type: ignore[arg-type]


# -- delays that grow


@pytest.mark.parametrize(
    ("settings", "retry", "delay"),
    [
        ({"retry_delay": 0}, 1025, 0.0),
        ({"retry_delay": 0, "retry_backoff": 1e300}, 5000, 0.0),
        ({"retry_delay": 0.0, "max_delay": 5}, 10**6, 0.0),
        ({"retry_delay": 1.0, "max_delay": 60.0}, 1026, 60.0),
        ({"retry_delay": 3, "retry_backoff": 10**300, "max_delay": 60}, 10**9, 60.0),
        ({"retry_delay": 1.0, "retry_backoff": 0.5}, 10**6, 0.0),
        ({"retry_delay": 1.0, "retry_backoff": 0}, 2, 0.0),
        ({"retry_delay": 2, "retry_backoff": 0}, 1, 2.0),
        ({"retry_delay": 1e308, "retry_backoff": 1e308, "max_delay": 0}, 3, 0.0),
    ],
)
def test_a_delay_is_worked_out_for_any_numbers(settings: dict[str, Any], retry: int, delay: float) -> None:
    assert ErrorHandler("retry", **settings).delay_before(retry) == pytest.approx(delay)


@pytest.mark.parametrize("backoff", [2, 2.0, 10**300])
def test_a_delay_that_grows_beyond_all_bounds_stays_a_number(backoff: float) -> None:
    delays = [ErrorHandler("retry", retry_backoff=backoff, jitter=1.0).delay_before(each) for each in (1025, 10**6)]
    assert all(1e8 < delay < 1e10 for delay in delays)


def test_more_than_a_thousand_retries_without_delay_all_come(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    class Flaky(Routine):
        calls: int = 0

        def __call__(self) -> None:
            self.calls += 1
            if self.calls <= 1030:
                raise ConnectionError(self.calls)

    flow = make_flow(**strategy, error_handler=ErrorHandler("retry", max_retries=5000, retry_delay=0))
    logging.getLogger("routilux_core").disabled = True
    try:
        flow.add_routine(Flaky(), "flaky")
        job = flow.execute("flaky")
        assert job.wait(SECONDS), job.explain()
    finally:
        logging.getLogger("routilux_core").disabled = False
    assert (job.status, job.ledger.retried) == ("completed", 1030)


@pytest.mark.parametrize("name", ["retry_delay", "retry_backoff", "max_delay", "jitter"])
@pytest.mark.parametrize("value", [10**400, math.nan, math.inf, -1, "1"])
def test_numbers_beyond_reason_are_refused_where_they_are_given(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"{name} has to be a number of at least 0, not .{{1,80}}$"):
        ErrorHandler("retry", **{name: value})


# -- what has emitted does not run again


class Turns(Routine):
    """Emits, and then fails under a policy that has become RETRY meanwhile."""

    out = event("n")
    turns: Any = None
    tries: int = 0

    def __call__(self) -> None:
        self.tries += 1
        self.emit("out", n=self.tries)
        self.turns()
        if self.tries < 3:
            raise ValueError(self.tries)


@pytest.mark.parametrize("after", ["stop", "continue", "skip"])
@pytest.mark.parametrize("whose", ["routine", "flow"])
def test_a_call_that_emitted_before_its_policy_became_retry_is_not_made_again(
    make_flow: MakeFlow, strategy: dict[str, Any], whose: str, after: str, caplog: pytest.LogCaptureFixture
) -> None:
    flow = make_flow(**strategy)
    retry = ErrorHandler("retry", max_retries=2, retry_delay=0, after_retries=after)
    routine = Turns()
    routine.turns = lambda: (routine if whose == "routine" else flow).set_error_handler(retry)
    flow.add_routine(routine, "turns")
    flow.add_output("turns", "out")
    job = flow.execute("turns")
    assert job.wait(SECONDS)
    assert routine.tries == 1
    assert [(each.decision, each.emitted) for each in job.errors] == [(after, 1)]
    if after != "stop":
        assert job.outputs["turns.out"] == [{"n": 1}]
    assert "RETRY is refused, because routine 'turns', slot '__call__' had emitted already" in caplog.text
    job = flow.execute("turns")  # what is emitted from now on is held
    assert job.wait(SECONDS)
    assert (job.status, job.outputs["turns.out"]) == ("completed", [{"n": 3}])


def test_a_policy_of_ones_own_cannot_let_emissions_be_sent_twice(make_flow: MakeFlow, alone: dict[str, Any]) -> None:
    class Always(ErrorHandler):
        def decide(self, failure: Failure) -> Decision:
            return Decision("retry")

    flow = make_flow(**alone, error_handler=Always(after_retries="skip"))
    flow.add_routine(Emits(), "emits")
    flow.add_output("emits", "out")
    job = run(flow, "before_it_fails", "emits", n=1)
    assert (job.outputs["emits.out"], [each.decision for each in job.errors]) == ([{"n": 1}], ["skip"])


def test_a_plugin_cannot_retry_a_late_call_that_has_emitted(make_flow: MakeFlow) -> None:
    free = threading.Event()

    class Late(Routine, stateless=True, timeout=0.05):
        out = event("n")

        @slot
        def n(self, n: int) -> None:
            self.emit("out", n=n)
            free.wait(SECONDS)

    class Retries:
        @hookimpl
        def routilux_handle_error(self, failure: Failure) -> Decision:
            return Decision("retry")

    flow = make_flow(execution_strategy="concurrent", max_workers=1, error_handler="continue", plugins=[Retries()])
    flow.add_routine(Late(), "late")
    flow.add_output("late", "out")
    job = flow.execute("late", {"n": 1})
    assert job.wait(SECONDS)
    free.set()
    assert [(each.decision, each.emitted) for each in job.errors] == [("continue", 1)]
    assert job.outputs["late.out"] == [{"n": 1}]


# -- a worker that is lost all the same


def test_a_task_that_raises_is_named_and_its_thread_goes_on(
    make_flow: MakeFlow, caplog: pytest.LogCaptureFixture
) -> None:
    flow = make_flow(execution_strategy="concurrent", max_workers=2)
    flow.add_routine(Row(), "row")
    run(flow, "works")
    pool = flow._runtime.default.pool
    assert pool is not None

    class Bad:
        def __call__(self) -> None:
            raise SystemExit(3)

    for _ in range(5):
        pool.submit(Bad())  # type: ignore[arg-type]
    assert run(flow, "works").status == "completed"
    flow.shutdown()
    assert caplog.text.count("SystemExit has left a task") == 5


def test_an_exception_raised_in_a_waiting_thread_costs_no_worker(make_flow: MakeFlow) -> None:
    import ctypes

    flow = make_flow(execution_strategy="concurrent", max_workers=1)
    flow.add_routine(Row(), "row")
    run(flow, "works")
    (thread,) = [each for each in threading.enumerate() if each.name.startswith("routilux-concurrent")]
    assert thread.ident is not None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(OtherBase))
    run(flow, "works")  # the exception takes its task along, or not: but it ends
    assert run(flow, "works").status == "completed"


def test_a_pool_for_very_many_threads_can_be_forgotten() -> None:
    flow = Flow(execution_strategy="concurrent", max_workers=1_000_000)
    flow.add_routine(Row(), "row")
    assert flow.run("row", slot="works").status == "completed"
    flow.shutdown()
    del flow


# -- what a signal handler raises is nobody else's, wherever it comes


class TimeLimit(Exception):
    """As task queues raise it in the middle of whatever runs."""


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="there are no such signals")
@pytest.mark.parametrize("error", [SystemExit(15), TimeLimit()], ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["log", "text", "policy", "plugin"])
def test_what_a_signal_handler_raises_while_a_failure_is_told_of_is_raised(
    make_flow: MakeFlow, where: str, error: BaseException
) -> None:
    def act() -> None:
        signal.raise_signal(signal.SIGUSR1)

    class Log(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            act()

    class Says(Exception):
        def __str__(self) -> str:
            act()
            return "something"

    class Decides(ErrorHandler):
        def decide(self, failure: Failure) -> Decision:
            act()
            return Decision("continue")

    class Plugin:
        @hookimpl
        def routilux_handle_error(self) -> None:
            act()

    class Fails(Routine, stateless=True):
        @slot
        def fails(self) -> None:
            raise Says if where == "text" else ValueError

        @slot
        def works(self) -> None:
            pass

    def handler(*_: Any) -> None:
        raise error

    log, handles = logging.getLogger("routilux_core"), Log()
    flow = make_flow(
        error_handler=Decides() if where == "policy" else "continue", plugins=[Plugin()] if where == "plugin" else []
    )
    flow.add_routine(Fails(), "row")
    before = signal.signal(signal.SIGUSR1, handler)
    if where == "log":
        log.addHandler(handles)
    try:
        with pytest.raises(type(error)):
            flow.run("row", slot="fails")
    finally:
        log.removeHandler(handles)
        signal.signal(signal.SIGUSR1, before)
    assert flow.job_state is not None
    assert flow.job_state.status in ("cancelled", "failed")
    assert flow.job_state.ledger.balanced
    assert run(flow, "works").status == "completed"


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="there are no such signals")
def test_what_a_signal_handler_raises_in_a_handler_is_a_failure_like_any_other(
    make_flow: MakeFlow, strategy: dict[str, Any]
) -> None:
    class Limited(Routine):
        """Ends its own call by a signal, as many do for a time limit; signals come to the main thread."""

        @slot
        def n(self) -> None:
            if threading.current_thread() is threading.main_thread():
                signal.raise_signal(signal.SIGUSR1)
            raise TimeLimit

    def handler(*_: Any) -> None:
        raise TimeLimit

    flow = make_flow(**strategy, error_handler="continue")
    flow.add_routine(Limited(), "row")
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        job = run(flow, "n")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert (job.status, [type(each.exception) for each in job.errors]) == ("completed", [TimeLimit])


@pytest.mark.parametrize(("policy", "tracebacks"), [("skip", 0), ("continue", 1)])
def test_many_failures_of_a_kind_have_a_line_each_and_one_traceback(
    make_flow: MakeFlow, strategy: dict[str, Any], caplog: pytest.LogCaptureFixture, policy: str, tracebacks: int
) -> None:
    class Files(Routine):
        name = event("name")

        def __call__(self) -> None:
            for number in range(25):
                self.emit("name", name=f"file-{number}")

    class Reads(Routine, stateless=True):
        @slot
        def read(self, name: str) -> None:
            raise OSError(f"no {name}")

    flow = make_flow(**strategy, error_handler=policy)
    flow.add_routine(Files(), "files")
    flow.add_routine(Reads(), "reads")
    flow.connect("files", "name", "reads", "read")
    with caplog.at_level(logging.INFO, "routilux_core"):
        assert flow.run("files").status == "completed"
    assert len(caplog.records) == 25
    assert sum(record.exc_info is not None for record in caplog.records) == tracebacks
    caplog.clear()
    with caplog.at_level(logging.DEBUG, "routilux_core"):
        flow.run("files")
    assert sum(record.exc_info is not None for record in caplog.records) == 25
