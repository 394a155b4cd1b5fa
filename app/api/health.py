"""Health probes and metrics, for operators."""

import asyncio

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from app.api.openapi import problems
from app.api.schemas import Health
from app.api.services import Services, update_gauges
from app.errors import Unavailable
from app.http.state import ServiceState
from app.inference.engine import Engine
from app.inference.threads import run_in_own_thread
from app.observability.metrics import Metrics
from app.single_flight import SingleFlight

router = APIRouter(tags=["operations"])


@router.get("/livez", responses=problems(503))
async def livez(request: Request) -> Health:
    """Liveness: 503 means that the process has to be restarted."""
    services: Services = request.app.state.services
    if not services.engine.alive:
        raise Unavailable("the device thread has stopped; a restart is needed")
    return Health(status="alive")


@router.get("/readyz", responses=problems(503))
async def readyz(request: Request) -> Health:
    """Readiness: the model is loaded and warm, the device works, and the service is not draining."""
    services: Services = request.app.state.services
    if services.state.draining:
        raise Unavailable("the service is draining")
    if not services.engine.ready:
        raise Unavailable("the model is warming up, or its device has stopped")
    return Health(status="ready")


def shared_exposition(metrics: Metrics, engine: Engine, state: ServiceState) -> SingleFlight[bytes]:
    """Render the text of /metrics in a thread; concurrent scrapes share a rendering.

    A rendering takes some 10 ms of the interpreter. `rest` limits the renderings to a twentieth of the time.
    """

    async def render() -> bytes:
        update_gauges(metrics, engine, state)
        return await run_in_own_thread(metrics.exposition)

    return SingleFlight(render, rest=20)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}, **problems()})
async def metrics(request: Request) -> Response:
    """Metrics in the text format of Prometheus."""
    services: Services = request.app.state.services
    exposition = await asyncio.shield(services.exposition.begin())
    return Response(exposition, media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/", include_in_schema=False)
async def root() -> RedirectResponse:
    """Redirect to the documentation."""
    return RedirectResponse("docs")
