"""The metrics: how many calls ended how, and how long they took and waited."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from opentelemetry.metrics import MeterProvider, get_meter_provider

from routilux_core import ActivationRecord

API = "opentelemetry.metrics"  # the package of the providers that do nothing


class Metrics:
    """Instruments of one meter; where the program has set up no provider, nothing is counted."""

    def __init__(self, provider: MeterProvider | None) -> None:
        self._provider = provider
        meter = (provider or get_meter_provider()).get_meter("routilux_otel")
        self._attempts = meter.create_counter(
            "routilux.attempts", unit="{attempt}", description="Attempts at calls of handlers, by how they ended"
        )
        self._run_time = meter.create_histogram(
            "routilux.run_time", unit="s", description="Seconds in a handler, of one attempt"
        )

    @property
    def counts(self) -> bool:
        """Whether anything comes of it."""
        provider = self._provider or get_meter_provider()
        return not type(provider).__module__.startswith(API)

    def finished(self, records: Sequence[ActivationRecord]) -> None:
        """Count some attempts that have ended."""
        counts: Counter[tuple[str, str, str]] = Counter()
        for record in records:
            counts[record.routine_id, record.slot, record.outcome] += 1
            where = {"routilux.routine": record.routine_id, "routilux.slot": record.slot}
            self._run_time.record(record.run_time, where)
        for (routine_id, slot, outcome), count in counts.items():
            attributes = {"routilux.routine": routine_id, "routilux.slot": slot, "routilux.outcome": outcome}
            self._attempts.add(count, attributes)
