"""OpenTelemetry for Routilux Core: a span for each job, one for each attempt of a call, and metrics."""

from routilux_otel._tracker import OpenTelemetry

__all__ = ["OpenTelemetry"]
