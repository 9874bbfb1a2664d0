"""A program: load mutated documents with an audit hook armed, and print what came of them as JSON.

    python hostile.py SEED COUNT [planted]

It is a process of its own because an audit hook can't be taken out again. With `planted` a loader is put in place
that imports what a document names: the hook has to see it.
"""

from __future__ import annotations

import importlib
import json
import logging
import resource
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from routilux_core import ErrorHandler, Flow, JobState, SerializationError
from routilux_core.serialization import type_lookup as type_names
from saving.mutate import documents
from saving.routines import Appends, Box, Collects, Colour, Counts, Free, Old, Pair, Point, Rights

# "exec" and "compile" are told for `eval`, too; a file that is looked at tells "os.listdir", "os.scandir" or "open".
FORBIDDEN = ("import", "open", "compile", "exec", "marshal.", "pickle.", "subprocess.", "os.", "socket.", "ctypes.")
FORBIDDEN += ("shutil.", "tempfile.", "glob.", "pty.", "code.", "function.", "webbrowser.", "urllib.", "pathlib.")
JOBS = 4  # one document of a job for so many of flows
armed = False
seen: Counter[str] = Counter()


def hook(event: str, arguments: Any) -> None:
    if armed and event.startswith(FORBIDDEN):
        seen[f"{event} {str(arguments)[:200]}"] += 1


def honest_flow() -> Flow:
    """Return a flow with every kind of routine, handler, merge and value."""
    flow = Flow("honest", "concurrent", 3, error_handler=ErrorHandler("retry", non_retryable_exceptions=(KeyError,)))
    box = Box(Point(1, 2.5), {"a", "b"}, inner=Box(Point(0)))
    full = Counts(rows=[1, {"$x": (1, 2)}, {3: {4}}], table={"a": [None, b"b"]}, box=box, pair=Pair(1, "x"), maybe=4)
    full.kept = [Colour.GREEN, Rights.READ | Rights.RUN, float("nan"), frozenset({1})]
    full.increment_stat("calls", 2)
    full.define_event("later", ["ttl"])
    full.define_slot("spare", full.other)
    full.set_as_critical()
    for name, routine in (("counts", full), ("free", Free()), ("collects", Collects()), ("appends", Appends())):
        flow.add_routine(routine, name, execution_strategy="sequential" if name == "free" else None)
    flow.add_routine(Old("k", 2, "both"), "old")
    for source, target in (("counts", "free"), ("free", "collects"), ("counts", "appends"), ("appends", "counts")):
        flow.connect(source, "output", target, "input", {"seen": "seen"} if target == "free" else None)
    flow.connect("counts", "later", "old", "input 1")
    flow.connect("old", "output", "old", "input")
    flow.add_output("old", "output")
    flow.add_output("collects", "output", "all of them")
    return flow


def honest_job() -> JobState:
    """Return a job with errors, outputs and history."""
    from saving.golden import job

    return job()


target = Flow("before")


def load_flow(document: Any) -> Flow:
    """Load into a flow that is the same one as long as it refuses."""
    global target
    target.deserialize(document)
    loaded, target = target, Flow("before")
    return loaded


def load_job(document: Any) -> JobState:
    return JobState.deserialize(document)


def plain(data: Any) -> Any:
    """Return a document with what has two spellings in one: sets have no order, and a `$dict` may have plain keys."""
    if isinstance(data, list):
        return [plain(each) for each in data]
    if not isinstance(data, dict):
        return data
    made = {key: plain(each) for key, each in data.items()}
    for tag in ("$set", "$frozenset"):
        if isinstance(made.get(tag), list):
            made[tag] = sorted(made[tag], key=json.dumps)
    pairs = made.get("$dict")
    if isinstance(pairs, list) and all(isinstance(each, list) and len(each) == 2 for each in pairs):
        return dict(pairs) if all(type(key) is str and not key.startswith("$") for key, _ in pairs) else made
    return made


def same(one: Any, other: Any) -> bool:
    return json.dumps(plain(one), sort_keys=True) == json.dumps(plain(other), sort_keys=True)


def as_saved(loaded: dict[str, Any], document: Any) -> dict[str, Any]:
    """Return what was loaded as far as its document says: of a routine without attributes, what it was given.

    A failure names its call by two numbers, which are saved together; a document that has one of them loads as well.
    """
    for name, routine in document.get("routines", {}).items():
        if routine["attributes"] is None:
            made = loaded["routines"][name]
            made["attributes"] = None
            made["fields"] = {each: made["fields"][each] for each in routine["fields"]}
    for made, failure in zip(loaded.get("errors", []), document.get("errors", []), strict=True):
        if made.get("cause", 0) is None and "cause" not in failure:
            del made["cause"]
        elif "activation" not in failure and "cause" in failure:
            made["cause"] = failure["cause"]
    return loaded


def plant() -> None:
    """Put a loader in place that does what ours must not."""

    def importing(name: str) -> Any:
        module, _, attribute = name.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute, None)
        except Exception:
            return None

    type_names._defined = importing


def main(seed: int, count: int, planted: bool) -> dict[str, Any]:
    global armed
    sys.addaudithook(hook)
    warnings.simplefilter("error")
    logging.getLogger("routilux_core").disabled = True
    flow, job = (json.loads(json.dumps(each.serialize())) for each in (honest_flow(), honest_job()))
    load_flow(flow), load_job(job)
    if planted:
        plant()
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    slowest = 0.0
    for load, honest, many in ((load_flow, flow, count), (load_job, job, count // JOBS)):
        for number, document in enumerate(documents([honest], seed, many)):
            began = time.perf_counter()
            armed = True
            try:
                loaded = load(document)
            except SerializationError as error:
                armed = False
                outcomes[f"{load.__name__} refused"] += 1
                if not error.problems or len(str(error)) > 1_000_000:
                    wrong.append(f"{number}: an error of {len(error.problems)} problems")
            except BaseException as error:
                armed = False
                wrong.append(f"{number}: {type(error).__name__}: {error}"[:300])
            else:
                armed = False
                outcomes[f"{load.__name__} loaded"] += 1
                if not same(as_saved(loaded.serialize(), document), document):
                    wrong.append(f"{number}: loaded, but not equal")
            slowest = max(slowest, time.perf_counter() - began)
    if target.serialize() != Flow("before").serialize():
        wrong.append("a flow has changed by what it refused")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"outcomes": outcomes, "wrong": wrong[:20], "seen": dict(seen), "slowest": slowest, "peak_kb": peak}


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]), "planted" in sys.argv)))
