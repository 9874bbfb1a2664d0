"""What the main program defines goes by name where the worker's main module has it, else by value, with cloudpickle."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("cloudpickle")

DEFINITIONS = """
import contextvars, dataclasses, functools, sqlite3, sys, threading
from typing import ClassVar
from attrs import frozen
from routilux_core import Capabilities, ExecutorStrategy, Flow, Routine, ShippingError, event, slot

LOCK, VAR, LOCAL = threading.Lock(), contextvars.ContextVar("VAR", default=1), threading.local()
CONNECTION = sqlite3.connect(":memory:", check_same_thread=False)

@dataclasses.dataclass(slots=True)
class Row:
    n: int

class Plain:
    __slots__ = ("n",)
    def __init__(self, n):
        self.n = n
    def __eq__(self, other):
        return self.n == other.n

class Counts:
    times_pickled = 0
    def __reduce__(self):
        Counts.times_pickled += 1
        return Counts, ()

COUNTS = Counts()

class Uses(Routine, stateless=True):
    out = event("value")
    @functools.cached_property
    def model(self):
        return 5
    @slot
    def go(self, value):
        with LOCK:
            VAR.get(), CONNECTION.execute("select 1"), COUNTS, self.model
            LOCAL.x = 1
        self.emit("out", value=value)

class Locks(Routine, stateless=True):
    out = event("value")
    @slot
    def go(self, value):
        with LOCK:
            pass

class Passes(Routine, stateless=True):
    out = event("value")
    @slot
    def go(self, value):
        assert type(value) in (Row, Plain)
        self.emit("out", value=value)

class Keeps(Routine):
    value: object = None
    @slot
    def go(self, value):
        self.value = value

class LokyStrategy(ExecutorStrategy):
    name: ClassVar[str] = "loky"
    capabilities: ClassVar[Capabilities] = Capabilities(shares_memory=False)
    def make_executor(self):
        import loky
        return loky.ProcessPoolExecutor(self.max_workers)

LokyStrategy = frozen(kw_only=True)(LokyStrategy)

def run(strategy, routine, value):
    with Flow(execution_strategy=strategy, max_workers=None if isinstance(strategy, ExecutorStrategy) else 1) as flow:
        flow.add_routine(routine, "first")
        flow.add_routine(Keeps(), "keeps")
        flow.add_output("first", "out")
        flow.connect("first", "out", "keeps", "go")
        job = flow.run("first", {"value": value})
        job.raise_for_errors()
        assert job.outputs["first.out"] == [{"value": value}], job.outputs
        assert flow.routines["keeps"].value == value and type(flow.routines["keeps"].value) is type(value)
"""


def program(tmp_path: Path, main: str, *, typed_in: bool = False) -> str:
    text = DEFINITIONS + textwrap.dedent(main)
    (tmp_path / "program.py").write_text(text)
    command = [sys.executable, "-c", text] if typed_in else [sys.executable, "program.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.once
def test_globals_that_cannot_be_pickled_stay_where_they_are(tmp_path: Path) -> None:
    said = program(
        tmp_path,
        """
        if __name__ == "__main__":
            for value in (Row(5), Plain(5)):
                run("process", Uses(), value)
            print("as it should be", Counts.times_pickled)
        """,
    )
    assert said == "as it should be 0\n"


@pytest.mark.once
def test_what_the_worker_s_main_module_has_not_goes_by_value(tmp_path: Path) -> None:
    said = program(
        tmp_path,
        """
        if __name__ == "__main__":
            @dataclasses.dataclass(slots=True)
            class Guarded:
                n: int

            class PassesGuarded(Routine, stateless=True):
                out = event("value")
                @slot
                def go(self, value):
                    self.emit("out", value=Guarded(value.n))

            def made_here():
                class Inner(Routine, stateless=True):
                    out = event("value")
                    @slot
                    def go(self, value):
                        self.emit("out", value=value)
                return Inner

            run("process", PassesGuarded(), Guarded(5))
            run("process", Passes(), Row(5))
            run("process", made_here()(), Guarded(5))
            print("as it should be")
        """,
    )
    assert said == "as it should be\n"


@pytest.mark.filterwarnings("ignore")
def test_workers_with_another_main_module_get_it_by_value(tmp_path: Path) -> None:
    said = program(
        tmp_path,
        """
        if __name__ == "__main__":
            for value in (Row(5), Plain(5)):
                run(LokyStrategy(max_workers=1), Passes(), value)
            try:
                run(LokyStrategy(max_workers=1), Locks(), 5)
            except BaseExceptionGroup as group:
                print(group.exceptions[0])
        """,
    )
    assert "Locks of the main program" in said
    assert "is missing in the main module of this worker" in said
    assert "since it uses the global 'LOCK' (lock)" in said


@pytest.mark.once
def test_what_is_typed_in_goes_by_value_and_a_refusal_names_the_global(tmp_path: Path) -> None:
    said = program(
        tmp_path,
        """
        for value in (Row(5), Plain(5)):
            run("process", Passes(), value)
        try:
            run("process", Locks(), 5)
        except ShippingError as error:
            print(error)
        class Deep(Routine, stateless=True):
            out = event("value")
            @slot
            def go(self, value):
                [helper(each) for each in (value,)]
        def helper(value):
            return lambda: CONNECTION
        try:
            run("process", Deep(), 5)
        except ShippingError as error:
            print(error)
        """,
        typed_in=True,
    )
    first, second = said.splitlines()
    sent = "can't be sent to a worker process, since it uses the global"
    assert f"routine 'first': its class (Locks) {sent} 'LOCK' (lock): cannot pickle" in first
    assert f"routine 'first': its class (Deep) {sent} 'CONNECTION' (Connection): cannot pickle" in second
