"""Prometheus metrics: initial series, counts of requests and batches, and the text format."""

import asyncio

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.codecs.images import write_npy
from app.context import STAGES
from app.main import create_app
from app.observability.metrics import (
    ENDPOINTS,
    OPERATIONS,
    PROTOCOL_ERRORS,
    STATUSES,
    DispatchTrigger,
    DropReason,
    Metrics,
    ReloadOutcome,
)
from app.settings import Settings
from tests.support.apps import running

pytestmark = pytest.mark.anyio

NPY = {"content-type": "application/x-npy"}


def images(count: int) -> bytes:
    return write_npy(np.zeros((count, 8, 8), np.uint8))


async def scraped(client) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = (await client.get("/metrics")).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}


def total(samples, name: str, **labels: str) -> float:
    wanted = labels.items()
    return sum(value for (found, having), value in samples.items() if found == f"vae_{name}" and wanted <= having)


def test_every_known_series_exists_at_zero():
    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(f"vae_{name}", labels)

    metrics = Metrics()
    zeros = [
        *(value("requests_total", dialect=d, endpoint=e, status=status) for d, e in ENDPOINTS for status in STATUSES),
        *(value("request_duration_seconds_count", dialect=d, endpoint=e) for d, e in ENDPOINTS),
        *(value("stage_duration_seconds_count", stage=stage) for stage in STAGES),
        *(value("batches_total", operation=o, trigger=t) for o in OPERATIONS for t in DispatchTrigger),
        *(value("batch_size_count", operation=operation) for operation in OPERATIONS),
        *(value("dropped_requests_total", reason=reason) for reason in DropReason),
        *(value("protocol_errors_total", status=status) for status in PROTOCOL_ERRORS),
        *(value("reloads_total", outcome=outcome) for outcome in ReloadOutcome),
        *(value("out_of_memory_total", operation=operation) for operation in OPERATIONS),
        *(value("batch_limit_items", operation=operation) for operation in OPERATIONS),
        *map(value, ("padding_items_total", "rejected_requests_total", "queue_items")),
    ]
    assert set(zeros) == {0}


async def test_the_exposition_is_parsed_and_every_metric_has_a_description(client):
    answer = await client.get("/metrics")
    families = list(text_string_to_metric_families(answer.text))
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert len({family.name for family in families}) == len(families) > 15
    assert all(family.documentation and family.type != "unknown" for family in families)
    assert {family.name.partition("_")[0] for family in families} == {"vae", "process"}


async def test_requests_and_batches_are_counted(digits_model, device):
    app = create_app(Settings(model=digits_model, device=device, threads=1, max_batch_size=4))
    async with running(app) as client:
        for path, content in (("/encode", images(7)), ("/reconstruct", images(3)), ("/encode", b"broken")):
            await client.post(path, content=content, headers=NPY)
        await client.get("/sample?n=5")
        await client.get("/no/such/path")
        samples = await scraped(client)
    assert total(samples, "requests_total", endpoint="/encode", status="200") == 1
    assert total(samples, "requests_total", endpoint="/encode", status="400") == 1
    assert total(samples, "requests_total", endpoint="other", status="404") == 1
    assert total(samples, "request_duration_seconds_count") == total(samples, "requests_total") == 5
    batches = {operation: total(samples, "batches_total", operation=operation) for operation in OPERATIONS}
    assert batches["encode"] >= 2  # of 4 rows at most
    assert batches["decode"] >= 2
    assert batches["reconstruct"] >= 1
    assert batches["score"] == 0
    assert total(samples, "batch_size_sum", operation="encode") == 7
    assert total(samples, "batch_size_sum", operation="decode") == 5
    assert total(samples, "device_seconds_count") == sum(batches.values())
    assert total(samples, "stage_duration_seconds_count", stage="infer") == 3
    assert total(samples, "queue_items") == 0


async def test_concurrent_requests_share_batches(serve):
    async with serve(max_batch_delay_ms=200) as client:
        await asyncio.gather(*(client.post("/encode", content=images(1), headers=NPY) for _ in range(64)))
        samples = await scraped(client)
    assert total(samples, "requests_total", endpoint="/encode", status="200") == 64
    assert total(samples, "batches_total", operation="encode") < 64
    assert total(samples, "batch_size_sum", operation="encode") == 64


async def test_unknown_paths_and_methods_create_no_series(client):
    before = {having for name, having in await scraped(client) if name == "vae_request_duration_seconds_count"}
    for number in range(5):
        await client.request("BREW", f"/pot/{number}")
    assert {having for name, having in await scraped(client) if name == "vae_request_duration_seconds_count"} == before


async def test_probes_are_not_counted(client):
    before = await scraped(client)
    for path in ("/livez", "/readyz", "/metrics", "/docs", "/openapi.json", "/"):
        await client.get(path)
    assert total(await scraped(client), "requests_total") == total(before, "requests_total")


async def test_readiness_and_the_model_are_exposed(digits_model):
    app = create_app(Settings(model=digits_model, device="cpu", threads=1))
    before_start = app.state.services.metrics.registry.get_sample_value
    assert before_start("vae_ready") == 0
    async with running(app) as client:
        samples = await scraped(client)
        assert total(samples, "ready") == 1
        assert total(samples, "model_info", model=app.state.services.engine.loaded_model.identity, device="cpu") == 1
        app.state.services.state.drain()
        assert total(await scraped(client), "ready") == 0


def test_two_applications_do_not_share_counts():
    one, other = Metrics(), Metrics()
    one.rejected.inc()
    assert other.registry.get_sample_value("vae_rejected_requests_total") == 0
