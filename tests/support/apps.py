"""The real application, started in the process of the test."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI

PROBES = ("/livez", "/readyz", "/metrics", "/docs", "/openapi.json")


async def until(brought_about: Callable[[], bool], interval: float = 0.001) -> None:
    """Wait for what another thread or process will do, looking every `interval` seconds."""
    async with asyncio.timeout(30):
        while not brought_about():
            await asyncio.sleep(interval)


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """The application, started and ready, behind a client in the same process."""
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://vae") as client,
    ):
        await until(lambda: app.state.services.engine.ready)
        yield client
