"""Prometheus metrics of the service, in seconds and bytes. Each application has its own registry.

Several workers share their counts in the files of `PROMETHEUS_MULTIPROC_DIR`; each worker exposes the totals of all.
"""

import os
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import product
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from app.context import NATIVE, OTHER, STAGES, EndpointPath, Operation
from app.observability.logs import dropped_lines
from app.observability.process_metrics import ProcessGroupCollector

OPERATIONS = tuple(Operation)
ENDPOINTS = tuple((NATIVE, endpoint) for endpoint in (*EndpointPath, OTHER))
"""The labels of the native endpoints."""
STATUSES = tuple(map(str, (200, 400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 429, 499, 500, 503, 504)))
PROTOCOL_ERRORS = ("400", "405", "414", "431", "501", "505")


class DispatchTrigger(StrEnum):
    """The reason for which a batch was dispatched."""

    IDLE = "idle"  # the device was idle
    FULL = "full"  # no more items fit
    TIMEOUT = "timeout"  # the batch delay was over


class DropReason(StrEnum):
    """The reason for which a request was dropped."""

    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"


class ReloadOutcome(StrEnum):
    """The outcome of a reload of the model."""

    SUCCESS = "success"
    FAILED = "failed"


_Family = TypeVar("_Family", bound=MetricWrapperBase)
_Aggregate = Literal["livesum", "livemin", "livemax"]
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ITEMS = tuple(2**power for power in range(13))


class LabelledMetrics(dict[Any, _Family], Generic[_Family]):
    """A cache of the series of a metric, by their label or the tuple of their labels.

    The series with the labels `initial` exist from the start, at zero.
    """

    def __init__(self, family: _Family, initial: Iterable[str | tuple[str, ...]]) -> None:
        super().__init__()
        self._family = family
        for labels in initial:
            self[labels]

    def __missing__(self, labels: str | tuple[str, ...]) -> _Family:
        series = self[labels] = self._family.labels(*([labels] if isinstance(labels, str) else labels))
        return series


class FinishedBatch(NamedTuple):
    """A batch that was computed, with the rows that were added to it and the seconds on the device."""

    operation: str
    trigger: DispatchTrigger
    rows: int
    padding: int
    device_seconds: float


class Metrics(Collector):
    """The metrics of one application. All series with labels known in advance exist from the start, at zero.

    `endpoints` are the labels of the endpoints, each a dialect and an endpoint.

    Requests and batches are counted in memory first, and written together by `write_counts`: each update takes
    microseconds in the file of a worker.
    """

    def __init__(self, endpoints: Iterable[tuple[str, str]] = ENDPOINTS) -> None:
        self.registry = CollectorRegistry()
        self._collectors = self._sources()
        self._model: Gauge | None = None
        self._batches: deque[FinishedBatch] = deque()  # the device thread appends
        self._counts: defaultdict[Counter, int] = defaultdict(int)
        self._observed: defaultdict[Histogram, list[float]] = defaultdict(list)
        text = "Requests by endpoint and status of the response."
        requests = self._counter("requests", text, "dialect", "endpoint", "status")
        endpoints = tuple(endpoints)
        self.requests = LabelledMetrics(
            requests, ((*labels, status) for labels, status in product(endpoints, STATUSES))
        )
        text = "Time from the first byte of a request to the last byte of its response."
        self.request_seconds = self._seconds("request_duration_seconds", text, ("dialect", "endpoint"), endpoints)
        text = "Time that a request spent in a stage."
        self.stage_seconds = self._seconds("stage_duration_seconds", text, ("stage",), STAGES)
        batches = self._counter("batches", "Batches run on the device.", "operation", "trigger")
        self.batches = LabelledMetrics(batches, product(OPERATIONS, DispatchTrigger))
        tiled = self._counter("tiled_images", "Images that are computed in tiles for lack of memory.", "operation")
        self.tiled_images = LabelledMetrics(tiled, OPERATIONS)
        size = Histogram("vae_batch_size", "Items in a batch.", ("operation",), buckets=_ITEMS, registry=self.registry)
        self.batch_size = LabelledMetrics(size, OPERATIONS)
        self.device_seconds = self._seconds(
            "device_seconds", "Time of one batch on the device.", ("operation",), OPERATIONS
        )
        self.padding = self._counter("padding_items", "Rows added to reach a batch size that was warmed up.")
        self.queue_items = self._gauge("queue_items", "Items in the queue.", aggregate="livesum")
        self.rejected = self._counter("rejected_requests", "Requests rejected because the queue was full.")
        refused = self._counter(
            "protocol_errors", "Requests rejected because they violate HTTP or a limit of the protocol.", "status"
        )
        self._refused = LabelledMetrics(refused, PROTOCOL_ERRORS)
        dropped = self._counter(
            "dropped_requests", "Requests dropped because the client disconnected or the deadline passed.", "reason"
        )
        self.dropped = LabelledMetrics(dropped, DropReason)
        full = self._counter("out_of_memory", "Batches for which the device had not enough memory.", "operation")
        self.out_of_memory = LabelledMetrics(full, OPERATIONS)
        text = "Items allowed in a batch since the device ran out of memory; 0 without such a limit."
        self.batch_limit = LabelledMetrics(self._gauge("batch_limit_items", text, "operation"), OPERATIONS)
        reloads = self._counter("reloads", "Reloads of the model.", "outcome")
        self.reloads = LabelledMetrics(reloads, ReloadOutcome)
        self.ready = self._gauge("ready", "1 while every worker accepts requests.", aggregate="livemin")
        self.workers = self._gauge("workers", "Workers that accept requests.", aggregate="livesum")
        self.device_memory = self._gauge(
            "device_memory_bytes", "GPU memory reserved by torch; 0 on a CPU.", aggregate="livesum"
        )
        self.model_info = self._gauge("model_info", "The model that is served, as labels.", "model", "device")
        self.dropped_log_lines = self._counter("dropped_log_lines", "Log lines that could not be written to stderr.")
        self._dropped_log_lines = 0

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"vae_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str, aggregate: _Aggregate = "livemax") -> Gauge:
        return Gauge(f"vae_{name}", text, labels, registry=self.registry, multiprocess_mode=aggregate)

    def _seconds(
        self, name: str, text: str, labels: tuple[str, ...], initial: Iterable[str | tuple[str, ...]]
    ) -> LabelledMetrics[Histogram]:
        family = Histogram(f"vae_{name}", text, labels, buckets=_SECONDS, registry=self.registry)
        return LabelledMetrics(family, initial)

    def count_request(
        self, dialect: str, endpoint: str, status: int, seconds: float, stages: Mapping[str, float]
    ) -> None:
        """Count a request with the seconds that it took, in all and in each stage."""
        self._counts[self.requests[dialect, endpoint, str(status)]] += 1
        self._observed[self.request_seconds[dialect, endpoint]].append(seconds)
        for stage, spent in stages.items():
            self._observed[self.stage_seconds[stage]].append(spent)

    def count_batch(self, batch: FinishedBatch) -> None:
        """Count a batch. Safe in any thread."""
        self._batches.append(batch)

    def write_counts(self) -> None:
        """Write what was counted since the last call; only the event loop does."""
        while self._batches:
            batch = self._batches.popleft()
            self._counts[self.batches[batch.operation, batch.trigger]] += 1
            self._counts[self.padding] += batch.padding
            self._observed[self.batch_size[batch.operation]].append(batch.rows)
            self._observed[self.device_seconds[batch.operation]].append(batch.device_seconds)
        for counter, count in self._counts.items():
            counter.inc(count)
        for histogram, values in self._observed.items():
            _observe(histogram, values)
        self._counts.clear()
        self._observed.clear()

    def set_model(self, model: str, device: str) -> None:
        """Set the model that is served from now on."""
        if self._model:
            self._model.set(0)  # series in files cannot be removed: `collect` leaves out those at 0
        self._model = self.model_info.labels(model, device)
        self._model.set(1)

    def count_refused(self, status: int) -> None:
        """Count a request that the protocol rejects with this status, before it reaches the application."""
        self._refused[str(status)].inc()

    def count_dropped_log_lines(self) -> None:
        """Count the log lines that this process has dropped since the last call."""
        before, self._dropped_log_lines = self._dropped_log_lines, dropped_lines()
        self.dropped_log_lines.inc(max(0, self._dropped_log_lines - before))

    def exposition(self) -> bytes:
        """Return the text format of Prometheus, with the gauges as they were set last. Safe in any thread."""
        return generate_latest(self)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of this process, or the totals of all workers."""
        for source in self._collectors:
            for metric in source.collect():
                if metric.name == "vae_model_info":
                    metric.samples = [sample for sample in metric.samples if sample.value]
                yield metric

    def _sources(self) -> tuple[Collector, ...]:
        if folder := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            return _WorkersCollector(folder), ProcessGroupCollector()
        return self.registry, ProcessCollector(registry=None)


class _WorkersCollector(Collector):
    """The totals over the files in which each worker keeps its counts."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        """Yield the sums by the library, which fails for a file that a worker has created but not written yet."""
        with os.scandir(self._folder) as entries:
            files = [entry.path for entry in entries if _size(entry)]
        yield from MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]


def _observe(histogram: Histogram, values: Sequence[float]) -> None:
    """Observe several values with one update of the sum and of each bucket, as `Histogram.observe` does for one."""
    histogram._sum.inc(sum(values))
    bounds = histogram._upper_bounds
    counts = np.bincount(np.searchsorted(bounds, values))
    for bucket in counts.nonzero()[0].tolist():
        histogram._buckets[bucket].inc(int(counts[bucket]))


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:
        return 0  # removed, as its worker has exited
