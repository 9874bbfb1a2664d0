"""A tracker that counts calls and jobs, and tells the numbers as Prometheus reads them.

metrics = Metrics()
flow = Flow(plugins=[metrics])
...
metrics.text()  # for the handler of /metrics
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence

from routilux_core import ActivationRecord, JobState, hookimpl

HELP = {
    "routilux_activations_total": ("counter", "Calls of handlers that have ended, each attempt by itself."),
    "routilux_activation_seconds_total": ("counter", "Seconds in handlers."),
    "routilux_queue_seconds_total": ("counter", "Seconds between an emission and the start of the call."),
    "routilux_jobs_total": ("counter", "Jobs that have ended."),
    "routilux_jobs_running": ("gauge", "Jobs that run now."),
}


class Metrics:
    """Numbers of all flows that it is given to. Batches come from several threads, so they are added under a lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: Counter[tuple[str, tuple[tuple[str, str], ...]]] = Counter()

    @hookimpl
    def routilux_job_started(self, job: JobState) -> None:
        self._add("routilux_jobs_running", 1)

    @hookimpl
    def routilux_job_finished(self, job: JobState) -> None:
        self._add("routilux_jobs_running", -1)
        self._add("routilux_jobs_total", 1, status=job.status)

    @hookimpl
    def routilux_activations_finished(self, records: Sequence[ActivationRecord]) -> None:
        for record in records:
            where = {"routine": record.routine_id, "slot": record.slot}
            self._add("routilux_activations_total", 1, **where, outcome=record.outcome)
            self._add("routilux_activation_seconds_total", record.run_time, **where)
            self._add("routilux_queue_seconds_total", record.queue_wait, **where)

    def _add(self, name: str, number: float, **labels: str) -> None:
        with self._lock:
            self._numbers[name, tuple(labels.items())] += number  # type: ignore[assignment]

    def text(self) -> str:
        """Return all numbers in the text format of Prometheus."""
        with self._lock:
            numbers = sorted(self._numbers.items())
        lines = []
        for name, (kind, text) in HELP.items():
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
            lines += [f"{each}{_labels(labels)} {number:.9g}" for (each, labels), number in numbers if each == name]
        return "\n".join(lines) + "\n"


def _labels(labels: tuple[tuple[str, str], ...]) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}" if labels else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
