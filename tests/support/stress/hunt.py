"""The hunt for a wrong dispatcher: random flows on it, until one gives another answer than it should, or hangs.

Run as a program, in a process of its own, since a mutant stays and may hang: `python -m stress.hunt FLOWS FIRST_SEED
MUTANT...` prints one line of JSON for each mutant, planted one after the other. A mutant whose place in the engine is
gone raises `Outdated`; one that is planted where the engine no longer passes has no `hits`, and proves nothing.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from stress.harness import Difference, check_seed
from stress.mutants import MUTANTS, Change
from stress.watch import Hang

HANG = 2.0  # seconds: a mutant that hangs a flow is found by that
PATIENCE = 60.0  # seconds that the right dispatcher may take for a flow, on a busy machine
PAUSE = 0.0002  # seconds in which another thread may run

# How often the mutant did what the right dispatcher does not, by the place where it did.
hits: Counter[str] = Counter()


class Outdated(AssertionError):
    """The engine has changed, and a mutant has to follow."""


def planted(place: str, switch: bool = False) -> bool:
    """Count that a mutant did what it is for."""
    hits[place] += 1
    if switch:
        time.sleep(PAUSE)
    return True


def changed(text: str, right: str, wrong: str) -> str:
    """Return a function's text with some of its lines replaced; refuse where they don't stand there exactly once."""
    lines, wanted = text.splitlines(), textwrap.dedent(right).strip("\n").rstrip().splitlines()
    places = [
        at
        for at in range(len(lines) - len(wanted) + 1)
        if textwrap.dedent("\n".join(lines[at : at + len(wanted)])).splitlines() == wanted
    ]
    if len(places) != 1:
        raise Outdated(f"these lines stand there {len(places)} times: {wanted}; see what the engine does there now")
    (at,) = places
    there = lines[at : at + len(wanted)]
    indent = min(len(line) - len(line.lstrip()) for line in there if line.strip())
    new = textwrap.indent(textwrap.dedent(wrong).strip("\n").rstrip(), " " * indent)
    return "\n".join([*lines[:at], *new.splitlines(), *lines[at + len(wanted) :]])


@contextmanager
def plant(changes: Iterable[Change]) -> Iterator[None]:
    """Change methods of the engine while a block runs."""
    originals: dict[tuple[Any, str], Callable[..., Any]] = {}
    texts: dict[tuple[Any, str], str] = {}
    for change in changes:
        where = change.owner, change.method
        if where not in texts:
            if not callable(vars(change.owner).get(change.method)):
                raise Outdated(f"{change.owner.__name__}.{change.method} is gone: see what does the same now")
            originals[where] = vars(change.owner)[change.method]
            texts[where] = textwrap.dedent(inspect.getsource(originals[where]))
        texts[where] = changed(texts[where], change.right, change.wrong)
    for (owner, method), text in texts.items():
        setattr(owner, method, compiled(text, originals[owner, method]))
    try:
        yield
    finally:
        for (owner, method), original in originals.items():
            setattr(owner, method, original)


def compiled(text: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function of a changed text, which sees what the original one sees."""
    original = inspect.unwrap(original)  # of the check whether the lock is held, where that is made
    file = f"{inspect.getfile(original)} (mutant)"
    code = compile(text, file, "exec")  # with the __future__ import of this module, as the engine's has it
    names = original.__globals__
    names["planted"] = planted
    found: dict[str, Callable[..., Any]] = {}
    exec(code, names, found)
    return found[original.__name__]


def hunt(name: str, first_seed: int, flows: int) -> dict[str, Any]:
    """Run flows on a mutant until one differs; return after how many, and what showed it."""
    began = time.perf_counter()
    found = None
    tried = 0
    hits.clear()
    changes = MUTANTS.get(name, ())
    limit = HANG if changes else PATIENCE
    with plant(changes):
        for tried in range(1, flows + 1):
            try:
                check_seed(first_seed + tried - 1, limit=limit)
            except (Difference, Hang) as error:
                found = f"{type(error).__name__}: {error}".partition("\n")[0]
                break
    return {
        "mutant": name,
        "found_after": tried if found else None,
        "tried": tried,
        "by": found,
        "hits": hits.total(),
        "seconds": round(time.perf_counter() - began, 1),
    }


def main() -> None:
    flows, first_seed, *names = sys.argv[1:]
    for name in names:
        print(json.dumps(hunt(name, int(first_seed), int(flows))), flush=True)
    os._exit(0)  # what a mutant has hung stays hung: wait for nothing of it


if __name__ == "__main__":
    main()
