"""Alive means that no restart would help, ready that work is taken; the two are told apart."""

import httpx
import pytest
from conftest import running

from app.main import create_app
from app.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
def app(digits_model):
    return create_app(Settings(model=digits_model, device="cpu", threads=1))


async def refused(client: httpx.AsyncClient, path: str) -> bool:
    answer = await client.get(path)
    return answer.status_code == 503 and int(answer.headers["Retry-After"]) >= 1 and bool(answer.json()["detail"])


async def test_a_service_that_works_is_alive_and_ready(app):
    async with running(app) as client:
        assert (await client.get("/livez")).json() == {"status": "alive"}
        assert (await client.get("/readyz")).json() == {"status": "ready"}


async def test_before_the_device_is_warm_no_work_is_taken(app):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://vae") as client:
        assert await refused(client, "/readyz")
        assert await refused(client, "/sample")
        assert (await client.get("/model")).status_code == 200


async def test_once_the_device_has_stopped_only_a_restart_helps(app):
    async with running(app) as client:
        await app.state.engine.close()
        assert await refused(client, "/livez")
        assert await refused(client, "/readyz")
        assert await refused(client, "/sample")
        assert (await client.get("/metrics")).status_code == 200


async def test_a_draining_service_is_alive_but_not_ready(app):
    async with running(app) as client:
        app.state.door.draining = True
        assert (await client.get("/livez")).status_code == 200
        assert await refused(client, "/readyz")
