"""What is large travels beside the rest, uncopied where its pool can do that, and arrives as a copy would."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from routilux_core import Flow, JobState, ShippingError
from routilux_core._remote.envelopes import PartStore
from routilux_core_plugins.process import ProcessStrategy
from shipped.large import (
    PICKLED_IN,
    Blob,
    Gathers,
    Grows,
    HalfPickled,
    Here,
    Keeps,
    Makes,
    Measures,
    Slow,
    Spoils,
    Takes,
    Twice,
    blob,
)

MakeFlow = Callable[..., Flow]
SECONDS = 30.0
QUICKEST = "spawn" if sys.platform == "win32" else "forkserver"
SIZES = [1, (1 << 16) - 1, 1 << 16, (1 << 16) + 1, (1 << 20) + 3]


def flow_to(make_flow: MakeFlow, shipped: dict[str, Any], *routines: Any, **settings: Any) -> Flow:
    """Return a flow with a source at home, connected to each of the routines, which are elsewhere."""
    flow = make_flow(**shipped, **settings)
    flow.add_routine(Here(), "here", execution_strategy="concurrent")
    for number, routine in enumerate(routines):
        flow.add_routine(routine, f"there{number}")
        flow.connect("here", "out", f"there{number}", "input")
        if routine._routilux.events:
            flow.add_output(f"there{number}", "out")
    return flow


def ran(flow: Flow, values: list[Any]) -> JobState:
    job = flow.execute("here", {"values": values})
    assert job.wait(SECONDS), job.explain()
    assert job.ledger.balanced
    return job


def results(job: JobState, number: int = 0) -> list[dict[str, Any]]:
    return job.outputs[f"there{number}.out"]


def test_what_arrives_can_be_written_to_and_nobody_else_sees_that(make_flow: MakeFlow, shipped: dict[str, Any]) -> None:
    values = [blob(size, n + 1) for n, size in enumerate(SIZES)]
    job = ran(flow_to(make_flow, shipped, Spoils(), Spoils()), values)
    assert [each.data[0] for each in values] == [1, 2, 3, 4, 5]
    for number in (0, 1):
        found = sorted(results(job, number), key=lambda result: result["n"])
        assert [each["seen"] for each in found] == [(size, n + 1, n + 1) for n, size in enumerate(SIZES)]
        assert [each["value"].data[0] for each in found] == [99] * len(SIZES)
        for each in found:
            each["value"].data[0] = 7  # what came home can be written to as well
    assert [each["value"].data[0] for each in results(job)] == [7] * len(SIZES)


@pytest.mark.parametrize("size", [10, 1 << 17])
def test_what_cannot_be_written_to_arrives_so(make_flow: MakeFlow, shipped: dict[str, Any], size: int) -> None:
    job = ran(flow_to(make_flow, shipped, Spoils()), [Blob(b"x" * size), b"y" * size, bytearray(b"z") * size])
    found = sorted(results(job), key=lambda result: result["n"])
    assert [each["seen"] for each in found] == [(size, ord(each), ord(each)) for each in "xyz"]
    assert not found[0]["value"].is_writable
    assert found[1]["value"] == b"y" * size
    assert found[2]["value"][:2] == b"cz"


def test_what_is_there_twice_is_one_thing_there_too(make_flow: MakeFlow, shipped: dict[str, Any]) -> None:
    value = blob(1 << 17)
    (result,) = results(ran(flow_to(make_flow, shipped, Twice()), [[value, value]]))
    assert result["same"]
    assert result["value"][0] is result["value"][1]
    assert result["value"][0] == value


def test_a_large_state_comes_home_with_what_each_call_made_of_it(make_flow: MakeFlow, shipped: dict[str, Any]) -> None:
    flow = flow_to(make_flow, shipped, Keeps())
    for jobs in (1, 2):
        assert ran(flow, [b"a" * 100_000, 2, 3]).status == "completed"
        kept = flow.routines["there0"]
        assert isinstance(kept, Keeps)
        assert bytes(kept.blob.data[:4]) == bytes([jobs, jobs, jobs, 0])
        kept.blob.data[5] = 1  # at home it is its own, too


def test_what_is_gathered_arrives_whole(make_flow: MakeFlow, shipped: dict[str, Any]) -> None:
    job = ran(flow_to(make_flow, shipped, Gathers()), [blob(size) for size in SIZES])
    assert results(job) == [{"sizes": SIZES}]


def test_a_payload_whose_pickling_fails_halfway_is_one_clear_error(
    make_flow: MakeFlow, shipped: dict[str, Any]
) -> None:
    flow = flow_to(make_flow, shipped, Spoils(), error_handler="continue")
    job = ran(flow, [blob(1 << 17, 3), HalfPickled(), blob(1 << 17, 5)])
    (failure,) = job.errors
    assert isinstance(failure.exception, ShippingError)
    assert failure.exception.path == "value.lock"
    assert sorted(each["seen"][1] for each in results(job)) == [3, 5]


def test_an_emission_whose_pickling_fails_halfway_is_refused_and_those_before_it_stand(
    make_flow: MakeFlow, shipped: dict[str, Any]
) -> None:
    flow = make_flow(**shipped)
    flow.add_routine(Makes(), "there0")
    flow.add_output("there0", "out")
    job = flow.run("there0", {"n": 8})
    (failure,) = job.errors
    assert isinstance(failure.exception, ShippingError)
    assert failure.exception.path == "value.lock"
    assert [each["value"] for each in results(job)] == [blob(1 << 20, 8)]


def test_the_thread_that_reads_from_workers_pickles_nothing_that_takes_long(make_flow: MakeFlow) -> None:
    flow = flow_to(make_flow, {"execution_strategy": ProcessStrategy(max_workers=2, start_method=QUICKEST)}, Takes())
    PICKLED_IN.clear()
    job = ran(flow, [Slow() for _ in range(12)])
    assert job.ledger.completed == 13
    assert len(PICKLED_IN) == 12
    assert "routilux-process" not in PICKLED_IN


def test_a_payload_that_the_next_call_is_given_too_is_pickled_once(make_flow: MakeFlow) -> None:
    flow = flow_to(make_flow, {}, Takes())
    store, payload = PartStore(), {"value": blob(1 << 17), "n": 1}
    inlet = flow._runtime.engine.nodes["there0"].inlets["input"]
    first, second = (store.packed(inlet, payload, again) for again in (True, False))
    assert first[0] is second[0]
    assert first[1][0] is not second[1][0]  # there, each call is to have a buffer of its own
    assert store.pickled is None  # nothing is kept for nobody
    assert store.packed(inlet, payload, False)[0] is not first[0]


def test_arrays_arrive_as_they_are(make_flow: MakeFlow, shipped: dict[str, Any]) -> None:
    numpy = pytest.importorskip("numpy")
    whole = numpy.arange(1 << 16, dtype="f8").reshape(256, 256)
    fixed = whole.copy()
    fixed.setflags(write=False)
    values = [whole, whole.T, whole[::2, ::3], fixed, numpy.array([1, "a", None, [2]], dtype=object), numpy.float64(3)]
    job = ran(flow_to(make_flow, shipped, Twice()), [[value, value] for value in values])
    found = [each["value"][0] for each in sorted(results(job), key=lambda result: result["n"])]
    assert len(found) == len(values)
    assert all(numpy.array_equal(each, value) for each, value in zip(found, values, strict=True))
    assert [each.flags.writeable for each in found[:5]] == [each.flags.writeable for each in values[:5]]


def to_process(make_flow: MakeFlow, routine: Any) -> Flow:
    return flow_to(make_flow, {"execution_strategy": ProcessStrategy(max_workers=1, start_method=QUICKEST)}, routine)


def home_again(make_flow: MakeFlow, values: list[Any]) -> list[Any]:
    """Return what came back of values that were sent there, each of them twice in one payload."""
    found = sorted(results(ran(to_process(make_flow, Twice()), [[value, value] for value in values])), key=by_number)
    assert [each["same"] for each in found] == [True] * len(values)
    return [each["value"][0] for each in found]


def by_number(result: dict[str, Any]) -> int:
    n: int = result["n"]
    return n


def test_a_mapped_file_arrives_as_an_array_of_its_own(make_flow: MakeFlow, tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    mapped = numpy.memmap(tmp_path / "file", dtype="f8", mode="w+", shape=(1 << 16,))
    mapped[:] = 3
    fixed = numpy.memmap(tmp_path / "file", dtype="f8", mode="r", shape=(1 << 16,))
    for found in home_again(make_flow, [mapped, fixed, mapped[::2]]):
        assert set(found) == {3.0}
        if found.flags.writeable:
            found[0] = 4
    assert mapped[0] == 3


def test_frames_arrive_as_they_are(make_flow: MakeFlow) -> None:
    numpy, pandas = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    numbers = numpy.arange(100_000.0)
    frame = pandas.DataFrame({"x": numbers, "n": numbers.astype("i4"), "s": ["a", "b"] * 50_000})
    whole, every_second, column = home_again(make_flow, [frame, frame[::2], frame["x"]])
    assert whole.equals(frame)
    assert every_second.equals(frame[::2])
    assert column.equals(frame["x"])
    whole.loc[0, "x"] = 7.0
    assert frame.loc[0, "x"] == 0.0


def test_tables_arrive_as_they_are(make_flow: MakeFlow) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"x": list(range(100_000)), "s": ["a", None] * 50_000})
    whole, sliced = home_again(make_flow, [table, table.slice(7, 50_000)])
    assert whole.equals(table)
    assert sliced.equals(table.slice(7, 50_000))


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_100_megabytes_of_bytes_go_there_and_come_back(make_flow: MakeFlow, kind: Callable[[bytes], Any]) -> None:
    value = kind(b"ab" * (50 << 20))
    (found,) = home_again(make_flow, [value])
    assert type(found) is kind
    assert found == value


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("beyond", [-1, 0, 1])
@pytest.mark.parametrize("border", [1 << 31, 1 << 32])
def test_the_borders_of_2_and_4_gigabytes_are_none(make_flow: MakeFlow, border: int, beyond: int) -> None:
    value = blob(border + beyond, 5)
    job = to_process(make_flow, Measures()).execute("here", {"values": [value]})
    assert job.wait(900.0), job.explain()
    assert results(job) == [{"n": 0, "seen": (border + beyond, 5, 5)}]


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_an_emission_of_more_than_2_gigabytes_comes_home(make_flow: MakeFlow) -> None:
    flow = to_process(make_flow, Grows())
    job = flow.execute("there0", {"value": (1 << 31) + 1})
    assert job.wait(900.0), job.explain()
    (found,) = results(job)
    assert (len(found["value"].data), found["value"].data[0], found["value"].data[-1]) == ((1 << 31) + 1, 6, 6)
