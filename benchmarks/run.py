"""Measure the engine against the limit rows: each measurement in a fresh process, rounds in random order, medians.

    python benchmarks/run.py [--only W3,W5] [--rounds N] [--json FILE] [--quick]

The exit code is 0 if every measurement did all of its work, whatever the ratios are. NOTES.md says how to read them.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # under PYTHONSAFEPATH a script's own folder is not on the path

from suite import WORKLOADS
from suite.model import Row, Workload
from suite.report import environment, summarise, table

ROUNDS = 7
SECONDS_FOR_ONE_MEASUREMENT = 120
LINES_OF_A_FAILURE = 12


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for and print it."""
    options = _parse(argv)
    if options.measure:
        return _measure_here(*options.measure, quick=options.quick)
    machine = environment()
    chosen = (WORKLOADS[name] for name in options.only)
    workloads = [_with_what_is_installed(each) for each in chosen if _is_installed(each.needs, each.name)]
    rounds: dict[str, list[dict[str, float]]] = {workload.name: [] for workload in workloads}
    failures: list[str] = []
    for number in range(options.rounds):
        _say(f"round {number + 1} of {options.rounds}")
        for workload in random.sample(workloads, len(workloads)):
            rounds[workload.name].append(_measure_round(workload, options.quick, failures))
    summaries = {workload.name: summarise(workload, rounds[workload.name]) for workload in workloads}
    print(
        ", ".join(f"{what} {fact}" for what, fact in machine.items()), f"rounds {options.rounds}", sep=", ", end="\n\n"
    )
    if options.quick:
        print("Quick: the sizes are too small for the ratios to mean anything.\n")
    print("\n\n".join(table(name, summary) for name, summary in summaries.items()))
    if options.json:
        document = machine | {
            "rounds": options.rounds,
            "quick": options.quick,
            "workloads": summaries,
            "failures": failures,
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 1 if failures else 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", type=_names, default=list(WORKLOADS), help="workloads, with commas between them")
    parser.add_argument("--rounds", type=_positive, default=None, help=f"default {ROUNDS}, with --quick 1")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured to FILE")
    parser.add_argument("--quick", action="store_true", help="small sizes: does it work? The ratios mean nothing")
    parser.add_argument("--measure", nargs=2, metavar=("WORKLOAD", "ROW"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    options.rounds = options.rounds or (1 if options.quick else ROUNDS)
    return options


def _names(text: str) -> list[str]:
    known = {name.upper(): name for name in WORKLOADS}
    given = [name.strip().upper() for name in text.split(",") if name.strip()]
    names = [known.get(name, name) for name in given]
    unknown = [name for name in names if name not in WORKLOADS]
    if unknown or not names:
        raise argparse.ArgumentTypeError(
            f"no workload {', '.join(unknown) or text!r}; there are {', '.join(WORKLOADS)}"
        )
    return names


def _with_what_is_installed(workload: Workload) -> Workload:
    rows = tuple(row for row in workload.rows if _is_installed(row.needs, f"{workload.name}, {row.name!r}"))
    return replace(workload, rows=rows)


def _is_installed(module: str, name: str) -> bool:
    if not module or find_spec(module) is not None:
        return True
    package = module.replace("_", "-")
    _say(f"{name} is skipped: {package} is not installed; pip install {package}")
    return False


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {text}")
    return number


def _measure_round(workload: Workload, quick: bool, failures: list[str]) -> dict[str, float]:
    """Every row of one workload, close together in time (their ratio is what counts), in random order."""
    measured: dict[str, float] = {}
    for row in random.sample(workload.rows, len(workload.rows)):
        figure = _measure_elsewhere(workload, row, quick, failures)
        if figure is not None:
            measured[row.name] = figure
    return measured


def _measure_elsewhere(workload: Workload, row: Row, quick: bool, failures: list[str]) -> float | None:
    command = [sys.executable, __file__, "--measure", workload.name, row.name, *(["--quick"] if quick else [])]
    outcome = subprocess.run(command, capture_output=True, text=True)
    if outcome.returncode == 0:
        return float(json.loads(outcome.stdout))
    failures.append(f"{workload.name}, {row.name}: {_tail(outcome.stderr)}")
    _say(f"FAILED: {failures[-1]}")
    return None


def _tail(text: str) -> str:
    """The end of a traceback, or of the stacks of a process that hung."""
    return "\n".join(text.strip().splitlines()[-LINES_OF_A_FAILURE:])


def _measure_here(workload_name: str, row_name: str, *, quick: bool) -> int:
    """The fresh process: measure one row and print its figure."""
    faulthandler.dump_traceback_later(SECONDS_FOR_ONE_MEASUREMENT, exit=True)
    row = WORKLOADS[workload_name].row(row_name)
    figure = row.measure(row.quick_size if quick else row.size)
    if row.limit and "routilux_core" in sys.modules:
        raise RuntimeError(f"{workload_name}, {row_name} is a limit row, yet it has loaded the engine")
    print(json.dumps(figure))
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
