"""The endpoints for those who run the service: is it alive, is it ready, what does it measure."""

import asyncio

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from app.api.openapi import problems
from app.api.schemas import Health
from app.errors import Unavailable
from app.inference.threads import run_in_own_thread
from app.observability.metrics import Metrics
from app.single_flight import SingleFlight

router = APIRouter(tags=["operations"])


@router.get("/livez", responses=problems(503))
async def livez(request: Request) -> Health:
    """Alive: no restart would help."""
    if not request.app.state.engine.alive:
        raise Unavailable("the device thread has stopped; a restart is needed")
    return Health(status="alive")


@router.get("/readyz", responses=problems(503))
async def readyz(request: Request) -> Health:
    """Ready: the weights are loaded, every batch shape is warmed, the device is at work, nothing is draining."""
    if request.app.state.door.draining:
        raise Unavailable("the service is draining")
    if not request.app.state.engine.ready:
        raise Unavailable("the model is warming up, or its device has stopped")
    return Health(status="ready")


def shared_exposition(metrics: Metrics) -> SingleFlight[bytes]:
    """The text of /metrics, rendered in a thread; concurrent scrapes share a rendering.

    It takes some 10 ms of the interpreter, so scrapes without end get a twentieth of the time and no more.
    """

    async def render() -> bytes:
        metrics.look()
        return await run_in_own_thread(metrics.exposition)

    return SingleFlight(render, rest=20)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}, **problems()})
async def metrics(request: Request) -> Response:
    """What Prometheus reads."""
    exposition = await asyncio.shield(request.app.state.exposition.begin())
    return Response(exposition, media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/", include_in_schema=False)
async def root() -> RedirectResponse:
    """A person's first visit ends at the documentation."""
    return RedirectResponse("docs")
