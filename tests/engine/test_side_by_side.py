"""Threads and handlers that use one flow at once: a job that has begun ends, and who waits is told the truth."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import Context
from time import sleep
from types import FrameType
from typing import Any, ClassVar

import attrs
import pytest

from routilux_core import (
    Capabilities,
    ExecutionStrategy,
    Flow,
    FlowStateError,
    Host,
    JobState,
    Routine,
    Task,
    WorkerPool,
    event,
    field,
    slot,
)
from routilux_core._local.worker import Worker

MakeFlow = Callable[..., Flow]
SECONDS = 20.0
JOBS = 100  # of each thread that executes


@pytest.fixture
def short_switches() -> Iterator[None]:
    """Let threads take turns as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Countdown(Routine):
    again = event("n")

    @slot
    def n(self, n: int) -> None:
        if n:
            self.emit("again", n=n - 1)


class StartsAnother(Routine):
    """Starts a job in each job, as long as there is budget."""

    jobs: list[JobState] = field(factory=list)

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.define_slot("n", lambda n: self.jobs.append(flow.execute("starts", {"n": n - 1})) if n else None)


def counting(flow: Flow) -> Flow:
    flow.add_routine(Countdown(), "countdown")
    flow.connect("countdown", "again", "countdown", "n")
    return flow


def test_waiting_for_completion_includes_jobs_that_handlers_start(
    make_flow: MakeFlow, strategy: dict[str, Any]
) -> None:
    flow = make_flow(**strategy)
    starts = StartsAnother(flow)
    flow.add_routine(starts, "starts")
    flow.execute("starts", {"n": 30})
    assert flow.wait_for_completion(SECONDS)
    assert [job.status for job in starts.jobs] == ["completed"] * 30


@pytest.mark.parametrize("leave", ["shutdown", "with"])
def test_closing_waits_for_jobs_that_handlers_start(strategy: dict[str, Any], leave: str) -> None:
    flow = Flow(**strategy)
    starts = StartsAnother(flow)
    flow.add_routine(starts, "starts")
    if leave == "with":
        with flow:
            flow.execute("starts", {"n": 30})
    else:
        flow.execute("starts", {"n": 30})
        flow.shutdown()
    assert [job.status for job in starts.jobs] == ["completed"] * 30


@pytest.mark.stress
@pytest.mark.usefixtures("short_switches")
def test_who_has_waited_for_completion_finds_the_job_finished(make_flow: MakeFlow) -> None:
    flow = counting(make_flow(execution_strategy="concurrent", max_workers=4))
    for number in range(1_000):
        job = flow.execute("countdown", {"n": number % 7})
        while not flow.wait_for_completion(0.0):
            pass
        assert job.status == "completed"


def close(flow: Flow, number: int) -> None:
    flow.shutdown(wait=number % 3 > 0)


def close_at_once(flow: Flow, number: int) -> None:
    flow.shutdown(timeout=0.0)


def change_strategy(flow: Flow, number: int) -> None:
    with suppress(FlowStateError):  # a job runs
        flow.set_execution_strategy(("sequential", "concurrent")[number % 2])


@pytest.mark.stress
@pytest.mark.usefixtures("short_switches")
@pytest.mark.parametrize("disturb", [close, close_at_once, change_strategy], ids=lambda disturb: disturb.__name__)
def test_a_job_that_has_begun_ends_whatever_other_threads_do_to_the_flow(
    make_flow: MakeFlow, strategy: dict[str, Any], disturb: Callable[[Flow, int], None]
) -> None:
    flow = counting(make_flow(**strategy))
    ended: list[str] = []
    stuck: list[str] = []
    done = threading.Event()

    def execute() -> None:
        for _ in range(JOBS):
            job = flow.execute("countdown", {"n": 3})
            if not job.wait(SECONDS):
                stuck.append(job.explain())
                return
            ended.append(job.status)

    def go_on_disturbing() -> None:
        number = 0
        while not done.is_set():
            disturb(flow, number)
            number += 1
            done.wait(0.0005)  # else nobody else gets anywhere

    disturber = threading.Thread(target=go_on_disturbing, daemon=True)
    disturber.start()
    threads = [threading.Thread(target=execute, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * SECONDS)
    done.set()
    if stuck:
        flow.cancel()  # lets the disturber go, where it waits for them
    disturber.join(SECONDS)
    assert (stuck, len(ended), disturber.is_alive()) == ([], 3 * JOBS, False)
    assert set(ended) <= ({"completed", "cancelled"} if disturb is close_at_once else {"completed"})


# -- building


class Looks(Routine):
    """Notes what of the flow has changed while its handler runs."""

    flow: ClassVar[Flow]
    changes: ClassVar[list[str]]
    done = event()

    @slot
    def n(self, n: int) -> None:
        before = built(self.flow)
        for _ in range(n):
            sleep(0.0)
        after = built(self.flow)
        if before != after:
            self.changes.append(f"{before} -> {after}")


def built(flow: Flow) -> tuple[int, ...]:
    events = sum(len(routine._routilux.events) for routine in flow.routines.values())
    return len(flow.routines), len(flow.connections), events


def add(flow: Flow, name: str) -> None:
    flow.add_routine(Countdown(), name)


def connect(flow: Flow, name: str) -> None:
    flow.connect("looks", "done", "countdown", "n", {name: "n"})


def collect(flow: Flow, name: str) -> None:
    flow.add_output("countdown", "again", name)


def define(flow: Flow, name: str) -> None:
    flow.routines["countdown"].define_event(name)


def set_policy(flow: Flow, name: str) -> None:
    flow.set_error_handler("stop")


def save(flow: Flow, name: str) -> None:
    assert {"looks", "countdown"} <= flow.serialize()["routines"].keys()


def draw(flow: Flow, name: str) -> None:
    assert "looks" in flow.to_mermaid()
    assert all(isinstance(routine, Routine) for routine in flow.routines.values())


def run_it(flow: Flow, name: str) -> None:
    assert flow.execute("looks", {"n": 3}).wait(SECONDS)


def load(flow: Flow, name: str) -> None:
    flow.deserialize(flow.serialize(), types=[Looks, Countdown])


BUILDERS = (add, connect, collect, define, set_policy, save, draw)


@pytest.mark.usefixtures("short_switches")
@pytest.mark.parametrize("builders", [BUILDERS, (load, set_policy, save)], ids=["build", "load"])
def test_threads_may_build_save_and_run_one_flow_at_once(
    make_flow: MakeFlow, strategy: dict[str, Any], builders: tuple[Callable[[Flow, str], None], ...]
) -> None:
    """What is refused, since a job runs, is refused by name; and nothing changes under a job."""
    flow = counting(make_flow(**strategy))
    flow.add_routine(Looks(), "looks")
    Looks.flow, Looks.changes = flow, []
    errors: list[BaseException] = []
    done = threading.Event()
    timer = threading.Timer(2.0, done.set)

    def go_on(build: Callable[[Flow, str], None]) -> None:
        for number in range(150):
            try:
                build(flow, f"{build.__name__}{number}")
            except FlowStateError:  # a job runs
                continue
            except BaseException as error:
                errors.append(error)
            if done.is_set():
                return

    threads = [threading.Thread(target=go_on, args=(build,), daemon=True) for build in (*builders, run_it, run_it)]
    for thread in threads:
        thread.start()
    timer.start()
    for thread in threads:
        thread.join(SECONDS)
    timer.cancel()
    assert not any(thread.is_alive() for thread in threads)
    assert errors == []
    assert Looks.changes == []


class Grows(Routine):
    """Changes all that is saved of it, until it is told to stop."""

    counts: dict[str, int] = field(factory=dict)
    numbers: set[int] = field(factory=set)
    busy: ClassVar[threading.Event]
    stop: ClassVar[threading.Event]

    @slot
    def n(self) -> None:
        n = 0
        while not self.stop.is_set():
            n += 1
            self.counts[str(n)] = n
            self.numbers.add(n)
            self.increment_stat(str(n % 300))
            if n % 20 == 0:
                setattr(self, f"attribute{n // 20 % 500}", n)
            if n % 300 == 0:
                self.counts.clear()
                self.numbers.clear()
                self.reset_stats()
                self.busy.set()


@pytest.mark.usefixtures("short_switches")
def test_a_flow_may_be_saved_while_a_handler_changes_what_it_holds(make_flow: MakeFlow) -> None:
    flow = make_flow(execution_strategy="concurrent", max_workers=1)
    flow.add_routine(Grows(), "grows")
    Grows.busy, Grows.stop = threading.Event(), threading.Event()
    job = flow.execute("grows")
    try:
        assert Grows.busy.wait(SECONDS)
        saved = [flow.serialize()["routines"]["grows"] for _ in range(15)]
    finally:
        Grows.stop.set()
    assert job.wait(SECONDS)
    assert job.errors == []
    assert saved[-1]["attributes"]


@attrs.frozen(kw_only=True)
class SlowPools(ExecutionStrategy):
    """Threads; but the first pool keeps its first task, and what becomes of it is up to the test."""

    name: ClassVar[str] = "slow-pools"
    capabilities: ClassVar[Capabilities] = Capabilities(shares_memory=True)
    kept: list[Task] = attrs.field(factory=list, eq=False)

    def open(self, host: Host) -> WorkerPool:
        return SlowPool(self.kept)


class SlowPool(WorkerPool):
    workers = 1

    def __init__(self, kept: list[Task]) -> None:
        self._kept = kept

    def submit(self, task: Task) -> None:
        if self._kept:
            threading.Thread(target=task, daemon=True).start()
        else:
            self._kept.append(task)

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> None:
        pass


def test_what_a_closed_pool_says_of_its_tasks_is_nothing_to_later_jobs(make_flow: MakeFlow) -> None:
    strategy, held = SlowPools(), threading.Event()

    class Holds(Routine):
        @slot
        def n(self, n: int) -> None:
            assert held.wait(SECONDS)

    flow = make_flow(execution_strategy=strategy)
    flow.add_routine(Holds(), "holds")
    first = flow.execute("holds", {"n": 1})
    flow.shutdown(timeout=0.0)
    second = flow.execute("holds", {"n": 2})
    third = flow.execute("holds", {"n": 3})
    strategy.kept[0].fail(RuntimeError("too late"))
    held.set()
    assert flow.wait_for_completion(SECONDS)
    assert [job.status for job in (first, second, third)] == ["cancelled", "completed", "completed"]


def test_a_task_of_a_closed_pool_that_begins_late_does_not_join_a_worker_that_is_alone(make_flow: MakeFlow) -> None:
    strategy, entered, go = SlowPools(), threading.Semaphore(0), threading.Event()

    class Counts(Routine):
        inside: int = 0
        most: int = 0

        @slot
        def n(self, n: int) -> None:
            self.inside += 1
            self.most = max(self.most, self.inside)
            entered.release()
            assert go.wait(SECONDS)
            self.inside -= 1

    flow, counts = make_flow(execution_strategy=strategy), Counts()
    flow.add_routine(counts, "counts")
    first = Context().run(flow.execute, "counts", {"n": 1})
    flow.shutdown(timeout=0.0)
    second = Context().run(flow.execute, "counts", {"n": 2})
    assert entered.acquire(timeout=SECONDS)
    third = Context().run(flow.execute, "counts", {"n": 3})
    late = threading.Thread(target=strategy.kept[0], daemon=True)
    late.start()
    late.join(0.1)  # it leaves at once; if it joined, it would be in the handler now, or wait for it
    go.set()
    assert flow.wait_for_completion(SECONDS)
    assert [job.status for job in (first, second, third)] == ["cancelled", "completed", "completed"]
    assert counts.most == 1


def test_a_ctrl_c_between_two_activations_tells_another_job_that_it_has_ended(make_flow: MakeFlow) -> None:
    flow = make_flow()  # sequential: who waits for one job works on both
    jobs: list[JobState] = []

    def interrupt(frame: FrameType, event: str, _: object) -> None:
        """Raise what a Ctrl-C does, where a signal may: as the worker begins a step with nothing in hand."""
        if frame.f_code is Worker._step.__code__ and frame.f_locals["self"].item is None:
            sys.settrace(None)
            raise KeyboardInterrupt

    class Waits(Routine, stateless=True):
        again = event()

        def __call__(self) -> None:
            jobs.append(flow.execute("ends"))
            self.emit("again")

        @slot
        def rest(self) -> None:
            pass

    class Ends(Routine, stateless=True):
        def __call__(self) -> None:
            sys.settrace(interrupt)

    flow.add_routine(Waits(), "waits")
    flow.add_routine(Ends(), "ends")
    flow.connect("waits", "again", "waits", "rest")
    with pytest.raises(KeyboardInterrupt):
        Context().run(flow.run, "waits")
    assert jobs[0].wait(SECONDS)
    assert jobs[0].status == "completed"


def test_a_ctrl_c_that_hits_the_call_for_a_worker_leaves_the_flow_usable(
    make_flow: MakeFlow, strategy: dict[str, Any]
) -> None:
    def interrupt(frame: FrameType, event: str, _: object) -> None:
        """Raise what a Ctrl-C does, where a signal may: as the pool is given a task."""
        if frame.f_code.co_name == "submit":
            sys.settrace(None)
            raise KeyboardInterrupt

    class Collect(Routine):
        seen: list[int] = field(factory=list)

        @slot
        def n(self, n: int) -> None:
            self.seen.append(n)

    collect = Collect()
    flow = make_flow(**strategy)
    flow.add_routine(collect, "collect")
    sys.settrace(interrupt)
    with pytest.raises(KeyboardInterrupt):
        flow.execute("collect", {"n": 1})
    flow.cancel()
    later = threading.Thread(target=flow.run, args=("collect", {"n": 2}), daemon=True)
    later.start()
    later.join(SECONDS)
    assert (later.is_alive(), collect.seen) == (False, [2])


@pytest.mark.soak
@pytest.mark.usefixtures("short_switches")
def test_jobs_that_are_closed_at_any_moment_all_end(make_flow: MakeFlow) -> None:
    for _ in range(40):
        test_a_job_that_has_begun_ends_whatever_other_threads_do_to_the_flow(
            make_flow, {"execution_strategy": "sequential"}, close_at_once
        )
