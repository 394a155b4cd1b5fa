"""OpenTelemetry spans of traced requests and their stages."""

import asyncio
import gzip
import signal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import ClassVar

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind

from app.codecs.images import write_npy
from app.main import create_app
from app.settings import Settings
from tests.support.apps import running
from tests.support.asgi_client import Caller
from tests.support.live_server import serving

pytestmark = pytest.mark.anyio

NPY = {"content-type": "application/x-npy"}
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def traced_app(model, exporter, **options):
    provider = TracerProvider(**options)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return create_app(Settings(model=model, device="cpu", threads=1, max_batch_size=16), tracer_provider=provider)


def by_name(exporter) -> dict[str, list]:
    found: dict[str, list] = {}
    for span in exporter.get_finished_spans():
        found.setdefault(span.name, []).append(span)
    return found


async def test_a_traced_request_has_a_span_with_a_child_for_each_stage(digits_model, digits):
    exporter = InMemorySpanExporter()
    app = traced_app(digits_model, exporter)
    async with running(app) as client:
        headers = {**NPY, "traceparent": PARENT, "X-Request-ID": "an-id"}
        await client.post("/encode", content=write_npy(digits[:40, 0]), headers=headers)
    spans = by_name(exporter)
    assert {name: len(found) for name, found in spans.items()} == {
        "POST /encode": 1,
        "queue": 3,
        "batch": 3,
        "infer": 3,
        "codec": 2,
    }
    (request,) = spans.pop("POST /encode")
    assert (request.kind, request.parent.span_id) == (SpanKind.SERVER, 0xB7AD6B7169203331)
    assert request.attributes["vae.request_id"] == "an-id"
    assert request.attributes["vae.model"] == app.state.services.engine.loaded_model.identity
    for span in (span for found in spans.values() for span in found):
        assert span.context.trace_id == request.context.trace_id == 0x0AF7651916CD43DD8448EB211C80319C
        assert span.parent.span_id == request.context.span_id
        assert request.start_time <= span.start_time <= span.end_time
    queues, batches, devices = spans["queue"], spans["batch"], spans["infer"]
    for queue, batch, device in zip(queues, batches, devices, strict=True):
        assert queue.end_time <= batch.start_time + 2
        assert batch.end_time <= device.start_time + 2  # nanoseconds of rounding


async def test_requests_that_share_a_batch_have_separate_spans(digits_model, digits):
    exporter = InMemorySpanExporter()
    async with running(traced_app(digits_model, exporter)) as client:
        image = write_npy(digits[:1, 0])
        await asyncio.gather(*(client.post("/encode", content=image, headers=NPY) for _ in range(20)))
    spans = by_name(exporter)
    owners = {span.context.span_id for span in spans["POST /encode"]}
    assert len(owners) == 20
    for stage in ("queue", "batch", "infer"):
        assert {span.parent.span_id for span in spans[stage]} == owners


async def test_disconnects_and_errors_are_traced_and_probes_are_not(digits_model):
    exporter = InMemorySpanExporter()
    app = traced_app(digits_model, exporter)
    async with running(app) as client:
        for path in ("/livez", "/readyz", "/metrics", "/docs", "/openapi.json"):
            await client.get(path)
        caller = Caller(app, "POST", "/encode")
        caller.leaves()
        await caller.task()
        await client.get("/sample?n=0")
    assert {span.name: span.status.is_ok for span in exporter.get_finished_spans() if span.parent is None} == {
        "POST /encode": False,
        "GET /sample": True,
    }


@pytest.mark.parametrize("sampled", [False, None], ids=["not sampled", "no collector"])
async def test_an_untraced_request_keeps_no_spans(digits_model, sampled):
    exporter = InMemorySpanExporter()
    settings = Settings(model=digits_model, device="cpu", threads=1)
    app = create_app(settings) if sampled is None else traced_app(digits_model, exporter, sampler=ALWAYS_OFF)
    async with running(app):
        caller = Caller(app, "GET", "/sample")
        caller.says(b"")
        await caller.task()
    assert caller.status == 200
    assert caller.scope["state"]["context"].stage_seconds
    assert caller.scope["state"]["context"].spans is None
    assert not exporter.get_finished_spans()


class Collector(BaseHTTPRequestHandler):
    """Takes what exporters send, and keeps the names of the spans."""

    names: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        body = gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.names.extend(span.name for scope in resource.scope_spans for span in scope.spans)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


async def test_the_process_exports_its_spans_before_it_exits_if_opentelemetry_is_configured(digits_model, monkeypatch):
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        thread = Thread(target=collector.serve_forever)
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
        async with serving(digits_model) as it:
            assert await it.status("/sample?n=1") == 200
            it.process.send_signal(signal.SIGTERM)
            assert await it.wait() == 0
        collector.shutdown()
        thread.join()
    assert sorted(Collector.names) == ["GET /sample", "batch", "codec", "infer", "queue"]
