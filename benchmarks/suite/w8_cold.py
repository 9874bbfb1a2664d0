"""W8: what it costs to be there at all: import, a first flow, resident memory. Whole processes are timed."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter

from suite.model import Comparison, Row, Workload, difference, ratio, value

SPAWNS = 5
COLD_FLOW = str(Path(__file__).with_name("cold_flow.py"))
MEMORY = str(Path(__file__).with_name("memory.py"))
_RUN_IN_MAIN = "import sys\nfor path in sys.argv[1:]: exec(compile(open(path).read(), path, 'exec'))"
NO_PLUGINS = {"ROUTILUX_DISABLE_PLUGINS": "*"}


def _process(spawns: int, *arguments: str, variables: dict[str, str] | None = None) -> float:
    """Median seconds of a fresh interpreter from its start to its end."""
    command = [sys.executable, *arguments]
    environment = _environment(variables)
    return statistics.median(_seconds_of(command, environment) for _ in range(spawns))


def _seconds_of(command: list[str], environment: dict[str, str]) -> float:
    start = perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return perf_counter() - start


def _environment(variables: dict[str, str] | None) -> dict[str, str]:
    """Ours, with plugins and with compiled modules kept: a user pays for compiling them once."""
    left_out = {*NO_PLUGINS, "PYTHONDONTWRITEBYTECODE"}
    kept = {name: text for name, text in os.environ.items() if name not in left_out}
    return kept | (variables or {})


def _resident(spawns: int, *programs: str) -> float:
    """Median megabytes (of 1,048,576 bytes) that are resident when ``programs`` have run in a fresh interpreter."""
    command = [sys.executable, "-c", _RUN_IN_MAIN, *programs, MEMORY]
    printed = [
        subprocess.run(command, env=_environment(None), check=True, capture_output=True, text=True).stdout
        for _ in range(spawns)
    ]
    return statistics.median(int(text.split()[-1]) for text in printed) / 2**20


def _row(name: str, measure: Callable[..., float], *arguments: str, unit: str = "s", **options: object) -> Row:
    return Row(
        name=name,
        measure=lambda spawns: measure(spawns, *arguments, **options),
        size=SPAWNS,
        quick_size=1,
        unit=unit,
        limit=name.startswith("bare"),
    )


WORKLOAD = Workload(
    name="W8",
    title="import, cold start of a flow of three routines, resident memory",
    rows=(
        _row("bare Python", _process, "-c", "pass"),
        _row("import attrs and pluggy", _process, "-c", "import attrs, pluggy"),
        _row("import routilux_core", _process, "-c", "import routilux_core"),
        _row("cold flow, no scan", partial(_process, variables=NO_PLUGINS), COLD_FLOW),
        _row("cold flow", _process, COLD_FLOW),
        _row("bare Python, resident", _resident, unit="MB"),
        _row("cold flow, resident", _resident, COLD_FLOW, unit="MB"),
    ),
    comparisons=(
        Comparison(
            goal="G9",
            text="import over bare Python",
            compute=difference("import routilux_core", "bare Python", 1e3),
            gate=60,
            ambition=40,
            unit=" ms",
        ),
        Comparison(
            goal="G9",
            text="cold flow, no scan for plugins / bare Python",
            compute=ratio("cold flow, no scan", "bare Python"),
            gate=2.2,
            ambition=1.8,
        ),
        Comparison(
            goal="G9",
            text="cold flow with the scan / bare Python",
            compute=ratio("cold flow", "bare Python"),
            gate=3.2,
            ambition=2.6,
        ),
        Comparison(
            goal="G9",
            text="resident after the cold flow",
            compute=value("cold flow, resident"),
            gate=16,
            ambition=14,
            unit=" MB",
        ),
        Comparison(
            goal="",
            text="import attrs and pluggy alone, over bare Python",
            compute=difference("import attrs and pluggy", "bare Python", 1e3),
            unit=" ms",
        ),
        Comparison(
            goal="",
            text="import attrs and pluggy alone / bare Python",
            compute=ratio("import attrs and pluggy", "bare Python"),
        ),
        Comparison(
            goal="",
            text="cold flow, no scan for plugins, over bare Python",
            compute=difference("cold flow, no scan", "bare Python", 1e3),
            unit=" ms",
        ),
        Comparison(
            goal="",
            text="resident over bare Python",
            compute=difference("cold flow, resident", "bare Python, resident"),
            unit=" MB",
        ),
    ),
)
