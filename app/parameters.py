"""What the endpoints are given: the request's parts, read and checked in the order in which they can be refused."""

from typing import Annotated

import numpy as np
from fastapi import Depends, Query, Request
from pydantic import BeforeValidator

from app.answers import IMAGES, JSON, NUMBERS, Accepts
from app.bodies import read_latents, read_pixels
from app.calls import Call
from app.engine import Engine
from app.errors import TooLarge, Unavailable
from app.images import Fit
from app.served import Served
from app.settings import Settings


def _call(request: Request) -> Call:
    call: Call = request.state.call
    return call


Here = Annotated[Call, Depends(_call)]


def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


def _served(request: Request, call: Here) -> Served:
    engine: Engine = request.app.state.engine
    if not engine.ready:
        raise Unavailable("the model takes no work: it is warming up, draining, or its device has stopped")
    engine.require_room()
    call.model = engine.served.model
    return engine.served


Limits = Annotated[Settings, Depends(_settings)]
Ready = Annotated[Served, Depends(_served)]
Numbers = Annotated[str, Depends(Accepts(*NUMBERS))]
Pictures = Annotated[str, Depends(Accepts(*IMAGES))]
Scored = Annotated[str, Depends(Accepts(JSON))]

Seed = Annotated[
    Annotated[int, Query(ge=0, lt=2**63)] | None,
    BeforeValidator(lambda text: None if text == "" else text),
    Query(description="the same seed gives the same bytes; a seed that the service drew is told in X-Seed"),
]
Samples = Annotated[int | None, Query(ge=1, description="draws from the posterior of each image")]
Count = Annotated[int, Query(ge=1, description="how many images")]
Temperature = Annotated[float, Query(ge=0, le=10, allow_inf_nan=False, description="scales the prior's deviation")]
Columns = Annotated[int | None, Query(ge=1, description="images in a row of the grid; by default it is about square")]
FitTo = Annotated[Fit, Query(description="how a picture of another size becomes one of the model's")]


async def _pixels(request: Request, call: Here, served: Ready, limits: Limits, fit: FitTo = "resize") -> np.ndarray:
    return await read_pixels(request, call, served.config.image_shape, fit, limits)


async def _latents(request: Request, call: Here, served: Ready, limits: Limits) -> np.ndarray:
    return await read_latents(request, call, served.config.latent_shape, limits)


Pixels = Annotated[np.ndarray, Depends(_pixels)]
Codes = Annotated[np.ndarray, Depends(_latents)]


def require_items(count: int, samples: int, limits: Settings) -> None:
    """Refuse more images, or images times draws, than one request may ask for."""
    if count * samples > limits.max_items:
        each = f" with {samples} draws each" if samples > 1 else ""
        raise TooLarge(f"{count} images{each} exceed the {limits.max_items} items allowed in one request")
