"""Metrics of an application in the process of a test."""

from app.observability.metrics import Metrics


def metric(metrics: Metrics, name: str, **labels: str) -> float | None:
    """The value of a series with all that was counted so far; None if it does not exist."""
    metrics.write_counts()
    return metrics.registry.get_sample_value(f"vae_{name}", labels)
