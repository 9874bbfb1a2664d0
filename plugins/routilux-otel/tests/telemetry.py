"""The plugin with an SDK that keeps everything in memory, and the strategies under which it is tested."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from routilux_otel import OpenTelemetry

STRATEGIES: dict[str, dict[str, Any]] = {
    "sequential": {"execution_strategy": "sequential"},
    "concurrent": {"execution_strategy": "concurrent", "max_workers": 4},
    "asyncio": {"execution_strategy": "asyncio"},
    "process": {"execution_strategy": "process", "max_workers": 2},
}


class Telemetry:
    """The plugin, with an SDK whose exporters keep everything."""

    def __init__(self, **settings: Any) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False, **settings)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reader = InMemoryMetricReader()
        self._meters = MeterProvider([self._reader], shutdown_on_exit=False)
        self.plugin = OpenTelemetry(self.provider, self._meters)

    @property
    def spans(self) -> list[ReadableSpan]:
        """Return all spans that have ended."""
        return list(self._exporter.get_finished_spans())

    def points(self, name: str) -> list[Any]:
        """Return the data points of a metric."""
        data = self._reader.get_metrics_data()
        metrics = [
            metric
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]
        return [point for metric in metrics if metric.name == name for point in metric.data.data_points]
