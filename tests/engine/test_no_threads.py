"""A system that gives no more threads: what there is goes on, and nothing hangs.

A stack that fits into no address space is what the system refuses here, as it does where a limit is reached.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from processes.flaky import Flaky, numbers
from routilux_core import ErrorHandler, Flow, JobState, Routine, StrategyError, slot

pytestmark = pytest.mark.skipif(sys.platform != "linux" or sys.maxsize < 1 << 32, reason="the size of a stack")

MakeFlow = Callable[..., Flow]
SECONDS = 20.0


@contextmanager
def no_more_threads() -> Iterator[None]:
    before = threading.stack_size(1 << 47)
    try:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            threading.Thread(target=int).start()
        yield
    finally:
        threading.stack_size(before)


class Late(Routine, stateless=True, timeout=0.2):
    @slot
    def input(self, gate: threading.Event) -> None:
        gate.wait(SECONDS)


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    numbers.clear()


def retrying(make_flow: MakeFlow, **settings: Any) -> Flow:
    flow = make_flow(error_handler=ErrorHandler("retry", retry_delay=0.05), **settings)
    flow.add_routine(Flaky(), "flaky")
    flow.add_output("flaky", "done")
    flow.run("flaky", {"n": -1, "seen": ""})  # the threads that there are
    flow.wait_for_completion()
    return flow


def outputs(job: JobState) -> list[Any]:
    assert job.wait(SECONDS), job.explain()
    assert job.status == "completed"
    return [payload["n"] for payload in job.outputs["flaky.done"]]


def run_some(flow: Flow, seen: str = "") -> None:
    with no_more_threads():
        for n in range(3):
            assert outputs(flow.execute("flaky", {"n": n, "seen": seen})) == [n]
        jobs = [flow.execute("flaky", {"n": n, "seen": seen}) for n in range(10, 20)]
        assert [outputs(job) for job in jobs] == [[n] for n in range(10, 20)]
    assert outputs(flow.execute("flaky", {"n": 20, "seen": seen})) == [20]


def test_retries_come_though_there_is_no_thread_to_wait_for_them(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    run_some(retrying(make_flow, **strategy))


def test_retries_of_worker_processes_come_though_there_is_no_thread_to_wait_for_them(
    make_flow: MakeFlow, tmp_path: Any
) -> None:
    flow = make_flow(execution_strategy="process", max_workers=1, error_handler=ErrorHandler("retry", retry_delay=0.05))
    flow.add_routine(Flaky(), "flaky")
    flow.add_output("flaky", "done")
    flow.run("flaky", {"n": -1, "seen": str(tmp_path)})
    run_some(flow, str(tmp_path))


def test_a_thread_that_waits_for_a_job_keeps_the_time(make_flow: MakeFlow, tmp_path: Any) -> None:
    flow = make_flow(execution_strategy="process", max_workers=1, error_handler=ErrorHandler("retry", retry_delay=0.05))
    flow.add_routine(Flaky(), "flaky")
    flow.add_output("flaky", "done")
    flow.run("flaky", {"n": -1, "seen": str(tmp_path)})
    begin, results = threading.Event(), []

    def wait() -> None:
        begin.wait(SECONDS)
        results.append(outputs(flow.execute("flaky", {"n": 1, "seen": str(tmp_path)})))

    waiter = threading.Thread(target=wait)
    waiter.start()
    with no_more_threads():
        begin.set()
        waiter.join(SECONDS)
    assert results == [[1]]


def test_retries_come_though_nobody_waits(make_flow: MakeFlow) -> None:
    flow = retrying(make_flow, execution_strategy="concurrent", max_workers=2)
    ended = threading.Event()

    class Told(Routine, stateless=True):
        @slot
        def n(self) -> None:
            ended.set()

    flow.add_routine(Told(), "told")
    flow.connect("flaky", "done", "told", "n")
    with no_more_threads():
        job = flow.execute("flaky", {"n": 1})
        assert ended.wait(SECONDS)
    assert outputs(job) == [1]


def test_time_outs_come_though_there_is_no_thread_to_wait_for_them(make_flow: MakeFlow) -> None:
    flow = make_flow(execution_strategy="concurrent", max_workers=1)
    flow.add_routine(Late(), "late")
    gate = threading.Event()
    gate.set()
    flow.run("late", {"gate": gate})
    flow.wait_for_completion()
    gate.clear()
    with no_more_threads():
        job = flow.execute("late", {"gate": gate})
        assert job.wait(SECONDS / 2)
        assert "its timeout is 0.2 s" in str(job.errors[0].exception)
    gate.set()


def test_a_pool_of_processes_that_gets_no_thread_says_so_and_comes_later(make_flow: MakeFlow) -> None:
    flow = make_flow(execution_strategy="process", max_workers=1, error_handler="skip")
    flow.add_routine(Flaky(), "flaky")
    with no_more_threads(), pytest.raises(StrategyError, match="the system gives no thread to look after worker"):
        flow.execute("flaky", {"n": 1})
    assert flow.run("flaky", {"n": 1}).status == "completed"
    with no_more_threads():
        flow.shutdown()
