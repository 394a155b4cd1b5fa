"""What is measured, by name, in seconds and bytes; one registry for each application, none at import."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from app.calls import STAGES

OPERATIONS = ("encode", "decode", "reconstruct", "score")
ENDPOINTS = ("/encode", "/decode", "/reconstruct", "/sample", "/score", "/model", "/admin/reload", "other")
STATUSES = ("200", "400", "413", "422", "429", "499", "500", "503", "504")
DISPATCHES = ("free", "full", "window")
DROPS = ("timed_out", "cancelled")
RELOADS = ("done", "failed")

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ITEMS = tuple(2**power for power in range(13))


class Metrics:
    """The instruments of one application; every label set that is known beforehand is there from the start, at zero."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = self._counter("requests", "Answered requests.", "endpoint", "status")
        self.request_seconds = self._seconds("request_seconds", "From the first byte in to the last out.", "endpoint")
        self.stage_seconds = self._seconds("stage_seconds", "What a request spent in a stage.", "stage")
        self.batches = self._counter("batches", "Batches on the device.", "operation", "dispatch")
        self.batch_size = Histogram(
            "vae_batch_size", "Images in a batch.", ("operation",), buckets=_ITEMS, registry=self.registry
        )
        self.device_seconds = self._seconds("device_seconds", "One batch on the device.", "operation")
        self.padding = self._counter("padding_items", "Rows added to reach a warmed batch shape.")
        self.queue_items = self._gauge("queue_items", "Images that wait for the device.")
        self.rejected = self._counter("rejected_requests", "Requests refused by a full queue.")
        self.dropped = self._counter("dropped_requests", "Requests whose caller no longer waits.", "why")
        self.out_of_memory = self._counter("out_of_memory", "Batches that the device had no room for.", "operation")
        self.batch_limit = self._gauge(
            "batch_limit_items", "Images that a batch may have since the device ran out of memory; else 0.", "operation"
        )
        self.reloads = self._counter("reloads", "Times that the model was asked to be loaded anew.", "outcome")
        self.ready = self._gauge("ready", "1 while the service takes work.")
        self.device_memory = self._gauge("device_memory_bytes", "What torch holds of the GPU's memory; 0 on a CPU.")
        self.model_info = self._gauge("model_info", "The model that is served.", "model", "device")
        self._at_zero()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"vae_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"vae_{name}", text, labels, registry=self.registry)

    def _seconds(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(f"vae_{name}", text, labels, buckets=_SECONDS, registry=self.registry)

    def _at_zero(self) -> None:
        for endpoint in ENDPOINTS:
            for status in STATUSES:
                self.requests.labels(endpoint, status)
            self.request_seconds.labels(endpoint)
        for stage in STAGES:
            self.stage_seconds.labels(stage)
        for operation in OPERATIONS:
            self.batch_size.labels(operation)
            self.device_seconds.labels(operation)
            self.out_of_memory.labels(operation)
            self.batch_limit.labels(operation)
            for dispatch in DISPATCHES:
                self.batches.labels(operation, dispatch)
        for outcome in RELOADS:
            self.reloads.labels(outcome)
        for why in DROPS:
            self.dropped.labels(why)

    def exposition(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)
