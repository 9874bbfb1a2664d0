"""What comes home belongs to the task that it is handed to, all of it, in a format that is read here; or is refused."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from attrs import field, frozen

from routilux_core import Capabilities, ExecutionStrategy, Flow, Host, JobState, StrategyError, Task, WorkerPool, worker
from routilux_core._remote import wire
from shipped.routines import Source, Square, Sum

MakeFlow = Callable[..., Flow]
Change = Callable[[Task, bytes], bytes]  # what a pool hands on of what it was given of a task
SECONDS = 30.0


@frozen(kw_only=True)
class Careless(ExecutionStrategy):
    """Runs each task in a thread of its own, and hands on what `change` makes of it."""

    name: ClassVar[str] = "careless"
    capabilities: ClassVar[Capabilities] = Capabilities(shares_memory=False, streams=True)
    change: Change = field(eq=False)
    changes: str = "reply"  # or request, or chunk

    def open(self, host: Host) -> WorkerPool:
        return CarelessPool(self.change, self.changes)


class CarelessPool(WorkerPool):
    def __init__(self, change: Change, changes: str) -> None:
        self._change, self._changes = change, changes
        self._threads: list[threading.Thread] = []

    def submit(self, task: Task) -> None:
        thread = threading.Thread(target=self._run, args=(task,))
        self._threads.append(thread)
        thread.start()

    def _run(self, task: Task) -> None:
        try:
            reply = worker.run(self._of("request", task, task.payload()), lambda chunk: self._stream(task, chunk))
        except Exception as error:
            task.fail(error)
        else:
            task.finish(self._of("reply", task, reply))

    def _stream(self, task: Task, chunk: bytes) -> None:
        task.stream(self._of("chunk", task, chunk))

    def _of(self, what: str, task: Task, data: bytes) -> bytes:
        return self._change(task, data) if what == self._changes else data

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> None:
        for thread in self._threads:
            thread.join(timeout)


class OfTheTaskBefore:
    """Hands each task what belongs to the task before it, where there was one."""

    def __init__(self) -> None:
        self._told: list[tuple[Task, bytes]] = []

    def __call__(self, task: Task, data: bytes) -> bytes:
        before = [each for other, each in self._told if other is not task]
        self._told.append((task, data))
        return before[-1] if before else data


class SecondChunkIsTheFirst:
    """Loses the second chunk of a task, and hands on the first again in its place."""

    def __init__(self) -> None:
        self._told: list[bytes] = []

    def __call__(self, task: Task, data: bytes) -> bytes:
        self._told.append(data)
        return self._told[0] if len(self._told) == 2 else data


def of_version_1(task: Task, data: bytes) -> bytes:
    line, _, rest = data.partition(b"\n")
    name, _, *words = line.split(b" ")
    return b" ".join((name, b"1", *words)) + b"\nwhatever version 1 has here" + rest


def finished(job: JobState) -> JobState:
    assert job.wait(SECONDS), job.explain()
    assert job.ledger.balanced
    return job


def refusal(job: JobState) -> str:
    assert job.status == "failed"
    assert {type(failure.exception) for failure in job.errors} == {StrategyError}  # each task that was away has one
    return str(job.errors[0].exception)


def test_the_reply_of_another_task_is_refused_though_it_looks_alike(make_flow: MakeFlow) -> None:
    flow = make_flow("f", "sequential")
    flow.add_routine(Source(), "source")
    flow.add_routine(Square(), "square", execution_strategy=Careless(change=OfTheTaskBefore()))
    flow.add_routine(Sum(), "sum")
    flow.connect("source", "item", "square", "n")
    flow.connect("square", "done", "sum", "n")
    said = refusal(finished(flow.execute("source", {"count": 5})))
    reports = r"a report of task (batch-\d) \(\w{16}\) has come for task (batch-\d) \(\w{16}\)"
    ((one, other),) = re.findall(reports, said)
    assert one != other
    assert flow.routines["sum"].seen in ([], [0])


def test_the_state_of_an_older_job_is_not_taken_over(make_flow: MakeFlow) -> None:
    flow = make_flow("f", Careless(change=OfTheTaskBefore()))
    flow.add_routine(Sum(), "sum")
    assert finished(flow.execute("sum", {"n": 1})).status == "completed"
    assert "task batch-1" in refusal(finished(flow.execute("sum", {"n": 2})))
    assert flow.routines["sum"].seen == [1]


def test_the_reply_of_another_flow_is_told_from_the_own_one_of_the_same_number(make_flow: MakeFlow) -> None:
    strategy = Careless(change=OfTheTaskBefore())  # both flows have a pool of their own, which mix up what they get
    flows = [make_flow(name, strategy) for name in ("one", "two")]
    for flow in flows:
        flow.add_routine(Sum(), "sum")
    assert finished(flows[0].execute("sum", {"n": 1})).status == "completed"
    said = refusal(finished(flows[1].execute("sum", {"n": 2})))
    other, own = re.findall(r"task batch-1 \((\w{16})\)", said)
    assert other != own
    assert flows[1].routines["sum"].seen == []


def test_a_chunk_of_another_task_is_refused(make_flow: MakeFlow) -> None:
    flow = make_flow("f", Careless(change=OfTheTaskBefore(), changes="chunk"))
    flow.add_routine(Source(), "source")
    count = 100  # more than one chunk has
    assert finished(flow.execute("source", {"count": count})).status == "completed"
    said = refusal(finished(flow.execute("source", {"count": count})))
    assert "a report of task batch-1" in said
    assert "for task batch-2" in said


def test_a_lost_chunk_is_noticed_and_one_that_comes_twice_is_ignored(make_flow: MakeFlow) -> None:
    flow = make_flow("f", Careless(change=SecondChunkIsTheFirst(), changes="chunk"), max_pending=1 << 20)
    flow.add_routine(Source(), "source")
    flow.add_routine(Sum(), "sum", execution_strategy="sequential")
    flow.connect("source", "item", "sum", "n")
    said = refusal(finished(flow.execute("source", {"count": 10_000})))
    assert re.search(r"a report of task batch-1 \(\w{16}\) is missing", said)
    seen = flow.routines["sum"].seen
    assert seen == list(range(len(seen)))


def run_changed(flow: Flow, changes: str) -> JobState:
    """Run what sends a chunk, where those are changed, else what is told in one reply."""
    flow.add_routine(Source() if changes == "chunk" else Sum(), "entry")
    return finished(flow.execute("entry", {"count": 100} if changes == "chunk" else {"n": 1}))


@pytest.mark.parametrize(("changes", "what"), [("reply", "a report"), ("chunk", "a report"), ("request", "a request")])
def test_what_another_version_wrote_is_refused_before_it_is_unpickled(
    make_flow: MakeFlow, changes: str, what: str
) -> None:
    said = refusal(run_changed(make_flow("f", Careless(change=of_version_1, changes=changes)), changes))
    assert said.startswith(f"{what} of version 1 has come, and this process reads version {wire.VERSION}")
    assert "install the same routilux-core" in said


@pytest.mark.parametrize("changes", ["reply", "chunk", "request"])
@pytest.mark.parametrize("data", [b"", b"b'packed once more'", b"routilux", b"\x80\x05." * 200])
def test_bytes_that_we_did_not_write_are_refused_by_what_they_should_be(
    make_flow: MakeFlow, changes: str, data: bytes
) -> None:
    said = refusal(run_changed(make_flow("f", Careless(change=lambda task, _: data, changes=changes)), changes))
    assert said.startswith("a request is expected" if changes == "request" else "a report is expected")
    assert f"these {len(data)} bytes" in said


@pytest.mark.parametrize("data", [None, 5, (), ("text",)])
def test_what_is_no_bytes_at_all_is_refused_by_what_it_should_be(make_flow: MakeFlow, data: Any) -> None:
    said = refusal(run_changed(make_flow("f", Careless(change=lambda task, _: data)), "reply"))
    assert said == f"a report is expected, as bytes or as pieces of bytes, not {data!r}"


def test_another_attempt_is_another_task() -> None:
    assert wire.new_label("batch-1") != wire.new_label("batch-1")
