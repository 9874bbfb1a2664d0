"""The child of a fork: a flow that was idle works there, and one of which a job ran is refused. In real programs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")

STRATEGIES = ["sequential", "concurrent", "process"]
THREADS = ["concurrent", "process"]  # the child has none of them
SECONDS = 30.0

HEAD = """
import multiprocessing, os, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of a fork beside threads, which is meant
from routilux_core import ErrorHandler, Flow, FlowStateError, Routine, event, per_worker, slot

class Client:
    def close(self):
        os.write(1, f"closed in {role()}\\n".encode())

class Work(Routine, stateless=True):
    done = event("n")
    client = per_worker(Client)
    @slot
    def input(self, n, waits=0):
        self.client
        if waits:
            os.read(waits, 1)
        self.emit("done", n=n + 1)

class Keeps(Routine):
    done = event("total")
    total: int = 0
    @slot
    def input(self, n):
        self.total += n
        self.emit("done", total=self.total)

class Forks(Routine, stateless=True):
    done = event("n")
    how: str
    @slot
    def input(self, n):
        os.write(1, f"called {n} in {role()}\\n".encode())
        if n == 0 and not os.fork():
            os.write(1, b"forked\\n")
            if self.how == "raises": raise ValueError("in the child")
            if self.how == "exits": sys.exit(3)
        elif n == 0:
            os.wait()  # for the child, which has to end
        self.emit("done", n=n)

class Behind(Routine, stateless=True):
    @slot
    def input(self, n):
        os.write(1, f"behind {n} in {role()}\\n".encode())

class Many(Routine, stateless=True):
    item = event("n")
    @slot
    def input(self):
        for n in range(4):
            self.emit("item", n=n)

main = os.getpid() if __name__ == "__main__" else 0
def role():
    return "the parent" if os.getpid() == main else "the child"

def make(strategy):
    flow = Flow(execution_strategy=strategy, max_workers=2)
    flow.add_routine(Work(), "work")
    flow.add_routine(Keeps(), "keeps")
    flow.connect("work", "done", "keeps", "input")
    flow.add_output("keeps", "done")
    return flow

def answer(flow, n):
    job = flow.execute("work", {"n": n})
    assert job.wait(20), job.explain()
    job.raise_for_errors()
    return job.outputs["keeps.done"][0]["total"]

def say(*words):
    os.write(1, f"{role()} {' '.join(map(str, words))}\\n".encode())  # in one piece

def refused(call):
    try:
        return call()
    except FlowStateError as error:
        return "refused" if f"forked from process {os.getppid()}" in str(error) else str(error)

strategy = sys.argv[1]
"""


def outcome(tmp_path: Path, body: str, *arguments: str) -> tuple[int, list[str], str]:
    """Run a program; return its exit code, its lines, and what it wrote to stderr."""
    script = tmp_path / "program.py"
    lines = "\n".join(f"    {line}" for line in body.strip().splitlines())
    script.write_text(f"{HEAD}\nif __name__ == '__main__':\n{lines}\n")
    done = subprocess.run(
        [sys.executable, script, *arguments], capture_output=True, text=True, timeout=SECONDS, cwd=tmp_path
    )
    return done.returncode, done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_flow_that_was_used_works_in_the_child_and_in_the_parent(tmp_path: Path, strategy: str) -> None:
    body = """
flow = make(strategy)
say(answer(flow, 1))
child = os.fork()
if not child:
    say(answer(flow, 10))
    say(answer(flow, 20))
    sys.exit(5)
say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
say(answer(flow, 1))
os._exit(0)  # what is made per worker is closed in each of them: not what is tested here
"""
    code, lines, err = outcome(tmp_path, body, strategy)
    assert (code, err) == (0, "")
    said = [line for line in lines if not line.startswith("closed")]
    assert said == ["the parent 2", "the child 13", "the child 34", "the parent 5", "the parent 4"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_flow_that_was_used_works_in_forks_of_multiprocessing(tmp_path: Path, strategy: str) -> None:
    body = """
flow = make(strategy)
answer(flow, 1)
def work():
    say(answer(flow, 10))
    flow.shutdown()
children = [multiprocessing.get_context("fork").Process(target=work) for _ in range(2)]
for each in children: each.start()
for each in children: each.join()
say([each.exitcode for each in children], answer(flow, 1))
flow.shutdown()
"""
    code, lines, err = outcome(tmp_path, body, strategy)
    assert (code, err) == (0, "")
    said = [line for line in lines if not line.startswith("closed")]
    assert said == ["the child 13", "the child 13", "the parent [0, 0] 4"]


def test_whoever_was_told_that_a_job_has_ended_may_fork_before_the_thread_that_told_it_goes_on(tmp_path: Path) -> None:
    body = """
os.mkfifo("gate")
gate = os.open("gate", os.O_RDWR)
flow = make("concurrent")
answer(flow, 1)
job = flow.execute("work", {"n": 1, "waits": gate})
told, go_on = threading.Event(), threading.Event()
job._controls.run.ending.done.add_callback(lambda: (told.set(), go_on.wait(20)))
os.write(gate, b"x")
told.wait(20)
say(job.wait(20))
if not os.fork():
    say(answer(flow, 10))
    os._exit(0)
os.wait()
go_on.set()
say(answer(flow, 1))
os._exit(0)
"""
    code, lines, err = outcome(tmp_path, body, "concurrent")
    assert (code, err) == (0, "")
    said = [line for line in lines if not line.startswith("closed")]
    assert said == ["the parent True", "the child 15", "the parent 6"]


def test_what_workers_of_the_parent_made_is_not_closed_in_the_child(tmp_path: Path) -> None:
    body = """
flow = make(strategy)
answer(flow, 1)
if not os.fork():
    flow.shutdown()
    del flow
    sys.exit()
os.wait()
os._exit(0)
"""
    assert outcome(tmp_path, body, "concurrent") == (0, [], "")


@pytest.mark.parametrize("strategy", THREADS)
def test_a_flow_of_which_a_job_ran_is_refused_in_the_child_and_goes_on_in_the_parent(
    tmp_path: Path, strategy: str
) -> None:
    body = """
os.mkfifo("gate")
gate = os.open("gate", os.O_RDWR)
flow = make("concurrent")
other = make(strategy)
answer(other, 1)
job = flow.execute("work", {"n": 1, "waits": gate})
if not os.fork():
    say(refused(lambda: flow.execute("work", {"n": 1})))
    say(refused(lambda: job.wait()), refused(lambda: flow.wait_for_completion()), refused(lambda: flow.run("work")))
    flow.pause(), flow.resume(), flow.cancel(), job.cancel()
    flow.shutdown()
    say(answer(other, 10), answer(make(strategy), 1))
    os._exit(0)
os.wait()
os.write(gate, b"x")
say(job.wait(20), job.status, answer(flow, 1))
os._exit(0)
"""
    code, lines, err = outcome(tmp_path, body, strategy)
    assert (code, err) == (0, "")
    assert [line for line in lines if not line.startswith("closed")] == [
        "the child refused",
        "the child refused refused refused",
        "the child 13 2",
        "the parent True completed 4",
    ]


def test_a_job_that_only_the_forking_thread_works_at_goes_on_in_both(tmp_path: Path) -> None:
    body = """
flow = make("sequential")
class Twice(Routine, stateless=True):
    done = event("n")
    @slot
    def input(self, n):
        Twice.child = os.fork()
        self.emit("done", n=n)
flow.add_routine(Twice(), "twice")
flow.connect("twice", "done", "work", "input")
job = flow.run("twice", {"n": 1})
if Twice.child: os.wait()
say(job.status, job.outputs["keeps.done"], answer(flow, 1))
os._exit(0)
"""
    code, lines, err = outcome(tmp_path, body, "sequential")
    assert (code, err) == (0, "")
    assert lines == [f"{who} completed [{{'total': 2}}] 4" for who in ("the child", "the parent")]


@pytest.mark.parametrize("how", ["returns", "raises", "exits"])
def test_a_handler_that_forks_in_a_thread_leaves_no_second_worker(tmp_path: Path, how: str) -> None:
    body = """
flow = Flow(execution_strategy="concurrent", max_workers=1, error_handler="continue")
flow.add_routine(Many(), "many")
flow.add_routine(Forks(how=sys.argv[2]), "forks")
flow.add_routine(Behind(), "behind")
flow.connect("many", "item", "forks", "input")
flow.connect("forks", "done", "behind", "input")
flow.add_output("forks", "done")
job = flow.run("many")
say(job.status, len(job.outputs["forks.done"]), job.errors)
flow.shutdown()
"""
    code, lines, err = outcome(tmp_path, body, "concurrent", how)
    assert code == 0
    assert (err == "") is (how == "returns")
    calls = [f"called {n} in the parent" for n in range(4)]
    behind = [f"behind {n} in the parent" for n in range(4)]
    assert sorted(lines) == sorted([*calls, "forked", *behind, "the parent completed 4 []"])
