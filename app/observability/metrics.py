"""What is measured, by name, in seconds and bytes; one registry for each application, none at import.

Several workers count together, in the files of `PROMETHEUS_MULTIPROC_DIR`: each of them tells what all have counted.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import Any, Generic, Literal, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from app.context import STAGES, EndpointPath, Operation
from app.observability.logs import dropped_lines
from app.observability.process_metrics import ProcessGroupCollector

OPERATIONS = tuple(Operation)
ENDPOINTS = (*EndpointPath, "other")
STATUSES = tuple(map(str, (200, 400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 429, 499, 500, 503, 504)))
DISPATCHES = ("idle", "full", "timeout")
PROTOCOL_ERRORS = ("400", "405", "414", "431", "501", "505")
DROPS = ("timed_out", "cancelled")
RELOADS = ("done", "failed")

_Family = TypeVar("_Family", bound=MetricWrapperBase)
_OfAll = Literal["livesum", "livemin", "livemax"]
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ITEMS = tuple(2**power for power in range(13))


class LabelledMetrics(dict[Any, _Family], Generic[_Family]):
    """The children of a family by their label, or the tuple of their labels; each is looked up once.

    Those that are `known` beforehand are there from the start, at zero.
    """

    def __init__(self, family: _Family, known: Iterable[str | tuple[str, ...]]) -> None:
        super().__init__()
        self._family = family
        for labels in known:
            self[labels]

    def __missing__(self, labels: str | tuple[str, ...]) -> _Family:
        child = self[labels] = self._family.labels(*([labels] if isinstance(labels, str) else labels))
        return child


class Metrics(Collector):
    """The instruments of one application; every label set that is known beforehand is there from the start, at zero."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._told = self._sources()
        self._model: Gauge | None = None
        requests = self._counter("requests", "Answered requests.", "endpoint", "status")
        self.requests = LabelledMetrics(requests, product(ENDPOINTS, STATUSES))
        text = "From the first byte in to the last out."
        self.request_seconds = self._seconds("request_seconds", text, "endpoint", ENDPOINTS)
        self.stage_seconds = self._seconds("stage_seconds", "What a request spent in a stage.", "stage", STAGES)
        batches = self._counter("batches", "Batches on the device.", "operation", "dispatch")
        self.batches = LabelledMetrics(batches, product(OPERATIONS, DISPATCHES))
        size = Histogram("vae_batch_size", "Images in a batch.", ("operation",), buckets=_ITEMS, registry=self.registry)
        self.batch_size = LabelledMetrics(size, OPERATIONS)
        self.device_seconds = self._seconds("device_seconds", "One batch on the device.", "operation", OPERATIONS)
        self.padding = self._counter("padding_items", "Rows added to reach a warmed batch shape.")
        self.queue_items = self._gauge("queue_items", "Images that wait for the device.", of_all="livesum")
        self.rejected = self._counter("rejected_requests", "Requests refused by a full queue.")
        refused = self._counter("protocol_errors", "Requests refused because they break HTTP or its limits.", "status")
        self._refused = LabelledMetrics(refused, PROTOCOL_ERRORS)
        dropped = self._counter("dropped_requests", "Requests whose caller no longer waits.", "why")
        self.dropped = LabelledMetrics(dropped, DROPS)
        full = self._counter("out_of_memory", "Batches that the device had no room for.", "operation")
        self.out_of_memory = LabelledMetrics(full, OPERATIONS)
        text = "Images that a batch may have since the device ran out of memory; else 0."
        self.batch_limit = LabelledMetrics(self._gauge("batch_limit_items", text, "operation"), OPERATIONS)
        reloads = self._counter("reloads", "Times that the model was asked to be loaded anew.", "outcome")
        self.reloads = LabelledMetrics(reloads, RELOADS)
        self.ready = self._gauge("ready", "1 while every worker takes work.", of_all="livemin")
        self.workers = self._gauge("workers", "Processes that take work.", of_all="livesum")
        self.device_memory = self._gauge(
            "device_memory_bytes", "What torch holds of the GPU's memory; 0 on a CPU.", of_all="livesum"
        )
        self.model_info = self._gauge("model_info", "The model that is served.", "model", "device")
        self.dropped_log_lines = self._counter("dropped_log_lines", "Log lines that stderr did not take.")
        self._dropped_log_lines = 0

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"vae_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str, of_all: _OfAll = "livemax") -> Gauge:
        return Gauge(f"vae_{name}", text, labels, registry=self.registry, multiprocess_mode=of_all)

    def _seconds(self, name: str, text: str, label: str, known: Sequence[str]) -> LabelledMetrics[Histogram]:
        family = Histogram(f"vae_{name}", text, (label,), buckets=_SECONDS, registry=self.registry)
        return LabelledMetrics(family, known)

    def tell_model(self, model: str, device: str) -> None:
        """Name the model that is served from now on."""
        if self._model:
            self._model.set(0)  # series in files stay: `collect` leaves those at 0 out
        self._model = self.model_info.labels(model, device)
        self._model.set(1)

    def count_refused(self, status: int) -> None:
        """Count a request that is refused with this status before the application sees it."""
        self._refused[str(status)].inc()

    def count_dropped_log_lines(self) -> None:
        """Count the log lines that this process has dropped since the last call."""
        before, self._dropped_log_lines = self._dropped_log_lines, dropped_lines()
        self.dropped_log_lines.inc(max(0, self._dropped_log_lines - before))

    def exposition(self) -> bytes:
        """The text that Prometheus reads; the gauges as they were set last. Safe in any thread."""
        return generate_latest(self)

    def collect(self) -> Iterator[Metric]:
        """What this process has counted, or all workers together."""
        for source in self._told:
            for metric in source.collect():
                if metric.name == "vae_model_info":
                    metric.samples = [sample for sample in metric.samples if sample.value]
                yield metric

    def _sources(self) -> tuple[Collector, ...]:
        if folder := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            return _OfAllWorkers(folder), ProcessGroupCollector()
        return self.registry, ProcessCollector(registry=None)


class _OfAllWorkers(Collector):
    """What the workers have counted, each in its files."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        """The library's sum of the files; it trips over one that is opened in this instant, and has nothing in it."""
        with os.scandir(self._folder) as entries:
            files = [entry.path for entry in entries if _size(entry)]
        yield from MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:
        return 0  # of a worker that has ended
