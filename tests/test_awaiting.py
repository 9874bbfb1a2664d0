"""Awaiting jobs in an event loop, and taking their outputs as they come: under every strategy, woken."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from quickest import keywords
from routilux_core import (
    ConfigurationError,
    Flow,
    FlowStateError,
    JobState,
    JobTimeout,
    PayloadError,
    Routine,
    UnknownNameError,
    event,
    slot,
)

MakeFlow = Callable[..., Flow]
SECONDS = 20.0
CALLER: contextvars.ContextVar[str] = contextvars.ContextVar("caller", default="nobody")

HERE = ["sequential", "concurrent", "asyncio"]
EACH = pytest.mark.parametrize("name", HERE)


class Count(Routine):
    done = event("n")

    def __call__(self, count: int) -> None:
        for n in range(count):
            self.emit("done", n=n)


class Gated(Routine):
    """Emits one number, waits, and emits another."""

    done = event("n")
    gate: Callable[[], Any]

    def __call__(self) -> None:
        self.emit("done", n=1)
        self.gate()
        self.emit("done", n=2)


def counting(make_flow: MakeFlow, name: str, entry: Routine | None = None, **settings: Any) -> Flow:
    flow = make_flow(**{**keywords(name), **settings})
    flow.add_routine(entry or Count(), "count")
    flow.add_output("count", "done", "done")
    return flow


def numbers(outputs: list[tuple[str, dict[str, Any]]]) -> list[int]:
    assert {name for name, _ in outputs} <= {"done"}
    return [payload["n"] for _, payload in outputs]


async def begun(flow: Flow) -> JobState:
    """Return the job of a flow when its first output is there."""
    while flow.job_state is None or not flow.job_state.outputs["done"]:
        await asyncio.sleep(0.001)
    return flow.job_state


# -- arun, and done


@pytest.mark.parametrize("name", [*HERE, "process"])
def test_a_job_is_awaited_in_an_event_loop(make_flow: MakeFlow, name: str) -> None:
    flow = counting(make_flow, name, max_workers=2)

    async def main() -> JobState:
        job = await flow.arun("count", {"count": 5}, timeout=SECONDS, raise_for_errors=True)
        assert await job.done()
        return job

    job = asyncio.run(main())
    assert job.status == "completed"
    assert [each["n"] for each in job.results("done")] == [0, 1, 2, 3, 4]


@EACH
def test_the_loop_goes_on_while_a_job_is_awaited(make_flow: MakeFlow, name: str) -> None:
    gate = threading.Event()
    flow = counting(make_flow, name, Gated(gate=lambda: gate.wait(SECONDS)))

    async def main() -> JobState:
        awaited = asyncio.create_task(flow.arun("count"))
        await begun(flow)
        assert not awaited.done()
        gate.set()
        return await awaited

    assert asyncio.run(main()).status == "completed"


@EACH
def test_cancelling_who_awaits_leaves_the_job_alone(make_flow: MakeFlow, name: str) -> None:
    gate = threading.Event()
    flow = counting(make_flow, name, Gated(gate=lambda: gate.wait(SECONDS)))

    async def main() -> None:
        awaited = asyncio.create_task(flow.arun("count"))
        await begun(flow)
        awaited.cancel()
        with pytest.raises(asyncio.CancelledError):
            await awaited
        job = flow.job_state
        assert job.status == "running"
        gate.set()
        assert await job.done(SECONDS)
        assert job.status == "completed"

    asyncio.run(main())


@EACH
def test_a_time_limit_cancels_the_job_of_arun_and_leaves_that_of_done(make_flow: MakeFlow, name: str) -> None:
    gate = threading.Event()
    flow = counting(make_flow, name, Gated(gate=lambda: gate.wait(SECONDS)))

    async def main() -> None:
        running = asyncio.create_task(flow.arun("count"))
        job = await begun(flow)
        assert not await job.done(0.01)
        assert job.status == "running"
        gate.set()
        await running
        gate.clear()
        if name != "sequential":  # there `execute` itself does the work, and is not limited
            with pytest.raises(JobTimeout):
                await flow.arun("count", timeout=0.01)
            gate.set()
            assert await flow.job_state.done(SECONDS)
            assert flow.job_state.status == "cancelled"

    asyncio.run(main())


@EACH
def test_a_hundred_jobs_at_a_time_in_one_loop(make_flow: MakeFlow, name: str) -> None:
    flow = counting(make_flow, name)

    async def main() -> list[JobState]:
        return await asyncio.gather(*(flow.arun("count", {"count": n % 7}) for n in range(100)))

    jobs = asyncio.run(main())
    assert {job.status for job in jobs} == {"completed"}
    assert [len(job.outputs["done"]) for job in jobs] == [n % 7 for n in range(100)]


@EACH
def test_handlers_see_the_context_of_who_awaits(make_flow: MakeFlow, name: str) -> None:
    seen: list[str] = []

    class Looks(Routine):
        @slot
        def look(self) -> None:
            seen.append(CALLER.get())

    flow = make_flow(execution_strategy=name)
    flow.add_routine(Looks(), "looks")

    async def main() -> None:
        CALLER.set("somebody")
        await flow.arun("looks")

    asyncio.run(main())
    assert seen == ["somebody"]


@EACH
def test_a_flow_is_left_by_an_exception_with_its_jobs_cancelled(name: str) -> None:
    gate = threading.Event()

    async def main() -> None:
        async with Flow(execution_strategy=name) as flow:
            flow.add_routine(Gated(gate=lambda: gate.wait(SECONDS)), "gated")
            flow.add_routine(Count(), "next")
            jobs.append(flow)
            awaited.append(asyncio.create_task(flow.arun("gated")))
            while flow.job_state is None or not flow.job_state.ledger.emitted:
                await asyncio.sleep(0.001)
            asyncio.get_running_loop().call_later(0.02, gate.set)
            raise LookupError

    jobs: list[Flow] = []
    awaited: list[asyncio.Task[JobState]] = []
    with pytest.raises(LookupError):
        asyncio.run(main())
    assert jobs[0].job_state is not None
    assert jobs[0].job_state.status == "cancelled"


@EACH
def test_run_works_where_a_loop_runs_that_is_not_the_flows(make_flow: MakeFlow, name: str) -> None:
    flow = counting(make_flow, name)

    async def main() -> JobState:
        return flow.run("count", {"count": 3}, timeout=SECONDS)

    assert asyncio.run(main()).status == "completed"


@EACH
def test_a_handler_may_await_a_job_of_another_flow_and_not_its_own(make_flow: MakeFlow, name: str) -> None:
    other = counting(make_flow, name)
    caught: list[str] = []

    class Asks(Routine):
        done = event("n")

        @slot
        async def ask(self) -> None:
            job = await other.arun("count", {"count": 2})
            self.emit("done", n=len(job.outputs["done"]))
            for attempt in (flow.arun("asks"), flow.job_state.done()):
                try:
                    await attempt
                except FlowStateError as error:
                    caught.append(str(error))

    flow = make_flow(execution_strategy="asyncio")
    flow.add_routine(Asks(), "asks")
    flow.add_output("asks", "done", "done")
    job = flow.run("asks", timeout=SECONDS)
    assert job.status == "completed", job.errors
    assert job.results("done") == [{"n": 2}]
    assert [text.split(" was ")[0] for text in caught] == ["Flow.arun", "JobState.done"]


# -- stream


@pytest.mark.parametrize("name", [*HERE, "process"])
def test_outputs_come_in_order_and_end_with_the_job(make_flow: MakeFlow, name: str) -> None:
    flow = counting(make_flow, name, max_workers=2)
    job = flow.execute("count", {"count": 50})
    assert numbers(list(job.stream("done"))) == list(range(50))
    assert job.wait(SECONDS)
    assert numbers(list(job.stream())) == list(range(50))

    async def main() -> list[tuple[str, dict[str, Any]]]:
        job = flow.execute("count", {"count": 50})
        return [each async for each in job.stream("done")]

    assert numbers(asyncio.run(main())) == list(range(50))


@pytest.mark.parametrize("name", ["concurrent", "asyncio"])
def test_an_output_is_there_while_its_handler_still_runs(make_flow: MakeFlow, name: str) -> None:
    gate = threading.Event()
    flow = counting(make_flow, name, Gated(gate=lambda: gate.wait(SECONDS)))
    seen = []
    for _, payload in flow.execute("count").stream():
        seen.append(payload["n"])
        gate.set()
    assert seen == [1, 2]
    gate.clear()

    async def main() -> None:
        async for _, payload in flow.execute("count").stream():
            seen.append(payload["n"])
            gate.set()

    asyncio.run(main())
    assert seen == [1, 2, 1, 2]


def test_two_may_take_the_same_outputs_and_who_leaves_early_disturbs_nobody(make_flow: MakeFlow) -> None:
    flow = counting(make_flow, "concurrent")
    job = flow.execute("count", {"count": 30})
    assert next(iter(job.stream())) == ("done", {"n": 0})
    first, second = job.stream(), job.stream("done")
    assert [next(first) for _ in range(30)] == list(second)
    assert list(first) == []


def test_outputs_come_while_the_loop_has_the_job_done_in_its_caller(make_flow: MakeFlow) -> None:
    """What was placed on `sequential` is worked at by who waits: here by who takes the outputs."""
    flow = make_flow(execution_strategy="concurrent", max_workers=2)
    flow.add_routine(Count(), "count")

    class Doubles(Routine):
        done = event("n")

        @slot
        def n(self, n: int) -> None:
            self.emit("done", n=2 * n)

    flow.add_routine(Doubles(), "doubles", execution_strategy="sequential")
    flow.connect("count", "done", "doubles", "n")
    flow.add_output("doubles", "done", "done")
    expected = [2 * n for n in range(20)]
    assert numbers(list(flow.execute("count", {"count": 20}).stream())) == expected

    async def main() -> None:
        assert numbers([each async for each in flow.execute("count", {"count": 20}).stream()]) == expected
        job = await flow.arun("count", {"count": 20})
        assert [each["n"] for each in job.results("done")] == expected

    asyncio.run(main())


def test_a_saved_job_has_its_outputs_and_has_ended(make_flow: MakeFlow) -> None:
    flow = counting(make_flow, "sequential")
    job = JobState.deserialize(flow.execute("count", {"count": 3}).serialize())

    async def main() -> None:
        assert await job.done()
        assert [each async for each in job.stream()] == list(job.stream("done"))

    asyncio.run(main())
    assert numbers(list(job.stream())) == [0, 1, 2]


# -- mistakes


def test_without_a_running_loop_each_says_what_to_call_instead(make_flow: MakeFlow) -> None:
    flow = counting(make_flow, "concurrent")
    job = flow.execute("count", {"count": 1})
    job.wait(SECONDS)
    for attempt, instead in [
        (flow.arun("count"), "flow.run(...)"),
        (job.done(), "job.wait()"),
        (anext(aiter(job.stream())), "`for` instead of `async for`"),
    ]:
        with pytest.raises(FlowStateError, match="without a running asyncio event loop") as caught:
            attempt.__await__().send(None)
        assert instead in str(caught.value)


def test_what_is_given_wrongly_is_named(make_flow: MakeFlow) -> None:
    flow = counting(make_flow, "concurrent")

    async def main() -> None:
        with pytest.raises(PayloadError, match=r"flow\.arun\('count', \{'count': ...\}\)"):
            await flow.arun("count", count=1)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match=r"timeout of Flow\.arun"):
            await flow.arun("count", {"count": 1}, timeout="soon")  # type: ignore[arg-type]
        job = await flow.arun("count", {"count": 1})
        with pytest.raises(ConfigurationError, match=r"timeout of JobState\.done"):
            await job.done("soon")  # type: ignore[arg-type]
        with pytest.raises(UnknownNameError, match="did you mean 'done'"):
            job.stream("dome")

    asyncio.run(main())


def test_outputs_need_no_asyncio() -> None:
    code = (
        "import sys, routilux_core as r\n"
        "class A(r.Routine):\n    done = r.event('n')\n    def __call__(self): self.emit('done', n=1)\n"
        "with r.Flow(execution_strategy='concurrent') as flow:\n"
        "    flow.add_routine(A(), 'a'); flow.add_output('a', 'done')\n"
        "    print(list(flow.execute('a').stream()), 'asyncio' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[('a.done', {'n': 1})] False"
