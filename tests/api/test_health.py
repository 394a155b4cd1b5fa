"""Health probes and metrics."""

import asyncio
import threading
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.main import create_app
from app.settings import Settings
from tests.support.apps import running, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def app(digits_model):
    return create_app(Settings(model=digits_model, device="cpu", threads=1))


async def refused(client: httpx.AsyncClient, path: str) -> bool:
    answer = await client.get(path)
    return answer.status_code == 503 and int(answer.headers["Retry-After"]) >= 1 and bool(answer.json()["detail"])


async def test_a_started_service_is_alive_and_ready(app):
    async with running(app) as client:
        assert (await client.get("/livez")).json() == {"status": "alive"}
        assert (await client.get("/readyz")).json() == {"status": "ready"}


async def test_requests_are_refused_before_the_warm_up_has_finished(app):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://vae") as client:
        assert await refused(client, "/readyz")
        assert await refused(client, "/sample")
        assert (await client.get("/model")).status_code == 200


async def test_the_service_is_not_alive_once_the_device_has_stopped(app):
    async with running(app) as client:
        await app.state.services.engine.close()
        assert await refused(client, "/livez")
        assert await refused(client, "/readyz")
        assert await refused(client, "/sample")
        assert (await client.get("/metrics")).status_code == 200


async def test_a_draining_service_is_alive_but_not_ready(app):
    async with running(app) as client:
        app.state.services.state.drain()
        assert (await client.get("/livez")).status_code == 200
        assert await refused(client, "/readyz")


class Slow(Collector):
    """A metric that is collected once it may be; it counts in which threads, how often."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.may_end = threading.Event()

    def collect(self) -> Iterator[Metric]:
        self.threads.append(threading.current_thread())
        assert self.may_end.wait(30)
        yield GaugeMetricFamily("slow", "A gauge.", 7)


async def test_metrics_are_rendered_off_the_event_loop_and_concurrent_scrapes_share_a_rendering(app):
    async with running(app) as client:
        slow = Slow()
        slow.may_end.set()
        app.state.services.metrics.registry.register(slow)  # which collects it once, for its names
        slow.may_end.clear()
        slow.threads.clear()
        scrapes = [asyncio.create_task(client.get("/metrics")) for _ in range(40)]
        await until(lambda: bool(slow.threads))
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/sample?n=1")).status_code == 200
        slow.may_end.set()
        answers = await asyncio.gather(*scrapes)
        assert {answer.status_code for answer in answers} == {200}
        assert all("slow 7.0" in answer.text for answer in answers)
        assert len(slow.threads) <= 2
        assert threading.current_thread() not in slow.threads


async def test_a_scrape_contains_everything_that_was_counted_before_it(app):
    async with running(app) as client:
        for count in range(1, 4):
            await client.get("/sample?n=1")
            assert f'endpoint="/sample",status="200"}} {count}.0' in (await client.get("/metrics")).text
