"""Bodies that arrive slowly or stall."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from app.http.budget import MAX_BODIES_IN_FLIGHT
from app.main import create_app
from app.settings import Settings
from tests.support.apps import running, until
from tests.support.asgi_client import Caller
from tests.support.live_server import LATENT

pytestmark = pytest.mark.anyio

MAX_BODY_BYTES = 2**16


@asynccontextmanager
async def stalled_bodies(app, count):
    """Requests that have sent all bytes of their bodies but the last one."""
    async with AsyncExitStack() as stack:
        callers = [Caller(app, "POST", "/encode", "image/png") for _ in range(count)]
        for caller in callers:
            task = caller.task()
            stack.callback(task.cancel)
            caller.says(bytes(MAX_BODY_BYTES - 1), more=True)
        budget = app.state.services.budget
        await until(lambda: budget.body_bytes == count * (MAX_BODY_BYTES - 1))
        yield callers


async def answer_to(app, body: bytes, *, more: bool = False) -> Caller:
    caller = Caller(app, "POST", "/decode")
    caller.says(body, more)
    async with asyncio.timeout(30):
        await caller.task()
    return caller


async def test_a_small_body_is_accepted_when_large_bodies_use_all_of_their_memory(digits_model):
    app = create_app(Settings(model=digits_model, device="cpu", threads=1, max_body_bytes=MAX_BODY_BYTES))
    async with running(app), stalled_bodies(app, MAX_BODIES_IN_FLIGHT):
        assert (await answer_to(app, LATENT)).status == 200
        assert (await answer_to(app, bytes(MAX_BODY_BYTES - 1), more=True)).status == 503
        assert (await answer_to(app, LATENT)).status == 200


@pytest.mark.slow
async def test_bodies_without_progress_are_dropped_when_memory_for_bodies_is_scarce(digits_model):
    app = create_app(Settings(model=digits_model, device="cpu", threads=1, max_body_bytes=MAX_BODY_BYTES))
    async with running(app), stalled_bodies(app, MAX_BODIES_IN_FLIGHT) as callers:
        await until(lambda: all(caller.sent for caller in callers[: MAX_BODIES_IN_FLIGHT // 2]))
        answered = [caller for caller in callers if caller.sent]
        assert {caller.status for caller in answered} == {408}
        assert answered[0].problem["title"] == "Request timeout"
        assert (b"connection", b"close") in [(name.lower(), value) for name, value in answered[0].sent[0]["headers"]]
        assert (await answer_to(app, bytes(MAX_BODY_BYTES - 1))).status == 400


@pytest.mark.slow
async def test_a_slow_body_may_pause_until_its_deadline_when_memory_is_not_scarce(digits_model):
    options = {"max_body_bytes": MAX_BODY_BYTES, "request_timeout_s": 7}
    app = create_app(Settings(model=digits_model, device="cpu", threads=1, **options))
    async with running(app), stalled_bodies(app, 1) as (caller,):
        await until(lambda: caller.sent)
        assert caller.status == 504
