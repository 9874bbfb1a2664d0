"""Errors: the four decisions, for every handler under every strategy, and nothing that passes silently."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from places import DOCS
from routilux_core import (
    ActivationTimeout,
    ConfigurationError,
    Decision,
    ErrorHandler,
    ErrorStrategy,
    Failure,
    Flow,
    JobState,
    Routine,
    event,
    field,
    slot,
)

pytestmark = pytest.mark.in_processes_too

MakeFlow = Callable[..., Flow]
GUIDE = DOCS / "errors.md"
SECONDS = 20.0
AT_ONCE = {"retry_delay": 0.0}


class Source(Routine):
    """Emits numbers; `fails_at` says after how many it raises, if at all."""

    item = event("n")
    fails_at: int = -1

    def __call__(self, count: int) -> None:
        for n in range(count):
            if n == self.fails_at:
                raise ValueError(f"source at {n}")
            self.emit("item", n=n)


class Picky(Routine):
    """Raises for the numbers that the test names, as often as it says; emits before it does."""

    tries: dict[int, int] = field(factory=dict)
    error: BaseException = field(factory=lambda: ValueError("no"))
    calls: list[int] = field(factory=list)
    passed = event("n", "call")

    @slot
    def n(self, n: int) -> None:
        self.calls.append(n)
        self.emit("passed", n=n, call=len(self.calls))
        if self.tries.get(n, 0):
            self.tries[n] -= 1
            raise self.error


class Collect(Routine):
    seen: list[int] = field(factory=list)

    @slot
    def n(self, n: int) -> None:
        self.seen.append(n)


def build(flow: Flow, picky: Picky) -> Collect:
    collect = Collect()
    flow.add_routine(Source(), "source")
    flow.add_routine(picky, "picky")
    flow.add_routine(collect, "collect")
    flow.connect("source", "item", "picky", "n")
    flow.connect("picky", "passed", "collect", "n")
    return collect


def run(flow: Flow, entry: str = "source", **params: Any) -> JobState:
    job = flow.execute(entry, params)
    assert job.wait(SECONDS), job.explain()
    assert job.ledger.balanced
    assert job.ledger.pending == 0
    return job


ALWAYS = 10**6

# -- the four decisions


def test_stop_is_the_default_and_discards_what_is_queued(make_flow: MakeFlow) -> None:
    flow, picky = make_flow(), Picky(tries={1: ALWAYS})
    collect = build(flow, picky)
    job = run(flow, count=4)
    assert (job.status, picky.calls) == ("failed", [0, 1])
    assert job.get_routine_state("picky") == "failed"
    # First come, first served: what picky emitted for 0 and 1 was queued behind the numbers 2 and 3.
    assert collect.seen == []
    assert (job.ledger.completed, job.ledger.failed, job.ledger.discarded) == (2, 1, 4)


def test_stop_ends_what_runs_and_discards_what_it_still_emits(make_flow: MakeFlow) -> None:
    flow = make_flow(execution_strategy="concurrent", max_workers=2)
    stopped = threading.Event()

    class Outlives(Routine):
        item = event("n")

        def __call__(self) -> None:
            self.emit("item", n=0)
            while not self.cancelled:
                stopped.wait(0.001)
            self.emit("item", n=1)
            self.emit("item", n=2)

    picky = Picky(tries={0: ALWAYS})
    flow.add_routine(Outlives(), "outlives")
    flow.add_routine(picky, "picky")
    flow.connect("outlives", "item", "picky", "n")
    job = run(flow, "outlives")
    assert (job.status, picky.calls) == ("failed", [0])
    assert (job.ledger.completed, job.ledger.failed, job.ledger.discarded) == (1, 1, 2)


@pytest.mark.parametrize("given", [ErrorStrategy.CONTINUE, "continue", "CONTINUE", ErrorHandler("continue")])
def test_continue_goes_on_and_keeps_the_errors(make_flow: MakeFlow, strategy: dict[str, Any], given: Any) -> None:
    flow, picky = make_flow(**strategy, error_handler=given), Picky(tries={1: ALWAYS, 3: ALWAYS})
    collect = build(flow, picky)
    job = run(flow, count=5)
    assert (job.status, picky.calls) == ("completed", [0, 1, 2, 3, 4])
    # Emitted before the exception, so delivered.
    assert collect.seen == [0, 1, 2, 3, 4]
    assert [(f.routine_id, f.slot, f.attempt, f.decision) for f in job.errors] == [
        ("picky", "n", 1, ErrorStrategy.CONTINUE)
    ] * 2
    assert job.routine_states == {"source": "completed", "picky": "error_continued", "collect": "completed"}
    assert (job.ledger.failed, job.ledger.skipped, job.ledger.discarded) == (2, 0, 0)


@pytest.mark.parametrize("given", [ErrorStrategy.SKIP, "skip"])
def test_skip_goes_on_and_counts_apart(make_flow: MakeFlow, strategy: dict[str, Any], given: Any) -> None:
    flow, picky = make_flow(**strategy), Picky(tries={1: ALWAYS, 3: ALWAYS})
    picky.set_error_handler(given)
    collect = build(flow, picky)
    job = run(flow, count=5)
    assert (job.status, collect.seen) == ("completed", [0, 1, 2, 3, 4])
    assert [failure.decision for failure in job.errors] == [ErrorStrategy.SKIP] * 2
    assert job.get_routine_state("picky") == "skipped"
    assert (job.ledger.failed, job.ledger.skipped) == (0, 2)
    assert [r.outcome for r in job.get_execution_history("picky")].count("skipped") == 2
    job.raise_for_errors()


@pytest.mark.parametrize("given", [ErrorHandler(ErrorStrategy.RETRY, **AT_ONCE), ErrorHandler("retry", **AT_ONCE)])
def test_retry_runs_again_and_delivers_each_emission_once(
    make_flow: MakeFlow, strategy: dict[str, Any], given: ErrorHandler
) -> None:
    flow, picky = make_flow(**strategy), Picky(tries={1: 2, 3: 1})
    picky.set_error_handler(given)
    collect = build(flow, picky)
    flow.add_output("picky", "passed")
    job = run(flow, count=5)
    # It has state, so it keeps its place: nobody overtakes.
    assert picky.calls == [0, 1, 1, 1, 2, 3, 3, 4]
    assert collect.seen == [0, 1, 2, 3, 4]
    assert [payload["call"] for payload in job.outputs["picky.passed"]] == [1, 4, 5, 7, 8]
    assert [(failure.attempt, failure.decision) for failure in job.errors] == [
        (1, ErrorStrategy.RETRY),
        (2, ErrorStrategy.RETRY),
        (1, ErrorStrategy.RETRY),
    ]
    assert (job.status, job.get_routine_state("picky")) == ("completed", "completed")
    assert (job.ledger.retried, job.ledger.failed, job.ledger.completed) == (3, 0, 11)
    history = [(record.attempt, record.outcome) for record in job.get_execution_history("picky")]
    assert history == [
        (1, "completed"),
        (1, "retried"),
        (2, "retried"),
        (3, "completed"),
        (1, "completed"),
        (1, "retried"),
        (2, "completed"),
        (1, "completed"),
    ]
    job.raise_for_errors()


@pytest.mark.parametrize(
    ("after", "status", "state", "counts"),
    [
        ("stop", "failed", "failed", (1, 0)),
        ("continue", "completed", "error_continued", (1, 0)),
        ("skip", "completed", "skipped", (0, 1)),
    ],
)
def test_when_retries_are_used_up_it_is_as_after_retries_says(
    make_flow: MakeFlow, strategy: dict[str, Any], after: str, status: str, state: str, counts: tuple[int, int]
) -> None:
    handler = ErrorHandler("retry", max_retries=2, after_retries=after, **AT_ONCE)
    flow, picky = make_flow(**strategy, error_handler=handler), Picky(tries={0: ALWAYS})
    collect = build(flow, picky)
    job = run(flow, count=1)
    assert (job.status, job.get_routine_state("picky")) == (status, state)
    assert picky.calls == [0, 0, 0]
    assert collect.seen == []
    assert [(failure.attempt, failure.decision) for failure in job.errors] == [
        (1, ErrorStrategy.RETRY),
        (2, ErrorStrategy.RETRY),
        (3, ErrorStrategy(after)),
    ]
    assert (job.ledger.failed, job.ledger.skipped, job.ledger.retried) == (*counts, 2)


def test_no_retries_at_all(make_flow: MakeFlow) -> None:
    flow, picky = make_flow(error_handler=ErrorHandler("retry", max_retries=0)), Picky(tries={0: 1})
    build(flow, picky)
    job = run(flow, count=1)
    assert (job.status, picky.calls, job.ledger.retried) == ("failed", [0], 0)


@pytest.mark.in_this_process("compares the exception by identity")
@pytest.mark.parametrize(
    ("settings", "error", "calls"),
    [
        ({"retryable_exceptions": (OSError,)}, ValueError("no"), 1),
        ({"retryable_exceptions": OSError}, ConnectionError("yes"), 3),
        ({"non_retryable_exceptions": (LookupError,)}, KeyError("no"), 1),
        ({"non_retryable_exceptions": LookupError}, ValueError("yes"), 3),
        ({}, SystemExit(3), 1),
        ({"retryable_exceptions": (BaseException,)}, SystemExit(3), 3),
    ],
)
def test_only_what_is_retryable_is_retried(
    make_flow: MakeFlow, strategy: dict[str, Any], settings: dict[str, Any], error: BaseException, calls: int
) -> None:
    pass_over_exits(strategy, error)
    handler = ErrorHandler("retry", max_retries=2, **AT_ONCE, **settings)
    flow, picky = make_flow(**strategy, error_handler=handler), Picky(tries={0: ALWAYS}, error=error)
    build(flow, picky)
    job = run(flow, count=1)
    assert len(picky.calls) == calls
    assert (job.status, job.errors[-1].exception) == ("failed", error)


@pytest.mark.parametrize("decision", ["stop", "continue", "skip", "retry"])
def test_the_entry_has_the_same_decisions(make_flow: MakeFlow, strategy: dict[str, Any], decision: str) -> None:
    flow = make_flow(**strategy, error_handler=ErrorHandler(decision, max_retries=1, **AT_ONCE))
    collect = Collect()
    flow.add_routine(Source(fails_at=2), "source")
    flow.add_routine(collect, "collect")
    flow.connect("source", "item", "collect", "n")
    job = run(flow, count=5)
    assert job.status == ("failed" if decision in ("stop", "retry") else "completed")
    assert [str(failure.exception) for failure in job.errors] == ["source at 2"] * (2 if decision == "retry" else 1)
    if decision in ("continue", "skip"):
        assert collect.seen == [0, 1]
    if decision == "retry":
        assert (collect.seen, job.ledger.emitted) == ([], 0)


def test_a_routines_own_policy_goes_before_the_flows(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow, picky = make_flow(**strategy, error_handler="continue"), Picky(tries={0: ALWAYS})
    build(flow, picky)
    picky.set_as_critical(max_retries=1, retry_delay=0.0)
    assert run(flow, count=1).status == "failed"
    picky.set_error_handler(None)
    assert run(flow, count=1).status == "completed"
    flow.set_error_handler(None)
    assert run(flow, count=1).status == "failed"
    picky.set_as_optional()
    assert run(flow, count=1).status == "completed"


def test_the_gravest_decision_is_the_state(make_flow: MakeFlow) -> None:
    class Varies(ErrorHandler):
        """CONTINUE for the number 1, SKIP for the rest."""

        def decide(self, failure: Failure) -> Decision:
            return Decision("continue" if str(failure.exception) == "1" else "skip")

    class Raises(Routine):
        @slot
        def n(self, n: int) -> None:
            raise ValueError(n)

    flow = make_flow(error_handler=Varies())
    flow.add_routine(Source(), "source")
    flow.add_routine(Raises(), "raises")
    flow.connect("source", "item", "raises", "n")
    job = run(flow, count=3)
    assert [failure.decision for failure in job.errors] == ["skip", "continue", "skip"]
    assert job.get_routine_state("raises") == "error_continued"


def test_one_policy_serves_many_routines_and_jobs(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    handler = ErrorHandler("retry", max_retries=1, after_retries="continue", **AT_ONCE)
    flow = make_flow(**strategy, error_handler=handler)
    pickies = [Picky(tries={0: ALWAYS}) for _ in range(3)]
    flow.add_routine(Source(), "source")
    for number, picky in enumerate(pickies):
        flow.add_routine(picky, f"picky{number}")
        flow.connect("source", "item", f"picky{number}", "n")
    for _ in range(2):
        assert run(flow, count=1).ledger.retried == 3
    assert [picky.calls for picky in pickies] == [[0, 0, 0, 0]] * 3


# -- what is known of an error


@pytest.mark.in_this_process("compares the exception by identity")
def test_a_failure_says_where_what_and_why(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    flow, picky = make_flow(**strategy), Picky(tries={0: ALWAYS}, error=ValueError("bad number"))
    build(flow, picky)
    job = run(flow, count=1)
    (failure,) = job.errors
    assert (failure.job_id, failure.routine_id, failure.slot) == (job.job_id, "picky", "n")
    assert failure.exception is picky.error
    assert "raise self.error" in failure.traceback
    assert failure.traceback.endswith("ValueError: bad number\n")
    assert failure.payload_keys == ("n",)
    assert (failure.attempt, failure.emitted, failure.decision) == (1, 1, ErrorStrategy.STOP)


@pytest.mark.in_this_process("compares the exceptions by identity")
def test_raise_for_errors_raises_what_stopped_or_was_continued_after(
    make_flow: MakeFlow, strategy: dict[str, Any]
) -> None:
    flow, picky = make_flow(**strategy, error_handler="continue"), Picky(tries={0: ALWAYS, 1: ALWAYS})
    build(flow, picky)
    job = run(flow, count=3)
    with pytest.raises(ExceptionGroup, match=f"{job.job_id}.*picky") as caught:
        job.raise_for_errors()
    assert caught.value.exceptions == (picky.error, picky.error)
    run(flow, count=0).raise_for_errors()


def test_raise_for_errors_has_a_group_for_what_is_no_exception(make_flow: MakeFlow) -> None:
    flow, picky = make_flow(), Picky(tries={0: ALWAYS}, error=GeneratorExit())
    build(flow, picky)
    job = run(flow, count=1)
    with pytest.raises(BaseExceptionGroup) as caught:
        job.raise_for_errors()
    assert caught.value.exceptions == (picky.error,)


def test_each_error_is_logged_once_with_its_decision(
    make_flow: MakeFlow, strategy: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    handler = ErrorHandler("retry", max_retries=1, after_retries="continue", **AT_ONCE)
    flow, picky = make_flow(**strategy, error_handler=handler), Picky(tries={0: ALWAYS})
    build(flow, picky)
    with caplog.at_level(logging.INFO, logger="routilux_core"):
        run(flow, count=1)
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    assert "'picky'" in caplog.text
    assert "continue" in caplog.messages[1]


@pytest.mark.skipif(not GUIDE.exists(), reason="the documentation is not beside the tests")
def test_the_python_in_the_documentation_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, str(GUIDE), "exec"), {"__name__": "documentation"})


# -- what must not break the engine


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def overflow() -> None:
    overflow()


RAISED: list[BaseException] = [
    SystemExit(1),
    GeneratorExit(),
    RecursionError(),
    MemoryError(),
    StopIteration(),
    AssertionError(),
    BaseException("bare"),
    BaseExceptionGroup("group", [KeyError(1), SystemExit(2)]),
    Unprintable(),
]


def pass_over_exits(strategy: dict[str, Any], error: BaseException) -> None:
    if strategy["execution_strategy"] == "sequential" and isinstance(error, SystemExit):
        pytest.skip("in the main thread an exit cancels the job, and is raised again: this has tests of its own")


@pytest.mark.in_this_process("compares the exception by identity")
@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("decision", ["stop", "continue"])
def test_any_exception_is_contained(
    make_flow: MakeFlow, strategy: dict[str, Any], error: BaseException, decision: str
) -> None:
    pass_over_exits(strategy, error)
    flow, picky = make_flow(**strategy, error_handler=decision), Picky(tries={0: 1}, error=error)
    collect = build(flow, picky)
    job = run(flow, count=2)
    assert [failure.exception for failure in job.errors] == [error]
    assert job.status == ("failed" if decision == "stop" else "completed")
    collect.seen.clear()
    assert run(flow, count=3).status == "completed"
    assert collect.seen == [0, 1, 2]


def test_a_handler_that_recurses_without_end_fails_like_any_other(
    make_flow: MakeFlow, strategy: dict[str, Any]
) -> None:
    class Recurses(Routine):
        def __call__(self) -> None:
            overflow()

    flow = make_flow(**strategy)
    flow.add_routine(Recurses(), "recurses")
    job = run(flow, "recurses")
    assert (job.status, type(job.errors[0].exception)) == ("failed", RecursionError)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=lambda error: type(error).__name__)
def test_what_ends_a_program_is_a_failure_outside_the_main_thread(make_flow: MakeFlow, error: BaseException) -> None:
    flow, picky = make_flow(execution_strategy="concurrent"), Picky(tries={0: 1}, error=error)
    build(flow, picky)
    job = run(flow, count=1)
    assert (job.status, job.errors[0].exception) == ("failed", picky.error)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=lambda error: type(error).__name__)
def test_what_ends_a_program_cancels_in_the_main_thread_and_is_raised_again(
    make_flow: MakeFlow, error: BaseException
) -> None:
    flow, picky = make_flow(error_handler="continue"), Picky(tries={1: 1}, error=error)
    collect = build(flow, picky)
    with pytest.raises(type(error)):
        flow.execute("source", {"count": 4})
    job = flow.job_state
    assert job is not None
    assert (job.status, picky.calls, collect.seen) == ("cancelled", [0, 1], [])
    assert [failure.exception for failure in job.errors] == [picky.error]
    assert (job.ledger.pending, job.ledger.balanced) == (0, True)
    assert run(flow, count=3).status == "completed"
    assert collect.seen == [0, 1, 2]


@pytest.mark.in_this_process("gives max_workers beside the strategy")
def test_a_policy_that_raises_fails_the_activation_and_the_worker_lives(
    make_flow: MakeFlow, strategy: dict[str, Any]
) -> None:
    class Broken(ErrorHandler):
        def decide(self, failure: Failure) -> Decision:
            raise RuntimeError("the policy is broken")

    flow = make_flow(**{**strategy, "max_workers": 1}, error_handler=Broken())
    picky = Picky(tries={0: 1})
    build(flow, picky)
    job = run(flow, count=1)
    assert job.status == "failed"
    assert picky.error in [failure.exception for failure in job.errors]
    assert run(flow, count=1).status == "completed"


@pytest.fixture
def broken_log() -> Iterator[None]:
    """Let every log record of the engine raise."""

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("the log is full")

    handler = Broken()
    logging.getLogger("routilux_core").addHandler(handler)
    yield
    logging.getLogger("routilux_core").removeHandler(handler)


@pytest.mark.in_this_process("gives max_workers beside the strategy")
@pytest.mark.parametrize("decision", ["stop", "continue", "skip"])
def test_a_log_that_raises_does_not_cost_a_worker(
    make_flow: MakeFlow, strategy: dict[str, Any], broken_log: None, decision: str
) -> None:
    flow = make_flow(**{**strategy, "max_workers": 1}, error_handler=decision)
    picky = Picky(tries={0: 1})
    build(flow, picky)
    job = run(flow, count=1)
    assert [failure.exception for failure in job.errors] == [picky.error]
    assert job.status == ("failed" if decision == "stop" else "completed")
    assert run(flow, count=1).status == "completed"


# -- policies as configuration


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"strategy": "ignore"}, ("'ignore'", "'continue'")),
        ({"strategy": None}, ("None", "'continue'")),
        ({"max_retries": -1}, ("max_retries", "not -1")),
        ({"max_retries": 1.5}, ("max_retries", "not 1.5")),
        ({"max_retries": True}, ("max_retries", "not True")),
        ({"retry_delay": -0.1}, ("retry_delay", "not -0.1")),
        ({"retry_delay": "1"}, ("retry_delay", "not '1'")),
        ({"retry_delay": float("nan")}, ("retry_delay", "not nan")),
        ({"retry_backoff": float("inf")}, ("retry_backoff", "not inf")),
        ({"max_delay": -1}, ("max_delay", "not -1")),
        ({"jitter": -1}, ("jitter", "not -1")),
        ({"after_retries": "retry"}, ("after_retries", "'skip'")),
        ({"retryable_exceptions": (ValueError, "OSError")}, ("'OSError'", "exception type")),
        ({"non_retryable_exceptions": int}, ("int", "exception type")),
    ],
)
def test_a_wrong_policy_is_refused(settings: dict[str, Any], names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ErrorHandler(**settings)
    assert [name for name in names if name not in str(caught.value)] == [], str(caught.value)


def test_delays_grow_by_the_formula_up_to_the_longest() -> None:
    handler = ErrorHandler("retry", retry_delay=0.5, retry_backoff=3.0)
    assert [handler.delay_before(k) for k in (1, 2, 3)] == [0.5, 1.5, 4.5]
    handler = ErrorHandler("retry", retry_delay=0.5, retry_backoff=3.0, max_delay=2.0)
    assert [handler.delay_before(k) for k in (1, 2, 3, 5000)] == [0.5, 1.5, 2.0, 2.0]
    jittered = ErrorHandler("retry", retry_delay=1.0, jitter=0.5)
    delays = [jittered.delay_before(1) for _ in range(200)]
    assert all(1.0 <= delay <= 1.5 for delay in delays)
    assert len(set(delays)) > 1


def test_the_delay_is_waited_for_before_the_retry(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    handler = ErrorHandler("retry", retry_delay=0.02, retry_backoff=2.0)
    flow, picky = make_flow(**strategy, error_handler=handler), Picky(tries={0: 2})
    build(flow, picky)
    job = run(flow, count=1)
    first, second, third = job.get_execution_history("picky")
    assert second.started - first.ended >= 0.02
    assert third.started - second.ended >= 0.04


@pytest.mark.in_this_process("waits for an event of this process")
def test_a_stateless_routine_lets_others_pass_while_a_retry_waits(
    make_flow: MakeFlow, strategy: dict[str, Any]
) -> None:
    passed = threading.Event()

    class FailsOnce(Routine, stateless=True):
        done = event("n")

        @slot
        def n(self, n: int) -> None:
            if n == 0 and not passed.is_set():
                raise OSError("not yet")
            if n == 1:
                passed.set()
            self.emit("done", n=n)

    # Only when number 1 has passed number 0 does number 0 succeed.
    handler = ErrorHandler("retry", max_retries=10_000, retry_delay=0.001, retry_backoff=1.0)
    flow = make_flow(**strategy, error_handler=handler)
    flow.add_routine(Source(), "source")
    flow.add_routine(FailsOnce(), "fails")
    flow.add_output("fails", "done")
    flow.connect("source", "item", "fails", "n")
    job = run(flow, count=2)
    assert job.status == "completed"
    assert sorted(payload["n"] for payload in job.outputs["fails.done"]) == [0, 1]


# -- time-outs


def test_a_call_over_its_timeout_is_a_failure(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    class Slow(Routine, timeout=0.2):
        @slot
        def n(self, n: int) -> None:
            if n:
                wait_until_over(self)  # no fixed time: on a busy machine the timer may be late

    flow = make_flow(**strategy, error_handler="continue")
    flow.add_routine(Source(), "source")
    flow.add_routine(Slow(), "slow")
    flow.connect("source", "item", "slow", "n")
    job = run(flow, count=2)
    (failure,) = job.errors
    assert isinstance(failure.exception, ActivationTimeout)
    assert isinstance(failure.exception, TimeoutError)
    assert "'slow', slot 'n'" in str(failure.exception)
    assert "0.2 s" in str(failure.exception)
    assert (job.ledger.failed, job.get_routine_state("slow")) == (1, "error_continued")


class Stuck(Routine, timeout=0.2):
    """Calls number 0 and below wait for the test; what it emits then is late."""

    done = event("n")

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()
        self.calls: list[int] = []
        self.returned = threading.Event()
        self.saw_it = False

    @slot
    def n(self, n: int) -> None:
        self.calls.append(n)
        self.emit("done", n=n)
        if n <= 0:
            assert self.free.wait(SECONDS)
            self.saw_it = self.saw_it or self.cancelled
            self.emit("done", n=-1)
            self.returned.set()


def stuck_flow(make_flow: MakeFlow, routine: Routine, workers: int, **settings: Any) -> Flow:
    flow = make_flow(execution_strategy="concurrent", max_workers=workers, **settings)
    flow.add_routine(Source(), "source")
    flow.add_routine(routine, "stuck")
    flow.add_output("stuck", "done")
    flow.connect("source", "item", "stuck", "n")
    return flow


@pytest.mark.parametrize("workers", [1, 3])
def test_on_threads_a_call_fails_on_time_and_its_late_emissions_are_counted(make_flow: MakeFlow, workers: int) -> None:
    routine = Stuck()
    flow = stuck_flow(make_flow, routine, workers, error_handler="continue")
    job = flow.execute("source", {"count": 1})
    assert job.wait(SECONDS)  # though the call has not returned
    assert not routine.returned.is_set()
    (failure,) = job.errors
    assert isinstance(failure.exception, ActivationTimeout)
    assert "free.wait" in failure.traceback  # where the call was
    assert (job.status, job.ledger.failed, job.late_emissions) == ("completed", 1, 0)
    assert job.outputs["stuck.done"] == [{"n": 0}]
    routine.free.set()
    assert routine.returned.wait(SECONDS)
    assert routine.saw_it
    assert job.late_emissions == 1
    assert job.outputs["stuck.done"] == [{"n": 0}]
    assert job.ledger.balanced
    assert job.ledger.pending == 0


def test_other_work_goes_on_in_the_place_of_a_late_calls_worker(make_flow: MakeFlow) -> None:
    routine, together = Stuck(), threading.Barrier(2)

    class Meets(Routine, stateless=True):
        @slot
        def n(self, n: int) -> None:
            together.wait(SECONDS)

    flow = stuck_flow(make_flow, routine, 2, error_handler="continue")
    flow.add_routine(Meets(), "meets")
    stuck = flow.execute("source", {"count": 1})
    assert stuck.wait(SECONDS)
    jobs = [flow.execute("meets", {"n": n}) for n in range(2)]  # two workers are needed, besides the late one
    assert all(job.wait(SECONDS) for job in jobs)
    assert [job.status for job in jobs] == ["completed"] * 2
    routine.free.set()
    assert routine.returned.wait(SECONDS)
    flow.shutdown()
    assert not [each for each in threading.enumerate() if each.name.startswith("routilux-concurrent")]


def test_a_routine_with_state_keeps_its_place_until_the_late_call_returns(make_flow: MakeFlow) -> None:
    routine = Stuck()
    flow = stuck_flow(make_flow, routine, 3, error_handler="continue")
    job = flow.execute("source", {"count": 3})
    while not job.errors:
        assert not job.wait(0.01)
    assert routine.calls == [0]
    routine.free.set()
    assert job.wait(SECONDS)
    assert routine.calls == [0, 1, 2]
    assert job.outputs["stuck.done"] == [{"n": n} for n in range(3)]


def test_calls_of_a_stateless_routine_go_on_beside_a_late_one(make_flow: MakeFlow) -> None:
    free, returned = threading.Event(), threading.Event()

    class Loose(Routine, stateless=True, timeout=0.2):
        done = event("n")

        @slot
        def n(self, n: int) -> None:
            self.emit("done", n=n)
            if n == 0:
                free.wait(SECONDS)
                returned.set()

    flow = stuck_flow(make_flow, Loose(), 2, error_handler="continue")
    job = flow.execute("source", {"count": 3})
    assert job.wait(SECONDS)
    assert not returned.is_set()
    assert sorted(payload["n"] for payload in job.outputs["stuck.done"]) == [0, 1, 2]
    free.set()
    assert returned.wait(SECONDS)


@pytest.mark.parametrize("returns_first", [True, False])
def test_a_retry_after_a_timeout_comes_before_what_waited_behind_it(make_flow: MakeFlow, returns_first: bool) -> None:
    routine = Stuck()
    handler = ErrorHandler("retry", max_retries=1, retry_delay=0.3 if returns_first else 0.0, after_retries="continue")
    routine.set_error_handler(handler)
    flow = stuck_flow(make_flow, routine, 3)
    job = flow.execute("source", {"count": 3})
    while not job.errors:
        assert not job.wait(0.001)
    if not returns_first:
        time.sleep(0.1)  # the retry is due, and has to wait for the late call
        assert routine.calls == [0]
    routine.free.set()  # from now on, number 0 does not wait
    assert job.wait(SECONDS)
    assert routine.calls == [0, 0, 1, 2]
    assert job.status == "completed"
    assert [failure.decision for failure in job.errors] == ["retry"]
    # What the late attempt had emitted was held, and is gone; what it emitted later was late.
    assert [payload["n"] for payload in job.outputs["stuck.done"]] == [0, -1, 1, 2]
    assert job.late_emissions == 1


def test_a_late_call_that_raises_is_logged(make_flow: MakeFlow, caplog: pytest.LogCaptureFixture) -> None:
    free = threading.Event()

    class Breaks(Routine, timeout=0.1):
        done = event()

        @slot
        def n(self, n: int) -> None:
            free.wait(SECONDS)
            raise ValueError("much later")

    flow = stuck_flow(make_flow, Breaks(), 2, error_handler="continue")
    job = flow.execute("source", {"count": 1})
    assert job.wait(SECONDS)
    free.set()
    flow.shutdown()
    assert [type(each.exception) for each in job.errors] == [ActivationTimeout]
    assert "much later" in caplog.text


def test_many_calls_in_time_leave_no_timers(make_flow: MakeFlow) -> None:
    class Quick(Routine, timeout=30.0, stateless=True):
        @slot
        def n(self, n: int) -> None:
            pass

    flow = make_flow(execution_strategy="concurrent", max_workers=4)
    flow.add_routine(Source(), "source")
    flow.add_routine(Quick(), "quick")
    flow.connect("source", "item", "quick", "n")
    job = run(flow, count=1000)
    assert job.ledger.completed == 1001
    assert len(flow._runtime.engine.timers) == 0
    assert len(flow._runtime.engine.timers._heap) < 300


def test_an_error_that_cannot_say_what_it_is_is_logged_and_kept(
    make_flow: MakeFlow, strategy: dict[str, Any], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    class Speechless(Exception):
        def __str__(self) -> str:
            raise RuntimeError("not even this")

        __repr__ = __str__

    class Fails(Routine):
        def __call__(self) -> None:
            raise Speechless

    flow = make_flow(**strategy, error_handler="continue")
    flow.add_routine(Fails(), "fails")
    job = flow.run("fails")
    assert [type(failure.exception) for failure in job.errors] == [Speechless]
    assert "Speechless: <its __str__ raises> -> continue" in caplog.text
    assert "its __repr__ raises" in repr(job.errors)
    assert capsys.readouterr().err == ""


# -- late calls, wherever the time-out is judged


class Late(Routine, stateless=True, timeout=0.2):
    """Emits in time, and too late; then it raises, if it is told to."""

    out = event("n")
    raises: bool = False

    @slot
    def n(self, n: int) -> None:
        self.emit("out", n=n)
        wait_until_over(self)
        self.emit("out", n=-n)
        self.emit("no such event", n=-n)  # a late call is told of nothing any more
        if self.raises:
            raise ValueError("late, too")


def wait_until_over(routine: Routine) -> None:
    """Return when the time of the call is over, which a handler can see."""
    end = time.monotonic() + SECONDS
    while not routine.cancelled and time.monotonic() < end:
        time.sleep(0.005)


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("policy", ["continue", "skip", "retry"])
def test_what_is_emitted_after_the_time_is_over_is_dropped_and_counted(
    make_flow: MakeFlow, strategy: dict[str, Any], policy: str, raises: bool
) -> None:
    handler = ErrorHandler(policy, max_retries=1, retry_delay=0.0, after_retries="continue")
    flow = make_flow(**strategy, error_handler=handler)
    flow.add_routine(Late(raises=raises), "late")
    flow.add_output("late", "out")
    job = flow.execute("late", {"n": 1})
    assert job.wait(SECONDS), job.explain()
    assert {type(each.exception) for each in job.errors} == {ActivationTimeout}
    assert job.outputs["late.out"] == ([] if policy == "retry" else [{"n": 1}])
    flow.shutdown()  # on threads the late call itself goes on
    if flow.execution_strategy in ("sequential", "concurrent"):  # elsewhere it may be ended on time
        assert job.late_emissions == 2 * len(job.errors)
    assert job.outputs["late.out"] == ([] if policy == "retry" else [{"n": 1}])


def test_time_that_emit_lends_to_others_is_not_the_calls_own(make_flow: MakeFlow) -> None:
    class Slow(Routine, stateless=True):
        @slot
        def n(self, n: int) -> None:
            time.sleep(0.06)

    class Emits(Routine, timeout=0.2):
        out = event("n")

        def __call__(self) -> None:
            for n in range(12):  # beyond `max_pending`, the slow ones are run here
                self.emit("out", n=n)

    flow = make_flow(max_pending=2)
    flow.add_routine(Emits(), "emits")
    flow.add_routine(Slow(), "slow")
    flow.connect("emits", "out", "slow", "n")
    job = run(flow, "emits")
    assert (job.status, job.late_emissions, job.ledger.completed) == ("completed", 0, 13)


def test_a_late_call_leaves_the_next_one_its_own_time(make_flow: MakeFlow) -> None:
    class Twice(Routine, timeout=0.1):
        out = event("n")

        @slot
        def n(self, n: int) -> None:
            if n == 0:
                wait_until_over(self)
            self.emit("out", n=n)

    flow = make_flow(error_handler="continue")
    flow.add_routine(Source(), "source")
    flow.add_routine(Twice(), "twice")
    flow.connect("source", "item", "twice", "n")
    flow.add_output("twice", "out")
    job = run(flow, count=3)
    assert (job.outputs["twice.out"], job.late_emissions) == ([{"n": 1}, {"n": 2}], 1)


@pytest.mark.in_this_process
def test_calls_that_fail_at_once_are_told_with_one_traceback(
    make_flow: MakeFlow, caplog: pytest.LogCaptureFixture
) -> None:
    together = threading.Barrier(3)

    def meet(n: int) -> None:
        together.wait(SECONDS)
        raise ValueError(f"no {n}")

    flow = make_flow(execution_strategy="concurrent", max_workers=4)
    flow.chain(lambda count: (n for n in range(count)), meet)
    job = flow.run("function", {"count": 3})
    assert len(job.errors) == len(caplog.records) == 3
    assert sorted(record.exc_info is not None for record in caplog.records) == [False, False, True]
