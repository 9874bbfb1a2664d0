"""Huge hostile documents, some 10 MB each: one for everything in the format that can be made long.

As a program it loads one file, and prints seconds and memory:  python huge.py FILE
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from routilux_core import Flow, SerializationError
from saving.hostile import honest_flow

SIZE = 10_000_000


def base() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(honest_flow().serialize()))
    return document


def filled(count: int, each: Callable[[int], Any]) -> list[Any]:
    return [each(number) for number in range(count)]


def connection(target: str = "collects", **mapping: str) -> dict[str, Any]:
    return {"source": "free", "event": "output", "target": target, "slot": "input", "mapping": mapping}


def with_kept(value: Any) -> dict[str, Any]:
    document = base()
    document["routines"]["counts"]["attributes"]["kept"] = value
    return document


def routines(count: int, **changed: Any) -> dict[str, Any]:
    document = base()
    free = {**document["routines"]["free"], **changed}
    document["routines"] |= {f"free {number}": free for number in range(count)}
    return document


def text_of(name: str, size: int) -> str:
    """Return a document of about `size` characters."""
    modulus = sys.hash_info.modulus
    many = size // 100
    made: dict[str, Callable[[], Any]] = {
        "routines": lambda: routines(size // 450),
        "routines of no type": lambda: routines(size // 450, type="os:system"),
        "connections, parallel": lambda: base() | {"connections": filled(many, lambda n: connection(**{f"a{n}": "b"}))},
        "connections, twice": lambda: base() | {"connections": [connection()] * many},
        "connections to nothing": lambda: base() | {"connections": filled(many, lambda n: connection(f"x{n}"))},
        "connections of nothing": lambda: base() | {"connections": [{}] * (size // 4)},
        "connections in a circle": lambda: (
            base() | {"connections": [{**connection("free", **{f"a{n}": "b"})} for n in range(many)]}
        ),
        "outputs": lambda: (
            base()
            | {"outputs": filled(many // 2 * 3, lambda n: {"routine": "free", "event": "output", "name": f"{n}"})}
        ),
        "keys": lambda: base() | {f"key {number}": number for number in range(size // 20)},
        "slots": lambda: _with_slots(size // 50),
        "events": lambda: _with_events(size // 20),
        "numbers": lambda: with_kept(list(range(size // 8))),
        "a set of one hash": lambda: with_kept({"$set": [number * modulus for number in range(size // 25)]}),
        "sets of one hash": lambda: with_kept(
            [{"$set": [number * modulus for number in range(200)]}] * (size // 5_000)
        ),
        "a flag": lambda: with_kept({"$enum": "saving.routines:Rights", "name": "READ|" * (size // 5) + "READ"}),
        "a long float": lambda: with_kept("long float"),
        "a complex": lambda: with_kept({"$complex": "1." + "9" * size}),
        "a path": lambda: with_kept({"$windows_path": "a\\" * (size // 3)}),
        "a time": lambda: with_kept({"$datetime": "2" * size}),
        "keys of one hash": lambda: with_kept({"$dict": [[number * modulus, 0] for number in range(size // 30)]}),
        "objects": lambda: with_kept(
            [{"$object": "saving.routines:Point", "fields": {"x": 1, "y": 1.0}}] * (size // 70)
        ),
        "objects of nothing": lambda: with_kept([{"$object": "os:system", "fields": {}}] * (size // 40)),
        "a name": lambda: base() | {"flow_id": "x" * size},
        "a type": lambda: routines(1, type="x" * size),
        "a decimal": lambda: with_kept({"$decimal": "9" * size}),
        "bytes": lambda: with_kept({"$bytes": "A" * (size // 4 * 4)}),
        "exceptions": lambda: _with_exceptions(size // 25),
    }
    if name == "depth":
        return "[" * size
    if name == "depth of objects":
        return '{"a":' * (size // 5)
    if name == "a number":
        return "9" * size
    return json.dumps(made[name]()).replace('"long float"', "1." + "9" * size)


NAMES = (
    "routines",
    "routines of no type",
    "connections, parallel",
    "connections, twice",
    "connections to nothing",
    "connections of nothing",
    "connections in a circle",
    "outputs",
    "keys",
    "slots",
    "events",
    "numbers",
    "a set of one hash",
    "sets of one hash",
    "a flag",
    "a long float",
    "a complex",
    "a path",
    "a time",
    "keys of one hash",
    "objects",
    "objects of nothing",
    "a name",
    "a type",
    "a decimal",
    "bytes",
    "exceptions",
    "depth",
    "depth of objects",
    "a number",
)


def _with_slots(count: int) -> dict[str, Any]:
    document = base()
    slots = document["routines"]["old"]["slots"]
    slots.update({f"slot {number}": {"handler": "process", "merge": "append"} for number in range(count)})
    return document


def _with_events(count: int) -> dict[str, Any]:
    document = base()
    document["routines"]["old"]["events"].update({f"event {number}": [] for number in range(count)})
    return document


def _with_exceptions(count: int) -> dict[str, Any]:
    document = base()
    document["error_handler"]["retryable_exceptions"] = ["builtins:ValueError"] * count
    return document


def main(file: str) -> dict[str, Any]:
    honest_flow().serialize()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    try:
        Flow.load(file)
        outcome = "loaded"
    except SerializationError as error:
        outcome = f"refused: {str(error)[:200]}"
    seconds = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"outcome": outcome, "seconds": round(seconds, 3), "more_kb": peak - before}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
