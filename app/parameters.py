"""What the endpoints are given, from a request to pixels and latents; all of it checked where they can be refused.

One object, not a tree of dependencies: FastAPI takes 15 us to solve each, and a thread for one that is no coroutine.
"""

from functools import cached_property
from typing import Annotated

import numpy as np
from fastapi import Query, Request
from pydantic import BeforeValidator

from app.answers import IMAGES, NUMBERS, Accepts
from app.bodies import JSON, read_latents, read_pixels
from app.calls import Call
from app.engine import Engine
from app.errors import TooLarge, Unavailable, Unusable
from app.images import Fit
from app.served import Served
from app.settings import Settings

LATENTS, PICTURES, OBJECT = Accepts(*NUMBERS), Accepts(*IMAGES), Accepts(JSON)

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


class Asked:
    """A request to an endpoint that can answer in the media types of `accepts`; `media` is the one it will be."""

    def __init__(self, request: Request, accepts: Accepts) -> None:
        self._request = request
        if request.scope["query_string"]:
            _require_known(request)
        self.media = accepts(request)
        self.call: Call = request.state.call
        self.limits: Settings = request.app.state.settings
        self.engine: Engine = request.app.state.engine

    @cached_property
    def served(self) -> Served:
        """The checkpoint that will do the work; `Unavailable` where it takes none."""
        if not self.engine.ready:
            raise Unavailable
        self.call.model = self.engine.served.model
        return self.engine.served

    async def pixels(self, fit: Fit) -> np.ndarray:
        """The images of the body, uint8 [N, C, H, W] of the model's shape."""
        return await read_pixels(self._request, self.call, self.served.config.image_shape, fit, self.limits)

    async def latents(self) -> np.ndarray:
        """The latents of the body, float32 [N, *latent]."""
        return await read_latents(self._request, self.call, self.served.config.latent_shape, self.limits)

    def require_items(self, count: int, samples: int = 1) -> None:
        """Refuse more images, or images times draws, than one request may ask for."""
        if count * samples > self.limits.max_items:
            each = f" with {samples} draws each" if samples > 1 else ""
            raise TooLarge(f"{count} images{each} exceed the {self.limits.max_items} items allowed in one request")


def _require_known(request: Request) -> None:
    """Refuse a parameter that the endpoint does not have, or that comes twice, so that a typing error is told."""
    known = [field.alias for field in request.scope["route"].dependant.query_params]
    given = [name for name, _ in request.query_params.multi_items()]
    if not set(given) <= set(known):
        raise Unusable(f"query: expected {', '.join(known) or 'no parameters'}, got another")
    if len(given) > len(set(given)):
        raise Unusable("query: expected each parameter once, got one of them more often")
