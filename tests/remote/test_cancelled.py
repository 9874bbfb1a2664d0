"""A job that is cancelled while its calls are on their way: they are not sent, or their pool is asked for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from attrs import field, frozen

from routilux_core import Flow, Host, JobState, Routine, Task, WorkerPool, event
from shipped.routines import Marker
from shipped.strategies import Mortal, MortalPool

MakeFlow = Callable[..., Flow]
SECONDS = 30.0


class SlowToPack:
    """A number whose pickling waits for the test."""

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()

    def __reduce__(self) -> Any:
        self.begun.set()
        assert self.may_end.wait(SECONDS)
        return int, (7,)


class Sends(Routine):
    """Emits in this process what its flow's strategy has to send."""

    item = event("n")

    def __call__(self, n: Any) -> None:
        self.emit("item", n=n)


def sending_flow(make_flow: MakeFlow, shipped: dict[str, Any], calls: Path) -> Flow:
    flow = make_flow(**shipped)
    flow.add_routine(Sends(), "sends", execution_strategy="concurrent")
    flow.add_routine(Marker(path=str(calls)), "marks")
    flow.connect("sends", "item", "marks", "n")
    calls.touch()
    return flow


@pytest.mark.parametrize("end", ["cancel", "cancel and kill"])
def test_a_call_that_is_packed_when_its_job_is_cancelled_is_not_sent(
    make_flow: MakeFlow, shipped: dict[str, Any], tmp_path: Path, end: str
) -> None:
    calls, number = tmp_path / "calls", SlowToPack()
    flow = sending_flow(make_flow, shipped, calls)
    job = flow.execute("sends", {"n": number})
    assert number.begun.wait(SECONDS)
    job.cancel(kill="kill" in end)
    number.may_end.set()
    assert job.wait(SECONDS), job.explain()
    assert (job.status, job.ledger.completed, job.ledger.discarded, job.ledger.balanced) == ("cancelled", 1, 1, True)
    assert flow.run("sends", {"n": 8}).status == "completed"  # nothing is left behind in queues or pool
    flow.shutdown()
    assert calls.read_text().split() == ["8"]


@frozen(kw_only=True)
class Hesitant(Mortal):
    """Its pool waits for the test before it takes a task, and begins none before it is asked for it back."""

    name: ClassVar[str] = "hesitant"
    happened: list[str] = field(factory=list, eq=False)
    asked: threading.Event = field(factory=threading.Event, eq=False)
    may_take: threading.Event = field(factory=threading.Event, eq=False)
    may_begin: threading.Event = field(factory=threading.Event, eq=False)

    def open(self, host: Host) -> WorkerPool:
        return HesitantPool(self)


class HesitantPool(MortalPool):
    _strategy: Hesitant

    def submit(self, task: Task) -> None:
        self._strategy.asked.set()
        assert self._strategy.may_take.wait(SECONDS)
        self._strategy.happened.append("taken")
        super().submit(task)

    def cancel(self, task: Task) -> bool:
        self._strategy.happened.append("cancelled")
        dropped = super().cancel(task)
        self._strategy.may_begin.set()
        return dropped

    def _run(self, task: Task, payload: bytes) -> bool:
        assert self._strategy.may_begin.wait(SECONDS)
        return super()._run(task, payload)


def stopped(job: JobState) -> bool:
    return bool(job._controls.run.stopped)  # its status says so only when it has ended


def test_cancel_returns_when_the_pool_was_asked_for_a_task_that_it_is_just_given(
    make_flow: MakeFlow, tmp_path: Path
) -> None:
    strategy = Hesitant(max_workers=1)
    flow = sending_flow(make_flow, {"execution_strategy": strategy}, tmp_path / "calls")
    job = flow.execute("sends", {"n": 7})
    assert strategy.asked.wait(SECONDS)

    def cancel() -> None:
        job.cancel()
        strategy.happened.append("cancel has returned")

    canceller = threading.Thread(target=cancel)
    canceller.start()
    while not stopped(job):
        job.wait(0.001)
    strategy.may_take.set()
    canceller.join(SECONDS)
    assert strategy.happened == ["taken", "cancelled", "cancel has returned"]
    assert job.wait(SECONDS)
    assert (job.status, job.ledger.balanced, job.ledger.pending) == ("cancelled", True, 0)
