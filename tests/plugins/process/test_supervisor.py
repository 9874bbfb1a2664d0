"""The thread that looks after the workers: what is raised in it costs no job its end, and no flow its next job."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable

import pytest

from processes.faults import Source, Work
from processes.pools import RecordingHost, Steps, run, submit, wait_all
from routilux_core import Flow, StrategyError
from routilux_core_plugins.process import ProcessPool
from waiting import comes_true

MakePool = Callable[..., ProcessPool]


def raise_in_supervisor(kind: type[BaseException]) -> None:
    """Raise in the thread of the supervisor when it is asleep, and something wakes it.

    It may just be telling of the end of a job, which whoever waited has heard of: what is raised there ends nothing.
    """
    (thread,) = (each for each in threading.enumerate() if each.name == "routilux-process")
    assert thread.ident is not None
    assert comes_true(lambda: sys._current_frames()[thread.ident].f_code.co_name == "select")
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(kind))


class Exits(Steps):
    """Raises on the thread of whoever tells its end."""

    def finish(self, reply: bytes) -> None:
        super().finish(reply)
        raise SystemExit

    def fail(self, error: BaseException, at: int | None = None) -> None:
        super().fail(error, at)
        raise SystemExit


def test_a_task_that_raises_system_exit_does_not_end_the_pool(make_pool: MakePool, host: RecordingHost) -> None:
    pool = make_pool(workers=1)
    tasks = [Exits(("give", 1)), Exits(("leave", 3)), Steps(("give", 2))]
    submit(pool, *tasks)
    wait_all(tasks)
    assert run(pool, ("give", 3)).results == [3]
    assert host.errors == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("kind", [SystemExit, MemoryError])
def test_a_supervisor_that_breaks_fails_every_task_and_says_so(
    make_pool: MakePool, host: RecordingHost, kind: type[BaseException]
) -> None:
    pool = make_pool(workers=1)
    running = Steps(("chunk", b"in"), ("sleep", 60))
    pool.submit(running)
    running.heard()
    raise_in_supervisor(kind)
    waiting = [Exits(("give", 1)), *(Steps(("give", 1)) for _ in range(4))]
    submit(pool, *waiting)
    wait_all([running, *waiting])
    assert host.was_lost.wait(30.0)
    assert all(isinstance(each.error, StrategyError) for each in waiting)
    assert f"the supervisor of the process pool broke: {kind.__name__}" in str(host.errors[0])


@pytest.mark.parametrize("kind", [SystemExit, MemoryError])
def test_the_next_job_gets_a_new_pool(
    make_flow: Callable[..., Flow], tmp_path: object, kind: type[BaseException]
) -> None:
    flow = make_flow(execution_strategy="process", max_workers=1)
    flow.add_routine(Source(), "source")
    flow.add_routine(Work(calls=f"{tmp_path}/calls"), "work")
    flow.connect("source", "item", "work", "input")
    assert flow.run("source", {"fault": "", "seconds": 0.0}).status == "completed"
    raise_in_supervisor(kind)
    hit = flow.execute("source", {"fault": "", "seconds": 0.0})
    assert hit.wait(30.0), hit.explain()
    assert hit.status == "failed"
    assert "the supervisor of the process pool broke" in str(hit.errors[0].exception)
    after = flow.execute("source", {"fault": "", "seconds": 0.0})
    assert after.wait(30.0), after.explain()
    assert after.status == "completed"
