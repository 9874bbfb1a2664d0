"""The process pool alone, with tasks of our own: who runs what, what a dead worker costs, and how it ends."""

from __future__ import annotations

import gc
import os
import pickle
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from places import SUPPORT
from processes import pool_programs
from processes.pools import SECONDS, RecordingHost, Steps, is_alive, run, submit, wait_all
from routilux_core import ActivationTimeout, ConfigurationError, StrategyError, WorkerLost
from routilux_core_plugins.process import ProcessPool, ProcessStrategy

MakePool = Callable[..., ProcessPool]
MB = 1 << 20
LATE = 5.0  # seconds: what is ended would go on for a minute, or for ever

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals, named pipes and /proc")


def open_gate(gate: str) -> None:
    """Let one reader of a named pipe go on; waits until it is there."""
    with open(gate, "wb"):
        pass


def other_worker(pool: ProcessPool, *known: int) -> int:
    """Run batches until a worker other than the known ones has run one."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        (pid,) = run(pool, ("pid",)).results or [0]
        if pid not in known:
            return pid
    raise AssertionError("no new worker came")


def test_a_batch_comes_back_with_the_results_of_its_activations_in_order(pool: ProcessPool) -> None:
    assert run(pool, ("give", 1), ("give", "two"), ("give", None)).results == [1, "two", None]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have ways of their own")
def test_a_worker_keeps_freed_memory_for_its_next_batch(pool: ProcessPool) -> None:
    (faults,) = run(pool, ("page_faults", 16, 1 << 16)).results or [None]
    assert faults is not None
    assert faults < 64  # of the 256 pages


def test_an_idle_worker_comes_first(pool: ProcessPool, gate: str) -> None:
    blocked = Steps(("pid",), ("wait_for", gate))
    pool.submit(blocked)
    others = [run(pool, ("pid",)).results for _ in range(5)]
    open_gate(gate)
    assert blocked.wait().results is not None
    assert all(other != blocked.results[:1] for other in others)


def test_a_worker_has_two_batches_at_most_and_does_them_in_order(single: ProcessPool, gate: str, calls: Path) -> None:
    tasks = [Steps(("wait_for", gate)), *(Steps(("note", str(calls), str(n))) for n in range(5))]
    submit(single, *tasks)
    open_gate(gate)
    wait_all(tasks)
    assert calls.read_text().split() == list("01234")


def test_more_tasks_than_workers_all_run_once(pool: ProcessPool, calls: Path) -> None:
    tasks = [Steps(*(("note", str(calls), f"{n}.{k}") for k in range(3))) for n in range(100)]
    submit(pool, *tasks)
    wait_all(tasks)
    assert sorted(calls.read_text().split()) == sorted(f"{n}.{k}" for n in range(100) for k in range(3))


def test_chunks_arrive_in_order_while_the_task_runs(pool: ProcessPool, gate: str) -> None:
    task = Steps(("chunk", b"first"), ("chunk", b"x" * MB), ("wait_for", gate), ("chunk", b"last"))
    pool.submit(task)
    task.heard()
    task.heard()
    assert task.chunks == [b"first", b"x" * MB]
    assert not task.has_ended
    open_gate(gate)
    assert task.wait().chunks[2:] == [b"last"]


def test_large_payloads_and_large_replies_at_the_same_time_are_no_deadlock(pool: ProcessPool) -> None:
    blob = os.urandom(8 * MB)
    tasks = [Steps(("give", blob)) for _ in range(5)]
    submit(pool, *tasks)
    wait_all(tasks)
    assert all(task.results == [blob] for task in tasks)


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (("leave", 3), "ended with exit code 3"),
        (("crash",), "killed by signal 11"),
        (("kill_self",), "killed by signal 9"),
    ],
)
def test_a_dead_worker_costs_the_activation_that_ran(pool: ProcessPool, step: tuple[object, ...], reason: str) -> None:
    (pid,) = run(pool, ("pid",)).results or [0]
    task = Steps(("chunk", b"told"), ("give", 1), step, ("give", 2))
    others = [Steps(("give", n)) for n in range(4)]
    submit(pool, task, *others)
    wait_all([task, *others])
    assert isinstance(task.error, WorkerLost)
    assert task.error.reason == reason
    assert isinstance(task.error.worker, int)
    assert reason in str(task.error)
    assert (task.at, task.ends, task.chunks) == (2, 1, [b"told"])
    assert [other.results for other in others] == [[n] for n in range(4)]
    assert other_worker(pool, task.error.worker) != task.error.worker
    assert pid


def test_a_batch_that_waits_behind_the_one_that_killed_its_worker_runs_elsewhere(
    single: ProcessPool, gate: str
) -> None:
    first, second = Steps(("wait_for", gate), ("leave", 1)), Steps(("give", "safe"))
    submit(single, first, second)
    open_gate(gate)
    assert first.wait().at == 1
    assert second.wait().results == ["safe"]


def test_a_worker_that_dies_idle_is_replaced(single: ProcessPool) -> None:
    (pid,) = run(single, ("pid",)).results or [0]
    os.kill(pid, signal.SIGKILL)
    assert other_worker(single, pid)


def test_a_batch_that_kills_whoever_unpacks_it_is_given_up(make_pool: MakePool) -> None:
    pool = make_pool(max_worker_losses=3)
    task = Steps(("give", pool_programs.Bomb()))
    pool.submit(task)
    assert isinstance(task.wait().error, WorkerLost)
    assert task.at == 0
    assert run(pool, ("give", 1)).results == [1]


def test_a_worker_killed_in_the_middle_of_a_large_reply_costs_the_activation_that_made_it(pool: ProcessPool) -> None:
    task = Steps(("give", 1), ("stop_self_later", 0.05), ("make", 512 * MB))
    pool.submit(task)
    assert isinstance(task.wait().error, WorkerLost)
    assert task.at == 2
    assert run(pool, ("give", 1)).results == [1]


def test_the_death_of_a_worker_is_seen_though_its_child_holds_everything_open(single: ProcessPool) -> None:
    task = Steps(("grandchild_told", 60), ("kill_self",))
    pool_time = time.monotonic()
    single.submit(task)
    assert task.wait().at == 1
    assert time.monotonic() - pool_time < 10
    os.kill(int(task.chunks[0]), signal.SIGKILL)
    assert run(single, ("give", 1)).results == [1]


def test_a_worker_that_stands_still_holds_nobody_up(pool: ProcessPool) -> None:
    stuck = Steps(("chunk", b"in"), ("stop_self",), timeout=None)
    pool.submit(stuck)
    stuck.heard()
    assert [run(pool, ("give", n)).results for n in range(20)] == [[n] for n in range(20)]
    assert pool.kill(stuck)
    assert isinstance(stuck.wait().error, WorkerLost)


def test_a_worker_that_writes_nonsense_into_its_channel_is_replaced(single: ProcessPool) -> None:
    task = run(single, ("give", 1), ("scribble",), ("sleep", 60))
    assert isinstance(task.error, WorkerLost)
    assert task.at in (1, 2)
    assert run(single, ("give", 1)).results == [1]


def test_a_call_beyond_its_time_out_is_ended_and_the_pool_is_whole_again(single: ProcessPool) -> None:
    start = time.monotonic()
    task, behind = Steps(("sleep", 60), timeout=0.5), Steps(("give", 2))
    submit(single, task, behind)
    assert isinstance(task.wait().error, ActivationTimeout)
    assert 0.5 <= time.monotonic() - start < LATE
    assert "0.5 s" in str(task.error)
    assert task.at == 0
    assert behind.wait().results == [2]


def test_a_time_out_counts_from_the_start_of_the_call_not_from_its_submission(single: ProcessPool, gate: str) -> None:
    first, timed = Steps(("wait_for", gate)), Steps(("sleep", 0.01), timeout=0.5)
    submit(single, first, timed)
    threading.Timer(0.7, open_gate, [gate]).start()
    assert timed.wait().error is None


def test_what_a_call_has_to_import_first_is_not_its_time(single: ProcessPool) -> None:
    slow = Steps(("give", pool_programs.SlowToUnpack(0.7)), timeout=0.5)
    single.submit(slow)
    assert slow.wait().error is None
    assert isinstance(run(single, ("sleep", 60), timeout=0.5).error, ActivationTimeout)


@pytest.mark.once  # it takes as long as a start may, and a start may take long where much else runs
def test_an_import_that_never_ends_is_ended_when_a_start_would_be(fork_server: None, make_pool: MakePool) -> None:
    pool = make_pool(workers=1, start_timeout=5.0, start_method="forkserver")
    task = Steps(("give", pool_programs.SlowToUnpack(60)), timeout=0.1)
    pool.submit(task)
    assert isinstance(task.wait().error, WorkerLost)
    assert "no call had begun after 5 s" in str(task.error)
    assert run(pool, ("give", 1)).results == [1]


def test_workers_that_die_as_soon_as_they_are_ready_are_not_started_for_ever(
    make_pool: MakePool, host: RecordingHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("routilux_core_plugins.process.launcher.SHORT_LIVES", 4)
    pool = make_pool(workers=1, runner="processes.short_lives")
    assert host.was_lost.wait(SECONDS)
    assert "one worker process after the other was lost soon after its start: ended with exit code 3" in str(
        host.errors[0]
    )
    late = run(pool, ("give", 1))
    assert late.error is host.errors[0]


def test_few_workers_start_at_a_time_and_all_come(make_pool: MakePool) -> None:
    pool = make_pool(workers=3, at_a_time=1)
    tasks = [Steps(("chunk", b"in"), ("sleep", 60)) for _ in range(3)]
    submit(pool, *tasks)
    for task in tasks:
        task.heard()  # so each has a worker of its own
    assert all(pool.kill(task) for task in tasks)
    wait_all(tasks)


def test_a_running_task_can_be_killed(pool: ProcessPool) -> None:
    task = Steps(("chunk", b"in"), ("c_loop",))
    pool.submit(task)
    task.heard()
    assert pool.kill(task)
    assert isinstance(task.wait().error, WorkerLost)
    assert task.at in (0, 1)  # what the first one sent is heard before it has returned
    assert "on request" in str(task.error)
    assert not pool.kill(task)


def test_a_task_that_no_worker_has_can_be_taken_back(single: ProcessPool, calls: Path) -> None:
    tasks = [Steps(("chunk", b"in"), ("until_cancelled",)), *(Steps(("note", str(calls), str(n))) for n in range(4))]
    submit(single, *tasks)
    tasks[0].heard()
    assert single.cancel(tasks[-1])
    assert not single.cancel(tasks[0])
    wait_all(tasks[:-1])
    assert run(single, ("give", 1)).results == [1]
    assert not tasks[-1].has_ended
    assert calls.read_text().split() == list("012")


def test_a_cancelled_task_stops_before_its_next_activation(single: ProcessPool) -> None:
    task, behind = Steps(("chunk", b"in"), ("until_cancelled",), ("give", 1)), Steps(("give", 2))
    submit(single, task, behind)
    task.heard()
    assert not single.cancel(task)
    assert task.wait().results in ([None, True], [None])  # what the first one sent is heard before it has returned
    assert behind.wait().results == [2]


def test_cancelling_the_batch_behind_leaves_the_one_that_runs_alone(single: ProcessPool, gate: str) -> None:
    task, behind = Steps(("wait_for", gate), ("give", 1)), Steps(("give", 2), ("give", 3))
    submit(single, task, behind)
    was_taken_back = single.cancel(behind)
    open_gate(gate)
    assert task.wait().results == [0, 1]
    assert was_taken_back or behind.wait().results == []


def test_a_cancelled_batch_behind_one_whose_worker_is_ended_is_not_begun_by_another(
    single: ProcessPool, calls: Path
) -> None:
    task, behind = Steps(("chunk", b"in"), ("until_cancelled",)), Steps(("note", str(calls), "begun"))
    submit(single, task, behind)
    task.heard()
    while len(single._supervisor.roster.workers[0].batches) < 2:  # the supervisor hands it on
        single._supervisor.wake()
    assert not single.cancel(behind)
    assert single.kill(task)
    assert isinstance(task.wait().error, WorkerLost)
    assert behind.wait().results == []
    assert calls.read_text() == ""


def test_a_worker_is_replaced_when_it_has_done_its_number_of_activations(make_pool: MakePool) -> None:
    pool = make_pool(workers=1, max_tasks_per_worker=3)
    pids = [pid for _ in range(6) for pid in run(pool, ("pid",), ("pid",)).results or []]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [4, 4, 4]


def test_close_lets_submitted_tasks_end_and_closes_what_workers_hold(
    make_pool: MakePool, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROGRAMS_CLOSED", str(calls))
    pool = make_pool()
    tasks = [Steps(("sleep", 0.02), ("pid",)) for _ in range(8)]
    submit(pool, *tasks)
    pool.close()
    pids = {str(pid) for task in tasks for pid in (task.results or [])[1:]}
    assert pids <= set(calls.read_text().split())
    pool.close()
    pool.close(cancel=True, timeout=0)


def test_close_with_cancel_fails_what_waits_and_lets_what_runs_end(make_pool: MakePool, gate: str) -> None:
    single = make_pool(workers=1)
    tasks = [Steps(("chunk", b"in"), ("wait_for", gate)), *(Steps(("give", n)) for n in range(5))]
    submit(single, *tasks)
    tasks[0].heard()
    closer = threading.Thread(target=single.close, kwargs={"cancel": True})
    closer.start()
    assert isinstance(tasks[-1].wait().error, StrategyError)
    open_gate(gate)
    assert tasks[0].wait().results == [None, 0]
    closer.join(SECONDS)
    wait_all(tasks)


def test_close_with_a_deadline_ends_what_runs(make_pool: MakePool) -> None:
    pool = make_pool()
    task = Steps(("chunk", b"in"), ("c_loop",))
    pool.submit(task)
    task.heard()
    start = time.monotonic()
    pool.close(timeout=0.2)
    assert time.monotonic() - start < LATE
    assert isinstance(task.wait().error, WorkerLost)
    pool.close()


def test_a_task_for_a_closed_pool_fails(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.close()
    assert isinstance(run(pool, ("give", 1)).error, StrategyError)


def test_a_pool_can_be_closed_by_the_last_task_that_ends(make_pool: MakePool) -> None:
    pool = make_pool()
    closed = threading.Event()

    def close() -> None:
        pool.close(cancel=True, timeout=0)
        closed.set()

    run(pool, ("give", 1), then=close)
    assert closed.wait(SECONDS)
    pool.close()


def test_a_forgotten_pool_ends(nothing_left: None) -> None:
    from processes.pools import PROGRAMS
    from routilux_core_plugins.process.launcher import Settings

    forgotten = ProcessPool(Settings(workers=2, runner=PROGRAMS), RecordingHost())
    (pid,) = run(forgotten, ("pid",)).results or [0]
    thread = next(each for each in reversed(threading.enumerate()) if each.name == "routilux-process")
    del forgotten
    gc.collect()
    thread.join(SECONDS)
    assert not is_alive(pid)


def test_workers_ignore_an_interrupt_of_the_terminal(single: ProcessPool) -> None:
    (pid,) = run(single, ("pid",)).results or [0]
    os.kill(pid, signal.SIGINT)
    assert run(single, ("pid",)).results == [pid]
    assert run(single, ("interrupts",)).results == [(signal.SIG_IGN, set())]


def test_a_pool_whose_workers_can_no_longer_start_says_so(
    make_pool: MakePool, host: RecordingHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(workers=1)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(SUPPORT)])
    task = run(pool, ("leave", 1))
    assert isinstance(task.error, WorkerLost)
    assert host.was_lost.wait(SECONDS)
    assert "never became ready" in str(host.errors[0])
    assert isinstance(run(pool, ("give", 1)).error, StrategyError)


def test_a_fork_server_serves_as_well(fork_server: None, make_pool: MakePool) -> None:
    pool = make_pool(start_method="forkserver")
    task = run(pool, ("give", 1), ("kill_self",))
    assert isinstance(task.error, WorkerLost)
    assert (task.at, task.error.reason) == (1, "killed by signal 9")
    assert run(pool, ("give", 2)).results == [2]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_workers", 0),
        ("max_tasks_per_worker", 0),
        ("max_tasks_per_worker", True),
        ("max_worker_losses", None),
        ("max_worker_losses", "3"),
        ("start_method", "fork"),
        ("start_method", "thread"),
        ("start_timeout", 0),
        ("start_timeout", None),
    ],
)
def test_a_wrong_option_is_refused(option: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=option):
        ProcessStrategy(**{option: value})  # type: ignore[arg-type]


def test_a_strategy_travels_as_its_options() -> None:
    strategy = ProcessStrategy(max_workers=3, max_tasks_per_worker=100)
    assert pickle.loads(pickle.dumps(strategy)) == strategy


def test_pieces_go_and_come_back_whole_whatever_their_sizes(pool: ProcessPool) -> None:
    sizes = [0, 1, 1 << 16, (1 << 16) + 1, 0, 3 * MB, 17]
    tasks = [Steps(("send_back",), ("give", os.urandom(100 * n))) for n in range(8)]
    for task in tasks:
        task.with_pieces = tuple(os.urandom(size) for size in sizes)
        pool.submit(task)
    for task in tasks:
        assert task.wait().error is None
        assert [bytes(each) for each in task.beside] == list(task.with_pieces)
        assert task.results is not None
        assert task.results[0] == ["bytearray"] * len(sizes)
        assert not any(memoryview(each).readonly for each in task.beside)
