"""Random flows, and a walk over a flow that knows nothing of how it is saved."""

from __future__ import annotations

import datetime
import pathlib
from collections import Counter
from typing import Any

from hypothesis import strategies as st

from routilux_core import ErrorHandler, Flow, Routine
from routilux_core.errors import ConfigurationError
from saving.routines import Appends, Box, Collects, Colour, Counts, Echo, Free, Old, Pair, Point, Rights

MOST = 50
words = st.text(st.characters(codec="utf-8"), max_size=8)
names = words.filter(bool)
numbers = st.integers() | st.floats(allow_nan=False) | st.booleans()
scalars = st.none() | numbers | words | st.binary(max_size=8) | st.decimals(allow_nan=False) | st.uuids() | st.dates()
hashable = (
    st.integers(-9, 9) | words | st.binary(max_size=4) | st.sampled_from(Colour) | st.tuples(st.integers(), words)
)
points = st.builds(Point, st.integers(), st.floats(allow_nan=False))
boxes = st.recursive(
    st.builds(Box, points, st.sets(words, max_size=3), st.integers()),
    lambda inner: st.builds(Box, points, inner=inner),
    max_leaves=3,
)
flags = st.sampled_from(Rights)  # combined ones, too
zoned = st.datetimes(timezones=st.just(datetime.UTC)).filter(lambda each: not each.fold) | st.datetimes().filter(
    lambda each: not each.fold
)
values = st.recursive(
    scalars
    | zoned
    | st.timedeltas()
    | st.times().filter(lambda each: not each.fold)
    | points
    | boxes
    | flags
    | st.sampled_from(Colour),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(words | st.just("$x"), inner, max_size=3)
        | st.dictionaries(hashable, inner, max_size=3)
        | st.tuples(inner, inner)
        | st.sets(hashable, max_size=4)
        | st.frozensets(hashable, max_size=4)
    ),
    max_leaves=5,
)
paths = st.sampled_from(["a/b", ".", "/etc/passwd", "../..", "x y"]).map(pathlib.PurePosixPath)

FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "text": words,
    "number": st.integers(),
    "ratio": st.floats(allow_nan=False) | st.integers(),
    "flag": st.booleans(),
    "maybe": st.none() | st.integers(),
    "rows": st.lists(values, max_size=3),
    "table": st.dictionaries(words, values, max_size=3),
    "fixed": st.lists(values, max_size=2).map(tuple),
    "names": st.frozensets(words, max_size=4),
    "when": st.none() | zoned,
    "span": st.timedeltas(),
    "where": paths,
    "raw": st.binary(max_size=8),
    "price": st.decimals(allow_nan=False),
    "key": st.uuids(),
    "colour": st.sampled_from(Colour),
    "rights": flags,
    "box": st.none() | boxes,
    "pair": st.builds(Pair, st.integers(), words),
    "choice": st.sampled_from(["a", "b"]),
    "anything": values,
    "doubled": st.integers(-99, 99),
    "private": st.integers(),
}
policies = st.builds(
    ErrorHandler,
    st.sampled_from(["stop", "continue", "skip", "retry"]),
    st.integers(0, 3),
    st.sampled_from([0, 0.0, 0.5, 1]),
    retryable_exceptions=st.sampled_from([(Exception,), (OSError, ValueError), ()]),
    non_retryable_exceptions=st.sampled_from([(), (KeyError,)]),
    max_delay=st.none() | st.floats(0, 9),
    after_retries=st.sampled_from(["stop", "skip"]),
)


@st.composite
def routines(draw: Any) -> Routine:
    """Draw one routine, with attributes and statistics of its own where it may have them."""
    kind = draw(st.sampled_from([Counts, Counts, Free, Collects, Appends, Old, Echo]))
    if kind is Old:
        merges = ["override", "append", "gather", "last", "both"]
        return Old(draw(hashable), draw(st.integers(1, 3)), draw(st.sampled_from(merges)))
    if kind is not Counts:
        return kind()
    chosen = draw(st.sets(st.sampled_from(sorted(FIELDS)), max_size=5))
    made = Counts(**{name: draw(FIELDS[name]) for name in sorted(chosen)})
    if draw(st.booleans()):
        made.kept = draw(values)
        made.increment_stat(draw(words), draw(st.sampled_from([1, 2.5, -3])))
    if draw(st.booleans()):
        made.define_event("later", ["ttl"])
        made.define_slot("spare", made.other)
    return made


@st.composite
def flows(draw: Any, most: int = MOST) -> Flow:
    """Draw a flow. What `connect` refuses (a circle through a gather slot, say) is left out."""
    flow = Flow(
        draw(words),
        draw(st.sampled_from(["sequential", "concurrent"])),
        draw(st.none() | st.integers(1, 9)),
        error_handler=draw(policies),
        max_pending=draw(st.sampled_from([1, 64, 1024])),
        history_size=draw(st.sampled_from([0, 7, 1000])),
    )
    for number in range(draw(st.integers(1, most))):
        own = draw(st.sampled_from([None, None, None, "concurrent"]))
        routine = draw(routines())
        if draw(st.integers(0, 4)) == 0:
            routine.set_error_handler(draw(policies))
        flow.add_routine(routine, f"{draw(words)} {number}", execution_strategy=own)
    _wire(draw, flow)
    return flow


def _wire(draw: Any, flow: Flow) -> None:
    ids = list(flow.routines)
    outs = [(each, event) for each in ids for event in flow.routines[each]._routilux.events]
    ins = [(each, name) for each in ids for name in flow.routines[each]._routilux.slots]
    mappings = st.sampled_from([None, None, {"seen": "seen"}, {"extra": "seen"}, {"x": "y", "seen": "z"}])
    for _ in range(draw(st.integers(0, 2 * len(ids)))):
        (source, event), (target, name) = draw(st.sampled_from(outs)), draw(st.sampled_from(ins))
        kind = draw(st.sampled_from(["any", "any", "any", "loop", "again"]))
        if kind == "loop":
            target, name = draw(st.sampled_from([each for each in ins if each[0] == source]))
        elif kind == "again" and flow.connections:
            again = draw(st.sampled_from(flow.connections))
            source, event, target, name = again.source, again.event, again.target, again.slot
        try:
            flow.connect(source, event, target, name, draw(mappings))
        except ConfigurationError:
            continue
    for source, event in draw(st.sets(st.sampled_from(outs), max_size=10)):
        flow.add_output(source, event)


def traits(flow: Flow) -> set[str]:
    """Return what is remarkable about a flow, so that a long run can show that it met all of it."""
    ends = Counter((each.source, each.event, each.target, each.slot) for each in flow.connections)
    found = {f"over {number} routines" for number in (10, 20, 40) if len(flow.routines) > number}
    found |= {"self loop" for source, _, target, _ in ends if source == target}
    found |= {"parallel" for count in ends.values() if count > 1}
    found |= {"slot and event of one name" for each in flow.routines.values() if isinstance(each, Echo)}
    return found


def walk(flow: Flow) -> dict[str, Any]:
    """Return what a flow is, from the live objects that a job would use."""
    found: dict[str, Any] = {"settings": (flow.flow_id, flow.execution_strategy, flow.max_workers, flow.max_pending)}
    wires: Counter[Any] = Counter()
    for name, node in flow._runtime.engine.nodes.items():
        routine = flow.routines[name]
        assert node.routine is routine
        assert routine._routilux.owner == (flow.flow_id, name)
        state = {key: value for key, value in vars(routine).items() if key != "_routilux"}
        slots = {
            key: (_code(each.handler, routine), _code(each.merge_strategy, routine))
            for key, each in routine._routilux.slots.items()
        }
        bound = {key: _code(each.handler, routine) for key, each in node.inlets.items()}
        assert bound == {key: handler for key, (handler, _) in slots.items()}
        events = {key: (each.name, each.output_params) for key, each in routine._routilux.events.items()}
        policy, strategy = node.policy, node.scheduler.strategy.name
        found[f"routine {name}"] = (type(routine), state, slots, events, routine.stats(), policy, strategy)
        for event, outlet in node.outlets.items():
            for inlet, mapping in outlet.targets:
                assert flow._runtime.engine.nodes[inlet.node.routine_id].inlets[inlet.name] is inlet
                wires[name, event, inlet.node.routine_id, inlet.name, tuple((mapping or {}).items())] += 1
            found[f"outputs {name}.{event}"] = sorted(outlet.outputs)
    found["wires"] = wires
    return found


def _code(code: Any, routine: Routine) -> Any:
    owner = getattr(code, "__self__", None)
    assert owner is None or owner is routine, "bound to another routine"
    return getattr(code, "__func__", code)


def outcome(flow: Flow) -> Any:
    """Run each of the first three routines once, and return all that came of it.

    All in one thread: elsewhere the order of arrival, and what a failed job has done by then, are nobody's promise.
    """
    flow._runtime.wiring.named.clear()
    flow.set_execution_strategy("sequential")
    found = []
    for name, routine in list(flow.routines.items())[:3]:
        job = flow.run(name, {"ttl": 2, "seen": ()}, slot=next(iter(routine._routilux.slots)))
        failures = [(each.routine_id, each.slot, type(each.exception), each.decision) for each in job.errors]
        found.append((job.status, job.ledger, job.outputs, failures, job.routine_states))
    states = {name: {k: v for k, v in vars(each).items() if k != "_routilux"} for name, each in flow.routines.items()}
    flow.shutdown()
    return found, states
