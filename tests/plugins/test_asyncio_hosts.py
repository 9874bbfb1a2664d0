"""The strategy `asyncio` where people use it: scripts, running loops, threads. Real programs, without one warning."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from typing import Any

import pytest

from routilux_core import Flow, FlowStateError, JobState, Routine, event, slot

MakeFlow = Callable[..., Flow]
SECONDS = 20.0

HEAD = """
import asyncio, logging, sys, threading, time
logging.getLogger("routilux_core").setLevel(logging.ERROR)  # a busy machine may seem to block the loop
from routilux_core import Flow, FlowStateError, Routine, event, per_worker, slot

class Source(Routine):
    item = event("n", "seconds")
    def __call__(self, count, seconds=0.0):
        for n in range(count):
            self.emit("item", n=n, seconds=seconds)

class Client:
    async def aclose(self): print("client closed", flush=True)

class Fetch(Routine, stateless=True):
    done = event("n")
    client = per_worker(Client)
    @slot
    async def n(self, n, seconds):
        self.client
        await asyncio.sleep(seconds)
        self.emit("done", n=n)

class Keep(Routine):
    @slot
    def n(self, n): pass

def build(**options):
    flow = Flow("host", execution_strategy="asyncio", max_workers=100, strategy_options=options)
    for name, routine in dict(source=Source(), fetch=Fetch(), keep=Keep()).items():
        flow.add_routine(routine, name)
    flow.connect("source", "item", "fetch", "n")
    flow.connect("fetch", "done", "keep", "n")
    return flow
"""

PROGRAMS = {
    "a plain script": """
        with build() as flow:
            print(flow.run("source", {"count": 200, "seconds": 0.001}).status)
    """,
    "a script that forgets the end": """
        flow = build()
        print(flow.run("source", {"count": 20}).status)
    """,
    "a script that ends while a job runs": """
        import logging; logging.disable()
        flow = build()
        job = flow.execute("source", {"count": 20, "seconds": 60.0})
        while job.ledger.posted < 21: time.sleep(0.001)
        print("completed")
    """,
    "asyncio.run": """
        async def main():
            async with build(loop="running") as flow:
                jobs = await asyncio.gather(*(flow.arun("source", {"count": 5, "seconds": 0.001}) for _ in range(100)))
                print(*{job.status for job in jobs})
        asyncio.run(main())
    """,
    "two runs and no end": """
        flow = build(loop="running")
        async def main():
            return await flow.arun("source", {"count": 5})
        print(*{asyncio.run(main()).status for _ in range(3)})
    """,
    "a notebook": """
        # A kernel runs a loop in the main thread, and each cell in it: some wait, some await.
        flow = build()
        async def cell_that_waits(): return flow.run("source", {"count": 5}).status
        async def cell_that_awaits(): return (await flow.arun("source", {"count": 5})).status
        loop = asyncio.new_event_loop()
        print(*{loop.run_until_complete(cell()) for cell in (cell_that_waits, cell_that_awaits, cell_that_waits)})
        loop.close()
        flow.shutdown()
    """,
    "a web service": """
        # Each request awaits a job, and some clients go away meanwhile.
        async def main():
            async with build() as flow:
                requests = [
                    asyncio.create_task(flow.arun("source", {"count": 3, "seconds": 0.01})) for _ in range(100)
                ]
                await asyncio.sleep(0.005)
                for each in requests[:10]:
                    each.cancel()
                jobs = await asyncio.gather(*requests[10:])
                print(*{job.status for job in jobs})
                assert all(each.cancelled() for each in requests[:10])
        asyncio.run(main())
    """,
    "a thread": """
        def work():
            with build() as flow:
                print(flow.run("source", {"count": 20}).status)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    """,
    "a loop that ends under its jobs": """
        import logging; logging.disable()
        flow = build(loop="running")
        async def main():
            flow.execute("source", {"count": 200, "seconds": 60.0})
            await asyncio.sleep(0.05)
        asyncio.run(main())
        job = flow.job_state
        assert job.wait(20) and job.status == "failed" and job.ledger.balanced, job.explain()
        print("completed")
    """,
}


EVERYWHERE = ("asyncio.run", "a web service")


@pytest.mark.parametrize(
    "name", [name if name in EVERYWHERE else pytest.param(name, marks=pytest.mark.once) for name in PROGRAMS]
)
def test_a_program_ends_well_and_says_nothing_but_what_it_prints(name: str) -> None:
    program = HEAD + textwrap.dedent(PROGRAMS[name])
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == "completed"


class Sends(Routine, stateless=True):
    done = event("n")

    @slot
    async def n(self, n: int) -> None:
        await asyncio.sleep(0)
        self.emit("done", n=n)


def flow_in_this_loop(make_flow: MakeFlow) -> Flow:
    flow = make_flow(execution_strategy="asyncio", strategy_options={"loop": "running"})
    flow.add_routine(Sends(), "sends")
    flow.add_output("sends", "done", "done")
    return flow


def test_each_wait_in_the_loop_that_runs_the_handlers_is_refused_by_name(make_flow: MakeFlow) -> None:
    flow = flow_in_this_loop(make_flow)

    def stream() -> Any:
        return list(flow.execute("sends", {"n": 1}).stream())

    async def main() -> None:
        for attempt, what, instead in [
            (lambda: flow.run("sends", {"n": 1}), "Flow.run", "await flow.arun(...)"),
            (lambda: flow.execute("sends", {"n": 1}).wait(), "JobState.wait", "await job.done()"),
            (flow.wait_for_completion, "Flow.wait_for_completion", "await job.done()"),
            (stream, "JobState.stream", "write `async for`"),
            (flow.shutdown, "Flow.shutdown", "use `async with Flow(...)`"),
        ]:
            with pytest.raises(FlowStateError) as caught:
                attempt()
            assert str(caught.value) == (
                f"{what} was called in the event loop in which strategy 'asyncio' runs handlers, and would stop it: "
                f"{instead}"
            )
        job = await flow.arun("sends", {"n": 7}, timeout=SECONDS)
        assert job.results("done") == [{"n": 7}]
        await asyncio.to_thread(flow.shutdown)

    asyncio.run(main())


def test_shutdown_without_waiting_is_fine_in_that_loop(make_flow: MakeFlow) -> None:
    flow = flow_in_this_loop(make_flow)

    async def main() -> JobState:
        job = flow.execute("sends", {"n": 1})
        flow.shutdown(wait=False)
        assert await job.done(SECONDS)
        flow.shutdown(wait=False)
        await asyncio.sleep(0.01)
        return job

    assert asyncio.run(main()).status == "completed"


# -- Ctrl-C in a terminal

IN_A_TERMINAL = """
import fcntl, signal, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # its Ctrl-C is for this program
signal.signal(signal.SIGINT, signal.default_int_handler)
import asyncio
from routilux_core import Flow, Routine, event, slot

class Source(Routine):
    item = event("n")
    @slot
    async def go(self, count):
        for n in range(count):
            self.emit("item", n=n)

inside = 0

class Fetch(Routine, stateless=True):
    @slot
    async def n(self, n):
        global inside
        inside += 1
        if inside == 1000:
            print("all under way", flush=True)
        await asyncio.sleep(3600.0)

def build(**options):
    flow = Flow(execution_strategy="asyncio", max_workers=1001, strategy_options=options)
    for name, routine in dict(source=Source(), fetch=Fetch()).items():
        flow.add_routine(routine, name)
    flow.connect("source", "item", "fetch", "n")
    return flow
"""

INTERRUPTED = [
    """
    try:
        with build() as flow:
            flow.run("source", {"count": 1000})
    except KeyboardInterrupt:
        print("interrupted")
    """,
    """
    async def main():
        async with build(loop="running") as flow:
            await flow.arun("source", {"count": 1000})
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        print("interrupted")
    """,
]


@pytest.mark.once
@pytest.mark.skipif(sys.platform != "linux", reason="makes a terminal")
def test_ctrl_c_ends_a_thousand_calls_in_flight_within_the_grace_period_and_says_no_more_than_that() -> None:
    began = [start_in_a_terminal(IN_A_TERMINAL + textwrap.dedent(program)) for program in INTERRUPTED]
    for _, terminal in began:
        read_until(terminal, b"all under way")
    pressed = time.monotonic()
    for _, terminal in began:
        os.write(terminal, b"\x03")
    for process, terminal in began:
        said = read_until(terminal, None).replace(b"^C", b"").split()
        os.close(terminal)
        assert (process.wait(SECONDS), said) == (0, [b"interrupted"])
    assert time.monotonic() - pressed < SECONDS  # some 4 s at rest: 3 s of them are the time that handlers get


def start_in_a_terminal(program: str) -> tuple[subprocess.Popen[bytes], int]:
    terminal, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    return process, terminal


def read_until(terminal: int, text: bytes | None) -> bytes:
    """Read what a program says up to a text, or until it ends."""
    said = b""
    while text is None or text not in said:
        try:
            more = os.read(terminal, 65536)
        except OSError:  # it has ended
            more = b""
        if not more:
            assert text is None, said.decode()
            break
        said += more
    return said
