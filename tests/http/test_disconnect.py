"""Disconnects, deadlines and limits, driven message by message."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI

from app.main import create_app
from app.settings import Settings
from tests.support.apps import running, until
from tests.support.asgi_client import Caller
from tests.support.metrics import metric

pytestmark = pytest.mark.anyio

DELAYED = {"max_batch_delay_ms": 10_000}
"""A single row waits in the queue, which leaves time for a disconnect; several rows may be dispatched at once."""

LATENT = json.dumps({"latents": [[0, 0, 0, 0]]}).encode()


@asynccontextmanager
async def service(model, **settings: Any) -> AsyncIterator[FastAPI]:
    app = create_app(Settings(model=model, device="cpu", threads=1, **settings))
    async with running(app):
        yield app
        assert len(app.state.services.state.in_flight) == 0


def count(app: FastAPI, name: str, **labels: str) -> float | None:
    app.state.services.update_gauges()
    return metric(app.state.services.metrics, name, **labels)


@pytest.mark.parametrize(("method", "path"), [("POST", "/decode"), ("GET", "/sample?n=1"), ("HEAD", "/sample?n=1")])
async def test_the_work_of_a_disconnected_client_is_dropped_and_counted(digits_model, method, path):
    async with service(digits_model, **DELAYED) as app:
        caller = Caller(app, method, path)
        task = caller.task()
        caller.says(LATENT if method == "POST" else b"")
        await until(lambda: count(app, "queue_items"))
        assert len(app.state.services.state.in_flight) == 1
        caller.leaves()
        await task
        assert caller.sent == []
        assert count(app, "queue_items") == 0
        assert count(app, "dropped_requests_total", reason="cancelled") == 1
        endpoint = path.removesuffix("?n=1")
        assert count(app, "requests_total", dialect="native", endpoint=endpoint, status="499") == 1
        assert not count(app, "requests_total", dialect="native", endpoint=endpoint, status="500")


@pytest.mark.parametrize("kind", ["application/json", "image/png", "multipart/form-data; boundary=cut"])
async def test_a_disconnect_during_the_upload_is_no_server_error(digits_model, kind, caplog):
    async with service(digits_model) as app:
        caller = Caller(app, "POST", "/encode", kind)
        caller.says(b"--cut", more=True)
        caller.leaves()
        await caller.task()
        assert caller.sent == []
        assert count(app, "requests_total", dialect="native", endpoint="/encode", status="499") == 1
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_disconnect_after_the_response_is_not_counted(digits_model):
    async with service(digits_model) as app:
        caller = Caller(app, "POST", "/decode")
        caller.says(LATENT)
        await caller.task()
        caller.leaves()
        assert caller.status == 200
        assert count(app, "requests_total", dialect="native", endpoint="/decode", status="200") == 1


async def test_a_request_cancelled_by_the_server_gets_503_and_is_not_counted_as_a_disconnect(digits_model):
    async with service(digits_model, **DELAYED) as app:
        caller = Caller(app, "POST", "/decode")
        caller.says(LATENT)
        task = caller.task()
        await until(lambda: count(app, "queue_items"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (caller.status, caller.problem["title"]) == (503, "Not available")
        assert count(app, "requests_total", dialect="native", endpoint="/decode", status="503") == 1
        assert count(app, "queue_items") == 0


async def test_a_body_that_does_not_arrive_before_the_deadline_gets_504(digits_model):
    async with service(digits_model, request_timeout_s=0.1) as app:
        for path in ("/encode", "/decode"):
            caller = Caller(app, "POST", path)
            caller.says(b"{", more=True)
            await caller.task()
            assert (caller.status, caller.problem["title"]) == (504, "Deadline exceeded")
            assert "body" in caller.problem["detail"]


async def test_a_response_that_would_be_late_is_abandoned(digits_model):
    async with service(digits_model, request_timeout_s=0.1, **DELAYED) as app:
        caller = Caller(app, "GET", "/sample?n=1")
        caller.says(b"")
        await caller.task()
        assert (caller.status, caller.problem["title"]) == (504, "Deadline exceeded")
        assert count(app, "dropped_requests_total", reason="timed_out") == 1
        assert count(app, "queue_items") == 0


async def test_a_body_with_a_large_content_length_is_refused_before_it_is_read(digits_model):
    async with service(digits_model, max_body_bytes=100) as app:
        caller = Caller(app, "POST", "/encode", **{"content-length": "101"})
        await caller.task()  # which would wait for ever, as nothing is said
        assert (caller.status, caller.problem["title"]) == (413, "Too large")


async def test_a_body_without_a_correct_content_length_is_refused_once_it_is_too_large(digits_model):
    async with service(digits_model, max_body_bytes=100) as app:
        for announced in ({}, {"content-length": "7"}):
            caller = Caller(app, "POST", "/encode", **announced)
            caller.says(bytes(100), more=True)
            caller.says(bytes(1), more=True)
            await caller.task()
            assert (caller.status, caller.problem["title"]) == (413, "Too large")


async def test_a_refused_request_is_not_left_in_flight(digits_model):
    async with service(digits_model, api_key="key") as app:
        caller = Caller(app, "GET", "/model")
        await caller.task()
        assert caller.status == 401


async def test_a_full_queue_refuses_requests_before_their_bodies_with_retry_after(digits_model):
    async with service(digits_model, max_queue_items=2, max_items=2, **DELAYED) as app:
        waiting = Caller(app, "POST", "/decode")
        waiting.says(json.dumps({"latents": [[0, 0, 0, 0]] * 2}).encode())
        task = waiting.task()
        await until(lambda: count(app, "queue_items") == 2)
        for method, path in (("POST", "/encode"), ("POST", "/score"), ("GET", "/sample")):
            caller = Caller(app, method, path, "image/png")
            await caller.task()  # which would wait for ever, as nothing is said
            assert (caller.status, caller.problem["title"]) == (429, "Queue full")
            assert int(dict(caller.sent[0]["headers"])[b"retry-after"]) >= 1
        assert count(app, "rejected_requests_total") == 3
        waiting.leaves()
        await task
