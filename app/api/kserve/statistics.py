"""Statistics of the models, in the form of Triton's extension, from the metrics of all workers.

A model counts the requests of all dialects. The batches of decode and sample are the same ones. Times of the queue and
of codecs are not recorded for each operation: they are 0 here, and for all operations together in /metrics. All counts
are those of the requests that succeeded, as perf_analyzer expects.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from app.api.kserve.models import Model
from app.context import Operation

NANOSECONDS = 1e9

_FAMILIES = ("requests_total", "request_duration_seconds_sum", "batches_total", "batch_size_sum", "device_seconds_sum")
_PREFIXES = tuple(f"vae_{name}" for name in _FAMILIES)
_UNTIMED, _CACHE = ("queue", "compute_input", "compute_output"), ("cache_hit", "cache_miss")

_ALSO = {Operation.DECODE: Operation.DECODE_FLOATS, Operation.RECONSTRUCT: Operation.DEVIATIONS}
"""Another operation of a model: its batches count as batches of the model too."""

SUCCESS = "200"


class Sample(NamedTuple):
    """A sample of a metric."""

    name: str
    labels: Mapping[str, str]
    value: float


def samples_of(exposition: bytes) -> list[Sample]:
    """Parse the samples of the metrics that statistics are made of, from the text format of Prometheus."""
    lines = [line for line in exposition.decode().splitlines() if line.startswith(_PREFIXES)]
    families = text_string_to_metric_families("\n".join(lines))
    return [Sample(sample.name, sample.labels, sample.value) for family in families for sample in family.samples]


def statistics(name: str, version: str, model: Model, samples: Iterable[Sample]) -> dict[str, Any]:
    """Return the statistics of a model under a name."""
    own = [sample for sample in samples if _is_of(sample.labels, model)]
    succeeded = _sum(own, "requests_total", status=SUCCESS)
    failed = _sum(own, "requests_total") - succeeded
    return {
        "name": name,
        "version": version,
        "inference_count": int(_sum(own, "batch_size_sum")),
        "execution_count": int(_sum(own, "batches_total")),
        "inference_stats": {
            "success": _duration(succeeded, _sum(own, "request_duration_seconds_sum")),
            "fail": _duration(failed, 0),
            "compute_infer": _duration(succeeded, _sum(own, "device_seconds_sum")),
            **{stage: _duration(succeeded, 0) for stage in _UNTIMED},
            **{stage: _duration(0, 0) for stage in _CACHE},
        },
        "batch_stats": [],
    }


def _is_of(labels: Mapping[str, str], model: Model) -> bool:
    """Whether a sample is of the requests to a model, or of its batches."""
    if "endpoint" in labels:
        return labels["endpoint"].removesuffix("/infer").rpartition("/")[2] == model.name
    return labels["operation"] in (model.operation, _ALSO.get(model.operation))


def _sum(samples: Iterable[Sample], name: str, **labels: str) -> float:
    return sum(
        sample.value for sample in samples if sample.name == f"vae_{name}" and labels.items() <= sample.labels.items()
    )


def _duration(count: float, seconds: float) -> dict[str, int]:
    return {"count": int(count), "ns": int(NANOSECONDS * seconds)}
