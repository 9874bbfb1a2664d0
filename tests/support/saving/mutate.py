"""Mutated documents: honest ones with something swapped, dropped, added, nested, huge, deep or hostile."""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Iterator
from typing import Any

HOSTILE_NAMES = (
    "os:system",
    "os:remove",
    "builtins:eval",
    "builtins:exec",
    "builtins:open",
    "builtins:object",
    "builtins:__import__",
    "subprocess:Popen",
    "pickle:loads",
    "antigravity:nothing",
    "this:c",
    "xml.dom.minidom:parseString",
    "planted_module:Bomb",
    "../../etc/passwd",
    "/etc/passwd:x",
    "routilux_core.routine:Routine",
    "saving.routines:Counts.__init__",
    "saving.routines:Counts.__init__.__globals__",
    "saving.routines:keep_both",
    "saving.routines:Old.process",
    "importlib.metadata:EntryPoint",
    "functools:partial",
    "\x00:\x00",
    ":",
    "",
)
HOSTILE_KEYS = (
    "__class__",
    "__dict__",
    "__reduce__",
    "__init__",
    "__setattr__",
    "_routilux",
    "emit",
    "input",
    "\ud800",
)


def _nested(depth: int) -> Any:
    found: Any = 0
    for level in range(depth):
        found = [found] if level % 2 else {"k": found}
    return found


def _values(dice: random.Random) -> Any:
    """Return a value that is rarely right."""
    name = dice.choice(HOSTILE_NAMES)
    return dice.choice(
        (
            lambda: None,
            lambda: dice.choice((True, False)),
            lambda: dice.choice((0, -1, 1, 2, 3, 10**30, -(10**400), 1 << 70)),
            lambda: dice.choice((0.0, -0.0, 1e308, float("nan"), float("inf"), -float("inf"))),
            lambda: dice.choice(("", "x", "retry", "append", "gather", "concurrent", "dask", "x" * 50_000)),
            lambda: name,
            lambda: f"method:{dice.choice(HOSTILE_KEYS)}",
            lambda: f"function:{name}",
            list,
            dict,
            lambda: [name] * dice.choice((1, 3, 500)),
            lambda: _nested(dice.choice((3, 90, 150, 5_000))),
            lambda: {"$object": name, "fields": {}},
            lambda: {"$object": name, "fields": {"args": "touch /tmp/owned", "shell": True}},
            lambda: {"$object": "saving.routines:Point", "fields": {"x": 1, "y": dice.choice((2, "2", None))}},
            lambda: {"$object": "saving.routines:Counts", "fields": {}},
            lambda: {"$enum": name, "name": "RED"},
            lambda: {"$enum": "saving.routines:Colour", "name": dice.choice(("RED", "BLUE", "__class__"))},
            lambda: {"$path": "../../../etc/passwd"},
            lambda: {"$posix_path": "../../../etc/passwd"},
            lambda: {"$float": dice.choice(("nan", "inf", "1.0", 1.0, [], "1" * 10_000))},
            lambda: {"$bytes": dice.choice(("AA==", "AA=", "!", 3))},
            lambda: {"$decimal": dice.choice(("1", "sNaN", "1E999999999", "x", None))},
            lambda: {"$datetime": dice.choice(("2024-01-01T00:00:00", "2024-13-01", "now", []))},
            lambda: {"$timedelta": dice.choice(([1, 2, 3], [10**12, 0, 0], [1], [0, -1, 0], "x"))},
            lambda: {"$set": dice.choice(([1, 2], [1, 1], [[]], [{}], [1, True], None))},
            lambda: {"$dict": dice.choice(([["a", 1]], [["a"]], [[[], 1]], [1], {}, [["a", 1], ["a", 2]]))},
            lambda: {"$tuple": _nested(dice.choice((1, 97, 120)))},
            lambda: {"$set": [{"$set": [{"$set": [1]}]}]},
            lambda: {dice.choice(("$eval", "$type", "$ref", "py/object", "!!python", "__reduce__", "$")): name},
            lambda: {dice.choice(HOSTILE_KEYS): 1},
        )
    )()


def _places(node: Any, into: list[tuple[Any, Any]], depth: int = 0) -> list[tuple[Any, Any]]:
    """Return every (container, key) in a document."""
    if depth < 60 and isinstance(node, (dict, list)):
        for key, each in list(node.items() if isinstance(node, dict) else enumerate(node)):
            into.append((node, key))
            _places(each, into, depth + 1)
    return into


def mutated(honest: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    """Return a copy with one to three mutations."""
    document = copy.deepcopy(honest)
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        places = _places(document, [])
        if places:
            with contextlib.suppress(RecursionError):  # of `repr` and `deepcopy`, on what is very deep already
                dice.choice(MUTATIONS)(document, *dice.choice(places), dice, places)
    return document


def _replace(document: Any, node: Any, key: Any, dice: random.Random, places: Any) -> None:
    node[key] = _values(dice)


def _drop(document: Any, node: Any, key: Any, dice: random.Random, places: Any) -> None:
    del node[key]


def _swap(document: Any, node: Any, key: Any, dice: random.Random, places: Any) -> None:
    other, at = dice.choice(places)
    node[key], other[at] = copy.deepcopy(other[at]), copy.deepcopy(node[key])


def _add(document: Any, node: Any, key: Any, dice: random.Random, places: Any) -> None:
    if isinstance(node, dict):
        node[dice.choice((*HOSTILE_KEYS, *map(str, node), "extra", "$object", "x" * 1000))] = _values(dice)
    else:
        node.insert(key, _values(dice))


def _wrap(document: Any, node: Any, key: Any, dice: random.Random, places: Any) -> None:
    node[key] = dice.choice(
        ([node[key]], {"x": node[key]}, {"$tuple": [node[key]]}, {"$object": node[key], "fields": {}})
    )


def _retype(document: Any, node: Any, key: Any, dice: random.Random, places: Any) -> None:
    value = node[key]
    change = dice.choice((str, bool, lambda each: [each], lambda each: {"$float": str(each)}, repr))
    node[key] = change(value)


def _rename(document: Any, node: Any, key: Any, dice: random.Random, places: Any) -> None:
    if isinstance(node, dict):
        node[dice.choice((*HOSTILE_NAMES, *HOSTILE_KEYS, f"{key}x"))] = node.pop(key)


def _twice(document: Any, node: Any, key: Any, dice: random.Random, places: Any) -> None:
    if isinstance(node, list):
        node.append(copy.deepcopy(node[key]))
    else:
        node[f"{key}2"] = copy.deepcopy(node[key])


def _version(document: Any, node: Any, key: Any, dice: random.Random, places: Any) -> None:
    document["version"] = dice.choice((0, -1, 2, 10**30, 1.0, "1", None, True))


def _type(document: Any, node: Any, key: Any, dice: random.Random, places: Any) -> None:
    routines = document.get("routines")
    if isinstance(routines, dict) and routines:
        routine = dice.choice(list(routines.values()))
        if isinstance(routine, dict):
            routine["type"] = dice.choice(HOSTILE_NAMES)


def _shuffle(document: Any, node: Any, key: Any, dice: random.Random, places: Any) -> None:
    if isinstance(node, list):
        dice.shuffle(node)
    else:
        items = list(node.items())
        dice.shuffle(items)
        node.clear()
        node.update(items)


MUTATIONS = (
    _replace,
    _replace,
    _replace,
    _drop,
    _swap,
    _add,
    _wrap,
    _retype,
    _rename,
    _twice,
    _version,
    _type,
    _shuffle,
)


def documents(honest: list[dict[str, Any]], seed: int, count: int) -> Iterator[dict[str, Any]]:
    """Yield mutated documents of a seed."""
    dice = random.Random(seed)
    for _ in range(count):
        yield mutated(dice.choice(honest), dice)
