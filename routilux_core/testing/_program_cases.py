"""The cases about whole programs: what their workers know of them, and what stays when they end."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import ClassVar

import pytest

from routilux_core.testing._bench import Bench, case, needs
from routilux_core.testing._board import until
from routilux_core.testing._watch import is_alive, session_of

CAN_NOT_LOAD = 77
PROGRAM = '''\
"""A program of the kit: its classes are its own, and what it does is said in a file."""

import pickle
import sys

from routilux_core import Flow, Routine, event, slot
from routilux_core.testing._board import gate_is_open, note, until


class Cargo:
    """Something that only this program has."""


class Local(Routine, stateless=True):
    folder: str
    seconds: float
    out = event("cargo")

    @slot
    def cargo(self, cargo: Cargo) -> None:
        main = sys.modules["__main__"]
        note(self.folder, "calls", type(cargo) is getattr(main, "Cargo", None) and type(self) is main.Local)
        until(lambda: gate_is_open(self.folder), self.seconds)
        self.emit("out", cargo=cargo)


def load():
    with open(sys.argv[1], "rb") as file:
        sys.path[:], data = pickle.load(file)
    try:
        return pickle.loads(data)
    except Exception as error:
        print(repr(error), file=sys.stderr)
        sys.exit(77)


def main():
    strategy, folder, seconds = load()
    flow = Flow(execution_strategy=strategy)
    flow.add_routine(Local(folder=folder, seconds=seconds), "local")
    flow.add_output("local", "out")
    if not seconds:
        with flow:
            job = flow.run("local", {"cargo": Cargo()})
            assert [type(output["cargo"]) for output in job.outputs["local.out"]] == [Cargo], job.errors
        return
    flow.execute("local", {"cargo": Cargo()})
    note(folder, "executed")
    until(lambda: gate_is_open(folder, "end"), 10 * seconds)


if __name__ == "__main__":
    main()
'''


class ProgramCases:
    """The promises about programs that use the strategy."""

    owns_workers: ClassVar[bool] = True

    @case
    def test_workers_know_the_classes_of_the_program(self, bench: Bench) -> None:
        with _program(bench, 0.0) as program:
            try:
                program.wait(bench.patience * 1.5)
            except subprocess.TimeoutExpired:
                pytest.fail(f"a program with classes of its own does not end: {_said(bench)}")
            _check_loaded(bench, program)
        assert program.returncode == 0, f"a program with classes of its own fails: {_said(bench)}"
        assert [note.text for note in bench.notes("calls")] == ["True"], (
            "workers don't have the main module of the program, so a class of it comes by value, which cloudpickle is "
            "needed for, and is another class there. Let a new worker do `routilux_core.worker.prepare(data)` first, "
            "with what `host.preparation()` gave to the pool"
        )

    @case
    def test_a_program_that_ends_leaves_nothing(self, bench: Bench) -> None:
        needs(self.owns_workers, "owns_workers")
        if bench.open().in_caller:
            pytest.skip("the strategy's tasks run in the thread that waits for them")
        with _program(bench, 8 * bench.patience) as program:
            _wait_for_call(bench, program)
            bench.open_gate("end")
            try:
                program.wait(2 * bench.moment)
            except subprocess.TimeoutExpired:
                pytest.fail(
                    f"a program has come to its end while a handler runs, and it is still there after "
                    f"{2 * bench.moment:g} s: nothing of a pool may keep the interpreter. {_said(bench)}"
                )
            _check_nothing_is_left(bench, program, "has ended")

    @case
    def test_a_program_that_is_killed_leaves_nothing(self, bench: Bench) -> None:
        needs(self.owns_workers, "owns_workers")
        needs(not bench.capabilities.shares_memory, "shares_memory=False")
        with _program(bench, 8 * bench.patience) as program:
            _wait_for_call(bench, program)
            program.kill()
            program.wait()
            _check_nothing_is_left(bench, program, "was killed")


@contextmanager
def _program(bench: Bench, seconds: float) -> Iterator[subprocess.Popen[bytes]]:
    """Run the program, in which a handler waits for so many seconds; at the end all that is left of it is ended."""
    text, plan = os.path.join(bench.folder, "program.py"), os.path.join(bench.folder, "plan")
    with open(text, "w", encoding="utf-8") as file:
        file.write(PROGRAM)
    try:
        data = pickle.dumps((bench.make(bench.workers), bench.folder, seconds))
    except Exception as error:
        pytest.skip(f"the strategy can't be given to another program: {error!r}")
    with open(plan, "wb") as binary:
        pickle.dump(([path for path in sys.path if path], data), binary)
    with open(os.path.join(bench.folder, "said"), "wb") as said:
        program = subprocess.Popen(
            [sys.executable, text, plan],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
    try:
        yield program
    finally:
        for pid in {program.pid, *_left_of(bench, program)}:
            with suppress(OSError):
                os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        program.wait()


def _wait_for_call(bench: Bench, program: subprocess.Popen[bytes]) -> None:
    until(lambda: bool(bench.notes("calls") and bench.notes("executed")) or program.poll() is not None, bench.patience)
    _check_loaded(bench, program)
    assert bench.notes("calls"), f"a program has made no call in {bench.patience:g} s: {_said(bench)}"
    assert bench.notes("executed"), f"`execute` has not returned in {bench.patience:g} s: {_said(bench)}"


def _check_loaded(bench: Bench, program: subprocess.Popen[bytes]) -> None:
    if program.poll() == CAN_NOT_LOAD:
        pytest.skip(f"another program can't import the strategy: give its name, or put it in a module. {_said(bench)}")


def _check_nothing_is_left(bench: Bench, program: subprocess.Popen[bytes], fate: str) -> None:
    until(lambda: not _left_of(bench, program), bench.moment)
    left = _left_of(bench, program)
    assert not left, (
        f"a program {fate} while a handler ran, and {bench.moment:g} s later these processes of it still run: "
        f"{sorted(left)}. A worker has to see for itself that its parent is gone"
    )


def _left_of(bench: Bench, program: subprocess.Popen[bytes]) -> set[int]:
    """Return the processes of the program that run, but for itself."""
    noted = {note.pid for note in bench.notes("calls")}
    return {pid for pid in session_of(program.pid) | noted if is_alive(pid)} - {program.pid, os.getpid()}


def _said(bench: Bench) -> str:
    with open(os.path.join(bench.folder, "said"), encoding="utf-8", errors="replace") as file:
        return file.read()[-2000:].strip() or "it said nothing"
