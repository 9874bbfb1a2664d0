"""The histogram of run times: small, and its percentiles are those of all calls, to some 3 %."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import pytest

from routilux_core._tracking import times
from routilux_core._tracking.history import COMPLETED, FAILED, History
from routilux_core.tracking import percentile

CLOSE = 1 / 32  # half a bucket
KINDS: dict[str, Callable[[Random], float]] = {
    "even": lambda draw: draw.random(),
    "heavy tail": lambda draw: draw.paretovariate(1.2) * 1e-6,
    "bell": lambda draw: draw.lognormvariate(-10, 0.5),
    "two kinds": lambda draw: draw.choice([1e-6, 1e-6, 1e-6, 0.5]),
    "all alike": lambda draw: 0.001,
}


def exact(ordered: list[float], part: float) -> float:
    return ordered[max(1, -int(-part * len(ordered) // 1)) - 1]


def filled(values: list[float], chunk: int) -> dict[int, int]:
    found: dict[int, int] = {}
    for at in range(0, len(values), chunk):
        times.add(sorted(values[at : at + chunk]), found)
    return found


@pytest.mark.parametrize("chunk", [1, 47, 48, 64, 256, 1000])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_percentiles_are_close_to_the_exact_ones(kind: str, chunk: int) -> None:
    draw = Random(chunk)
    values = [KINDS[kind](draw) for _ in range(8000)]
    found = filled(values, chunk)
    assert sum(found.values()) == len(values)
    values.sort()
    for part in (0.5, 0.95, 0.99, 1.0):
        # A long list counts neighbours as one, so a percentile may be that of a rank nearby.
        low, high = exact(values, part - 0.015) * (1 - CLOSE), exact(values, min(1.0, part + 0.015)) * (1 + CLOSE)
        value = percentile(found, part)
        assert value is not None
        assert low <= value <= high


def test_it_stays_small() -> None:
    draw = Random(1)
    found = filled([draw.lognormvariate(-10, 2) for _ in range(200_000)], 256)
    assert sum(found.values()) == 200_000
    assert len(found) < 400


def test_no_time_at_all_and_an_endless_one_are_times_too() -> None:
    found: dict[int, int] = {}
    times.add([0.0, 1e300], found)
    half = percentile(found, 0.5)
    assert half is not None
    assert half < 1e-300
    assert percentile({}, 0.5) is None


def test_merged_histograms_are_that_of_all() -> None:
    draw = Random(2)
    one, other = ([draw.random() for _ in range(500)] for _ in range(2))
    merged = filled(one, 40)
    times.merge(filled(other, 40), merged)
    assert merged == filled(one + other, 40)


@pytest.mark.parametrize("mixed", [False, True])
def test_a_history_has_the_times_of_all_calls_however_they_were_recorded(mixed: bool) -> None:
    history, run_times = History(10, 2), []
    draw, now = Random(3), 0.0
    for _ in range(30):
        flat: list[float] = []
        for _ in range(256):
            spent = draw.lognormvariate(-9, 1)
            slot = draw.choice([0, 1]) if mixed else 0
            flat += [1, 0, slot, now, now, now + spent]
            now += spent
            run_times.append(spent)
        history.add(1, flat)
        history.record((1, 0, 0, 1, FAILED, 1, now, now, now + 0.5))
        run_times.append(0.5)
        now += 0.5
    totals = history.totals()
    assert sum(total.executions for total in totals.values()) == len(run_times)
    merged: dict[int, int] = {}
    for total in totals.values():
        assert sum(total.times.values()) == total.executions
        times.merge(total.times, merged)
    run_times.sort()
    for part in (0.5, 0.95, 0.99):
        found = percentile(merged, part)
        assert found is not None
        assert exact(run_times, part - 0.01) * (1 - CLOSE) <= found <= exact(run_times, part + 0.005) * (1 + CLOSE)


def test_without_times_there_is_no_histogram() -> None:
    history = History(0)
    history.add(1, [0, 0, 0])
    assert (history.totals()[0].completed, history.totals()[0].times) == (3, {})
    assert COMPLETED == 0


def test_few_calls_of_each_of_many_slots_are_added_up_in_bulk(monkeypatch: pytest.MonkeyPatch) -> None:
    draw, history, flow, bulks = Random(3), History(100, slots=200), History(100, slots=200), 0
    add = times.add

    def counted(ordered: Sequence[float], found: dict[int, int]) -> None:
        nonlocal bulks
        bulks += 1
        add(ordered, found)

    monkeypatch.setattr(times, "add", counted)
    calls: dict[int, list[float]] = {slot: [] for slot in range(200)}
    for number in range(40):
        at = float(number)
        flat: list[float] = []
        for slot in draw.sample(range(200), 200):
            run_time = draw.random() * 1e-3
            flat += (number, 0, slot, at, at, at + run_time)
            calls[slot].append(at + run_time - at)
        history.add(1, flat)
    assert bulks <= 40 * 200 / 30, "added up one by one"
    flow.absorb(history)
    for totals in (history.totals(), flow.totals(), flow.totals(history)):
        times_each = 2 if totals[0].completed > 40 else 1
        for slot, run_times in calls.items():
            found = totals[slot]
            assert found.completed == found.executions == sum(found.times.values()) == 40 * times_each
            assert (found.longest, found.shortest) == (max(run_times), min(run_times))
            assert found.run_time == pytest.approx(sum(run_times) * times_each)
            assert found.queue_wait == 0.0
