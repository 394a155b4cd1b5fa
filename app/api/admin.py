"""Administration: reload the model from its folder."""

import asyncio

from starlette.requests import ClientDisconnect

from app.api import responses
from app.api.endpoint import Endpoint, EndpointRequest, Response
from app.api.openapi import problems
from app.api.query import Query
from app.api.schemas import Model
from app.context import EndpointPath
from app.errors import Forbidden


async def reload(request: EndpointRequest, query: Query) -> Response:  # noqa: ARG001
    """Load the model from its folder beside the served one; once it is warm it answers all new requests.

    One worker answers, and the other workers follow.
    """
    if not request.services.api_keys:
        raise Forbidden("a reload over HTTP requires a key: set VAE_API_KEY or VAE_API_KEY_FILE, or send SIGHUP")
    await _skip_body(request)
    await asyncio.shield(request.services.reloader.begin(others=True))
    return responses.model(request)


async def _skip_body(request: EndpointRequest) -> None:
    """Receive the body, which is ignored: a disconnect is noticed from its end on."""
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        more = message.get("more_body", False)


ENDPOINTS = (
    Endpoint(
        EndpointPath.RELOAD,
        reload,
        "POST",
        documentation={"response_model": Model, "responses": problems(401, 403, 406, 409, 413, 422, 503)},
    ),
)
