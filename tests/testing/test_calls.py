"""A handler is called without a flow, and a flow under each strategy that is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from routilux_core import EmitError, Flow, PayloadError, Routine, UnknownNameError, event, per_worker, slot
from routilux_core.testing import Emitted, call


class Closes:
    made: list[Closes] = []

    def __init__(self) -> None:
        self.open = True
        self.made.append(self)

    def close(self) -> None:
        self.open = False


class Fetch(Routine):
    calls: int = 0
    fetched = event("name", "letters")
    client = per_worker(Closes)

    def __call__(self) -> None:
        self.emit("fetched", name="", letters=0)

    @slot
    def request(self, name: str, times: int = 1) -> None:
        assert self.client.open
        assert self.client is self.client
        assert not self.cancelled
        self.calls += 1
        for _ in range(times):
            self.emit("fetched", name=name, letters=len(name))

    @slot(emits="fetched")
    def value(self, name: str) -> dict[str, object]:
        return {"name": name, "letters": 1}

    @slot
    def fails(self) -> None:
        raise OSError("no network")

    @slot
    def mistypes(self) -> None:
        self.emit("fteched")


class Later(Routine):
    fetched = event("name", "letters")

    @slot
    async def later(self, name: str) -> None:
        self.emit("fetched", name=name, letters=0)


def test_a_call_returns_what_is_emitted() -> None:
    routine = Fetch()
    assert call(routine, "request", name="Oslo", times=2) == [("fetched", {"name": "Oslo", "letters": 4})] * 2
    assert call(routine) == [Emitted("fetched", {"name": "", "letters": 0})]
    assert call(Later(), "later", name="Lima") == [("fetched", {"name": "Lima", "letters": 0})]
    assert call(routine, "value", name="Rome") == [("fetched", {"name": "Rome", "letters": 1})]
    assert routine.calls == 1
    assert [each.open for each in Closes.made] == [False]


def test_what_is_wrong_is_raised() -> None:
    with pytest.raises(OSError, match="no network"):
        call(Fetch(), "fails")
    with pytest.raises(UnknownNameError, match="did you mean 'fetched'"):
        call(Fetch(), "mistypes")
    with pytest.raises(UnknownNameError, match="did you mean 'request'"):
        call(Fetch(), "requst", name="Oslo")
    with pytest.raises(PayloadError, match="slot 'request': the handler requires 'name', but what arrived is 'nam'"):
        call(Fetch(), "request", nam="Oslo")


def test_a_routine_that_was_called_emits_nothing_outside_and_may_be_added() -> None:
    routine = Fetch()
    call(routine, "request", name="Oslo")
    with pytest.raises(EmitError):
        routine.emit("fetched", name="Oslo", letters=4)
    with Flow() as flow:
        flow.add_routine(routine, "fetch")
        flow.add_output("fetch", "fetched")
        assert flow.run("fetch").results("fetch.fetched") == [{"name": "", "letters": 0}]


PROGRAM = """
from math import floor

pytest_plugins = ("routilux_core.testing.fixtures",)


def build(flow):
    flow.add(floor)
    flow.add_output("floor", "out")


def test_floor(flow_runner):
    assert flow_runner(build, "floor", {"x": 2.5}).results("floor.out") == [{"value": 2}]


def test_errors(flow_runner):
    job = flow_runner(build, "floor", {"x": "no number"}, raise_for_errors=False)
    assert [type(each.exception) for each in job.errors] == [TypeError]
"""


@pytest.mark.once
def test_the_fixture_runs_a_flow_under_each_strategy(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(PROGRAM, encoding="utf-8")
    names = ("sequential", "concurrent", "process")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", tmp_path]
        + [f"test_it.py::{test}[{name}]" for test in ("test_floor", "test_errors") for name in names],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "6 passed" in done.stdout, done.stdout
