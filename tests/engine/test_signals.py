"""What a signal handler raises, or calls, while a flow works; and exceptions that come inside `emit`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextvars import Context
from typing import Any

import pytest

from routilux_core import Flow, Routine, event, slot
from stress.at_each_line import Interruption

MakeFlow = Callable[..., Flow]
SECONDS = 20.0

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends signals")


class TimeLimit(Exception):
    """What the time limits of task queues and test runners raise."""


class Source(Routine):
    item = event("n")

    def __call__(self, count: int) -> None:
        for n in range(count):
            self.emit("item", n=n)


class Collect(Routine):
    seen: int = 0

    @slot
    def n(self, n: int) -> None:
        self.seen += 1


class Signals(Routine):
    """Sends a signal to its own process, which is handled before the call goes on."""

    item = event("n")

    def __call__(self) -> None:
        self.emit("item", n=1)
        signal.raise_signal(signal.SIGTERM)
        self.emit("item", n=2)


@pytest.fixture
def on_signal() -> Iterator[Callable[[Callable[[], Any]], None]]:
    """Have something called on SIGTERM."""
    before = signal.getsignal(signal.SIGTERM)
    yield lambda call: signal.signal(signal.SIGTERM, lambda *_: call()) and None
    signal.signal(signal.SIGTERM, before)


def build(flow: Flow, routine: Routine) -> Collect:
    collect = Collect()
    flow.add_routine(routine, "first")
    flow.add_routine(collect, "collect")
    flow.connect("first", "item", "collect", "n")
    return collect


@pytest.mark.parametrize("policy", ["stop", "continue"])
def test_an_exit_on_sigterm_ends_the_job_and_the_program_under_sequential(
    make_flow: MakeFlow, on_signal: Callable[..., None], policy: str
) -> None:
    flow = make_flow(error_handler=policy)
    collect = build(flow, Signals())
    on_signal(lambda: sys.exit(7))
    with pytest.raises(SystemExit) as caught:
        flow.run("first")
    job = flow.job_state
    assert job is not None
    assert (caught.value.code, job.status, collect.seen) == (7, "cancelled", 0)
    assert (job.ledger.balanced, job.ledger.pending, job.ledger.discarded) == (True, 0, 1)


@pytest.mark.parametrize("policy", ["stop", "continue"])
def test_what_a_signal_handler_raises_in_a_handler_is_its_failure(
    make_flow: MakeFlow, on_signal: Callable[..., None], policy: str
) -> None:
    flow = make_flow(error_handler=policy)
    collect = build(flow, Signals())

    def over() -> None:
        raise TimeLimit

    on_signal(over)
    job = flow.run("first")
    assert [type(failure.exception) for failure in job.errors] == [TimeLimit]
    assert (job.status, collect.seen) == (("failed", 0) if policy == "stop" else ("completed", 1))


def test_a_signal_handler_may_cancel_the_job_of_the_handler_that_it_interrupts(
    make_flow: MakeFlow, on_signal: Callable[..., None]
) -> None:
    flow = make_flow()
    collect = build(flow, Signals())
    on_signal(flow.cancel)
    job = flow.run("first")
    assert (job.status, collect.seen, job.ledger.pending) == ("cancelled", 0, 0)


# -- a Ctrl-C where calls are counted: their job is told of many at a time


def press_ctrl_c() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("counted_by", ["flush_records", "flush_records_of_another"])
def test_a_ctrl_c_while_calls_are_counted_loses_no_more_than_one(make_flow: MakeFlow, counted_by: str) -> None:
    last = 20
    flow = make_flow()
    flow.add_routine(Source(), "source")

    class Interrupted(Routine):
        """Has lines of the engine interrupted from its last call on, in which it may read the ledger."""

        @slot
        def n(self, n: int) -> None:
            if n == last:
                interruption.begin()
                if counted_by != "flush_records":
                    assert flow.job_state is not None
                    assert flow.job_state.ledger.completed == last + 1

    flow.add_routine(Interrupted(), "interrupted")
    flow.connect("source", "item", "interrupted", "n")
    places: set[str] = set()
    for at in range(1, 40):
        interruption = Interruption(at, press_ctrl_c)
        try:
            with pytest.raises(KeyboardInterrupt):
                Context().run(flow.run, "source", {"count": last + 1})  # with nothing in it: so calls are drained
        finally:
            sys.settrace(None)
        job = flow.job_state
        assert job is not None
        ledger = job.ledger
        assert (ledger.balanced, ledger.pending) == (True, 0), interruption.where
        assert 0 <= last + 2 - ledger.completed - ledger.failed <= 1, f"{interruption.where}: {ledger}"
        places.add(interruption.where.split()[-1])
    assert {counted_by, "add"} <= places


# -- exceptions inside `emit`, which the handler may catch


class Recurses(Routine):
    """Emits at each level, until there is no room for `emit` any more."""

    item = event("n")
    catches: bool = False

    def __call__(self) -> None:
        try:
            self.go(0)
        except RecursionError:
            if not self.catches:
                raise

    def go(self, n: int) -> None:
        self.emit("item", n=n)
        self.go(n + 1)


class Parallel(Routine, stateless=True):
    @slot
    def n(self, n: int) -> None:
        pass


@pytest.mark.parametrize("catches", [False, True], ids=["raised on", "caught"])
@pytest.mark.parametrize("targets", [(Collect,), (Parallel,), (Collect, Collect), (Parallel, Parallel)])
def test_what_was_counted_when_emit_ran_out_of_stack_is_accounted_for(
    make_flow: MakeFlow, strategy: dict[str, Any], targets: tuple[type[Routine], ...], catches: bool
) -> None:
    flow = make_flow(**strategy, error_handler="continue")
    flow.add_routine(Recurses(catches=catches), "first")
    for number, target in enumerate(targets):
        flow.add_routine(target(), f"target{number}")
        flow.connect("first", "item", f"target{number}", "n")
    for depth in range(5):  # the stack ends at another step of `emit` each time
        job = deeper(depth, lambda: flow.execute("first"))
        assert job.wait(SECONDS), job.explain()
        assert (job.ledger.balanced, job.ledger.pending) == (True, 0)
        assert len(job.errors) == (0 if catches else 1)
    assert flow.run("target0", {"n": 1}).status == "completed"


def deeper(depth: int, call: Callable[[], Any]) -> Any:
    return call() if depth == 0 else deeper(depth - 1, call)
