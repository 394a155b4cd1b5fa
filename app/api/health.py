"""Health probes and metrics, for operators."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from app.api.endpoint import Endpoint, EndpointRequest, Response
from app.api.openapi import problems
from app.api.schemas import Health
from app.codecs.json_bytes import dump
from app.codecs.media_types import JSON
from app.errors import Unavailable
from app.inference.threads import run_in_own_thread
from app.observability.metrics import Metrics
from app.single_flight import SingleFlight

PROMETHEUS_TEXT = "text/plain; version=0.0.4; charset=utf-8"


async def livez(request: EndpointRequest, query: None) -> Response:  # noqa: ARG001
    """Liveness: 503 means that the process has to be restarted."""
    if not request.services.engine.alive:
        raise Unavailable("the device thread has stopped; a restart is needed")
    return Response(JSON, dump({"status": "alive"}))


async def readyz(request: EndpointRequest, query: None) -> Response:  # noqa: ARG001
    """Readiness: the model is loaded and warm, the device works, and the service is not draining."""
    if request.services.state.draining:
        raise Unavailable("the service is draining")
    if not request.services.engine.ready:
        raise Unavailable("the model is warming up, or its device has stopped")
    return Response(JSON, dump({"status": "ready"}))


async def metrics(request: EndpointRequest, query: None) -> Response:  # noqa: ARG001
    """Metrics in the text format of Prometheus."""
    exposition = await asyncio.shield(request.services.exposition.begin())
    return Response(PROMETHEUS_TEXT, exposition)


def shared_exposition(metrics: Metrics, update_gauges: Callable[[], None]) -> SingleFlight[bytes]:
    """Render the text of /metrics in a thread; concurrent scrapes share a rendering.

    A rendering takes some 10 ms of the interpreter. `rest` limits the renderings to a twentieth of the time.
    """

    async def render() -> bytes:
        update_gauges()
        return await run_in_own_thread(metrics.exposition)

    return SingleFlight(render, rest=20)


def _probe(path: str, handler: Any, **documentation: Any) -> Endpoint:
    return Endpoint(path, handler, query=None, media_types=(), documentation=documentation)


ENDPOINTS: Sequence[Endpoint] = (
    _probe("/livez", livez, response_model=Health, responses=problems(503)),
    _probe("/readyz", readyz, response_model=Health, responses=problems(503)),
    _probe("/metrics", metrics, responses={200: {"content": {"text/plain": {}}}, **problems()}),
)
