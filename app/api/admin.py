"""The endpoint for those who keep the model: serve what its folder holds now."""

import asyncio

from fastapi import APIRouter, Request, Response

from app.api import responses as answers
from app.api.dependencies import OBJECT, EndpointRequest
from app.api.openapi import problems
from app.api.schemas import Model
from app.api.services import Services
from app.errors import Forbidden

router = APIRouter(tags=["operations"])


@router.post("/admin/reload", response_model=Model, responses=problems(401, 403, 406, 409, 413, 422, 503))
async def reload(request: Request) -> Response:
    """Load the model's folder anew, beside what is served; new requests are answered by it once it is warm.

    Of several workers one answers, and the others follow.
    """
    asked = EndpointRequest(request, OBJECT)
    services: Services = request.app.state.services
    if not services.api_keys:
        raise Forbidden("a reload over HTTP wants a key: set VAE_API_KEY or VAE_API_KEY_FILE, or send SIGHUP")
    await asyncio.shield(services.reloader.begin(others=True))
    return answers.model(asked.context, services.engine)
