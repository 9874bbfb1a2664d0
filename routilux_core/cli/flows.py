"""The commands about flows: `routilux validate`, `routilux show` and `routilux run`."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs

from routilux_core import serialization
from routilux_core._text.printable import Lines, printable
from routilux_core._text.values import look_of
from routilux_core.errors import RoutiluxError, SerializationError, text_of
from routilux_core.flow import Flow
from routilux_core.job import JobState
from routilux_core.serialization.versions import JOB


class Refused(Exception):
    """What was asked can't be done; the text says why."""


def add_commands(subparsers: Any) -> None:
    """Add the commands of this module."""
    validate = subparsers.add_parser(
        "validate", help="say whether a saved flow or job can be loaded, and all that is wrong"
    )
    show = subparsers.add_parser("show", help="print the routines and connections of a flow, and its picture")
    run = subparsers.add_parser("run", help="run a flow, and print what came of it as JSON")
    validate.add_argument("flow", metavar="FILE", help="a file that flow.save() or job_state.save() wrote")
    for each in (show, run):
        each.add_argument("flow", metavar="FLOW", help="a file that flow.save() wrote, or module:name of a flow")
    for each in (validate, show, run):
        each.add_argument(
            "--types",
            action="append",
            default=[],
            metavar="MODULE",
            help="import this module for the classes of the file, which itself never imports; may be given again",
        )
    alone = show.add_mutually_exclusive_group()
    for name, what in (("mermaid", "Mermaid text"), ("svg", "SVG"), ("dot", "text for Graphviz")):
        alone.add_argument(f"--{name}", action="store_true", help=f"print the picture alone, as {what}")
    run.add_argument("--entry", required=True, metavar="ROUTINE", help="the routine to start at, or ROUTINE.SLOT")
    run.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="K=V",
        help="a parameter of the entry: V is JSON, or a string where it is none; may be given again",
    )
    run.add_argument("--strategy", metavar="NAME", help="run under this strategy instead of the flow's own")
    run.add_argument("--max-workers", type=int, metavar="N", help="with this many workers")
    run.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="cancel the job after this time")
    shown = run.add_mutually_exclusive_group()
    shown.add_argument("--progress", action="store_true", help="show on the terminal what is done and what runs")
    shown.add_argument("--watch", action="store_true", help="show on the terminal the figures of each routine")
    run.add_argument("--live", action="store_true", help="serve the page of the run, while it runs, on this machine")
    run.add_argument("--report", metavar="FILE", help="write a page that shows the run to this file: run.html, say")
    run.add_argument("--trace", metavar="FILE", help="write a trace for Perfetto to this file: run.json.gz, say")
    run.add_argument("--traceback", action="store_true", help="show where each error was raised")
    validate.set_defaults(run=guarded(_validate))
    show.set_defaults(run=guarded(_show))
    run.set_defaults(run=guarded(_run))


def guarded(command: Any) -> Any:
    """Turn what a user can put right into one message, and exit code 1."""

    def run(options: argparse.Namespace) -> int:
        try:
            code: int = command(options)
        except SerializationError as error:
            hint = "" if options.types or "types=[...]" not in str(error) else "\nOn this command line: --types MODULE"
            print(Lines(f"routilux: {error}{hint}"), file=sys.stderr)
            return 1
        except BrokenPipeError:
            raise  # nobody reads what is printed
        except (RoutiluxError, Refused, OSError) as error:
            print(Lines(f"routilux: {error}"), file=sys.stderr)
            return 1
        return code

    return run


def _validate(options: argparse.Namespace) -> int:
    document, types = _document(options.flow), [imported(each) for each in options.types]
    file = printable(options.flow)
    if _is_job(document):
        job = JobState.deserialize(document, types=types)
        print(f"{file}: job {job.job_id!r} ({job.status}) of flow {job.flow_id!r} can be loaded")
        return 0
    flow = Flow()
    flow.deserialize(document, types=types)
    routines, connections = len(flow.routines), len(flow.connections)
    print(f"{file}: flow {flow.flow_id!r} with {routines} routines and {connections} connections can be loaded")
    return 0


def _show(options: argparse.Namespace) -> int:
    flow = find_flow(options.flow, options.types)
    if options.svg or options.dot:
        print(flow.to_svg() if options.svg else flow.to_dot(), end="")
        return 0
    if not options.mermaid:
        workers = "its own number of" if flow.max_workers is None else flow.max_workers
        print(f"flow {flow.flow_id!r}, strategy {flow.execution_strategy!r} with {workers} workers\n")
        print(_table(flow), end="\n\n")
    print(flow.to_mermaid())
    return 0


def _table(flow: Flow) -> str:
    """Return a line for each routine, and one for each connection; what a terminal would obey is spelled out."""
    rows = [("routine", "type", "slots", "events", "strategy")]
    rows += [
        (
            name,
            type(routine).__name__,
            ", ".join(routine._routilux.slots) or "-",
            ", ".join(routine._routilux.events) or "-",
            flow._runtime.wiring.named.get(name, "-"),
        )
        for name, routine in flow.routines.items()
    ]
    table = [[*map(printable, row)] for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    lines.append("")
    for each in flow.connections:
        renamed = ", ".join(f"{old} as {new}" for old, new in each.param_mapping)
        wire = f"{each.source}.{each.event} -> {each.target}.{each.slot}{renamed and f'  ({renamed})'}"
        lines.append(printable(wire))
    return "\n".join(lines).rstrip()


class _Formatter(logging.Formatter):
    """Spells out what a terminal would obey; an error may quote what a file holds."""

    def format(self, record: logging.LogRecord) -> str:
        return Lines(super().format(record))


class _OneLine(_Formatter):
    """Leaves tracebacks out."""

    def formatException(self, ei: Any) -> str:  # noqa: N802 - the name that logging calls
        return ""


@contextmanager
def _logged(with_traceback: bool) -> Iterator[None]:
    """Let the engine's log, which tells each failure, go to stderr meanwhile."""
    handler, log = logging.StreamHandler(), logging.getLogger("routilux_core")
    handler.setFormatter(_Formatter() if with_traceback else _OneLine())
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < math.inf:
        raise ValueError
    return seconds


_seconds.__name__ = "seconds"  # as a message of argparse calls it


def _run(options: argparse.Namespace) -> int:
    with _logged(options.traceback):
        return _run_logged(options)


def _run_logged(options: argparse.Namespace) -> int:
    params = dict(map(_param, options.param))
    with find_flow(options.flow, options.types) as flow:
        if options.strategy or options.max_workers is not None:
            flow.set_execution_strategy(options.strategy or flow.execution_strategy, options.max_workers)
        if options.progress or options.watch:
            flow._show_progress(options.watch)
        if options.live:
            flow._runtime.plugins.add(importlib.import_module("routilux_core._report.live").Live())
        entry, slot = _entry(flow, options.entry)
        job = flow.execute(entry, params, slot=slot)
        in_time = job.wait(options.timeout)
        if not in_time:
            print(f"routilux: not done after {options.timeout:g} s, so the job was cancelled", file=sys.stderr)
            job.cancel()
            job.wait()
        done = in_time and job.status == "completed"
    if options.report:
        job.report(options.report)
    if options.trace:
        job.trace(options.trace)
    readable = (sys.stdout.encoding or "").lower() in ("utf-8", "utf8")
    print(_safe(json.dumps(_facts(job), indent=2, ensure_ascii=not readable)))
    return 0 if done else 1


LONGEST = 10_000  # letters of a value that is no JSON


def _safe(text: str) -> str:
    """Return JSON in which what a terminal would obey is written as JSON has it, by number."""
    return "".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text)


def _param(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise Refused(f"--param takes NAME=VALUE, not {text!r}")
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value


def _entry(flow: Flow, entry: str) -> tuple[str, str | None]:
    """Return routine and slot: a routine whose id has a dot in it goes before."""
    routine_id, dot, slot = entry.rpartition(".")
    return (entry, None) if entry in flow.routines or not dot else (routine_id, slot)


def _facts(job: JobState) -> dict[str, Any]:
    """Return what came of a job: its outputs as they would be saved, or by their `repr` where they can't be."""
    facts = {"job_id": job.job_id, "status": job.status, "ledger": attrs.asdict(job.ledger)}
    facts |= {"routine_states": job.routine_states, "outputs": _outputs(job)}
    errors = [
        f"{each.routine_id}.{each.slot}: {type(each.exception).__name__}: {text_of(each.exception)}"
        for each in job.errors
    ]
    return facts | ({"errors": errors} if errors else {})


def _outputs(job: JobState) -> Any:
    try:
        return job.serialize()["outputs"]
    except SerializationError:
        return {name: [_shown(payload) for payload in collected] for name, collected in job.outputs.items()}


def _shown(payload: dict[str, Any]) -> dict[str, Any]:
    """Return a payload with what each value looks like that is no JSON."""
    shown: dict[str, Any] = {}
    for key, value in payload.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            shown[key] = _repr(value)
        else:
            shown[key] = value
    return shown


def find_flow(what: str, modules: list[str]) -> Flow:
    """Return the flow of a file, or the one that a module holds or makes under a name."""
    module, colon, name = what.partition(":")
    if os.path.exists(what) or not colon:
        return _load(what, modules)
    found: Any = imported(module)
    for part in name.split("."):
        if not hasattr(found, part):
            raise Refused(
                f"{what!r}: there is no {part!r}; give module:name of a Flow, or of a function that returns one"
            )
        found = getattr(found, part)
    if callable(found) and not isinstance(found, type):
        try:
            found = found()
        except Exception as error:
            raise Refused(printable(f"{what}() raised {type(error).__name__}: {error}")) from error
    if not isinstance(found, Flow):
        raise Refused(f"{what!r} is {found!r}: it has to be a Flow, or a function that returns one")
    return found


def _load(path: str, modules: list[str]) -> Flow:
    document = _document(path, "; a flow of a module is given as module:name")
    if _is_job(document):
        what = "is the record of a job: read it with JobState.load(); this takes what flow.save() wrote"
        raise Refused(f"{printable(path)} {what}")
    flow = Flow()
    flow.deserialize(document, types=[imported(each) for each in modules])
    return flow


def _repr(value: object) -> str:
    try:
        return look_of(value, LONGEST)
    except Exception as error:  # of somebody else's class
        return f"<{type(value).__name__}: its __repr__ raises {type(error).__name__}>"


def _document(path: str, advice: str = "") -> Any:
    try:
        return serialization.read_file(path)
    except FileNotFoundError as error:
        raise Refused(f"there is no file {path!r}{advice}") from error


def _is_job(document: Any) -> bool:
    return isinstance(document, dict) and document.get("format") == JOB


def imported(name: str) -> Any:
    """Import what the user names on the command line; the current folder is looked at first, as `python -m` does."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise Refused(printable(f"module {name!r} can't be imported: {type(error).__name__}: {error}")) from error
