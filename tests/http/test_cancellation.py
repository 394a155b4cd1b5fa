"""Disconnects and deadlines at random stages of requests."""

import asyncio
import json
import random
import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.api.endpoint import EndpointRequest
from app.codecs.images import write_npy
from app.codecs.media_types import JSON
from app.codecs.png import write_png
from app.codecs.threads import CodecThreads
from app.context import RequestContext
from app.errors import DeadlineExceeded
from app.main import create_app
from app.settings import Settings
from tests.support.apps import running, until
from tests.support.asgi_client import Caller
from tests.support.metrics import metric

pytestmark = pytest.mark.anyio

CALLERS = 30
LATENTS = json.dumps({"latents": [[0, 0.5, 0, 1]] * 9}).encode()
LARGE = write_png(np.zeros((1, 600, 600), np.uint8))
"""An image that is decoded on another thread."""

IN_CROWD = 300
CROWD = write_npy(np.zeros((IN_CROWD, 8, 8), np.uint8))
"""A request of several batches."""

REQUESTS = [
    ("POST", "/decode", "application/json", LATENTS),
    ("POST", "/encode", "image/png", LARGE),
    ("POST", "/encode", "application/x-npy", CROWD),
    ("POST", "/score", "application/x-npy", CROWD),
    ("GET", "/sample", "", b""),
    ("GET", "/model", "", b""),
    ("POST", "/decode", "application/json", b"{"),
]


@pytest.fixture(scope="module")
async def app(digits_model, device):
    room = CALLERS * IN_CROWD
    app = create_app(Settings(model=digits_model, device=device, threads=1, max_batch_size=16, max_queue_items=room))
    async with running(app):
        yield app


async def some_time(chance: random.Random) -> None:
    """Wait between no time and the time of a typical request."""
    for _ in range(chance.choice([0, 0, 1, 3, 10])):
        await asyncio.sleep(chance.choice([0, 0, 0, 0.0005, 0.003]))


async def drive(app: Any, chance: random.Random) -> tuple[Caller, bool]:
    """Drive one client; returns whether it stayed connected."""
    method, path, kind, body = chance.choice(REQUESTS)
    headers = {"x-request-timeout": f"{chance.uniform(0.001, 0.05):.4f}"} if chance.random() < 0.3 else {}
    caller = Caller(app, method, path, kind, **headers)
    await some_time(chance)
    task = caller.task()
    positions = sorted(chance.randrange(len(body) + 1) for _ in range(chance.randrange(3)))
    stays = chance.random() < 0.5
    last_piece = chance.randrange(len(positions) + 1)
    for piece, (start, end) in enumerate(zip([0, *positions], [*positions, len(body)], strict=True)):
        if not stays and piece == last_piece and chance.random() < 0.4:
            break
        caller.says(body[start:end], more=end < len(body) or piece < len(positions))
        await some_time(chance)
    if not stays:
        caller.leaves()
    await task
    return caller, stays


@settings(max_examples=4, database=None)
@given(st.randoms(use_true_random=False))
async def test_disconnects_at_random_times_leave_other_requests_and_no_state_behind(app, chance):
    def count(name: str, **labels: str) -> float:
        app.state.services.update_gauges()
        return metric(app.state.services.metrics, name, **labels) or 0

    def answered() -> float:
        app.state.services.update_gauges()
        (family,) = [f for f in app.state.services.metrics.registry.collect() if f.name == "vae_requests"]
        return sum(sample.value for sample in family.samples if sample.name.endswith("_total"))

    before, tasks = answered(), asyncio.all_tasks()
    driven = await asyncio.gather(*(drive(app, random.Random(chance.random())) for _ in range(CALLERS)))
    for caller, stayed in driven:
        assert not stayed or caller.status in (200, 400, 504)
        assert len([message for message in caller.sent if not message.get("more_body", True)]) <= 1
        assert not caller.sent or caller.status in (200, 400, 504)
    assert answered() == before + CALLERS
    assert count("requests_total", dialect="native", endpoint="/decode", status="500") == 0
    await until(lambda: count("queue_items") == 0)
    await until(lambda: asyncio.all_tasks() <= tasks)
    assert len(app.state.services.state.in_flight) == 0


@pytest.mark.parametrize("ends", ["by cancellation", "at the deadline"])
async def test_codec_work_stops_when_its_request_has_ended(ends):
    begun, sentence = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        while not context.expired():
            time.sleep(0.001)
        sentence.set()

    context = RequestContext("id", time.monotonic() + (60 if ends == "by cancellation" else 0.1))
    services, messages = SimpleNamespace(codec_threads=CodecThreads(1)), asyncio.Queue[Any]()
    request = EndpointRequest(services, context, JSON, messages.get)  # type: ignore[arg-type]
    task = asyncio.create_task(request.run_codec(2**30, work))
    await until(begun.is_set)
    if ends == "by cancellation":
        task.cancel()
    with pytest.raises((asyncio.CancelledError, DeadlineExceeded)):
        await task
    await until(sentence.is_set)
