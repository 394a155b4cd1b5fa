"""State of the service: drain, connections to shed, and requests in flight."""

import asyncio

import pytest

from app.http.state import ServiceState
from app.main import create_app
from app.settings import Settings
from tests.support.apps import running, until
from tests.support.asgi_client import Caller

pytestmark = pytest.mark.anyio


def test_as_many_responses_close_their_connections_as_there_are_connections_to_shed():
    state = ServiceState()
    state.shed_connections(2)
    assert [state.take_shed() for _ in range(4)] == [True, True, False, False]


async def test_a_probe_uses_up_no_connection_to_shed(digits_model):
    app = create_app(Settings(model=digits_model, device="cpu", threads=1))
    async with running(app) as client:
        app.state.services.state.shed_connections(1)
        answers = [await client.get(path) for path in ("/readyz", "/metrics", "/model", "/model")]
    assert [answer.headers.get("connection") for answer in answers] == [None, None, "close", None]


async def test_requests_over_the_connection_limit_are_refused(digits_model):
    state = ServiceState(connections=range(3))
    settings = Settings(model=digits_model, device="cpu", threads=1, max_connections=2)
    async with running(create_app(settings, state=state)) as client:
        answer = await client.get("/model")
        assert (answer.status_code, answer.headers["connection"]) == (503, "close")
        assert (await client.get("/readyz")).status_code == 200


async def test_cancelled_requests_get_503_and_are_counted(digits_model):
    app = create_app(Settings(model=digits_model, device="cpu", threads=1, max_batch_delay_ms=10_000))
    async with running(app):
        state = app.state.services.state
        callers = [Caller(app, "GET", "/sample?n=1") for _ in range(3)]
        tasks = [caller.task() for caller in callers]
        for caller in callers:
            caller.says(b"")
        await until(lambda: len(state.in_flight) == 3)
        assert state.cancel_all() == 3
        await asyncio.gather(*tasks)
        assert {caller.status for caller in callers} == {503}
        assert not state.in_flight
