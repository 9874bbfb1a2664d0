"""Executors and queues of others as strategies, each in a few lines, with the answers of `sequential`."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest
from attrs import frozen

from routilux_core import Capabilities, ExecutionStrategy, ExecutorStrategy, Flow, JobState, WorkerLost
from shipped.routines import Fails, Gatherer, Source, Square, Sum
from shipped.strategies import Kept, LokyStrategy, Shared, Spawned, TwiceStrategy

MakeFlow = Callable[..., Flow]
SECONDS = 30.0


@frozen(kw_only=True)
class ThreadStrategy(ExecutorStrategy):
    name: ClassVar[str] = "threads"
    capabilities: ClassVar[Capabilities] = Capabilities(shares_memory=True)

    def make_executor(self) -> Executor:
        return ThreadPoolExecutor(self.max_workers)


def finished(job: JobState) -> JobState:
    assert job.wait(SECONDS), job.explain()
    assert job.ledger.balanced
    return job


def seed_flow(flow: Flow) -> dict[str, Any]:
    """One of each: a source, stateless ones, one with state, one that gathers, one that fails."""
    flow.add_routine(Source(), "source")
    flow.add_routine(Square(), "square")
    flow.add_routine(Sum(), "sum")
    flow.add_routine(Gatherer(), "gather")
    flow.add_routine(Fails(times={3: 1, 7: 1}), "fails")
    for target in ("square", "sum", "fails"):
        flow.connect("source", "item", target, "n")
    for source, name in (("square", "done"), ("fails", "passed")):
        flow.connect(source, name, "gather", "n")
    flow.add_output("gather", "gathered")
    jobs = [finished(flow.execute("source", {"count": 25})) for _ in range(2)]
    return {
        "sum": (flow.routines["sum"].total, flow.routines["sum"].seen, flow.routines["sum"].stats()),
        "gather": (flow.routines["gather"].rows, flow.routines["gather"].calls),
        "fails": (flow.routines["fails"].calls, flow.routines["fails"].last),
        "square": flow.routines["square"].stats(),
        "jobs": [(job.status, job.ledger, job.outputs, job.routine_states, len(job.errors)) for job in jobs],
    }


@pytest.mark.parametrize("strategy", [ThreadStrategy, Spawned, LokyStrategy, TwiceStrategy])
@pytest.mark.filterwarnings("ignore:A worker stopped:UserWarning", "ignore::DeprecationWarning:loky")
def test_anyones_pool_gives_the_same_answers(make_flow: MakeFlow, strategy: type[ExecutionStrategy]) -> None:
    expected = seed_flow(make_flow("f", error_handler="continue"))
    with Flow("f", strategy(max_workers=2), error_handler="continue") as flow:
        assert seed_flow(flow) == expected


def test_cancel_takes_back_what_an_executor_has_not_begun(make_flow: MakeFlow) -> None:
    began, go_on = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as threads:
        threads.submit(lambda: began.set() or go_on.wait(SECONDS))
        began.wait(SECONDS)
        flow = make_flow(execution_strategy=Shared(max_workers=1, executor=threads))
        flow.add_routine(Square(), "square")
        job = flow.execute("square", {"n": 1})
        job.cancel()
        assert job.wait(SECONDS)  # although the only worker is still busy with something else
        go_on.set()
    assert (job.status, job.ledger.discarded, job.ledger.completed) == ("cancelled", 1, 0)


class Breaks(Executor):
    """Takes some tasks and breaks then."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.futures: list[Future[Any]] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        if len(self.futures) < self.after:
            self.futures.append(Future())
            return self.futures[-1]
        self.break_down()
        raise BrokenExecutor("it broke")

    def break_down(self) -> None:
        for future in self.futures:
            future.set_exception(BrokenExecutor("all gone"))


@frozen(kw_only=True)
class OneAfterTheOther(ExecutorStrategy):
    name: ClassVar[str] = "one after the other"
    capabilities: ClassVar[Capabilities] = Capabilities(shares_memory=False)
    executors: list[Executor]

    def make_executor(self) -> Executor:
        return self.executors.pop(0)


def test_a_broken_executor_fails_what_is_away_and_what_waits(make_flow: MakeFlow) -> None:
    flow = make_flow(execution_strategy=Shared(max_workers=4, executor=Breaks(2)), error_handler="continue")
    flow.add_routine(Square(), "square")
    jobs = [flow.execute("square", {"n": n}) for n in range(3)]
    for job in jobs:
        finished(job)
        assert [type(each.exception) for each in job.errors] == [WorkerLost]
        assert job.ledger.failed == 1


def test_a_job_that_begins_when_one_ends_by_a_broken_executor_has_a_new_pool(make_flow: MakeFlow) -> None:
    executors = [Breaks(1), ThreadPoolExecutor(1)]
    flow = make_flow(execution_strategy=OneAfterTheOther(max_workers=1, executors=executors), error_handler="continue")
    flow.add_routine(Square(), "square")
    breaks = executors[0]
    first, following = flow.execute("square", {"n": 1}), []
    first._controls.run.ending.done.add_callback(lambda: following.append(flow.execute("square", {"n": 2})))
    breaks.break_down()
    finished(first)
    assert [type(each.exception) for each in first.errors] == [WorkerLost]
    assert finished(following[0]).errors == []
    assert flow.run("square", {"n": 3}).errors == []
    assert executors == []


class Refuses(Executor):
    """Takes nothing."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_exception(OSError("no"))
        return future


def test_a_pool_that_fails_everything_at_once_ends_the_job_too(make_flow: MakeFlow) -> None:
    flow = make_flow(execution_strategy=Shared(max_workers=2, executor=Refuses()), error_handler="skip")
    flow.add_routine(Source(), "source", execution_strategy="concurrent")
    flow.add_routine(Square(), "square")
    flow.connect("source", "item", "square", "n")
    job = finished(flow.execute("source", {"count": 3000}))
    assert (job.ledger.skipped, job.ledger.completed) == (3000, 1)


SCRIPT = """
    import sys
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context
    from attrs import frozen
    from routilux_core import Capabilities, ExecutorStrategy, Flow, Routine, ShippingError, event, slot
    {block}

    class Item:
        def __init__(self, n):
            self.n = n

    class Makes(Routine, stateless=True):
        made = event("item")
        def __call__(self, count: int):
            for n in range(count):
                self.emit("made", item=Item(n))

    class Keeps(Routine):
        def __init__(self):
            super().__init__()
            self.items = []
        @slot
        def item(self, item):
            assert isinstance(item, Item)
            self.items.append(item)

    @frozen(kw_only=True)
    class Spawned(ExecutorStrategy):
        name = "spawned"
        capabilities = Capabilities(shares_memory=False)
        def make_executor(self):
            return ProcessPoolExecutor(1, mp_context=get_context("spawn"))

    if __name__ == "__main__":
        method = Keeps.__dict__["item"]
        with Flow("f", Spawned()) as flow:
            flow.add_routine(Makes(), "makes")
            flow.add_routine(Keeps(), "keeps")
            flow.connect("makes", "made", "keeps", "item")
            for _ in range(2):
                flow.run("makes", {{"count": 3}}).raise_for_errors()
        items = flow.routines["keeps"].items
        assert [item.n for item in items] == [0, 1, 2] * 2, items
        assert all(type(item) is Item for item in items), [type(item) for item in items]
        assert Keeps.__dict__["item"] is method
        print("as it should be")
"""


def run_script(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("block", ["", "sys.modules['cloudpickle'] = None"], ids=["by value", "without cloudpickle"])
def test_classes_of_a_script_work(tmp_path: Path, block: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT).replace("{block}", block).replace("{{", "{").replace("}}", "}"))
    done = run_script("", str(script))
    assert done.stdout == "as it should be\n", done.stderr


def interactive(block: str) -> subprocess.CompletedProcess[str]:
    text = textwrap.dedent(SCRIPT).replace("{block}", block).replace("{{", "{").replace("}}", "}")
    return run_script("", "-c", text)


def test_classes_typed_in_work_with_cloudpickle() -> None:
    done = interactive("")
    assert done.stdout == "as it should be\n", done.stderr


def test_classes_typed_in_are_refused_without_it_and_the_error_says_what_to_do() -> None:
    done = interactive("sys.modules['cloudpickle'] = None")
    last = done.stderr.strip().splitlines()[-1]
    assert "routine 'makes': its class (Makes) can't be sent to a worker process" in last
    assert "Makes is defined in __main__" in last
    assert "routilux-core[cloudpickle]" in last
    assert not done.stdout


def test_an_executor_may_be_lent() -> None:
    with ThreadPoolExecutor(1) as threads:
        Kept(threads).shutdown()
        assert threads.submit(int).result() == 0
