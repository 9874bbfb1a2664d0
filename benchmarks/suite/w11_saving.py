"""W11: a flow of 1,000 routines to plain JSON types and back, per routine, beside the same done by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from suite.model import Comparison, Row, Workload, ratio
from suite.work import best_of

ROUTINES = 1_000
RUNS = 9


def _to_dict(size: int, *, by_hand: bool) -> float:
    from suite import saved_flow

    flow = saved_flow.chain(size)
    write: Callable[[], object] = partial(saved_flow.to_dict, flow) if by_hand else flow.serialize
    expected = saved_flow.to_dict(flow)

    def check(made: object) -> None:
        saved_flow.check_same(made, expected)

    return _best(write, check) / size


def _to_flow(size: int, *, by_hand: bool) -> float:
    from suite import saved_flow

    data = saved_flow.to_dict(saved_flow.chain(size))
    read = saved_flow.to_flow if by_hand else saved_flow.deserialized
    return _best(partial(read, data), lambda made: saved_flow.check_same(saved_flow.to_dict(made), data)) / size


def _plain_objects(size: int) -> float:
    from suite import saved_flow

    data = saved_flow.to_dict(saved_flow.chain(size))
    return _best(partial(saved_flow.to_plain_objects, data), lambda made: None) / size


def _row(name: str, measure: Callable[[int], float]) -> Row:
    return Row(name=name, measure=measure, size=ROUTINES, quick_size=20)


def _best(run: Callable[[], object], check: Callable[[object], None]) -> float:
    made: list[object] = []

    def again() -> None:
        made[:] = [run()]

    return best_of(RUNS, again, lambda: check(made[0]))


WORKLOAD = Workload(
    name="W11",
    title="a flow of 1,000 routines to plain JSON types and back, per routine",
    rows=(
        _row("to dict, by hand", partial(_to_dict, by_hand=True)),
        _row("to dict", partial(_to_dict, by_hand=False)),
        _row("dict to flow, by hand", partial(_to_flow, by_hand=True)),
        _row("dict to flow", partial(_to_flow, by_hand=False)),
        _row("dict to plain objects, by hand", _plain_objects),
    ),
    comparisons=(
        Comparison(
            goal="G13",
            text="to dict / by hand",
            compute=ratio("to dict", "to dict, by hand"),
            gate=1.6,
            ambition=1.15,
        ),
        Comparison(
            goal="G13",
            text="dict to flow / by hand",
            compute=ratio("dict to flow", "dict to flow, by hand"),
            gate=6.0,
            ambition=4.5,
        ),
        Comparison(
            goal="",
            text="dict to flow / to plain objects by hand",
            compute=ratio("dict to flow", "dict to plain objects, by hand"),
        ),
    ),
)
